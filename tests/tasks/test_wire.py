"""The codecs against the wire table, in both directions and both formats."""

from __future__ import annotations

import json

import cbor2
import pyarrow as pa
import pytest

from airflow_provider_modelstudio.inference.tasks import Answer, Question, Refused
from tests.tasks.binding import TASKS, as_float32, make_task
from tests.wire import CASES, CBOR, JSON, Case, cbor_answer, json_answer

CASE = pytest.mark.parametrize("case", CASES, ids=str)
FORMAT = pytest.mark.parametrize(
    ("write", "content_type"), [(json_answer, JSON), (cbor_answer, CBOR)], ids=["json", "cbor"]
)


def ask(case: Case):
    task = make_task(case.task_type, **case.settings)
    batch = pa.record_batch(case.rows)
    task.check(batch.schema)
    return task, task.questions(batch)


@CASE
def test_rows_become_the_request_body(case):
    """Rows are asked or refused as the table says, and the body is the table's."""
    task, questions = ask(case)
    assert {at: q.reason for at, q in enumerate(questions) if isinstance(q, Refused)} == case.refused
    asked = [question for question in questions if isinstance(question, Question)]
    assert json.loads(task.encode(asked)) == case.body


@CASE
@FORMAT
def test_the_answer_becomes_columns(case, write, content_type):
    """Each answer, in JSON and in CBOR, gives the table's columns bit for bit, none refused."""
    task, questions = ask(case)
    asked = [question for question in questions if isinstance(question, Question)]
    decoded = task.decode(Answer(write(case.answer), content_type), asked)
    decoded.columns.validate(full=True)
    assert decoded.refused == {}
    assert as_float32(decoded.columns.to_pydict()) == as_float32(case.columns)
    assert tuple(decoded.columns.schema.names) == task.output_columns


@CASE
@FORMAT
def test_the_schema_is_known_before_the_answer(case, write, content_type):
    """``output_schema`` says what ``decode`` gives, once the dimensions are known."""
    task, questions = ask(case)
    asked = [question for question in questions if isinstance(question, Question)]
    columns = task.decode(Answer(write(case.answer), content_type), asked).columns
    kind = columns.schema.types[0]
    assert task.output_schema(kind.list_size if pa.types.is_fixed_size_list(kind) else None) == columns.schema


@CASE
def test_any_spelling_of_a_format_is_read(case):
    """Indented JSON, and CBOR with lengths up front and 64-bit floats, mean the same."""
    task, questions = ask(case)
    asked = [question for question in questions if isinstance(question, Question)]
    plain = task.decode(Answer(json_answer(case.answer), JSON), asked).columns
    indented = json.dumps(case.answer, indent=3).encode()
    for body, content_type in (
        (indented, "application/json"),
        (indented + b"\n", "Application/JSON; charset=utf-8"),
        (cbor2.dumps(case.answer), "application/cbor"),
        (cbor2.dumps(case.answer), "application/vnd.elasticsearch+cbor; compatible-with=8"),
    ):
        assert task.decode(Answer(body, content_type), asked).columns == plain


@CASE
@FORMAT
def test_new_names_in_an_answer_are_skipped(case, write, content_type):
    """A later server may add names beside the rows and in them."""
    task, questions = ask(case)
    asked = [question for question in questions if isinstance(question, Question)]
    ((name, told),) = case.answer.items()
    rows = [{"new": [1, {"x": None}], **row} for row in told]
    answer = {"usage": {"tokens": 7}, name: rows, "model": "m"}
    decoded = task.decode(Answer(write(answer), content_type), asked)
    assert as_float32(decoded.columns.to_pydict()) == as_float32(case.columns)


def test_the_table_covers_each_task_type():
    """No task type is without a case."""
    assert {case.task_type for case in CASES} == set(TASKS)


def test_the_layout_of_cbor_is_that_of_elasticsearch():
    """An answer written out by hand, byte by byte, is what the table's writer makes."""
    by_hand = bytes.fromhex(
        "bf"  # an object without a length
        "6e 746578745f656d62656464696e67"  # "text_embedding"
        "9f"  # a list without a length
        "bf 69 656d62656464696e67 9f fa3f800000 fabf000000 ff ff"  # {"embedding": [1.0, -0.5]}
        "ff ff"
    )
    assert cbor_answer({"text_embedding": [{"embedding": [1.0, -0.5]}]}) == by_hand
    assert cbor2.loads(by_hand) == {"text_embedding": [{"embedding": [1.0, -0.5]}]}
