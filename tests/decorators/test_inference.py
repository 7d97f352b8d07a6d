"""TaskFlow functions that return what to ask, against the sandbox."""

from __future__ import annotations

import json
import traceback
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowFailException
from airflow.serialization.serialized_objects import DagSerialization
from fsspec.implementations.memory import MemoryFileSystem

from airflow_provider_modelstudio.decorators import inference
from airflow_provider_modelstudio.sandbox.faults import Match, Refuse, Rule
from airflow_provider_modelstudio.sandbox.server import Sandbox

POEM = ["风急天高猿啸哀", "渚清沙白鸟飞回", "无边落木萧萧下", "不尽长江滚滚来"]


@pytest.fixture
def sandbox(monkeypatch):
    with Sandbox(engine="hashed", dimensions=16) as server:
        said = json.dumps({"conn_type": "modelstudio", "host": server.url})
        monkeypatch.setenv("AIRFLOW_CONN_MODELSTUDIO_DEFAULT", said)
        yield server


def run(decorator, function, *arguments, run_id="run", **parameters):
    """What a decorated function's task returns."""
    with DAG("dag", schedule=None) as dag:
        operator = decorator(task_id="ask", **parameters)(function)(*arguments).operator
    DagSerialization.to_dict(dag)
    ti = SimpleNamespace(dag_id="dag", run_id=run_id, task_id="ask", map_index=-1, try_number=1)
    return operator.execute({"ti": ti, "outlet_events": {}, "ds": "2026-01-01"})


def embed(returned, destination, **parameters):
    return run(
        task.modelstudio_embed,
        lambda: returned,
        **{"inference_id": "bailian_embeddings", "destination": str(destination), **parameters},
    )


def complete(returned, **parameters):
    return run(task.modelstudio_completion, lambda: returned, inference_id="bailian_deepseek", **parameters)


@pytest.mark.parametrize(
    ("returned", "columns"),
    [
        (POEM, ["text"]),
        (tuple(POEM), ["text"]),
        ({"line": [1, 2, 3, 4], "text": POEM}, ["line", "text"]),
        (pa.table({"text": POEM, "line": [1, 2, 3, 4]}), ["text", "line"]),
        (pa.RecordBatch.from_pydict({"text": POEM}), ["text"]),
    ],
)
def test_vectors_of_what_a_function_returns(sandbox, tmp_path, returned, columns):
    """Texts, columns or a table get their vectors in a dataset; XCom gets the counts and no row."""
    summary = embed(returned, tmp_path / "out")
    rows = pq.read_table(tmp_path / "out")
    assert rows.schema.names == [*columns, "embedding", "embedding_error"]
    assert rows["text"].to_pylist() == POEM
    assert np.isfinite(np.array(rows["embedding"].to_pylist())).all()
    assert (summary["rows"], summary["embedded"]) == (4, 4)
    assert POEM[0] not in json.dumps(summary, ensure_ascii=False)


def test_another_column_for_a_list(sandbox, tmp_path):
    """A list becomes the column that is to be embedded; None is a row without a text."""
    embed(["a", None], tmp_path / "out", input_column="body", output_column="vector")
    rows = pq.read_table(tmp_path / "out").to_pylist()
    assert [row["body"] for row in rows] == ["a", None]
    assert (rows[0]["vector_error"], rows[1]["vector_error"]) == (None, "null text")


def test_empty_list(sandbox, tmp_path):
    """Nothing to ask for is a dataset without rows."""
    assert embed([], tmp_path / "out")["rows"] == 0
    assert pq.read_table(tmp_path / "out").num_rows == 0
    assert sandbox.requests == 0


def test_rows_are_paid_for_once(sandbox, tmp_path):
    """The same rows ask nothing in the next run, one more asks for one; nothing stays in memory."""
    before = MemoryFileSystem().find("/")  # one for all tests of a process
    embed(POEM, tmp_path / "out", run_id="one")
    assert embed(POEM, tmp_path / "out", run_id="two")["requests"] == 0
    assert embed([*POEM, "one more"], tmp_path / "out", run_id="three")["embedded"] == 1
    assert sum(paid.count for paid in sandbox.bill) == 5
    assert MemoryFileSystem().find("/") == before


def test_retry_goes_on_from_what_was_paid(sandbox, tmp_path):
    """A try that failed half way is gone on with, although its rows were in memory only."""
    texts = [f"text {number}" for number in range(40)]
    sandbox.play([Rule(act=Refuse(error="upstream_401"), match=Match(nth=(3,)))])
    with pytest.raises(AirflowFailException):
        embed(texts, tmp_path / "out", concurrency=1, if_exists="overwrite")
    paid = sum(one.count for one in sandbox.bill)
    assert 0 < paid < 40
    embed(texts, tmp_path / "out", concurrency=1, if_exists="overwrite")
    assert sum(one.count for one in sandbox.bill) == 40
    assert pq.read_table(tmp_path / "out")["text"].to_pylist() == texts


