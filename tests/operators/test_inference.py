"""Every row operator against the sandbox, through the real hook, transport and client: what goes in and comes out."""

from __future__ import annotations

import contextlib
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_modelstudio.inference.errors import OutageError
from airflow_provider_modelstudio.operators.completion import CompletionOperator
from airflow_provider_modelstudio.operators.multi_modal_embedding import MultiModalEmbedOperator
from airflow_provider_modelstudio.operators.rerank import RerankOperator
from airflow_provider_modelstudio.operators.sparse_embedding import SparseEmbedOperator
from airflow_provider_modelstudio.operators.text_embedding import EmbedOperator
from airflow_provider_modelstudio.sandbox.faults import Match, Refuse, Rule

POEM = ["风急天高猿啸哀", "渚清沙白鸟飞回", "无边落木萧萧下", "不尽长江滚滚来"]


@pytest.fixture(autouse=True)
def _quiet(recwarn):
    """Outside of a task runner Airflow says so."""


def test_embed_writes_a_vector_beside_each_text(sandbox, run):
    """The page's four lines get four vectors; a null text gets a reason; all columns are kept in order."""
    table = pa.table({"line": [1, 2, 3, 4, 5], "text": [*POEM, None]})
    summary, rows = run(EmbedOperator, table, inference_id="bailian_embeddings")
    assert [row["line"] for row in rows] == [1, 2, 3, 4, 5]
    assert all(len(row["embedding"]) == 384 and row["embedding_error"] is None for row in rows[:4])
    assert (rows[4]["embedding"], rows[4]["embedding_error"]) == (None, "null text")
    assert (summary["rows"], summary["embedded"], summary["failed"], summary["requests"]) == (5, 4, 1, 1)
    assert sum(paid.count for paid in sandbox.bill) == 4


def test_sparse_embed_writes_weights_by_token(sandbox, run):
    """Each text gets a map of tokens to weights, pruned to the heaviest, and says whether it was cut."""
    _, rows = run(SparseEmbedOperator, pa.table({"text": POEM}), inference_id="bailian_sparse_emb", top_k="3")
    for row in rows:
        assert 0 < len(row["sparse_embedding"]) <= 3
        assert all(isinstance(token, str) and weight > 0 for token, weight in row["sparse_embedding"])
        assert row["is_truncated"] is False
        assert row["sparse_embedding_error"] is None


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({}, 500),
        ({"model": "qwen3-vl-rerank"}, 100),
        ({"model": "qwen3-rerank"}, 500),
        ({"model": "qwen3-vl-rerank", "max_documents": "120"}, 120),
    ],
)
@pytest.mark.parametrize("query_id_column", [None, "id"])
def test_rerank_takes_as_many_documents_as_the_catalog_says(sandbox, settings, most, query_id_column):
    """The limit is the model's, else 500; what the Dag says goes before both, in both forms."""
    operator = RerankOperator(
        task_id="ask", inference_id="e", source="s", destination="d", query_id_column=query_id_column, **settings
    )
    assert operator.make_task().max_documents == most


def test_rerank_keeps_a_row_to_the_documents_and_tokens_of_its_model(sandbox, run):
    """Rows beyond what the catalog has for a request get their reason, and are not sent; the others are."""
    table = pa.table({"query": ["q"] * 3, "documents": [["a"] * 101, ["a", "b"], ["word " * 400] * 99]})
    summary, rows = run(RerankOperator, table, inference_id="bailian_rerank", model="qwen3-vl-rerank")
    assert [row["reranked_error"] for row in rows] == ["more than 100 documents", None, None]
    assert summary["requests"] == 2
    summary, rows = run(RerankOperator, None, inference_id="bailian_rerank", model="gte-rerank-v2", run_id="other")
    assert [row["reranked_error"] for row in rows] == [None, None, "query and documents have more than 30000 tokens"]
    assert summary["requests"] == 1  # the first row: what was answered before is not asked again


def test_rerank_orders_the_documents_of_each_row(sandbox, run):
    """The best documents come first, mapped back by their place, with their text when it is wanted."""
    documents = ["about models that rank texts", "quantum computers", "what a ranking model for texts is"]
    table = pa.table({"query": ["a ranking model for texts", None], "documents": [documents, documents]})
    _, rows = run(RerankOperator, table, inference_id="bailian_rerank", top_n=2, return_documents=True)
    ranked = rows[0]["reranked"]
    assert len(ranked) == 2
    assert [entry["document"] for entry in ranked] == [documents[entry["index"]] for entry in ranked]
    assert ranked[0]["relevance_score"] >= ranked[1]["relevance_score"]
    assert ranked[0]["index"] == 2
    assert rows[1]["reranked"] is None
    assert rows[1]["reranked_error"]


