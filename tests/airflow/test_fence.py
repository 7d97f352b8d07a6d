"""Airflow's own word on whether a try still counts, in a real Airflow with its real state store."""

from __future__ import annotations

from importlib.metadata import version

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
from airflow.models import TaskInstance
from airflow.sdk import DAG
from airflow.sdk.api.client import ServerResponseError
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse
from airflow.utils.session import create_session
from packaging.version import Version
from sqlalchemy import select

from airflow_provider_modelstudio.inference.engine import Progress
from airflow_provider_modelstudio.inference.errors import OutageError, SupersededError
from airflow_provider_modelstudio.operators.state_store import fence, keep_progress
from airflow_provider_modelstudio.operators.text_embedding import EmbedOperator

HAS_STATE_STORE = Version(version("apache-airflow")) >= Version("3.3")
TEXTS = [f"text number {i}" for i in range(30)]
PROGRESS = Progress(
    rows=30,
    rows_done=10,
    rows_to_ask=30,
    embedded=10,
    reused=0,
    deduplicated=0,
    failed=0,
    requests=1,
    cost_estimated=None,
    in_flight=1,
    limit=1,
    limited_by="cap",
    rows_per_second=1.0,
    seconds=10.0,
    seconds_left=20.0,
)


class Replaced(EmbedOperator):
    """Airflow gives up on this try while it asks, as it does with a worker that it has not heard of for long."""

    def make_task(self):
        task, act = super().make_task(), [self.give_up]

        class Task(type(task)):
            def encode(self, questions):
                if act:
                    act.pop()()
                return super().encode(questions)

        return Task(**{name: getattr(task, name) for name in task.__dataclass_fields__})

    def give_up(self):
        with create_session() as session:
            (instance,) = session.scalars(select(TaskInstance).where(TaskInstance.dag_id == self.dag_id))
            instance.prepare_db_for_next_try(session)


@pytest.mark.parametrize("operator", [EmbedOperator, Replaced])
def test_a_try_that_airflow_has_given_up_on_commits_nothing(
    database, sandbox, connection, tmp_path, monkeypatch, operator
):
    """The state store of Airflow refuses it just before the commit: nothing is shown, and what was paid is kept.

    Airflow 3.2 has no such store and is not asked: a try that it has given up on commits the whole dataset.
    """
    monkeypatch.setenv("AIRFLOW_CONN_MODELSTUDIO_DEFAULT", connection)
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "in.parquet")
    with DAG(f"fenced_{operator.__name__}", schedule=None) as dag:
        operator(
            task_id="embed",
            inference_id="bailian_embeddings",
            source=str(tmp_path / "in.parquet"),
            destination=str(tmp_path / "out"),
        )
    dag.relative_fileloc = "fenced.py"
    bag = DagBag(tmp_path / "no Dags")
    bag.bag_dag(dag)
    DagBundlesManager().sync_bundles_to_db()
    sync_bag_to_db(bag, "dags-folder", None)
    ended = dag.test()
    assert (ended.state == "success") is (operator is not Replaced)
    if operator is Replaced and HAS_STATE_STORE:
        assert not (tmp_path / "out").exists()
        assert list(tmp_path.glob("_out.inference/*/runs/*/seals/*"))
        assert not list(tmp_path.glob("_out.inference/*/runs/*/manifest.json"))
    else:
        assert pq.read_table(tmp_path / "out").num_rows == 30


OVER, UNKNOWN, COUNTS = SupersededError, OutageError, None
WORDS = [
    (404, OVER),
    (409, OVER),
    (410, OVER),
    (400, COUNTS),
    (401, COUNTS),
    (403, COUNTS),
    (413, COUNTS),
    (422, COUNTS),
    (408, UNKNOWN),
    (429, UNKNOWN),
    (500, UNKNOWN),
    (502, UNKNOWN),
    (503, UNKNOWN),
]


def heard(status):
    """What a task process is told by its supervisor, which hands on what the API server said, or that it said nothing."""
    return AirflowRuntimeError(
        ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": status, "message": "no"})
    )


def heard_in_one_process(status):
    """What a Dag that is tested in one process is told, by Airflow's own client."""
    response = httpx.Response(status, json={"detail": "no"}, request=httpx.Request("PUT", "http://in-process/"))
    error = ServerResponseError.from_response(response)
    assert error is not None
    return error


def ask(error):
    class Store:
        def set(self, key, value):
            raise error

    fence({"task_state_store": Store()}, "run")


@pytest.mark.parametrize(
    ("told", "status", "means"),
    [
        *((heard, status, means) for status, means in [*WORDS, (None, UNKNOWN)]),
        *((heard_in_one_process, status, means) for status, means in WORDS),
    ],
)
def test_what_airflow_says_of_a_try(caplog, told, status, means):
    """Given up on: it leaves. An answer that only the state store gives: it goes on, with a warning. No answer: it is not
    known whether the try still counts.
    """
    if means is COUNTS:
        ask(told(status))
        assert "does not keep its state" in caplog.text
        return
    words = "given up on this try" if means is OVER else "could not be asked whether this try still counts"
    with pytest.raises(means, match=words):
        ask(told(status))


@pytest.mark.parametrize(
    "error", [httpx.ConnectError("no"), httpx.ReadTimeout("no"), EOFError(), BrokenPipeError(), ConnectionResetError()]
)
def test_a_silent_airflow_vouches_for_nobody(error):
    """An API server or a supervisor that is gone."""
    with pytest.raises(OutageError, match="nothing is lost, and the next try commits without paying again"):
        ask(error)


def test_a_setting_that_makes_no_sense_keeps_nobody_from_the_commit(caplog):
    """Airflow's own refusal of its settings would be the same in every try."""
    ask(ValueError("[state_store] default_retention_days must be >= 0, got -1"))
    assert "could not be asked" in caplog.text


@pytest.mark.parametrize("told", [BrokenPipeError(32, "Broken pipe"), EOFError("Request socket closed before length")])
def test_a_task_without_a_supervisor_goes_on(told):
    """Nobody ends a task whose supervisor was killed, and all that it asks of it fails; what it has paid for must stay."""
    asked = []

    class Store:
        def set(self, key, value):
            asked.append(key)
            raise told

    keep_progress({"task_state_store": Store()}, PROGRESS)
    assert asked == ["progress"]
