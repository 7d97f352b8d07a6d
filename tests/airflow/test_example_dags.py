"""Each example Dag, loaded and run by Airflow itself, in one process."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from airflow.dag_processing.dagbag import DagBag

EXAMPLES = Path(__file__).parents[2] / "example_dags"


@pytest.fixture
def run(database, connection, tmp_path, monkeypatch):
    """Runs an example with its data in a folder of the test; returns what each task returned."""
    monkeypatch.setenv("AIRFLOW_CONN_MODELSTUDIO_DEFAULT", connection)
    monkeypatch.setenv("REEMBED_DOCS_FOLDER", str(tmp_path))

    def run(dag_id, **conf):
        ended = DagBag(EXAMPLES).dags[dag_id].test(run_conf=conf)
        assert ended.state == "success"
        return {task.task_id: task.xcom_pull(task_ids=task.task_id) for task in ended.get_task_instances()}

    return run


def test_examples_load(database):
    """Every file in the folder of examples is a Dag file without an error."""
    bag = DagBag(EXAMPLES)
    assert bag.import_errors == {}
    assert {Path(dag.fileloc) for dag in bag.dags.values()} == set(EXAMPLES.glob("*.py"))


def test_reembed_docs_asks_for_what_is_new(run, sandbox, tmp_path):
    """The first run asks for all texts, the second for none and says so, the third for those that were added."""
    first = run("reembed_docs", packages=["packaging"], max_rows=25)
    rows = ds.dataset(tmp_path / "vectors", format="parquet").to_table()
    assert rows.schema.field("embedding").type == pa.list_(pa.float32(), sandbox.engine.dimensions)
    assert len(rows) == 25
    assert rows["embedding_error"].null_count == rows["package"].to_pylist().count("packaging") == 25
    assert first["embed"]["requests"] == sandbox.requests > 0
    paid = sandbox.requests

    second = run("reembed_docs", packages=["packaging"], max_rows=25)
    assert second["report"].startswith("Nothing was asked. 25 rows: 0 embedded, ")
    assert sandbox.requests == paid

    third = run("reembed_docs", packages=["packaging"], max_rows=30)
    assert third["embed"]["embedded"] + third["embed"]["deduplicated"] - first["embed"]["deduplicated"] == 5
    assert ds.dataset(tmp_path / "vectors", format="parquet").count_rows() == 30