def test_completion_answers_a_prompt_made_of_columns(sandbox, run):
    """One request a prompt; what a row holds is data, whatever it looks like."""
    table = pa.table({"name": ["lamp", "{name}", "{{ 7 * 7 }}"], "price": [1, 2, 3]})
    summary, rows = run(
        CompletionOperator, table, inference_id="bailian_deepseek", prompt="What is {name}? It costs {price}."
    )
    assert all(isinstance(row["completion"], str) and row["completion"] for row in rows)
    assert summary["requests"] == 3


def test_multi_modal_embed_takes_addresses_and_bytes(sandbox, run):
    """Addresses and image bytes each give a vector; a broken address fails alone."""
    png = b"\x89PNG\r\n\x1a\n" + bytes(60)
    table = pa.table({"image": ["https://example.com/a.jpg", "not an address", "https://example.com/b.jpg"]})
    _, rows = run(MultiModalEmbedOperator, table, inference_id="bailian_mm", image_column="image", independent=True)
    assert [row["embedding"] is None for row in rows] == [False, True, False]
    assert rows[1]["embedding_error"]
    _, rows = run(
        MultiModalEmbedOperator,
        pa.table({"image": pa.array([png], pa.binary())}),
        inference_id="bailian_mm",
        image_column="image",
        independent="true",
    )
    assert len(rows[0]["embedding"]) > 0


def test_a_second_run_asks_for_the_difference_alone(sandbox, run):
    """A row that was added is the only one that is asked for; asking again asks nothing."""
    run(EmbedOperator, pa.table({"text": POEM}), inference_id="bailian_embeddings", run_id="monday")
    before = sum(paid.count for paid in sandbox.bill)
    table = pa.table({"text": ["a new line", *POEM]})
    summary, _ = run(EmbedOperator, table, inference_id="bailian_embeddings", run_id="tuesday")
    assert sum(paid.count for paid in sandbox.bill) == before + 1
    assert (summary["embedded"], summary["reused"]) == (1, 4)
    summary, _ = run(EmbedOperator, None, inference_id="bailian_embeddings", run_id="wednesday")
    assert (summary["embedded"], summary["requests"], summary["up_to_date"]) == (0, 0, True)


def test_overwrite_asks_everything_again_and_error_refuses(sandbox, run):
    """if_exists says what a destination with data means."""
    table = pa.table({"text": POEM})
    run(EmbedOperator, table, inference_id="bailian_embeddings")
    summary, _ = run(EmbedOperator, None, inference_id="bailian_embeddings", if_exists="overwrite", run_id="b")
    assert summary["embedded"] == 4
    summary, _ = run(EmbedOperator, None, inference_id="bailian_embeddings", if_exists="overwrite", run_id="b")
    assert summary["requests"] == 0
    changed = pa.table({"text": [*POEM, "more"]})
    with pytest.raises(AirflowFailException, match="if_exists"):
        run(EmbedOperator, changed, inference_id="bailian_embeddings", if_exists="error")


