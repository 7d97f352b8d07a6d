"""A corpus, a destination, and one way to run the engine over them."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from airflow_provider_modelstudio.inference.dataset import open_source
from airflow_provider_modelstudio.inference.engine import Options, StopSignal, run
from airflow_provider_modelstudio.inference.governor import Limits
from airflow_provider_modelstudio.inference.plan import make_plan
from airflow_provider_modelstudio.inference.storage.local import LocalStorage
from airflow_provider_modelstudio.inference.vault import Vault
from tests.inference import stores
from tests.inference.fakes import Hashes, Scripted, vector
from tests.inference.virtual_time import run_in_virtual_time


class Place:
    """A source and a destination on local disk."""

    def __init__(self, folder):
        self.folder = folder
        self.source = folder / "in"
        self.source.mkdir()
        self.destination = folder / "out"
        self.state = folder / "_out.inference"
        self.summary = None

    def write(self, texts, name="a.parquet", **columns):
        table = pa.table({"id": list(range(len(texts))), "text": pa.array(texts, pa.string()), **columns})
        pq.write_table(table, self.source / name, row_group_size=50)

    def run(self, service=None, task=None, **options):
        """One try; returns the summary and leaves the service's books in ``service``."""
        return run_in_virtual_time(self.start(service, task, **options))

    def start(
        self,
        service=None,
        task=None,
        *,
        part_rows=100,
        stop=None,
        endpoint="e",
        owner="me",
        single_file=False,
        storage=LocalStorage,
        arrange=lambda source: source,
        report=None,
        **options,
    ):
        """The same, to be awaited together with others."""
        service = service if service is not None else Scripted()
        task = task if task is not None else Hashes()
        source = arrange(open_source(LocalFileSystem(), str(self.source)))
        destination = self.folder / "out.parquet" if single_file else self.destination
        storage = storage(self.state, destination, single_file=single_file)
        plan = make_plan(
            source.files,
            endpoint={"id": endpoint},
            settings=task.settings(),
            output={},
            single_file=single_file,
            part_rows=part_rows,
            part_starts=getattr(source, "part_starts", None),
        )
        self.reports = []
        settings = Options(limits=Limits(max_concurrency=8, patience=900.0), owner=owner, progress_seconds=0.02)
        return run(
            plan,
            source,
            task,
            inference_id="endpoint",
            transport=service,
            vault=Vault(storage, plan),
            options=replace(settings, **options),
            stop=stop or StopSignal(),
            report=report or self.reports.append,
        )

    def rows(self, path=None):
        """The dataset as readers see it."""
        return pq.read_table(path or self.destination).to_pylist()

    def check(self, texts, failed=()):
        """Each row is there once, in order, with its own vector or a reason."""
        rows = self.rows()
        assert [(row["id"], row["text"]) for row in rows] == list(enumerate(texts))
        for row in rows:
            if not row["text"] or row["text"] in failed:
                assert row["embedding"] is None
                assert row["embedding_error"]
            else:
                assert row["embedding"] == vector(row["text"])
                assert row["embedding_error"] is None


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def _store(scheme):
    """A fixture for one kind of store, started once."""

    def store():
        with stores.start(scheme) as running:
            yield running

    return pytest.fixture(scope="session", name=f"{scheme}_store")(store)


s3_store, gs_store, abfs_store = map(_store, stores.SCHEMES)


@pytest.fixture
def s3(s3_store):
    """A file system over a real S3 API on loopback."""
    return s3_store.filesystem
