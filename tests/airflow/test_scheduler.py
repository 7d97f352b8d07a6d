"""Dags in a whole Airflow: scheduler, executor, triggerer, Dag processor and API server, each a program of its own."""

from __future__ import annotations

import json
import re
import shutil
import socket
import time
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from urllib.request import urlopen

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from packaging.version import Version

from airflow_provider_modelstudio.catalog import Catalog
from airflow_provider_modelstudio.catalog.wanted import every_model
from airflow_provider_modelstudio.hooks.modelstudio import ModelStudioHook
from airflow_provider_modelstudio.sandbox.faults import Delay, Match, Refuse, Rule
from airflow_provider_modelstudio.sandbox.server import Sandbox
from demo.private_airflow import PrivateAirflow, port_is_free
from demo.screen import Screen
from demo.sessions import Sessions
from demo.watch import RunFailedError, watch
from tests.airflow.conftest import connection_to
from tests.security.canaries import MODEL_KEY, PASSWORD, PRIVATE, ROW, SECRETS, TEXTS, elasticsearch

DAGS = (
    Path(__file__).parents[2] / "example_dags" / "reembed_docs.py",
    Path(__file__).parent / "dags" / "wait_and_rotate.py",
    Path(__file__).parent / "dags" / "full_of_canaries.py",
)
CONF = {"packages": ["packaging"], "max_rows": 40}
HAS_STATE_STORE = Version(version("apache-airflow")) >= Version("3.3")
SENSORS = {"ready", "wrong", "never"}

