"""Each example Dag, loaded and run by Airflow itself, in one process."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import pendulum
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.timetables.base import TimeRestriction

from airflow_provider_modelstudio.sandbox.faults import Distort, Match, Rule

EXAMPLES = Path(__file__).parents[2] / "example_dags"


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """One place for all tests: Airflow holds the address of an asset against its name, from one test to the next."""
    return tmp_path_factory.mktemp("examples")


@pytest.fixture
def folder(folders):
    """Where each example has its data, in a folder of its name; empty."""
    yield folders
    for used in folders.iterdir():
        shutil.rmtree(used) if used.is_dir() else used.unlink()


@pytest.fixture
def run(database, connection, folder, monkeypatch):
    """Runs an example with its data in ``folder``; returns what each task returned."""
    monkeypatch.setenv("AIRFLOW_CONN_MODELSTUDIO_DEFAULT", connection)
    for example in EXAMPLES.glob("*.py"):
        monkeypatch.setenv(f"{example.stem.upper()}_FOLDER", str(folder / example.stem))

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


@pytest.mark.parametrize("minutes", [0, 1, 60, 24 * 60 - 1])
def test_unpausing_a_nightly_example_starts_nothing(database, monkeypatch, minutes):
    """However long the last night is over: its first run is the next one, since runs may cost money."""
    now = pendulum.datetime(2026, 11, 25, 2, 0, 1, tz="Asia/Shanghai").add(minutes=minutes)
    monkeypatch.setattr("airflow.timetables.trigger.utcnow", lambda: now)
    restriction = TimeRestriction(earliest=None, latest=None, catchup=False)
    dags = DagBag(EXAMPLES).dags
    for dag_id in ("nightly_reembedding", "reembed_docs"):
        timetable = dags[dag_id].timetable
        first = timetable.next_dagrun_info(last_automated_data_interval=None, restriction=restriction)
        assert first.run_after > now


def test_reembed_docs_asks_for_what_is_new(run, sandbox, folder):
    """The first run asks for all texts, the second for none and says so, the third for those that were added."""
    first = run("reembed_docs", packages=["packaging"], max_rows=25)
    rows = ds.dataset(folder / "reembed_docs" / "vectors", format="parquet").to_table()
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
    assert ds.dataset(folder / "reembed_docs" / "vectors", format="parquet").count_rows() == 30


def test_nightly_reembedding_provisions_once_and_asks_for_what_is_new(run, sandbox, folder):
    """The first night makes the endpoint and asks for all rows, the second writes and asks nothing, the third one row."""
    first = run("nightly_reembedding")
    assert first["endpoint"]["created"] == ["articles-embedding"]
    assert first["ready"]["inference_id"] == "articles-embedding"
    assert first["report"] == "3 rows: 3 embedded, 0 reused, 0 gone, 0 failed"

    second = run("nightly_reembedding")
    assert second["endpoint"]["kept"] == ["articles-embedding"]
    assert second["embed"]["requests"] == 0

    pq.write_table(
        pa.table({"id": [4], "text": ["A new article."]}),
        folder / "nightly_reembedding" / "articles" / "more.parquet",
    )
    third = run("nightly_reembedding")
    assert third["report"] == "4 rows: 1 embedded, 3 reused, 0 gone, 0 failed"
    assert [one.operation for one in sandbox.calls if one.operation in {"create", "update", "delete"}] == ["create"]


def test_hybrid_search_joins_both_kinds_of_vectors(run, sandbox, folder):
    """Each passage has both, and the passage that the question is about comes first by both together."""
    said = run("hybrid_search")
    assert said["join"] == {
        "path": str(folder / "hybrid_search" / "passages_with_vectors.parquet"),
        "rows": 6,
        "left_out": 0,
    }
    joined = pq.read_table(said["join"]["path"])
    assert joined.column_names == ["id", "text", "embedding", "sparse_embedding"]
    assert joined.schema.field("sparse_embedding").type == pa.map_(pa.string(), pa.float32())
    assert joined["embedding"].null_count == joined["sparse_embedding"].null_count == 0
    assert len(said["search"]) == 3
    assert said["search"][0]["id"] == 1
    assert all(0 <= hit[name] <= 1 for hit in said["search"] for name in ("score", "meaning", "words"))
    paid = sandbox.requests
    assert paid == 4  # six passages and one question, by both

    again = run("hybrid_search", question="灯具保修多久？", weight=0)
    assert again["search"][0]["id"] == 6
    assert sandbox.requests == paid + 2


def test_hybrid_search_leaves_out_what_lacks_a_vector(run, folder):
    """A passage without a text is in neither dataset's answers, and in no index."""
    passages = folder / "hybrid_search" / "passages"
    passages.mkdir(parents=True)
    table = pa.table({"id": ["a", "b", "c"], "text": ["lamps and bulbs", None, "chairs"]})
    pq.write_table(table, passages / "mine.parquet")
    said = run("hybrid_search", question="bulbs")
    assert (said["join"]["rows"], said["join"]["left_out"]) == (2, 1)
    assert [hit["id"] for hit in said["search"]] == ["a", "c"]


