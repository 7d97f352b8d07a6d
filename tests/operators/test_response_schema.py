"""CompletionOperator with a schema against the sandbox: typed columns, answers that do not fit, and what is refused."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_modelstudio.operators.completion import CompletionOperator
from airflow_provider_modelstudio.sandbox.faults import Distort, Match, Rule

PRODUCTS = pa.table(
    {
        "sku": ["a", "b", "c"],
        "text": ["An oak chair. Price 49.5.", "A brass lamp. Price 20.", "A chair in blue. Price 7."],
    }
)
SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["chair", "lamp"]},
        "price": {"type": "number", "minimum": 0},
        "colours": {"type": "array", "items": {"enum": ["blue", "red"]}},
    },
    "required": ["kind", "price"],
    "additionalProperties": False,
}


@pytest.fixture(autouse=True)
def _quiet(recwarn):
    """Outside of a task runner Airflow says so."""


@pytest.fixture
def enrich(sandbox, run):
    def enrich(table=PRODUCTS, **parameters):
        settings = {"inference_id": "bailian_deepseek", "prompt": "{text}", "response_schema": SCHEMA, **parameters}
        return run(CompletionOperator, table, **settings)

    return enrich


@pytest.mark.parametrize("schema", [SCHEMA, json.dumps(SCHEMA)], ids=["object", "text"])
def test_answers_become_typed_columns(enrich, tmp_path, schema):
    """Each property is a column of its own type beside the raw text; input columns are carried through."""
    summary, rows = enrich(response_schema=schema)
    assert [(row["sku"], row["kind"], row["price"], row["colours"]) for row in rows] == [
        ("a", "chair", 49.5, []),
        ("b", "lamp", 20.0, []),
        ("c", "chair", 7.0, ["blue"]),
    ]
    assert all(json.loads(row["completion"])["kind"] == row["kind"] for row in rows)
    assert (summary["embedded"], summary["failed"], summary["requests"]) == (3, 0, 3)
    written = pq.read_schema(next((tmp_path / "out").iterdir()))
    assert written.names == ["sku", "text", "completion", "kind", "price", "colours", "completion_error"]
    assert [str(written.field(name).type) for name in SCHEMA["properties"]] == [
        "string",
        "double",
        "list<element: string>",
    ]


@pytest.mark.parametrize("how", ["unfinished", "empty_object"])
def test_an_answer_that_does_not_fit_once_is_asked_again(sandbox, enrich, how):
    """One more request, and every row has its columns."""
    sandbox.play([Rule(act=Distort(how=how), match=Match(contains="brass", first=1))])
    summary, rows = enrich()
    assert [row["kind"] for row in rows] == ["chair", "lamp", "chair"]
    assert (summary["failed"], summary["requests"], len(sandbox.bill)) == (0, 4, 4)


def test_an_answer_that_never_fits_is_marked_not_lost_and_can_be_asked_for_again(sandbox, enrich):
    """The text is kept with place and rule of what is wrong; errors_only asks for that row and no other."""
    sandbox.play([Rule(act=Distort(how="empty_object"), match=Match(contains="brass"))])
    summary, rows = enrich()
    assert (rows[1]["completion"], rows[1]["kind"], rows[1]["price"]) == ("{}", None, None)
    assert rows[1]["completion_error"] == "the completion does not fit response_schema at /kind: required"
    assert [row["kind"] for row in rows] == ["chair", None, "chair"]
    assert (summary["embedded"], summary["failed"], summary["requests"]) == (2, 1, 4)
    assert summary["errors"] == {rows[1]["completion_error"]: 1}
    sandbox.play([])
    before = len(sandbox.bill)
    summary, rows = enrich(table=None, errors_only=True, run_id="again")
    assert len(sandbox.bill) == before + 1
    assert (summary["embedded"], summary["reused"], summary["failed"]) == (1, 2, 0)
    assert (rows[1]["kind"], rows[1]["price"], rows[1]["completion_error"]) == ("lamp", 20.0, None)


def test_another_schema_is_another_question(sandbox, enrich):
    """Answers to one schema are not taken for answers to another one; the same schema asks nothing."""
    enrich()
    enrich(table=None, run_id="again")
    assert len(sandbox.bill) == 3
    _, rows = enrich(table=None, response_schema={**SCHEMA, "required": []})
    assert len(sandbox.bill) == 6
    assert rows[0]["kind"] == "chair"


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"response_schema": "{not json"}, "response_schema is not JSON"),
        ({"response_schema": {"type": "array"}}, "response_schema at /: the schema of an answer has the type 'object'"),
        ({"response_schema": {"type": "object", "properties": {"sku": {"type": "string"}}}}, "a column 'sku' already"),
        ({"output_column": "price"}, "a property 'price', which is the name of an output column"),
        ({"output_column": "sku"}, "a column 'sku' already"),
    ],
)
def test_a_schema_that_cannot_become_columns_is_refused_before_anything_is_paid(sandbox, enrich, parameters, words):
    """Each mistake names what is wrong."""
    with pytest.raises(AirflowFailException, match=words):
        enrich(**parameters)
    assert sandbox.bill == []
