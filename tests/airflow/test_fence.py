"""Airflow's own word on whether a try still counts, in a real Airflow with its real state store."""

from __future__ import annotations

from importlib.metadata import version

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
from airflow.models import TaskInstance
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse
from airflow.utils.session import create_session
from packaging.version import Version
from sqlalchemy import select

from airflow_provider_modelstudio.inference.engine import Progress
from airflow_provider_modelstudio.inference.errors import SupersededError
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


@pytest.mark.parametrize(("status", "counts"), [(404, False), (409, False), (410, False), (500, True), (401, True)])
def test_what_a_task_process_hears_of_it(status, counts):
    """The supervisor hands on what the API server said; only "this try is over" stops the commit, not an outage."""
    told = ErrorResponse(
        error=ErrorType.API_SERVER_ERROR, detail={"status_code": status, "message": "Server returned error"}
    )

    class Store:
        def set(self, key, value):
            raise AirflowRuntimeError(told)

    context = {"task_state_store": Store()}
    if counts:
        fence(context, "run")
    else:
        with pytest.raises(SupersededError, match="given up on this try"):
            fence(context, "run")


@pytest.mark.parametrize("told", [BrokenPipeError(32, "Broken pipe"), EOFError("Request socket closed before length")])
def test_a_task_without_a_supervisor_goes_on(told, caplog):
    """Nobody ends a task whose supervisor was killed, and all that it asks of it fails; what it has paid for must stay."""
    asked = []

    class Store:
        def set(self, key, value):
            asked.append(key)
            raise told

    context = {"task_state_store": Store()}
    keep_progress(context, PROGRESS)
    fence(context, "run")
    assert asked == ["progress", "commit"]
    assert f"could not be asked whether this try still counts ({type(told).__name__})" in caplog.text
