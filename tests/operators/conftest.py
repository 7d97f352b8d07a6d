"""A sandbox, a connection to it, and one way to run an operator outside a Dag."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from airflow_provider_modelstudio.sandbox.server import Sandbox


@pytest.fixture
def sandbox(monkeypatch):
    with Sandbox(port=0, engine="hashed") as server:
        monkeypatch.setenv(
            "AIRFLOW_CONN_MODELSTUDIO_DEFAULT", json.dumps({"conn_type": "modelstudio", "host": server.url})
        )
        yield server


@pytest.fixture
def run(tmp_path):
    """Write rows, run an operator over them, read what came out."""

    def run(operator_class, table, try_number=1, run_id="run", **parameters):
        source, destination = tmp_path / "in.parquet", tmp_path / "out"
        if table is not None:
            pq.write_table(table, source)
        operator = operator_class(
            task_id="ask", **{"source": str(source), "destination": str(destination), **parameters}
        )
        ti = SimpleNamespace(dag_id="dag", run_id=run_id, task_id="ask", map_index=-1, try_number=try_number)
        summary = operator.execute({"ti": ti, "outlet_events": {}})
        return summary, pq.read_table(destination).to_pylist() if destination.exists() else None

    return run