def test_image_catalogue_finds_look_alikes(run, sandbox, folder):
    """Each picture has a vector; a product that is there twice is found by its picture; a broken one fails alone."""
    said = run("image_catalogue")
    assert (said["embed"]["rows"], said["embed"]["embedded"]) == (9, 9)
    assert len(said["look_alikes"]) == 9
    alike = [(sku.split("-"), nearest.split("-")) for sku, nearest in said["look_alikes"].items()]
    assert all(colour == other_colour for (_, colour, _), (_, other_colour, _) in alike)

    sample = pq.read_table(folder / "image_catalogue" / "catalogue" / "sample.parquet")
    more = {"sku": ["the same", "broken"], "image": pa.array([sample["image"][4].as_py(), b"no image"], pa.binary())}
    pq.write_table(pa.table(more), folder / "image_catalogue" / "catalogue" / "more.parquet")
    said = run("image_catalogue")
    assert said["embed"]["requests"] == 0
    assert said["embed"]["failed"] == 1
    assert said["look_alikes"]["the same"] == sample["sku"][4].as_py()
    assert "broken" not in said["look_alikes"]


def test_rerank_candidates_ranks_what_a_search_found(run, sandbox, folder):
    """Each question is one request; the best of each are picked, best first; nothing is asked twice."""
    first = run("rerank_candidates")
    assert (first["rerank"]["rows"], first["rerank"]["requests"], sandbox.requests) == (24, 4, 4)
    assert (first["pick"]["questions"], first["pick"]["rows"]) == (4, 12)
    best = pq.read_table(folder / "rerank_candidates" / "best.parquet").to_pylist()
    assert [row["rank"] for row in best] == [1, 2, 3] * 4
    assert all(a["relevance_score"] >= b["relevance_score"] for a, b in pairwise(best) if a["rank"] < b["rank"])

    again = run("rerank_candidates", best=1)
    assert (again["pick"]["rows"], again["rerank"]["requests"], sandbox.requests) == (4, 0, 4)

    more = run("rerank_candidates", questions=["Which cards do you take?", "Is there a garden table?"], candidates=5)
    assert (more["rerank"]["rows"], more["pick"]["questions"]) == (10, 2)


def test_shared_account_asks_through_one_pool(run, sandbox, folder):
    """Both tasks that ask name the pool that the documentation makes, the other one does not; each row is answered."""
    dag = DagBag(EXAMPLES).dags["shared_account"]
    pools = {task.task_id: task.pool for task in dag.tasks}
    assert pools == {"prepare": "default_pool", "embed_articles": "model_studio", "embed_reviews": "model_studio"}
    assert "airflow pools set model_studio 2 " in dag.doc_md
    told = run("shared_account")
    assert (told["embed_articles"]["embedded"], told["embed_reviews"]["embedded"]) == (3, 2)
    for name, rows in (("articles", 3), ("reviews", 2)):
        vectors = ds.dataset(folder / "shared_account" / f"{name}_with_vectors", format="parquet").to_table()
        assert len(vectors) == rows
        assert vectors["embedding"].null_count == 0


def test_enrich_products_makes_columns_of_descriptions(run, sandbox, folder):
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
    rows = ds.dataset(folder / "enrich_products" / "enriched", format="parquet").to_table().to_pylist()
    assert [(row["kind"], row["price"], row["colours"], row["weight_kg"]) for row in rows[:3]] == [
        ("lamp", 49.5, ["blue"], 2.0),
        ("chair", 79.0, ["red", "white"], 4.5),
        ("table", 199.0, ["green"], 21.0),
    ]
    pq.write_table(
        pa.table({"title": ["Bench"], "description": ["A chair, red. Price 5 euros."]}),
        folder / "enrich_products" / "mine.parquet",
    )
    mine = run("enrich_products", source=str(folder / "enrich_products" / "mine.parquet"))
    assert mine["review"] == {"rows": 1, "kinds": {"chair": 1}, "to_look_at": 0}