def test_rows_without_an_answer_can_be_kept_apart(sandbox, run):
    """on_row_error='quarantine' gives a dataset of good rows; errors_only brings those back that are answered now."""
    sandbox.play([Rule(act=Refuse(error="data_inspection"), match=Match(contains="渚清沙白鸟飞回"))])
    table = pa.table({"line": [1, 2, 3, 4, 5], "text": [*POEM, None]})
    wanted = {"inference_id": "bailian_embeddings", "on_row_error": "quarantine"}
    summary, rows = run(EmbedOperator, table, **wanted)
    assert [row["line"] for row in rows] == [1, 3, 4]
    assert (summary["rows"], summary["failed"], summary["quarantined"]) == (5, 2, 2)
    apart = pq.read_table(summary["quarantine"]).to_pylist()
    assert [(row["line"], row["text"]) for row in apart] == [(2, POEM[1]), (5, None)]
    assert "content filter" in apart[0]["embedding_error"]
    sandbox.play([])
    before = sum(paid.count for paid in sandbox.bill)
    summary, rows = run(EmbedOperator, None, errors_only=True, run_id="again", **wanted)
    assert sum(paid.count for paid in sandbox.bill) == before + 1
    assert [row["line"] for row in rows] == [1, 2, 3, 4]
    assert [row["line"] for row in pq.read_table(summary["quarantine"]).to_pylist()] == [5]
    summary, rows = run(EmbedOperator, None, inference_id="bailian_embeddings", run_id="null again")
    assert [row["line"] for row in rows] == [1, 2, 3, 4, 5]
    assert (summary["requests"], summary["quarantine"]) == (0, None)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"inference_id": "missing"}, "no such inference endpoint"),
        ({"inference_id": "bailian_rerank"}, "task type"),
        ({"concurrency": "many"}, "concurrency must be a whole number"),
        ({"batch_size": 0}, "batch_size must be 1 to 2048"),
        ({"on_row_error": "ignore"}, "on_row_error must be one of"),
        ({"max_error_rate": 2}, "max_error_rate must be at least 0 and at most 1"),
        ({"input_column": "txet"}, "text"),
        ({"input_column": "id"}, "id"),
        ({"output_column": "id"}, "already"),
        ({"source": "/nowhere/at/all"}, "no such file or folder"),
        ({"source": ""}, "source is empty"),
        ({"modelstudio_conn_id": "nobody"}, "there is no connection 'nobody'"),
        ({"task_settings": "{not json"}, "task_settings is not JSON"),
    ],
)
def test_nonsense_is_refused_with_a_sentence_and_costs_nothing(sandbox, run, parameters, words):
    """Each mistake names what is wrong; nothing is asked and nothing is written."""
    table = pa.table({"id": [1, 2], "text": ["a", "b"]})
    with pytest.raises(AirflowFailException, match=words):
        run(EmbedOperator, table, **{"inference_id": "bailian_embeddings", **parameters})
    assert sandbox.bill == []


def test_a_destination_inside_the_source_is_refused(sandbox, run, tmp_path):
    """Files that the task writes must not become its input."""
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "data" / "a.parquet")
    with pytest.raises(AirflowFailException, match="lies inside the source"):
        run(
            EmbedOperator,
            None,
            inference_id="bailian_embeddings",
            source=str(tmp_path / "data"),
            destination=str(tmp_path / "data" / "out"),
        )


def test_an_unreachable_cluster_can_be_tried_again(run, monkeypatch, tmp_path):
    """No server at the address: the task fails in a way that Airflow retries, and says that nothing was asked."""
    connection = {"conn_type": "modelstudio", "host": "http://127.0.0.1:9", "extra": {"connect_timeout": 1}}
    monkeypatch.setenv("AIRFLOW_CONN_MODELSTUDIO_DEFAULT", json.dumps(connection))
    with pytest.raises(OutageError, match="nothing was asked yet"):
        run(EmbedOperator, pa.table({"text": ["a"]}), inference_id="bailian_embeddings")


def test_damaged_input_is_named_before_anything_is_asked(sandbox, run, tmp_path):
    """A file that is not Parquet is named, and nothing is paid."""
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 this is not PAR1")
    with pytest.raises(AirflowFailException, match=r"bad\.parquet: not a readable Parquet file"):
        run(EmbedOperator, None, inference_id="bailian_embeddings", source=str(tmp_path / "bad.parquet"))
    assert sandbox.bill == []


def test_a_dry_run_tells_the_bill_before_it_is_spent(sandbox, run):
    """Rows, requests, tokens and cost are told; nothing is asked, nothing is written, and the real run keeps to it."""
    table = pa.table({"text": [*POEM, *POEM, None, *(f"line {i}" for i in range(20))]})
    parameters = {"inference_id": "bailian_embeddings", "model": "text-embedding-v4"}
    told, rows = run(EmbedOperator, table, dry_run="true", **parameters)
    assert rows is None
    assert sandbox.bill == []
    assert (told["rows"], told["rows_to_ask"], told["requests_estimated"]) == (29, 24, 3)
    assert told["dry_run"] is True
    summary, _ = run(EmbedOperator, None, **parameters)
    assert (summary["embedded"], summary["requests"]) == (24, 3)
    assert summary["tokens_estimated"] == told["tokens_estimated"]
    assert summary["cost_estimated"] == told["cost_estimated"]
    told, _ = run(EmbedOperator, None, dry_run=True, **parameters)
    assert (told["rows_to_ask"], told["tokens_estimated"]) == (0, 0)


