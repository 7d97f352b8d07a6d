"""What every task type keeps to, whatever its rows and answers look like."""

from __future__ import annotations

import json
import pickle

import cbor2
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_modelstudio.inference.errors import AnswerError
from airflow_provider_modelstudio.inference.tasks import Answer, Decoded, InferenceTask, Question
from tests.tasks.binding import TASKS, make_task
from tests.wire import CASES, CBOR, JSON, cbor_answer, json_answer

TASK = pytest.mark.parametrize("task_type", TASKS)
CASE = pytest.mark.parametrize("case", CASES, ids=str)
FORMAT = pytest.mark.parametrize(
    ("write", "content_type"), [(json_answer, JSON), (cbor_answer, CBOR)], ids=["json", "cbor"]
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["embedding", "index", "relevance_score", "result", "is_truncated", "x"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


def asked(case):
    task = make_task(case.task_type, **case.settings)
    return task, [q for q in task.questions(pa.record_batch(case.rows)) if isinstance(q, Question)]


def decode(task, answer, questions):
    """What became of an answer: columns that hold together, or ``None`` where it was refused in words."""
    try:
        decoded = task.decode(answer, questions)
    except AnswerError:
        return None
    decoded.columns.validate(full=True)
    assert decoded.columns.num_rows == len(questions)
    assert tuple(decoded.columns.schema.names) == task.output_columns
    for at in range(len(questions)):
        filled = [column[at].is_valid for column in decoded.columns.columns]
        assert not any(filled) if at in decoded.refused else filled[0]
    return decoded


@CASE
@FORMAT
@settings(max_examples=40)
@given(data=st.data())
def test_no_damage_to_an_answer_gets_through_as_a_crash(case, write, content_type, data):
    """Bytes changed, cut, doubled or put in: the answer is refused in words, or its columns hold together."""
    body = bytearray(write(case.answer))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body)))
        match data.draw(st.sampled_from(["change", "cut", "insert", "repeat"])):
            case "change":
                body[at : at + 1] = data.draw(st.binary(min_size=1, max_size=1))
            case "cut":
                del body[at : at + data.draw(st.integers(1, 20))]
            case "insert":
                body[at:at] = data.draw(st.binary(min_size=1, max_size=4))
            case _:
                body[at:at] = body[at : at + data.draw(st.integers(1, 20))]
    task, questions = asked(case)
    decode(task, Answer(bytes(body), content_type), questions)


@TASK
@given(rows=st.lists(VALUES, max_size=3), beside=st.dictionaries(st.text(max_size=3), VALUES, max_size=1))
def test_no_answer_of_any_shape_gets_through_as_a_crash(task_type, rows, beside):
    """Any JSON under the right name: refused in words, or columns that hold together, the same from CBOR."""
    case = next(case for case in CASES if case.task_type == task_type)
    task, questions = asked(case)
    answer = {**beside, task_type: rows}
    from_json = decode(task, Answer(json.dumps(answer).encode(), JSON), questions)
    from_cbor = decode(task, Answer(cbor2.dumps(answer), CBOR), questions)
    if from_json is None or from_cbor is None:
        assert from_json is from_cbor
    else:
        assert from_json.columns == from_cbor.columns
        assert from_json.refused == from_cbor.refused


@TASK
@given(body=st.binary(max_size=60), content_type=st.sampled_from([JSON, CBOR, "text/html", ""]))
def test_no_bytes_get_through_as_a_crash(task_type, body, content_type):
    """Bytes that are nothing at all are refused in words."""
    task, questions = asked(next(case for case in CASES if case.task_type == task_type))
    assert decode(task, Answer(body, content_type), questions) is None


@TASK
def test_settings_can_be_written_down(task_type):
    """What decides the answers is JSON, names the task type, and changes with what is sent beside the rows."""
    plain, other = make_task(task_type).settings(), make_task(task_type, task_settings={"a": 1}).settings()
    assert json.loads(json.dumps(dict(plain))) == dict(plain)
    assert plain["task_type"] == make_task(task_type).task_type == task_type
    assert plain != other
    assert plain == make_task(task_type, task_settings={}).settings()


@TASK
def test_names_follow_the_output_column(task_type):
    """The error column stands beside the output, under its name."""
    task = make_task(task_type, output_column="out")
    assert task.output_columns[0] == "out"
    assert task.error_column == "out_error"
    assert task.output_schema(None).names == list(task.output_columns)
    assert task.output_schema(3).names == list(task.output_columns)


@TASK
def test_tasks_are_values(task_type):
    """Tasks with equal settings are equal, cannot be changed, and survive the way to another process."""
    task = make_task(task_type)
    assert task == make_task(task_type)
    assert pickle.loads(pickle.dumps(task)) == task  # noqa: S301  # our own bytes
    with pytest.raises(AttributeError):
        task.output_column = "other"


@TASK
def test_tasks_have_all_that_the_contract_names(task_type):
    """Every name of the protocol is there; types are mypy's business."""
    names = {name for name in vars(InferenceTask) if not name.startswith("_")}
    assert names <= set(dir(make_task(task_type)))


@TASK
def test_no_row_at_all_is_no_question(task_type):
    """An empty batch gives an empty list."""
    case = next(case for case in CASES if case.task_type == task_type)
    task = make_task(task_type, **case.settings)
    assert task.questions(pa.record_batch(case.rows).slice(0, 0)) == []


def test_a_decoded_answer_refuses_nothing_unless_told():
    """The common case needs no mention of it."""
    assert Decoded(pa.record_batch({"a": [1]})).refused == {}