def test_function_gets_its_arguments_and_the_context(sandbox, tmp_path):
    """Arguments of the call and what Airflow knows of the run reach the function."""

    def texts(first, ds=None):
        return [first, ds]

    parameters = {"inference_id": "bailian_embeddings", "destination": str(tmp_path / "out")}
    run(task.modelstudio_embed, texts, "argument", **parameters)
    assert pq.read_table(tmp_path / "out")["text"].to_pylist() == ["argument", "2026-01-01"]


async def _coroutine():
    return POEM


SECRET_ROW = "a row that nobody may see"


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (SECRET_ROW, "returned str"),
        (None, "returned NoneType"),
        ([SECRET_ROW, 7], "holds a int"),
        ({"text": [SECRET_ROW], "more": [1, 2]}, "no table"),
        ({"text": [SECRET_ROW, {"a": 1}]}, "no table"),
        ({1: [SECRET_ROW]}, "returned dict"),
        ({"body": [SECRET_ROW]}, "text"),
        ({"text": [1, 2]}, "text"),
        ([None, SECRET_ROW, SECRET_ROW + "\ud800"], "^text 2 of the function's list holds half a surrogate pair"),
        (
            {"line": [1, 2], "text": [SECRET_ROW, "\udc00" + SECRET_ROW]},
            "^text 1 of the function's column 'text' holds half a surrogate pair",
        ),
    ],
)
def test_what_cannot_be_embedded(sandbox, tmp_path, returned, words):
    """The message names the type that was returned, and repeats nothing of it."""
    with pytest.raises(AirflowFailException, match=words) as caught:
        embed(returned, tmp_path / "out")
    assert SECRET_ROW not in "".join(traceback.format_exception(caught.value))
    assert sandbox.requests == 0


def test_coroutine_functions_are_refused(sandbox, tmp_path):
    """A function that is to be awaited returns no texts."""
    with pytest.raises(AirflowFailException, match="returned coroutine"):
        run(task.modelstudio_embed, _coroutine, inference_id="bailian_embeddings", destination=str(tmp_path / "out"))


def test_completion_of_one_prompt(sandbox):
    """A prompt gets an answer, as a text."""
    answer = complete("Which one? The first. The second one.")
    assert isinstance(answer, str)
    assert answer
    assert len(sandbox.bill) == 1


def test_completion_of_some_prompts(sandbox):
    """A list gets a list, in order, equal prompts asked apart; braces in prompts have no meaning."""
    prompts = ["Which? Alpha.", "Which? {beta}.", "Which? Alpha."]
    answers = complete(prompts)
    assert ["Alpha" in one for one in answers] == [True, False, True]
    assert "{beta}" in answers[1]
    assert len(sandbox.bill) == 3
    assert complete([]) == []


def test_prompt_that_is_refused(sandbox):
    """It fails the task, or is None when told so."""
    sandbox.play([Rule(act=Refuse(error="data_inspection"), match=Match(contains="forbidden"))])
    with pytest.raises(AirflowFailException) as caught:
        complete(["fine", "a forbidden prompt"])
    assert "a forbidden prompt" not in str(caught.value)
    answers = complete(["fine", "a forbidden prompt"], on_row_error="null")
    assert answers[0] is not None
    assert answers[1] is None
    with pytest.raises(AirflowFailException, match="on_row_error must be one of"):
        complete(["fine"], on_row_error="quarantine")
    with pytest.raises(AirflowFailException):
        complete("")
    assert complete("", on_empty="null") is None


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (7, "returned int"),
        (None, "returned NoneType"),
        (["a", None], "prompt 1 is of type NoneType"),
        (["a", "b\ud83d"], "^prompt 1 holds half a surrogate pair, which is no text$"),
        ("\udfff", "^prompt 0 holds half a surrogate pair"),
        (["a"] * (inference.MOST_PROMPTS + 1), "101 prompts, 100 at most"),
    ],
)
def test_what_is_no_prompt(sandbox, returned, words):
    """The message names the type or the number; nothing is asked."""
    with pytest.raises(AirflowFailException, match=words):
        complete(returned)
    assert sandbox.calls == []


def test_answers_that_are_too_long_for_xcom(sandbox):
    """More than a mebibyte of answers is refused, with the way out."""
    long = "word " * 120_000
    with pytest.raises(AirflowFailException, match="bytes, and 1048576 at most go into XCom"):
        complete([f"Which? {long}.", f"Which? {long}!"])


def test_dry_run_asks_nothing(sandbox):
    """A dry run returns what it would take."""
    assert complete(["a", "b"], dry_run=True)["rows_to_ask"] == 2
    assert sandbox.requests == 0