@pytest.mark.parametrize(
    ("guard", "words"),
    [
        ({"max_rows": 5}, "24 rows to ask for, and max_rows is 5"),
        ({"max_requests": "2"}, "3 requests, and max_requests is 2"),
        ({"max_total_tokens": "20"}, "tokens, and max_total_tokens is 20"),
        ({"max_cost": 0.000001}, "max_cost is 1e-06"),
    ],
)
def test_a_guard_refuses_before_anything_is_spent(sandbox, run, monkeypatch, guard, words):
    """A plan over the guard makes no paid call, and says by how much."""
    connection = {"conn_type": "modelstudio", "host": sandbox.url, "extra": {"region": "cn-shanghai"}}
    monkeypatch.setenv("AIRFLOW_CONN_MODELSTUDIO_DEFAULT", json.dumps(connection))
    table = pa.table({"text": [f"line {i}" for i in range(24)]})
    with pytest.raises(AirflowFailException, match=words):
        run(EmbedOperator, table, inference_id="bailian_embeddings", model="text-embedding-v4", **guard)
    assert sandbox.bill == []


def test_a_cost_guard_without_a_price_is_refused(sandbox, run):
    """max_cost cannot be kept when nobody knows the price; the error says what to set."""
    with pytest.raises(AirflowFailException, match="max_cost needs a price"):
        run(EmbedOperator, pa.table({"text": ["a"]}), inference_id="bailian_embeddings", max_cost=1)


def test_an_unknown_model_is_named_with_the_nearest(sandbox, run):
    """A typo in the model's name is found before anything is asked."""
    with pytest.raises(AirflowFailException, match="text-embedding-v4"):
        run(EmbedOperator, pa.table({"text": ["a"]}), inference_id="bailian_embeddings", model="text-embeding-v4")


def test_only_failed_rows_are_asked_again(sandbox, run):
    """errors_only asks for the rows that have a reason, and for nothing else."""
    from airflow_provider_modelstudio.sandbox.faults import Match, Refuse, Rule  # noqa: PLC0415  # this test alone

    table = pa.table({"text": [f"line {i}" for i in range(30)]})
    sandbox.play([Rule(act=Refuse(error="data_inspection"), match=Match(contains="line 17"))])
    summary, rows = run(EmbedOperator, table, inference_id="bailian_embeddings")
    assert summary["failed"] == 1
    assert "data_inspection_failed" in rows[17]["embedding_error"]
    sandbox.play([])
    before = len(sandbox.bill)
    summary, rows = run(EmbedOperator, None, inference_id="bailian_embeddings", errors_only=True, run_id="again")
    assert [paid.count for paid in sandbox.bill[before:]] == [1]
    assert (summary["embedded"], summary["reused"], summary["failed"]) == (1, 29, 0)
    assert rows[17]["embedding"] is not None


@pytest.mark.parametrize("bound", [{"on_row_error": "fail"}, {"max_error_rate": 0.01}])
def test_rows_that_ended_a_run_are_asked_again_on_demand(sandbox, run, bound):
    """A refused row ends the run, and its next try asks nothing; errors_only does what the message says."""
    table = pa.table({"text": [f"line {i}" for i in range(30)]})
    sandbox.play([Rule(act=Refuse(error="data_inspection"), match=Match(contains="line 17"))])
    ask = {"inference_id": "bailian_embeddings", **bound}
    with pytest.raises(AirflowFailException, match="errors_only=True asks"):
        run(EmbedOperator, table, **ask)
    sandbox.play([])
    with pytest.raises(AirflowFailException, match="errors_only=True asks"):
        run(EmbedOperator, None, try_number=2, **ask)
    summary, rows = run(EmbedOperator, None, try_number=3, errors_only=True, **ask)
    assert (summary["rows"], summary["failed"]) == (30, 0)
    assert all(row["embedding"] for row in rows)
    assert sum(paid.count for paid in sandbox.bill) == 30


def test_answers_of_another_destination_are_carried_over(sandbox, run, tmp_path):
    """reuse_from names a dataset of the same endpoint whose rows need not be asked again."""
    run(EmbedOperator, pa.table({"text": POEM}), inference_id="bailian_embeddings")
    before = len(sandbox.bill)
    summary, _ = run(
        EmbedOperator,
        None,
        inference_id="bailian_embeddings",
        destination=str(tmp_path / "other"),
        reuse_from=str(tmp_path / "out"),
    )
    assert len(sandbox.bill) == before
    assert (summary["embedded"], summary["reused"]) == (0, 4)


def test_an_update_after_an_overwrite_keeps_the_newest_answers(sandbox, run):
    """What overwrite asked anew stays, and the next update asks nothing."""
    table = pa.table({"text": POEM})
    run(EmbedOperator, table, inference_id="bailian_embeddings", run_id="monday")
    run(EmbedOperator, None, inference_id="bailian_embeddings", run_id="tuesday", if_exists="overwrite")
    before = len(sandbox.bill)
    summary, rows = run(EmbedOperator, None, inference_id="bailian_embeddings", run_id="wednesday")
    assert len(sandbox.bill) == before
    assert (summary["embedded"], summary["reused"]) == (0, 4)
    assert all(row["embedding"] for row in rows)