pytestmark = [pytest.mark.scheduler, pytest.mark.timeout(420)]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def put_aside(log):
    """Tasks of which the scheduler has noticed that they are deferred.

    One that runs again before that is taken for one whose worker died (Airflow 3.3.2, ``process_executor_events``).
    """
    return set(re.findall(r"TaskInstance Finished: .*? task_id=(\w+),.* state=deferred", log.read_text()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A whole Airflow with the Dags; at the end no program of it is left behind."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "dags").mkdir()
    for dag in DAGS:
        shutil.copy(dag, folder / "dags")
    with Sandbox(engine="hashed", user="tester", password=PASSWORD) as sandbox:
        settings = {
            "AIRFLOW_CONN_MODELSTUDIO_DEFAULT": connection_to(sandbox, PASSWORD, MODEL_KEY),
            "REEMBED_DOCS_FOLDER": str(folder / "data"),
            "CANARIES_FOLDER": str(folder / "canaries"),
            "AIRFLOW__SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "1",
        }
        with Sessions(folder / "airflow") as sessions:
            airflow = PrivateAirflow(sessions, dags=folder / "dags", port=free_port(), settings=settings)
            airflow.migrate()
            airflow.start("reembed_docs", triggerer=True)

            def finish(dag_id, run_id):
                return watch(airflow, sessions, Screen(), dag_id, run_id)

            yield SimpleNamespace(
                airflow=airflow,
                sandbox=sandbox,
                folder=folder,
                logs=sessions.logs,
                home=sessions.folder,
                finish=finish,
                processes=sessions.members,
            )
            processes = sessions.members()
    assert len(processes) >= 5
    assert not [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert port_is_free(airflow.port)


def test_reembed_docs_in_a_whole_airflow(whole):
    """Two runs succeed, the first writes the vectors, the second asks nothing."""
    airflow, sandbox = whole.airflow, whole.sandbox

    def run():
        return whole.finish("reembed_docs", airflow.trigger("reembed_docs", CONF))

    first = run()
    asked = sandbox.requests
    second = run()
    events = airflow.get("/api/v2/assets/events?source_dag_id=reembed_docs&order_by=timestamp")["asset_events"]

    rows = ds.dataset(whole.folder / "data" / "vectors", format="parquet").to_table()
    assert len(rows) == first["embed"]["rows"] == first["harvest"]["rows"] == 40
    vectors = np.array(rows["embedding"].to_pylist())
    assert vectors.shape == (40, sandbox.engine.dimensions)
    assert np.isfinite(vectors).all()
    assert rows["embedding_error"].null_count == 40

    assert first["embed"]["requests"] == asked > 0
    assert second["embed"]["requests"] == 0
    assert second["report"].startswith("Nothing was asked.")
    assert sandbox.requests == asked
    assert [event["extra"] for event in events] == [first["embed"], second["embed"]]


def test_an_api_server_that_is_away_for_a_while_costs_nothing(whole):
    """Its processes stand still for seven seconds in the middle of a run: the run goes on, succeeds, and pays once."""
    airflow, sandbox = whole.airflow, whole.sandbox
    rows, before, bill = 300, sandbox.requests, len(sandbox.bill)
    sandbox.play([Rule(act=Delay(seconds=2.0))])
    run_id = airflow.trigger("reembed_docs", {"packages": ["packaging", "pendulum", "click"], "max_rows": rows})
    patience = time.monotonic() + 120
    while sandbox.requests < before + 4:
        assert time.monotonic() < patience
        time.sleep(0.05)
    servers = [process for process in whole.processes() if "api" in " ".join(process.cmdline()[:4])]
    assert servers
    try:
        for process in servers:
            process.suspend()
        asked = sandbox.requests
        with pytest.raises(OSError, match="timed out"):
            urlopen(f"http://127.0.0.1:{airflow.port}/api/v2/version", timeout=2)
        time.sleep(5)
        meanwhile = sandbox.requests - asked
    finally:
        for process in servers:
            process.resume()
    told = whole.finish("reembed_docs", run_id)
    sandbox.play([])
    assert meanwhile > 0
    assert told["embed"]["rows"] == rows
    paid = [one for answered in sandbox.bill[bill:] for one in answered.inputs]
    assert len(paid) == len(set(paid)) >= rows - 60
    vectors = ds.dataset(whole.folder / "data" / "vectors", format="parquet").to_table()
    assert len(vectors) == rows
    assert vectors["embedding_error"].null_count == rows


def test_sensors_wait_in_the_triggerer_and_a_rotation_goes_on(whole, monkeypatch):
    """Sensors defer, and end as the triggerer saw it: ready with the endpoint, skipped for another task type and for a
    timeout. A key that could not be sent to one endpoint is sent to it, and to no other, by the retry.
    """
    airflow, sandbox = whole.airflow, whole.sandbox
    *others, last = [one.inference_id for one in every_model(Catalog.read(), "rerank")]
    sandbox.play([Rule(act=Refuse(error="throttled"), match=Match(operation="create", inference_id=last, first=1))])
    said = json.loads(airflow.environment["AIRFLOW_CONN_MODELSTUDIO_DEFAULT"])
    stored = {**said, "connection_id": "stored", "extra": json.dumps(said["extra"])}
    airflow.call("POST", "/api/v2/connections", stored)
    run_id = airflow.trigger("wait_and_rotate", {})
    run = airflow.run_path("wait_and_rotate", run_id)

    def tasks():
        return {task["task_id"]: task for task in airflow.get(f"{run}/taskInstances")["task_instances"]}

    patience = time.monotonic() + 240
    while not {"ready", "wrong"} <= put_aside(whole.logs / "scheduler.log"):
        assert time.monotonic() < patience, {name: task["state"] for name, task in tasks().items()}
        time.sleep(0.5)
    monkeypatch.setenv("AIRFLOW_CONN_MODELSTUDIO_DEFAULT", airflow.environment["AIRFLOW_CONN_MODELSTUDIO_DEFAULT"])
    ModelStudioHook().create_endpoint("rerank", "late", {"service": "sandbox"})

    said = whole.finish("wait_and_rotate", run_id)
    assert said["ready"] == {"inference_id": "late", "task_type": "rerank", "service": "sandbox"}
    ended = tasks()
    assert {name: ended[name]["state"] for name in SENSORS} == {
        "ready": "success",
        "wrong": "skipped",
        "never": "skipped",
    }
    assert ended["rotate"]["try_number"] == 2
    assert said["rotate"]["created"] == [last]
    assert said["rotate"]["kept" if HAS_STATE_STORE else "updated"] == others


HIDDEN = {
    spelling.encode()
    for one in SECRETS | PRIVATE
    for spelling in (one, json.dumps(one)[1:-1], json.dumps(json.dumps(one))[3:-3])  # JSON in JSON in JSON
}


def test_nothing_of_rows_and_secrets_is_anywhere_in_airflow(whole):
    """A task that succeeds and one that fails, both with the service throwing a row and all secrets back: no file of
    Airflow has any of it, be it the database with rendered fields, XCom, events and the audit log, or a log. The tests
    above left there what they did with the same secrets: an example, a connection in the database, and a rotation.
    """
    airflow = whole.airflow
    (whole.folder / "canaries").mkdir()
    pq.write_table(pa.table({"text": TEXTS}), whole.folder / "canaries" / "in.parquet")
    said = f'pilchard "{ROW} 3" of elastic:{PASSWORD} with {MODEL_KEY}'
    whole.sandbox.play([Rule(act=elasticsearch(400, said), match=Match(contains=f"{ROW} 3"))])
    run_id = airflow.trigger("full_of_canaries", {})
    with pytest.raises(RunFailedError):
        whole.finish("full_of_canaries", run_id)
    run = airflow.run_path("full_of_canaries", run_id)
    ended = {task["task_id"]: task["state"] for task in airflow.get(f"{run}/taskInstances")["task_instances"]}
    assert ended == {"succeeds": "success", "fails": "failed"}
    events = airflow.get("/api/v2/assets/events?source_dag_id=full_of_canaries")["asset_events"]
    assert [event["extra"]["failed"] for event in events] == [1]

    files = {path: path.read_bytes() for path in whole.home.rglob("*") if path.is_file()}
    found = [(str(path), one) for path, content in files.items() for one in HIDDEN if one in content]
    assert found == []
    # What the service said beside it is there, so this is where it would have been.
    told = {path.suffix.partition("-")[0] for path, content in files.items() if b"pilchard" in content}  # .db, .db-wal
    assert told >= {".db", ".log"}
