"""What the catalog has of a model's limits holds for each row, before anything is sent."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from airflow_provider_modelstudio.inference.tasks.tokens import estimate_tokens
from airflow_provider_modelstudio.operators.completion import CompletionOperator
from airflow_provider_modelstudio.operators.multi_modal_embedding import MultiModalEmbedOperator
from airflow_provider_modelstudio.operators.rerank import RerankOperator
from airflow_provider_modelstudio.operators.sparse_embedding import SparseEmbedOperator
from airflow_provider_modelstudio.operators.text_embedding import EmbedOperator

PLACES = {"task_id": "ask", "source": "s", "destination": "d"}
NEEDED = {CompletionOperator: {"prompt": "{text}"}, MultiModalEmbedOperator: {"text_column": "text"}}


def text_of(tokens):
    """A text that is estimated at so many tokens."""
    text = "a" * ((10 * tokens - 1) // 3)
    assert estimate_tokens(len(text), len(text)) == tokens
    return text


@pytest.mark.parametrize("named", ["model", "inference_id"])
@pytest.mark.parametrize(
    ("operator", "model", "settings", "most"),
    [
        (EmbedOperator, "text-embedding-v4", {}, 2 * 8192),
        (EmbedOperator, "text-embedding-v2", {"on_too_long": "fail"}, 2 * 2048),
        (EmbedOperator, "text-embedding-v4", {"on_too_long": "truncate"}, 8192),
        (SparseEmbedOperator, "text-embedding-v3", {}, 2 * 8192),
        (SparseEmbedOperator, "text-embedding-v3", {"on_too_long": "truncate"}, 8192),
        (RerankOperator, "gte-rerank-v2", {}, 2 * 4000),
        (RerankOperator, "qwen3-vl-rerank", {"query_id_column": "id"}, 2 * 8000),
        (MultiModalEmbedOperator, "multimodal-embedding-v1", {}, 2 * 512),
        (EmbedOperator, "text-embedding-v4", {"max_tokens": "9000"}, 9000),
        (SparseEmbedOperator, "text-embedding-v4", {"max_tokens": 10_000_000}, 10_000_000),
        (RerankOperator, "gte-rerank-v2", {"max_tokens": "4000"}, 4000),
        (CompletionOperator, "qwen-plus", {}, None),
    ],
)
def test_the_longest_text_is_what_the_model_takes(operator, model, settings, most, named):
    """Twice that, since estimates are rough, but just that where it is cut; what the Dag says goes before it."""
    told = {"inference_id": "e", **NEEDED.get(operator, {}), **settings, named: model}
    assert operator(**PLACES, **told).make_task().max_tokens == most


@pytest.mark.parametrize("operator", [EmbedOperator, RerankOperator, CompletionOperator, MultiModalEmbedOperator])
@pytest.mark.parametrize("inference_id", ["bailian", "text-embedding-v4", "gte-rerank-v2"])
def test_nothing_is_known_of_a_model_for_something_else(operator, inference_id):
    """An endpoint whose name is no model's, or that of a model of another task type, sends any text."""
    known = {("text-embedding-v4", EmbedOperator), ("gte-rerank-v2", RerankOperator)}
    task = operator(**PLACES, inference_id=inference_id, **NEEDED.get(operator, {})).make_task()
    assert (task.max_tokens is not None) == ((inference_id, operator) in known)


def test_a_document_that_would_be_cut_is_not_ranked(sandbox, run):
    """The service cuts it without a word; with the margin of the estimate a text that may fit is sent."""
    fits, long = text_of(8000), text_of(8001)
    table = pa.table({"query": ["a", "b", long], "documents": [[fits, "x"], ["x", long], ["x"]]})
    named = {"inference_id": "bailian_rerank", "model": "gte-rerank-v2"}
    summary, rows = run(RerankOperator, table, **named)
    reasons = [None, "document is longer than 8000 tokens", "query is longer than 8000 tokens"]
    assert [row["reranked_error"] for row in rows] == reasons
    assert [row["reranked"] is None for row in rows] == [False, True, True]
    assert summary["requests"] == 1


def test_a_candidate_that_would_be_cut_is_not_ranked(sandbox, run):
    """The same with a row a candidate: it has a reason, and its neighbours have their ranks."""
    table = pa.table({"id": [1, 1, 1], "query": ["a"] * 3, "document": ["x", text_of(8001), "y"]})
    named = {"inference_id": "bailian_rerank", "model": "gte-rerank-v2"}
    _, rows = run(RerankOperator, table, query_id_column="id", documents_column="document", **named)
    assert [row["reranked_error"] for row in rows] == [None, "document is longer than 8000 tokens", None]
    assert sorted(row["rank"] for row in rows if row["rank"]) == [1, 2]


def test_a_text_of_an_element_that_is_too_long_is_not_sent(sandbox, run):
    """Of a multi-modal model as well, whose texts are short."""
    table = pa.table({"text": [text_of(1024), text_of(1025)]})
    named = {"inference_id": "bailian_mm", "model": "multimodal-embedding-v1", "text_column": "text"}
    summary, rows = run(MultiModalEmbedOperator, table, **named)
    assert [row["embedding_error"] for row in rows] == [None, "text is longer than 1024 tokens"]
    summary, _ = run(MultiModalEmbedOperator, None, max_tokens=2000, run_id="other", **named)
    assert (summary["embedded"], summary["reused"]) == (1, 1)


def test_more_images_than_the_model_takes_are_not_sent(sandbox, run, monkeypatch):
    """All images of a row count, in both columns; such a row has its reason and costs nothing."""
    eyes = {"task_types": ["multi_modal_embedding"], "images_per_request": 3, "vectors": "fused"}
    connection = {"conn_type": "modelstudio", "host": sandbox.url, "extra": {"models": {"eyes": eyes}}}
    monkeypatch.setenv("AIRFLOW_CONN_MODELSTUDIO_DEFAULT", json.dumps(connection))
    one = "https://a.example/1.png"
    table = pa.table({"views": [[one] * 3, [one] * 4, [one] * 3, [one] * 2], "cover": [None, None, one, one]})
    named = {"inference_id": "bailian_mm", "model": "eyes"}
    summary, rows = run(MultiModalEmbedOperator, table, multi_images_column="views", image_column="cover", **named)
    assert [row["embedding_error"] for row in rows] == [None, "more than 3 images", "more than 3 images", None]
    assert summary["requests"] == 2