@pytest.mark.parametrize("destination", ["nonsense://bucket/x", "memory://bucket/x"])
def test_a_store_that_cannot_hold_a_dataset_is_refused(sandbox, run, destination):
    """An unknown kind of store is named before anything is asked."""
    with pytest.raises(AirflowFailException, match="destination"):
        run(EmbedOperator, pa.table({"text": POEM}), inference_id="bailian_embeddings", destination=destination)
    assert sandbox.bill == []


def test_a_run_with_few_changes_in_each_window_ends(sandbox, run):
    """Where each window has fewer changed rows than a request holds, they are asked all the same, on a real loop."""
    texts = [f"line {i}" for i in range(8 * 1024)]
    run(EmbedOperator, pa.table({"text": texts}), inference_id="bailian_embeddings")
    texts[::1024] = [f"changed {i}" for i in range(8)]
    summary, rows = run(EmbedOperator, pa.table({"text": texts}), inference_id="bailian_embeddings", run_id="b")
    assert (summary["embedded"], summary["reused"]) == (8, 8 * 1024 - 8)
    assert [row["text"] for row in rows] == texts


def test_another_column_prompt_or_policy_is_another_run(sandbox, run):
    """What a finished run answered is not taken for the answer to another question."""
    table = pa.table({"text": ["a", "b"], "title": ["c", "d"]})
    run(EmbedOperator, table, inference_id="bailian_embeddings")
    before = len(sandbox.bill)
    _, rows = run(EmbedOperator, None, inference_id="bailian_embeddings", input_column="title")
    assert len(sandbox.bill) > before
    _, again = run(EmbedOperator, None, inference_id="bailian_embeddings", input_column="text")
    assert rows[0]["embedding"] != again[0]["embedding"]
    with pytest.raises(AirflowFailException, match="max_error_rate"):
        run(EmbedOperator, pa.table({"text": ["a", None]}), inference_id="bailian_embeddings", max_error_rate=0.1)


def test_a_task_that_was_done_makes_no_call(sandbox, run, monkeypatch):
    """Cleared, it tells its summary without a word to Elasticsearch, not even a free one; another run looks first."""
    ask = {"inference_id": "bailian_embeddings"}
    first, rows = run(EmbedOperator, pa.table({"text": ["a", "b", None]}), **ask)
    heard = len(sandbox.calls)
    again, kept = run(EmbedOperator, None, try_number=2, **ask)
    assert len(sandbox.calls) == heard
    assert kept == rows
    for name in ("rows", "embedded", "failed", "manifest", "errors"):
        assert again[name] == first[name]
    next_day, _ = run(EmbedOperator, None, run_id="next day", **ask)
    looked = len(sandbox.calls)
    assert looked > heard
    assert (next_day["up_to_date"], next_day["requests"], next_day["reused"]) == (True, 0, 2)
    run(EmbedOperator, None, run_id="next day", try_number=2, **ask)
    run(EmbedOperator, None, try_number=3, **ask)
    assert len(sandbox.calls) == looked
    assert len(sandbox.bill) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"inference_id": "nobody"},
        {"model": "text-embedding-v3"},
        {"on_row_error": "quarantine"},
        {"output_column": "v"},
        {"if_exists": "overwrite"},
        {"errors_only": True},
        {"table": pa.table({"text": ["a", "c"]})},
        {"dry_run": True},
        {"connection": "/"},
    ],
)
def test_a_task_that_is_to_do_something_else_looks_again(sandbox, run, monkeypatch, change):
    """Other rows, endpoint, form or policy: what was done before is not what is asked for now."""
    ask = {"inference_id": "bailian_embeddings"}
    run(EmbedOperator, pa.table({"text": ["a", None]}), **ask)
    heard = len(sandbox.calls)
    if (path := change.pop("connection", None)) is not None:
        connection = {"conn_type": "modelstudio", "host": sandbox.url.replace("127.0.0.1", "localhost") + path}
        monkeypatch.setenv("AIRFLOW_CONN_MODELSTUDIO_DEFAULT", json.dumps(connection))
    with contextlib.suppress(AirflowFailException):  # nobody
        run(EmbedOperator, change.pop("table", None), try_number=2, **{**ask, **change})
    assert len(sandbox.calls) > heard


