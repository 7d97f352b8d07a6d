"""Object stores that fail, lie or are late, behind the storage contract."""

from __future__ import annotations

import errno

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from airflow_provider_modelstudio.inference.errors import StorageError, StorageRefusedError
from airflow_provider_modelstudio.inference.storage import ObjectExistsError
from airflow_provider_modelstudio.inference.storage.object_storage import ObjectStorage
from tests.faults.bench import context_of, vector
from tests.inference.virtual_time import run_in_virtual_time


class Store(MemoryFileSystem):
    """A bucket in memory, of its own."""

    cachable = False

    def __init__(self):
        super().__init__()
        self.store = {}
        self.pseudo_dirs = [""]


def storage_over(store):
    return ObjectStorage(store, "s3", "/bucket/_out.inference", "/bucket/out", single_file=False)


class Ignorant(Store):
    """Takes the order to create only once, and overwrites."""

    def pipe_file(self, path, value, mode="overwrite", **options):
        super().pipe_file(path, value)


class Outspoken(Store):
    """Says that it does not know such an order."""

    def pipe_file(self, path, value, mode="overwrite", **options):
        if mode == "create":
            raise OSError(errno.ENOSYS, "A header you provided implies functionality that is not implemented")
        super().pipe_file(path, value)


@pytest.mark.parametrize("kind", [Ignorant, Outspoken])
def test_a_store_that_cannot_create_once_is_found_out(kind, caplog):
    """It is told in the log before the first object that matters, and what is there is still not overwritten."""
    storage = storage_over(kind())
    run_in_virtual_time(storage.create("runs/1", b"mine"))
    assert "does not create objects only once" in caplog.text
    assert not any("probe" in name for name in storage._fs.store)
    run_in_virtual_time(storage.create("runs/1", b"mine"))
    with pytest.raises(ObjectExistsError):
        run_in_virtual_time(storage.create("runs/1", b"other"))
    assert run_in_virtual_time(storage.read("runs/1")) == b"mine"
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


def test_what_was_written_for_a_moment_counts_as_written():
    """Without create-once, two may write the same object; who was first does not hear of it and takes nothing back."""

    class Contested(Ignorant):
        def pipe_file(self, path, value, mode="overwrite", **options):
            super().pipe_file(path, value)
            if value == b"mine":
                super().pipe_file(path, b"theirs")
                if not self.told:
                    self.told = True
                    raise TimeoutError("SlowDown")

        told = False

    storage = storage_over(Contested())
    run_in_virtual_time(storage.create("runs/1", b"mine"))
    assert storage._fs.told


@pytest.mark.parametrize("done", [False, True])
def test_a_store_that_is_busy_is_asked_again(done):
    """500, SlowDown or a timeout, before or after the object was written: what counts is what is there in the end."""

    class Busy(Store):
        left = 5

        def pipe_file(self, path, value, mode="overwrite", **options):
            if "epoch" in path and self.left:
                self.left -= 1
                if done:
                    super().pipe_file(path, value)
                raise TimeoutError("SlowDown")
            super().pipe_file(path, value, mode=mode)

    storage = storage_over(Busy())
    run_in_virtual_time(storage.create("epoch/1", b"mine"))
    assert run_in_virtual_time(storage.read("epoch/1")) == b"mine"
    with pytest.raises(ObjectExistsError):
        run_in_virtual_time(storage.create("epoch/1", b"other"))


