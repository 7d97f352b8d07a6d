"""RerankOperator with one row a candidate against the sandbox: what comes out, and what is refused before it costs."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_modelstudio.operators.rerank import RerankOperator
from airflow_provider_modelstudio.sandbox.faults import Distort, Match, Refuse, Rule

DOCUMENTS = ["about models that rank texts", "quantum computers", "what a ranking model for texts is"]
CANDIDATES = pa.table(
    {
        "query_id": ["a", "a", "a", "b", "b", "c"],
        "query": ["a ranking model for texts"] * 3 + ["computers"] * 2 + ["nothing to compare"],
        "document": [*DOCUMENTS, DOCUMENTS[1], DOCUMENTS[0], DOCUMENTS[0]],
        "n": range(6),
    }
)


@pytest.fixture(autouse=True)
def _quiet(recwarn):
    """Outside of a task runner Airflow says so."""


@pytest.fixture
def rerank(sandbox, run):
    def rerank(table=CANDIDATES, **parameters):
        settings = {
            "inference_id": "bailian_rerank",
            "query_id_column": "query_id",
            "documents_column": "document",
            **parameters,
        }
        return run(RerankOperator, table, **settings)

    return rerank


def test_each_candidate_gets_its_score_and_its_rank(sandbox, rerank, tmp_path):
    """Rows in input order with all their columns; one request a query; counts are of rows."""
    summary, rows = rerank()
    assert [row["n"] for row in rows] == list(range(6))
    assert [row["rank"] for row in rows] == [2, 3, 1, 1, 2, 1]
    assert rows[2]["relevance_score"] > rows[0]["relevance_score"] > rows[1]["relevance_score"]
    assert (summary["rows"], summary["embedded"], summary["requests"]) == (6, 6, 3)
    schema = pq.read_schema(next((tmp_path / "out").iterdir()))
    assert schema.names == ["query_id", "query", "document", "n", "relevance_score", "rank", "reranked_error"]
    assert [str(schema.field(name).type) for name in ("relevance_score", "rank")] == ["float", "int32"]


def test_the_flat_form_ranks_as_the_list_form_does(rerank, run):
    """The same documents have the same scores and places in both."""
    _, rows = rerank()
    lists = pa.table({"query": [CANDIDATES["query"][0].as_py()], "documents": [DOCUMENTS]})
    _, listed = run(RerankOperator, lists, inference_id="bailian_rerank", run_id="lists")
    ranked = sorted(rows[:3], key=lambda row: row["rank"])
    assert [(row["n"], row["relevance_score"]) for row in ranked] == [
        (entry["index"], entry["relevance_score"]) for entry in listed[0]["reranked"]
    ]


def test_top_n_ranks_the_best_and_keeps_all_scores(sandbox, rerank):
    """Beyond top_n the rank is null; another top_n asks nothing."""
    _, rows = rerank(top_n="1")
    assert [row["rank"] for row in rows] == [None, None, 1, 1, None, 1]
    assert all(row["relevance_score"] is not None for row in rows)
    summary, rows = rerank(table=None, top_n=2)
    assert [row["rank"] for row in rows] == [2, None, 1, 1, 2, 1]
    assert (summary["requests"], summary["reused"]) == (0, 6)


def test_a_refused_query_and_a_missing_document_have_their_reasons(sandbox, rerank):
    """The query that is refused is marked as a whole; a null document alone; the rest is ranked; errors_only mends it."""
    sandbox.play([Rule(act=Refuse(error="data_inspection"), match=Match(contains="computers", task_type="rerank"))])
    table = pa.table(
        {"query_id": [1, 1, 2, 2], "query": ["q", "q", "r", "r"], "document": ["computers", "a", "b", None]}
    )
    summary, rows = rerank(table)
    assert [row["rank"] for row in rows] == [None, None, 1, None]
    assert [row["reranked_error"] for row in rows[2:]] == [None, "null document"]
    assert all("data_inspection_failed" in row["reranked_error"] for row in rows[:2])
    assert (summary["embedded"], summary["failed"]) == (1, 3)
    sandbox.play([])
    summary, rows = rerank(table=None, errors_only=True, run_id="again")
    assert [row["rank"] for row in rows] == [rows[0]["rank"], 3 - rows[0]["rank"], 1, None]
    assert (summary["embedded"], summary["reused"], summary["failed"], summary["requests"]) == (2, 1, 1, 1)


@pytest.mark.parametrize("how", ["duplicate_index", "missing_index", "index_out_of_range", "nan", "fewer"])
def test_a_wrong_answer_marks_its_query_and_no_other(sandbox, rerank, how):
    """Scores are never given to other rows than those they are for."""
    sandbox.play([Rule(act=Distort(how=how), match=Match(contains="quantum"))])
    _, rows = rerank()
    assert [row["relevance_score"] is None for row in rows] == [True] * 5 + [False]
    assert all(row["reranked_error"] for row in rows[:5])


def test_a_query_with_more_candidates_than_a_request_takes(sandbox, rerank):
    """600 candidates: refused with the reason, or split and ranked as one where scores are said to compare."""
    ids = ["large"] * 600 + ["small"]
    table = pa.table({"query_id": ids, "query": ids, "document": [f"document {i} of it" for i in range(601)]})
    summary, rows = rerank(table)
    assert (
        rows[0]["reranked_error"] == "more than 500 documents, and scores of two requests are not said to be comparable"
    )
    assert [row["rank"] for row in rows] == [None] * 600 + [1]
    assert (summary["failed"], summary["requests"]) == (600, 1)
    summary, rows = rerank(table=None, scores_comparable=True)
    assert (summary["failed"], summary["requests"]) == (0, 3)
    scores = [row["relevance_score"] for row in rows[:600]]
    assert sorted(row["rank"] for row in rows[:600]) == list(range(1, 601))
    assert [row["rank"] for row in rows[:600]] == [
        1 + sorted(range(600), key=lambda i: -scores[i]).index(i) for i in range(600)
    ]


def test_a_dry_run_counts_a_request_for_each_query(sandbox, rerank):
    """What a run needs is told in rows and in requests, and the run keeps to it."""
    told, _ = rerank(dry_run=True)
    assert (told["rows_to_ask"], told["requests_estimated"]) == (6, 3)
    assert sandbox.bill == []
    summary, _ = rerank(table=None, max_requests=3)
    assert summary["requests"] == 3


def test_the_catalog_bounds_a_request(sandbox, rerank):
    """Beyond the tokens of a model that is known, a query has a reason in each of its rows and is not sent, or is split."""
    ids = ["long"] * 40 + ["short"] * 2
    documents = [f"{i} " + "word " * 900 for i in range(40)] + DOCUMENTS[:2]
    table = pa.table({"query_id": ids, "query": ids, "document": documents})
    summary, rows = rerank(table, model="gte-rerank-v2")
    words = "query and documents have more than 30000 tokens, and scores of two requests are not said to be comparable"
    assert [row["reranked_error"] for row in rows] == [words] * 40 + [None] * 2
    assert sorted(row["rank"] for row in rows[40:]) == [1, 2]
    assert (summary["failed"], summary["requests"], sandbox.requests) == (40, 1, 1)
    summary, rows = rerank(table=None, model="gte-rerank-v2", scores_comparable="true")
    assert (summary["failed"], summary["requests"]) == (0, 3)
    assert sorted(row["rank"] for row in rows[:40]) == list(range(1, 41))


def test_tokens_of_a_query_count_for_each_of_its_documents(rerank, run):
    """A long query over many short documents is too much in both forms, although its texts together are not."""
    query, documents = "long question " * 250, ["d"] * 40
    table = pa.table({"query_id": [1] * 40, "query": [query] * 40, "document": documents})
    assert len(query) + 40 < 30000
    summary, _ = rerank(table, model="gte-rerank-v2")
    assert (summary["failed"], summary["requests"]) == (40, 0)
    lists = pa.table({"query": [query, "short"], "documents": [documents, DOCUMENTS]})
    _, listed = run(RerankOperator, lists, inference_id="bailian_rerank", model="gte-rerank-v2", run_id="lists")
    assert [row["reranked_error"] for row in listed] == ["query and documents have more than 30000 tokens", None]


def test_the_connection_can_say_that_scores_of_a_model_compare(sandbox, rerank, monkeypatch):
    """What the catalog has of the model decides whether queries are split, unless the Dag says otherwise."""
    models = {"mine": {"task_types": ["rerank"], "documents_per_request": 2, "scores_comparable": True}}
    connection = {"conn_type": "modelstudio", "host": sandbox.url, "extra": {"models": models}}
    monkeypatch.setenv("AIRFLOW_CONN_MODELSTUDIO_DEFAULT", json.dumps(connection))
    summary, rows = rerank(model="mine")
    assert [row["rank"] for row in rows] == [2, 3, 1, 1, 2, 1]
    assert (summary["failed"], summary["requests"]) == (0, 4)
    summary, rows = rerank(table=None, model="mine", scores_comparable=False)
    assert [row["rank"] for row in rows] == [None, None, None, 1, 2, 1]
    assert rows[0]["reranked_error"].startswith("more than 2 documents")


def table_of(ids, queries=None):
    queries = queries or [str(one) for one in ids]
    return pa.table({"query_id": ids, "query": queries, "document": ["d"] * len(ids)})


@pytest.mark.parametrize(
    ("table", "parameters", "words"),
    [
        (table_of([1, 2, 1]), {}, "rows 0 and 2 of the source.*sort the source by 'query_id'"),
        (table_of([1, None]), {}, "row 1 of the source has a null in column 'query_id'"),
        (table_of([1, 1], ["a", "b"]), {}, "rows 0 and 1 of the source are equal.*differ in column 'query'"),
        (table_of([1.5]), {}, "an id is a text or a whole number"),
        (table_of([1]), {"query_id_column": "qid"}, "no column 'qid'"),
        (table_of([1]).append_column("rank", [[1]]), {}, "a column 'rank' already"),
        (table_of([1]), {"return_documents": True}, "return_documents is for lists of documents"),
        (
            table_of([1]),
            {"query_id_column": None, "scores_comparable": True},
            "scores_comparable is for one row a candidate",
        ),
        (table_of([1]), {"max_documents": 0}, "max_documents must be 1 to"),
    ],
)
def test_what_cannot_be_ranked_is_refused_before_anything_is_paid(sandbox, rerank, table, parameters, words):
    """Rows are named, and what to do about them."""
    with pytest.raises(AirflowFailException, match=words):
        rerank(table, **parameters)
    assert sandbox.bill == []


def test_no_candidates_are_a_dataset_too(sandbox, rerank):
    """A source without rows gives a file with all columns."""
    empty = pa.table(
        {
            "query_id": pa.array([], pa.int64()),
            "query": pa.array([], pa.string()),
            "document": pa.array([], pa.string()),
        }
    )
    summary, rows = rerank(empty)
    assert (summary["rows"], summary["files"], rows) == (0, 1, [])
