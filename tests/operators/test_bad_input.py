"""Bad input for each operator, as one table: it is named by field or by row, and nothing is lost or paid for in vain."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_modelstudio.operators.completion import CompletionOperator
from airflow_provider_modelstudio.operators.multi_modal_embedding import MultiModalEmbedOperator
from airflow_provider_modelstudio.operators.rerank import RerankOperator
from airflow_provider_modelstudio.operators.sparse_embedding import SparseEmbedOperator
from airflow_provider_modelstudio.operators.text_embedding import EmbedOperator
from airflow_provider_modelstudio.sandbox.faults import Match, Refuse, Rule

PNG = b"\x89PNG\r\n\x1a\n"
ENDPOINTS = {
    EmbedOperator: "bailian_embeddings",
    SparseEmbedOperator: "bailian_sparse_emb",
    RerankOperator: "bailian_rerank",
    CompletionOperator: "bailian_deepseek",
    MultiModalEmbedOperator: "bailian_mm",
}
USUAL: dict[type, dict[str, Any]] = {
    CompletionOperator: {"prompt": "What is {text}?"},
    MultiModalEmbedOperator: {"image_column": "image", "independent": True},
}
"""Parameters that an operator cannot do without here."""
GOOD = {
    EmbedOperator: {"text": ["a", "b"]},
    SparseEmbedOperator: {"text": ["a", "b"]},
    RerankOperator: {"query": ["a", "b"], "documents": [["a", "b"], ["c"]]},
    CompletionOperator: {"text": ["a", "b"]},
    MultiModalEmbedOperator: {"image": ["https://a.example/1.png", "https://a.example/2.png"]},
}
ALL = list(ENDPOINTS)


class Stopped(NamedTuple):
    """Input that ends the task before anything is asked."""

    operator: type
    columns: dict[str, Any]
    words: str
    parameters: dict[str, Any] = {}  # noqa: RUF012 - never changed


class Kept(NamedTuple):
    """Rows of which some keep their place with a reason."""

    operator: type
    columns: dict[str, Any]
    reasons: list[str | None]
    parameters: dict[str, Any] = {}  # noqa: RUF012 - never changed


STOPPED = [
    # a column is missing
    Stopped(EmbedOperator, {"txt": ["a"]}, "the source has no column 'text'; did you mean 'txt'"),
    Stopped(SparseEmbedOperator, {"body": ["a"]}, "the source has no column 'text'; it has 'body'"),
    Stopped(RerankOperator, {"query": ["a"]}, "the source has no column 'documents'"),
    Stopped(RerankOperator, {"documents": [["a"]]}, "the source has no column 'query'"),
    Stopped(CompletionOperator, {"title": ["a"]}, "no column 'text'"),
    Stopped(MultiModalEmbedOperator, {"images": ["a"]}, "the source has no column 'image'"),
    # a column is of the wrong type
    Stopped(EmbedOperator, {"text": [1]}, "column 'text' is of type int64"),
    Stopped(SparseEmbedOperator, {"text": [["a"]]}, "column 'text' is of type list"),
    Stopped(RerankOperator, {"query": [1.5], "documents": [["a"]]}, "column 'query' is of type double"),
    Stopped(RerankOperator, {"query": ["a"], "documents": ["b"]}, "column 'documents' is of type string"),
    Stopped(RerankOperator, {"query": ["a"], "documents": [[1]]}, "column 'documents' is of type list"),
    Stopped(CompletionOperator, {"text": pa.array([b"a"], pa.binary(1))}, "column 'text' is of type fixed_size_binary[1], which cannot"),
    Stopped(MultiModalEmbedOperator, {"image": [7]}, "column 'image' is of type int64; images are strings with URLs"),
    Stopped(MultiModalEmbedOperator, {"v": [b"x"]}, "column 'v' is of type binary; videos", {"image_column": None, "video_column": "v"}),
    Stopped(MultiModalEmbedOperator, {"m": ["x"]}, "column 'm' is of type string; several images are lists", {"image_column": None, "multi_images_column": "m"}),
    # parameters that do not go together
    Stopped(MultiModalEmbedOperator, {"image": ["https://a/x"]}, "name a text_column, image_column", {"image_column": None}),
    Stopped(MultiModalEmbedOperator, {"image": ["https://a/x"], "t": ["a"]}, "text_column and image_column are set", {"text_column": "t"}),
    Stopped(CompletionOperator, {"text": ["a"]}, "the prompt names no column", {"prompt": "Say something."}),
    # rows that were said to fail the task
    Stopped(EmbedOperator, {"text": ["a", None]}, "row 1 of the source cannot be asked: null text", {"on_empty": "fail"}),
    Stopped(SparseEmbedOperator, {"text": [" "]}, "row 0 of the source cannot be asked: blank text", {"on_empty": "fail"}),
    Stopped(RerankOperator, {"query": ["a"], "documents": [[]]}, "row 0 of the source cannot be asked: ", {"on_empty": "fail"}),
    Stopped(CompletionOperator, {"text": ["a", None]}, "row 1 of the source cannot be asked: ", {"on_empty": "fail"}),
    Stopped(MultiModalEmbedOperator, {"image": pa.nulls(1, pa.string())}, "row 0 of the source cannot be asked: no text, image or video", {"on_empty": "fail"}),
    Stopped(EmbedOperator, {"text": ["a", "b " * 99]}, "row 1 of the source cannot be asked: text is longer than 9 tokens", {"on_too_long": "fail", "max_tokens": 9}),
]  # fmt: skip

KEPT = [
    Kept(EmbedOperator, {"text": ["a", None, "", " \n", "b"]}, [None, "null text", "empty text", "blank text", None]),
    Kept(EmbedOperator, {"text": ["a", "b " * 99]}, [None, "text is longer than 9 tokens"], {"max_tokens": 9}),
    Kept(SparseEmbedOperator, {"text": [None, "b", "\u3000"]}, ["null text", None, "blank text"]),
    Kept(
        RerankOperator,
        {"query": ["q", None, " ", "q", "q", "q"], "documents": [["a"], ["a"], ["a"], None, [], ["a", None]]},
        [None, "query", "query", "documents", "documents", "document"],
    ),
    Kept(RerankOperator, {"query": ["q", "q"], "documents": [["a"] * 3, ["a"] * 2]}, ["documents", None], {"max_documents": 2}),
    Kept(
        RerankOperator,
        {"query": ["q", "q", "q " * 99], "documents": [["a"], ["a", "b " * 99], ["a"]]},
        [None, "document is longer than 9 tokens", "query is longer than 9 tokens"],
        {"max_tokens": "9"},
    ),
    Kept(CompletionOperator, {"text": ["a", None, "b"]}, [None, "text", None]),
    Kept(CompletionOperator, {"text": ["a", "b " * 99]}, [None, "longer than 9 tokens"], {"max_tokens": 9}),
    Kept(
        MultiModalEmbedOperator,
        {"image": ["https://a.example/x.png", "http:/a/x", "ftp://a/x", "C:\\x.png", None, "data:image/png;base64,!", "data:text/html;base64,YQ=="]},
        [None, *["is not an http, https or data URL"] * 3, "no text, image or video", *["is not an http, https or data URL"] * 2],
    ),
    Kept(
        MultiModalEmbedOperator,
        {"image": pa.array([PNG, PNG + bytes(64), b"GIF", None, b""], pa.binary())},
        [None, "image is larger than 64 bytes", "image is of no known kind", *["no text, image or video"] * 2],
        {"max_image_bytes": 64},
    ),
    Kept(
        MultiModalEmbedOperator,
        {"m": [["https://a.example/x.png"], [], None, ["nowhere"], ["https://a.example/x.png", None]]},
        [None, *["no text, image or video"] * 2, "is not an http, https or data URL", "null image"],
        {"image_column": None, "multi_images_column": "m"},
    ),
    Kept(MultiModalEmbedOperator, {"v": ["https://a.example/x.mp4", "x.mp4"]}, [None, "video is not an http"], {"image_column": None, "video_column": "v"}),
]  # fmt: skip


def ident(case):
    return f"{case.operator.__name__}-{next(iter(case.columns))}"


@pytest.mark.parametrize("case", STOPPED, ids=ident)
def test_the_task_stops_before_anything_is_asked(sandbox, run, tmp_path, case):
    """The field or row is named, nothing is paid, nothing is written."""
    with pytest.raises(AirflowFailException) as caught:
        run(
            case.operator,
            pa.table(case.columns),
            inference_id=ENDPOINTS[case.operator],
            **{**USUAL.get(case.operator, {}), **case.parameters},
        )
    assert case.words in str(caught.value)
    assert sandbox.bill == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", KEPT, ids=ident)
def test_bad_rows_fail_alone(sandbox, run, case):
    """As many rows come out as went in, in their order; each has an answer or its reason, and only good ones are paid."""
    table = pa.table({"n": pa.array(range(len(case.reasons))), **case.columns})
    summary, rows = run(
        case.operator,
        table,
        inference_id=ENDPOINTS[case.operator],
        **{**USUAL.get(case.operator, {}), **case.parameters},
    )
    assert [row["n"] for row in rows] == list(range(len(case.reasons)))
    (error_column,) = (name for name in rows[0] if name.endswith("_error"))
    answer_column = error_column.removesuffix("_error")
    for row, reason in zip(rows, case.reasons, strict=True):
        if reason is None:
            assert row[error_column] is None
            assert row[answer_column]
        else:
            assert reason in row[error_column]
            assert row[answer_column] is None
    good = case.reasons.count(None)
    assert (summary["rows"], summary["failed"]) == (len(rows), len(rows) - good)
    if case.operator is RerankOperator:  # it is billed by the document
        good = sum(len(row["documents"]) for row in rows if row["reranked"])
    assert sum(paid.count for paid in sandbox.bill) == good


def everywhere(error):
    return [Rule(act=Refuse(error=error), match=Match(operation="infer"))]


@pytest.mark.parametrize("operator", ALL, ids=lambda one: one.__name__)
@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("upstream_401", "Model Studio refuses the API key stored in the inference endpoint"),
        ("upstream_403", "Model Studio does not let the key in the inference endpoint use this model"),
        ("upstream_404", "Model Studio does not know or no longer serves the model of this endpoint"),
        ("overdue", "the Model Studio account does not pay for this"),
    ],
)
def test_a_key_of_another_region_or_an_unknown_model_spoils_no_row(sandbox, run, operator, error, words, tmp_path):
    """The rows are not to blame: the task fails, no row is marked, and once it is mended each row gets its answer."""
    sandbox.play(everywhere(error))
    parameters = {"inference_id": ENDPOINTS[operator], **USUAL.get(operator, {})}
    with pytest.raises(AirflowFailException, match=words):
        run(operator, pa.table(GOOD[operator]), **parameters)
    assert sandbox.bill == []
    assert not (tmp_path / "out").exists()
    sandbox.play([])
    summary, rows = run(operator, None, try_number=2, **parameters)
    assert (summary["failed"], len(rows)) == (0, 2)


@pytest.mark.parametrize("operator", ALL, ids=lambda one: one.__name__)
@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"inference_id": "nobody"}, "there is no such inference endpoint (404)"),
        ({"model": "no-such-model-9"}, "the catalog has no model 'no-such-model-9'"),
        ({"inference_id": None}, "inference_id must be a text, not NoneType"),
        ({"inference_id": 7}, "inference_id must be a text, not int"),
    ],
)
def test_what_is_not_there_is_named(sandbox, run, operator, parameters, words):
    """An endpoint or a model that nobody knows, or none at all, stops each operator before anything is asked."""
    with pytest.raises(AirflowFailException) as caught:
        run(
            operator,
            pa.table(GOOD[operator]),
            **{"inference_id": ENDPOINTS[operator], **USUAL.get(operator, {}), **parameters},
        )
    assert words in str(caught.value)
    assert sandbox.bill == []


@pytest.mark.parametrize("operator", ALL, ids=lambda one: one.__name__)
def test_a_model_of_another_task_type_is_named(sandbox, run, operator):
    """Its limits and prices would be wrong without a sign."""
    model = "text-embedding-v2" if operator is not EmbedOperator else "qwen3-rerank"
    with pytest.raises(AirflowFailException, match=f"model '{model}' is for .*, not for "):
        run(
            operator,
            pa.table(GOOD[operator]),
            inference_id=ENDPOINTS[operator],
            model=model,
            **USUAL.get(operator, {}),
        )
    assert sandbox.calls == []


@pytest.mark.parametrize("operator", ALL, ids=lambda one: one.__name__)
def test_an_endpoint_of_another_task_type_is_named(sandbox, run, operator):
    """The right ID with the wrong operator is told before anything is paid."""
    other = "bailian_rerank" if operator is not RerankOperator else "bailian_embeddings"
    kind = "rerank" if operator is not RerankOperator else "text_embedding"
    words = (
        f"^endpoint '{other}': the inference endpoint is of another task type, {kind} .400.; use the operator for it"
    )
    with pytest.raises(AirflowFailException, match=words):
        run(operator, pa.table(GOOD[operator]), inference_id=other, **USUAL.get(operator, {}))
    assert sandbox.bill == []


@pytest.mark.parametrize("operator", ALL, ids=lambda one: one.__name__)
def test_an_empty_dataset_is_a_dataset(sandbox, run, operator):
    """No row in, no row out, with all columns; nothing is asked."""
    table = pa.table(GOOD[operator]).slice(0, 0)
    summary, rows = run(operator, table, inference_id=ENDPOINTS[operator], **USUAL.get(operator, {}))
    assert (summary["rows"], rows) == (0, [])
    assert sandbox.bill == []


def test_a_missing_column_of_one_file_is_null_there(sandbox, run, tmp_path):
    """Files of one source may lack a column: their rows keep their place with a reason."""
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"n": [1], "text": ["a"]}), tmp_path / "in" / "a.parquet")
    pq.write_table(pa.table({"n": [2]}), tmp_path / "in" / "b.parquet")
    _, rows = run(EmbedOperator, None, inference_id="bailian_embeddings", source=str(tmp_path / "in"))
    assert [(row["n"], row["embedding_error"]) for row in rows] == [(1, None), (2, "null text")]


def test_no_row_is_repeated_in_an_error(sandbox, run, caplog):
    """Reasons and logs name fields and places, not what stands in a row."""
    canary = "canary-0815-in-a-row"
    _, rows = run(
        MultiModalEmbedOperator,
        pa.table({"image": [f"nowhere/{canary}", f"ftp://{canary}"]}),
        inference_id="bailian_mm",
        **USUAL[MultiModalEmbedOperator],
    )
    told = [row["embedding_error"] for row in rows]
    assert all(told)
    assert canary not in caplog.text + json.dumps(told)
