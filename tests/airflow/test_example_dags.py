"""Each example Dag, loaded and run by Airflow itself, in one process."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from airflow.dag_processing.dagbag import DagBag

from airflow_provider_modelstudio.sandbox.faults import Distort, Match, Rule

EXAMPLES = Path(__file__).parents[2] / "example_dags"


@pytest.fixture
def run(database, connection, tmp_path, monkeypatch):
    """Runs an example with its data in a folder of the test; returns what each task returned."""
    monkeypatch.setenv("AIRFLOW_CONN_MODELSTUDIO_DEFAULT", connection)
    for example in ("REEMBED_DOCS", "RERANK_CANDIDATES", "ENRICH_PRODUCTS"):
        monkeypatch.setenv(f"{example}_FOLDER", str(tmp_path))

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


def test_rerank_candidates_ranks_what_a_search_found(run, sandbox, tmp_path):
    """Each question is one request; the best of each are picked, best first; nothing is asked twice."""
    first = run("rerank_candidates")
    assert (first["rerank"]["rows"], first["rerank"]["requests"], sandbox.requests) == (24, 4, 4)
    assert (first["pick"]["questions"], first["pick"]["rows"]) == (4, 12)
    best = pq.read_table(tmp_path / "best.parquet").to_pylist()
    assert [row["rank"] for row in best] == [1, 2, 3] * 4
    assert all(a["relevance_score"] >= b["relevance_score"] for a, b in pairwise(best) if a["rank"] < b["rank"])

    again = run("rerank_candidates", best=1)
    assert (again["pick"]["rows"], again["rerank"]["requests"], sandbox.requests) == (4, 0, 4)

    more = run("rerank_candidates", questions=["Which cards do you take?", "Is there a garden table?"], candidates=5)
    assert (more["rerank"]["rows"], more["pick"]["questions"]) == (10, 2)


def test_enrich_products_makes_columns_of_descriptions(run, sandbox, tmp_path):
    """Columns have the types of the schema; rows whose answers do not fit are counted, and mended by errors_only."""
    told = run("enrich_products", dry_run=True)
    assert (told["review"]["rows_to_ask"], sandbox.requests) == (6, 0)

    sandbox.play([Rule(act=Distort(how="empty_object"), match=Match(contains="Harbour"))])
    first = run("enrich_products")
    assert first["review"] == {"rows": 6, "kinds": {"chair": 2, "table": 2, "lamp": 1}, "to_look_at": 1}
    sandbox.play([])
    paid = sandbox.requests
    mended = run("enrich_products", errors_only=True)
    assert mended["review"] == {"rows": 6, "kinds": {"lamp": 2, "chair": 2, "table": 2}, "to_look_at": 0}
    assert sandbox.requests == paid + 1
    rows = ds.dataset(tmp_path / "enriched", format="parquet").to_table().to_pylist()
    assert [(row["kind"], row["price"], row["colours"], row["weight_kg"]) for row in rows[:3]] == [
        ("lamp", 49.5, ["blue"], 2.0),
        ("chair", 79.0, ["red", "white"], 4.5),
        ("table", 199.0, ["green"], 21.0),
    ]
    pq.write_table(
        pa.table({"title": ["Bench"], "description": ["A chair, red. Price 5 euros."]}), tmp_path / "mine.parquet"
    )
    mine = run("enrich_products", source=str(tmp_path / "mine.parquet"))
    assert mine["review"] == {"rows": 1, "kinds": {"chair": 1}, "to_look_at": 0}
