"""The example Dag that makes an endpoint, uses it and deletes it, run by Airflow itself."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.utils.db import initdb

from airflow_provider_modelstudio.sandbox.faults import Match, Refuse, Rule

EXAMPLE = Path(__file__).parents[2] / "example_dags" / "provision_models.py"
KEY = "sk-canary-0123456789"

pytestmark = [
    pytest.mark.xdist_group("airflow"),
    # A whole Airflow loads dozens of packages, which warn about one another. Ours still must not.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.filterwarnings("error:::airflow_provider_modelstudio"),
]


@pytest.fixture(scope="module")
def database():
    initdb()


@pytest.fixture
def run(database, sandbox, tmp_path, monkeypatch):
    """Runs the example; returns the run's state and what each task returned."""
    extra = {"model_studio_api_key": KEY, "api_host": sandbox.url}
    monkeypatch.setenv(
        "AIRFLOW_CONN_MODELSTUDIO_DEFAULT",
        json.dumps({"conn_type": "modelstudio", "host": sandbox.url, "extra": extra}),
    )
    monkeypatch.setenv("PROVISION_MODELS_FOLDER", str(tmp_path))

    def run(**conf):
        bag = DagBag(EXAMPLE)
        assert bag.import_errors == {}
        ended = bag.dags["provision_models"].test(run_conf=conf)
        tasks = ended.get_task_instances()
        return (
            {one.task_id: one.state for one in tasks},
            {one.task_id: one.xcom_pull(task_ids=one.task_id) for one in tasks},
        )

    return run


def test_create_use_delete(run, sandbox, tmp_path):
    """The endpoint is made, used for each text, and gone at the end; the key is in no XCom and no log."""
    states, said = run()
    assert set(states.values()) == {"success"}
    assert said["create"]["created"] == [said["delete"]["inference_id"]] == [said["ready"]["inference_id"]]
    assert said["delete"]["action"] == "deleted"
    assert said["lines"]["embedded"] == 4
    assert len(said["neighbours"]) == 4
    assert all(nearest in said["neighbours"] and nearest != text for text, nearest in said["neighbours"].items())
    assert KEY not in json.dumps(said)
    (destination,) = [path for path in tmp_path.iterdir() if not path.name.startswith("_")]
    assert ds.dataset(destination, format="parquet").count_rows() == 4
    writes = [(one.operation, one.inference_id) for one in sandbox.calls if one.operation in {"create", "delete"}]
    endpoint = said["create"]["inference_id"]
    assert writes == [("create", endpoint), ("delete", endpoint), ("delete", endpoint)]  # a dry run, and the deed


def test_endpoint_is_deleted_although_its_use_failed(run, sandbox):
    """A model that refuses the key of the endpoint fails the run, not the clean-up."""
    sandbox.play([Rule(act=Refuse(error="upstream_401"), match=Match(operation="infer"))])
    states, said = run()
    assert (states["lines"], states["neighbours"], states["delete"]) == ("failed", "upstream_failed", "success")
    assert said["delete"]["action"] == "deleted"
