"""The example Dag in a whole Airflow: scheduler, executor, Dag processor and API server, each a program of its own."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import psutil
import pyarrow.dataset as ds
import pytest

from demo.private_airflow import PrivateAirflow, port_is_free
from demo.screen import Screen
from demo.sessions import Sessions
from demo.watch import watch

EXAMPLES = Path(__file__).parents[2] / "example_dags"
CONF = {"packages": ["packaging"], "max_rows": 40}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.scheduler
@pytest.mark.timeout(420)
def test_reembed_docs_in_a_whole_airflow(sandbox, connection, tmp_path):
    """Two runs succeed, the first writes the vectors, the second asks nothing, and no program is left behind."""
    settings = {"AIRFLOW_CONN_MODELSTUDIO_DEFAULT": connection, "REEMBED_DOCS_FOLDER": str(tmp_path / "data")}
    screen = Screen()
    with Sessions(tmp_path / "airflow") as sessions:
        airflow = PrivateAirflow(sessions, dags=EXAMPLES, port=free_port(), settings=settings)
        airflow.migrate()
        airflow.start("reembed_docs")

        def run():
            return watch(airflow, sessions, screen, "reembed_docs", airflow.trigger("reembed_docs", CONF))

        first = run()
        asked = sandbox.requests
        second = run()
        events = airflow.get("/api/v2/assets/events?source_dag_id=reembed_docs&order_by=timestamp")["asset_events"]
        processes = sessions.members()

    rows = ds.dataset(tmp_path / "data" / "vectors", format="parquet").to_table()
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

    assert len(processes) >= 4
    assert not [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert port_is_free(airflow.port)