@pytest.mark.parametrize("write", [("lost",), ("busy", "lost")], ids=" ".join)
def test_a_bucket_that_stumbles_over_each_object_loses_nothing(bench, s3, write):
    """A real client of S3, and each object's first requests: 503 SlowDown, or 500 after the object was written."""
    texts = [f"text number {i}" for i in range(40)]
    bench.write(texts)
    s3.stumble(PUT=write, DELETE=write, GET=("busy",), HEAD=("busy",))
    folder = f"bucket/{'-'.join(write)}"  # moto has one memory for all its servers
    destination = f"s3://{s3.conn_id}@{folder}/out"
    summary = bench.run(destination=destination)
    assert (summary["embedded"], summary["failed"], summary["warnings"]) == (40, 0, {})
    requests = bench.server.requests
    again = bench.run(destination=destination, context=context_of("another day"))
    s3.stumble()
    assert again["up_to_date"]
    assert bench.server.requests == requests
    assert set(bench.paid_for(texts)) == {1}
    found = s3.filesystem()
    shown = [name for name in found.ls(f"{folder}/out") if name.endswith(".parquet")]
    rows = pa.concat_tables(pq.read_table(found.open(name)) for name in shown).to_pylist()
    assert [(row["text"], row["embedding"]) for row in rows] == [(text, vector(text)) for text in texts]
    stumbled = {key for method, key in s3.stumbled if method == "PUT"}
    for kind in ("/epoch/", "/journal/", "/parts/", "/manifest.json", "/out/", "/published.json"):
        assert any(kind in key for key in stumbled), kind


def test_a_store_that_stays_away_fails_the_try():
    """After eight times the task fails in a way that can be tried again."""

    class Away(Store):
        def pipe_file(self, path, value, mode="overwrite", **options):
            raise TimeoutError("SlowDown")

    with pytest.raises(StorageError):
        run_in_virtual_time(storage_over(Away()).create("epoch/1", b"mine"))


@pytest.mark.parametrize(("code", "kind"), [("ExpiredToken", StorageError), ("AccessDenied", StorageRefusedError)])
def test_credentials_that_ran_out_are_no_refusal(code, kind):
    """s3fs takes both for the same; a new try has new credentials, and nobody has to do anything."""

    class Refusing(Store):
        def pipe_file(self, path, value, mode="overwrite", **options):
            answered = Exception(code)
            answered.response = {"Error": {"Code": code}}
            raise PermissionError("the store said no") from answered

    with pytest.raises((StorageError, StorageRefusedError)) as told:
        run_in_virtual_time(storage_over(Refusing()).create("epoch/1", b"mine"))
    assert issubclass(told.type, kind)


def test_a_listing_is_never_taken_from_a_cache():
    """What somebody else wrote a moment ago is seen, though the file system remembers an older listing."""

    class Remembering(Store):
        def __init__(self):
            super().__init__()
            self.remembered = {}

        def ls(self, path, detail=True, **options):
            if path not in self.remembered:
                self.remembered[path] = super().ls(path, detail=detail, **options)
            return self.remembered[path]

        def invalidate_cache(self, path=None):
            self.remembered.clear()

    store = Remembering()
    storage = storage_over(store)
    run_in_virtual_time(storage.create("epoch/1", b"1"))
    assert run_in_virtual_time(storage.list_keys("epoch")) == ["epoch/1"]
    store.pipe_file("/bucket/_out.inference/epoch/2", b"2")
    assert run_in_virtual_time(storage.list_keys("epoch")) == ["epoch/1", "epoch/2"]


@pytest.mark.parametrize(
    ("method", "ask"),
    [
        ("pipe_file", lambda storage: storage.create("a/b", b"x")),
        ("cat_file", lambda storage: storage.read("seen/1")),
        ("ls", lambda storage: storage.list_keys("seen")),
        ("rm_file", lambda storage: storage.delete("seen/1")),
    ],
)
def test_a_permission_that_is_missing_is_named(method, ask):
    """Without put, get, list or delete there is one error, at once, that says what the connection needs."""

    def refuse(*args, **options):
        raise PermissionError("Access Denied")

    store = Store()
    store.pipe_file("/bucket/_out.inference/seen/1", b"x")
    setattr(store, method, refuse)
    with pytest.raises(StorageRefusedError, match="needs get, put, list and delete"):
        run_in_virtual_time(ask(storage_over(store)))