def test_a_task_that_was_done_tells_its_cost_in_the_same_currency(sandbox, run, monkeypatch):
    """Nothing, in the currency that was told when it was done, also where only the endpoint knows the model."""
    connection = {"conn_type": "modelstudio", "host": sandbox.url, "extra": {"region": "cn-shanghai"}}
    monkeypatch.setenv("AIRFLOW_CONN_MODELSTUDIO_DEFAULT", json.dumps(connection))
    ask = {"inference_id": "bailian_embeddings", "model": "text-embedding-v4"}
    first, _ = run(EmbedOperator, pa.table({"text": ["a"]}), **ask)
    again, _ = run(EmbedOperator, None, try_number=2, **ask)
    assert first["cost_estimated"] > 0
    assert (again["embedded"], again["cost_estimated"], again["currency"]) == (1, 0.0, first["currency"])


def _garble(record, content):
    if content is None:
        record.unlink()
        record.mkdir()
    else:
        record.write_bytes(content)


@pytest.mark.parametrize("damage", [b"", b"[]", b"{}", b"\xff", None])
def test_a_damaged_record_of_what_was_done_costs_a_free_look(sandbox, run, tmp_path, damage):
    """Nothing is asked, and the record is mended."""
    ask = {"inference_id": "bailian_embeddings"}
    run(EmbedOperator, pa.table({"text": ["a"]}), **ask)
    (record,) = tmp_path.glob("_out.inference/*/runs/*/served/*")
    _garble(record, damage)
    for looks in (True, damage is None):  # nothing is written where a folder is
        heard = len(sandbox.calls)
        summary, _ = run(EmbedOperator, None, try_number=2, **ask)
        assert (len(sandbox.calls) > heard) is looks
        assert summary["requests"] == 0


def test_a_destination_that_was_changed_is_not_taken_for_done(sandbox, run, tmp_path):
    """A file of the dataset is gone: the cleared task brings it back, without a question."""
    ask = {"inference_id": "bailian_embeddings"}
    _, rows = run(EmbedOperator, pa.table({"text": ["a"]}), **ask)
    for path in (tmp_path / "out").glob("*.parquet"):
        path.unlink()
    _, again = run(EmbedOperator, None, try_number=2, **ask)
    assert again == rows
    assert len(sandbox.bill) == 1


def test_numbers_of_the_connection_lie_over_the_catalog(sandbox, run, monkeypatch):
    """A model that only the connection knows decides the rows of a request, its price and the guard."""
    models = {"my-model": {"task_types": ["text_embedding"], "rows_per_request": 3}}
    models["my-model"]["prices"] = {"cn": {"currency": "CNY", "per_million": 1e6}}
    extra = {"region": "cn-beijing", "models": models}
    connection = {"conn_type": "modelstudio", "host": sandbox.url, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_MODELSTUDIO_DEFAULT", json.dumps(connection))
    table = pa.table({"text": [f"line {i}" for i in range(7)]})
    parameters = {"inference_id": "bailian_embeddings", "model": "my-model"}
    with pytest.raises(AirflowFailException, match="max_cost"):
        run(EmbedOperator, table, max_cost=6, **parameters)
    summary, _ = run(EmbedOperator, None, **parameters)
    assert summary["requests"] == 3
    assert (summary["cost_estimated"], summary["currency"]) == (summary["tokens_estimated"], "CNY")


def test_what_a_model_writes_counts_against_max_cost(sandbox, run, monkeypatch):
    """The guard stops over answers, which nobody could count before, and holds over tries; what was paid is kept."""
    models = {"my-model": {"task_types": ["completion"]}}
    models["my-model"]["prices"] = {"cn": {"currency": "CNY", "per_million": 0.001, "output_per_million": 1e6}}
    extra = {"region": "cn-beijing", "models": models}
    connection = {"conn_type": "modelstudio", "host": sandbox.url, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_MODELSTUDIO_DEFAULT", json.dumps(connection))
    table = pa.table({"text": [f"The {i}th sentence is as long as all others. What is it?" for i in range(40)]})
    ask = {"inference_id": "bailian_deepseek", "prompt": "{text}", "model": "my-model", "concurrency": 1}
    with pytest.raises(AirflowFailException, match=r"and max_cost is 60; the run stops here"):
        run(CompletionOperator, table, max_cost=60, **ask)
    paid = len(sandbox.bill)
    assert 0 < paid < 40
    with pytest.raises(AirflowFailException, match="max_cost is 60"):
        run(CompletionOperator, None, max_cost=60, **ask)
    assert len(sandbox.bill) <= paid + 1
    summary, rows = run(CompletionOperator, None, **ask)
    assert len(sandbox.bill) <= 41
    written = sum(max(1, len(row["completion"]) // 4) for row in rows)
    assert 0 < summary["output_tokens_estimated"] < 1.5 * written
    assert summary["cost_estimated"] == pytest.approx(summary["output_tokens_estimated"], rel=0.01)


def test_nonsense_about_a_model_is_named(sandbox, run, monkeypatch):
    """Connection, extra, model and field are in the sentence, before anything is asked."""
    extra = {"models": json.dumps({"my-model": {"task_types": ["text_embedding"], "rows": 3}})}
    connection = {"conn_type": "modelstudio", "host": sandbox.url, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_MODELSTUDIO_DEFAULT", json.dumps(connection))
    words = r"connection 'modelstudio_default': extra models: model 'my-model': there is no field 'rows'"
    with pytest.raises(AirflowFailException, match=words):
        run(EmbedOperator, pa.table({"text": ["a"]}), inference_id="bailian_embeddings")
    assert sandbox.calls == []


def test_a_model_that_gives_a_vector_for_each_image_gets_many_rows_at_once(sandbox, run, monkeypatch):
    """What the catalog has of the model decides how rows are asked, unless the Dag says otherwise."""
    models = {"eyes": {"task_types": ["multi_modal_embedding"], "images_per_request": 8, "vectors": "independent"}}
    connection = {"conn_type": "modelstudio", "host": sandbox.url, "extra": {"models": models}}
    monkeypatch.setenv("AIRFLOW_CONN_MODELSTUDIO_DEFAULT", json.dumps(connection))
    table = pa.table({"image": [f"https://a.example/{i}.png" for i in range(16)], "text": ["a"] * 16})
    parameters = {"inference_id": "bailian_mm_independent", "model": "eyes", "image_column": "image"}
    summary, rows = run(MultiModalEmbedOperator, table, **parameters)
    assert (summary["embedded"], summary["requests"]) == (16, 2)
    assert len({tuple(row["embedding"]) for row in rows}) == 16
    with pytest.raises(AirflowFailException, match="embed one column at a time"):
        run(MultiModalEmbedOperator, None, text_column="text", **parameters)
    summary, _ = run(
        MultiModalEmbedOperator,
        None,
        text_column="text",
        independent=False,
        task_settings={"enable_fusion": True},
        **parameters,
    )
    assert (summary["embedded"], summary["requests"]) == (16, 16)


PRICED = {
    "eyes": {
        "task_types": ["multi_modal_embedding"],
        "prices": {"cn": {"currency": "CNY", "per_million": 1e6, "media_per_million": 2e6}},
    }
}


@pytest.fixture
def priced(sandbox, monkeypatch):
    """A model of texts and images with a price for each."""
    extra = {"region": "cn-beijing", "models": PRICED}
    connection = {"conn_type": "modelstudio", "host": sandbox.url, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_MODELSTUDIO_DEFAULT", json.dumps(connection))
    return {"inference_id": "bailian_mm", "model": "eyes"}


@pytest.mark.parametrize("column", ["image_column", "video_column", "multi_images_column"])
@pytest.mark.parametrize("guard", ["max_cost", "max_total_tokens"])
def test_a_guard_that_cannot_count_images_is_refused(sandbox, run, priced, column, guard):
    """Before anything is asked, with what to use instead: the service alone knows what an image costs."""
    one = "https://a.example/1.png"
    table = pa.table({"medium": [[one]] if column == "multi_images_column" else [one]})
    with pytest.raises(AirflowFailException, match=rf"^{guard} cannot be kept: .*; use max_rows or max_requests$"):
        run(MultiModalEmbedOperator, table, **{column: "medium", guard: "5"}, **priced)
    assert sandbox.calls == []


def test_images_have_no_estimated_cost_and_texts_have(sandbox, run, priced):
    """Null instead of a number that means nothing, before and after; a model of images that is asked texts has its price."""
    told, _ = run(MultiModalEmbedOperator, page_rows(3), image_column="image", dry_run=True, **priced)
    assert (told["cost_estimated"], told["currency"], told["requests_estimated"]) == (None, None, 1)
    summary, _ = run(MultiModalEmbedOperator, None, image_column="image", max_requests=1, **priced)
    assert (summary["embedded"], summary["cost_estimated"], summary["currency"]) == (1, None, None)
    told, _ = run(MultiModalEmbedOperator, None, text_column="text", max_cost=1000, dry_run=True, **priced)
    assert (told["cost_estimated"], told["currency"]) == (told["tokens_estimated"], "CNY")


def page_rows(number):
    """Rows with the text and the image of the product page's sample."""
    image = "https://img.alicdn.com/imgextra/i3/O1CN01rdstgY1uiZWt8gqSL_!!6000000006071-0-tps-1970-356.jpg"
    return pa.table({"text": [f"多模态向量模型 {i}" for i in range(number)], "image": [image] * number})


@pytest.mark.parametrize("on_row_error", ["null", "fail", "quarantine"])
def test_a_vector_for_each_element_where_one_was_expected_stops_at_the_first_answer(sandbox, run, on_row_error):
    """What cannot be told apart is not written and not paid for again: the error says what came and what to do."""
    parameters = {"inference_id": "bailian_mm_independent", "image_column": "image", "on_row_error": on_row_error}
    with pytest.raises(
        AirflowFailException, match=r"2 vectors came for a row with 2 elements.*embed one column at a time"
    ):
        run(MultiModalEmbedOperator, page_rows(99), text_column="text", **parameters)
    assert len(sandbox.bill) == 1


def test_a_fused_vector_where_one_for_each_was_expected_stops_at_the_first_answer(sandbox, run):
    """The same the other way round: several rows in one request, and one vector."""
    parameters = {"inference_id": "bailian_mm", "image_column": "image"}
    table = pa.table({"image": [f"https://a.example/{i}.png" for i in range(16)]})
    with pytest.raises(AirflowFailException, match=r"one vector came for 8 rows.*set independent=False"):
        run(MultiModalEmbedOperator, table, model="multimodal-embedding-v1", concurrency=1, **parameters)
    assert len(sandbox.bill) == 1
    summary, _ = run(MultiModalEmbedOperator, None, independent=False, **parameters)
    assert summary["embedded"] == 16


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"model": "qwen3-vl-embedding"}, "unless it is told to fuse them: embed one column at a time"),
        ({"inference_id": "qwen3-vl-embedding"}, "'qwen3-vl-embedding' gives one vector for each element unless"),
        (
            {"model": "tongyi-embedding-vision-flash"},
            "gives one vector for each element .independent.; embed one column",
        ),
        (
            {"inference_id": "tongyi-embedding-vision-plus"},
            "gives one vector for each element .independent.; embed one",
        ),
    ],
)
def test_several_columns_for_a_model_that_does_not_fuse_are_refused_before_anything_is_paid(
    sandbox, run, parameters, words
):
    """What the catalog knows of the model named, or of the model the endpoint is named like, is enough."""
    named = {"inference_id": "bailian_mm", "text_column": "text", "image_column": "image", **parameters}
    with pytest.raises(AirflowFailException, match=words):
        run(MultiModalEmbedOperator, page_rows(3), **named)
    assert sandbox.calls == []


@pytest.mark.parametrize(
    "told",
    [{"task_settings": {"enable_fusion": True}}, {"independent": False, "task_settings": {"enable_fusion": True}}],
)
def test_a_model_of_both_kinds_fuses_when_it_is_told_to(sandbox, run, told):
    """One vector for text and image together, and a row that has one of them only is asked all the same."""
    table = pa.table({"text": ["a", "b", None], "image": ["https://a.example/1.png", None, None]})
    named = {
        "inference_id": "bailian_mm",
        "model": "qwen3-vl-embedding",
        "text_column": "text",
        "image_column": "image",
    }
    summary, rows = run(MultiModalEmbedOperator, table, **named, **told)
    assert (summary["embedded"], summary["failed"]) == (2, 1)
    assert [row["embedding_error"] for row in rows] == [None, None, "no text, image or video"]


def test_each_vector_of_an_independent_model_has_a_column_of_its_own(sandbox, run, tmp_path):
    """An operator a column, the second reads what the first wrote: all vectors side by side, each paid for once."""
    named = {"inference_id": "bailian_mm_independent", "model": "tongyi-embedding-vision-plus"}
    table = page_rows(4).append_column("none", pa.array([None] * 4, pa.string()))
    run(MultiModalEmbedOperator, table, text_column="text", output_column="text_embedding", **named)
    summary, _ = run(
        MultiModalEmbedOperator,
        None,
        source=str(tmp_path / "out"),
        destination=str(tmp_path / "both"),
        image_column="image",
        output_column="image_embedding",
        **named,
    )
    assert (summary["rows"], summary["failed"]) == (4, 0)
    both = pq.read_table(tmp_path / "both")
    assert both.column_names == [
        "text",
        "image",
        "none",
        "text_embedding",
        "text_embedding_error",
        "image_embedding",
        "image_embedding_error",
    ]
    assert both["text_embedding"].null_count == both["image_embedding"].null_count == 0
    assert sum(paid.count for paid in sandbox.bill) == 4 + 1  # equal images are asked once
