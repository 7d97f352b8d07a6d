"""Sources in trouble: what a store cannot give now is asked for again later, and what is damaged never is."""

from __future__ import annotations

import errno
import io
import itertools
import random
import threading
import time
import traceback
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_modelstudio.inference.dataset import open_source
from airflow_provider_modelstudio.inference.dataset.files import SMALL_BYTES
from airflow_provider_modelstudio.inference.dataset.parts import PartReader
from airflow_provider_modelstudio.inference.dataset.trouble import is_damage
from airflow_provider_modelstudio.inference.errors import (
    InputChangedError,
    InputError,
    ModelStudioError,
    OutageError,
    PermanentError,
    StorageError,
    TransientError,
)

ROWS = 600


class ClientError(Exception):
    """As botocore, aiohttp and Azure's client have one: no ``OSError``."""


PASSING = [
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.ESTALE, "Stale file handle"),
    OSError("Forbidden by a proxy, says a store that knows no numbers"),
    ValueError("a store that fails at its own answer"),
    TimeoutError("nobody answered"),
    ConnectionResetError(errno.ECONNRESET, "reset"),
    ClientError("An error occurred (503) at https://store/in.parquet?signature=secret"),
]
FORBIDDEN = [PermissionError("Access Denied"), OSError(errno.EACCES, "Permission denied")]


class Troubled(LocalFileSystem):
    """A store that fails at its n-th call: of its own methods, and of reads of its files."""

    cachable = False

    def __init__(self, error, at):
        super().__init__()
        self.error = error
        self.left = at

    def tick(self):
        self.left -= 1
        if self.left < 0:
            raise self.error

    def info(self, path, **options):
        self.tick()
        return super().info(path, **options)

    def open(self, path, mode="rb", **options):
        self.tick()
        return TroubledFile(path, self)


class TroubledFile(io.FileIO):
    """Fails when its store does."""

    def __init__(self, path, store):
        super().__init__(path)
        self.store = store

    def read(self, size=-1):
        self.store.tick()
        return super().read(size)

    def readinto(self, buffer):
        self.store.tick()
        return super().readinto(buffer)


class Remote(AbstractFileSystem):
    """The same behind a network: there is nothing to open, only to ask for."""

    cachable = False

    def __init__(self, error, at):
        super().__init__()
        self.local = Troubled(error, at)

    def ls(self, path, detail=True, **options):
        self.local.tick()
        return self.local.ls(path, detail=detail)

    def info(self, path, **options):
        return self.local.info(path)

    def cat_file(self, path, start=None, end=None, **options):
        self.local.tick()
        return LocalFileSystem().cat_file(path, start, end)


KINDS = [Troubled, Remote]


@pytest.fixture(params=["small", "large"])
def path(tmp_path, request):
    words = {"small": "text", "large": "".join(map(chr, range(33, 127))) * 20}[request.param]
    table = pa.table({"id": list(range(ROWS)), "text": [f"{words} {i}" for i in range(ROWS)]})
    file = tmp_path / "in.parquet"
    pq.write_table(table, file, row_group_size=100, write_page_checksum=True, compression="none", use_dictionary=False)
    assert (file.stat().st_size > SMALL_BYTES) == (request.param == "large")
    return tmp_path / "in.parquet"


def read(store, path):
    source = open_source(store, str(path))
    rows = sum(batch.num_rows for _, batch in source.windows([(0, ROWS)]))
    source.check_unchanged()
    return rows


def told(kind, error, path, at):
    """What is raised when the store fails at its ``at``-th call; ``None`` when it has none any more."""
    try:
        assert read(kind(error, at), path) == ROWS
    except ModelStudioError as what:
        return what
    return None


def every_moment(kind, error, path):
    """What is raised wherever the store fails."""
    every = list(itertools.takewhile(bool, (told(kind, error, path, at) for at in itertools.count())))
    assert len(every) > (6 if path.stat().st_size < SMALL_BYTES else 12)
    assert "secret" not in "".join(line for one in every for line in traceback.format_exception(one))
    assert not [one for one in every if str(path) not in str(one) or "secret" in str(one)]
    return every


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_a_store_in_trouble_is_no_damage(path, kind, error):
    """Wherever it fails, the next try goes on: the file is named, and nobody is told that it is damaged."""
    for one in every_moment(kind, error, path):
        assert isinstance(one, OutageError)
        assert isinstance(one, TransientError)
        assert "cannot be read now" in str(one)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", FORBIDDEN, ids=repr)
def test_what_may_not_be_read_needs_somebody_who_allows_it(path, kind, error):
    """Wherever it fails, trying again cannot help, and the message says what can."""
    for one in every_moment(kind, error, path):
        assert isinstance(one, InputError)
        assert isinstance(one, PermanentError)
        assert "permission to read it" in str(one)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_goes_while_it_is_read_is_planned_anew(path, kind):
    """Object stores tell it only when the next range is asked for."""

    def gone(at):
        store = kind(FileNotFoundError("NoSuchKey"), 1000)
        source = open_source(store, str(path))
        getattr(store, "local", store).left = at
        try:
            list(source.windows([(0, ROWS)]))
        except InputChangedError as error:
            return str(error)
        return None

    told = list(itertools.takewhile(bool, map(gone, itertools.count())))
    assert len(told) > 1
    assert all("in.parquet was removed" in one for one in told)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_replaced_while_it_is_read_is_not_called_damaged(path, kind):
    """Half of the old one and half of the new one make no sense together."""
    source = open_source(kind(OSError(), 1000), str(path))
    reading = source.windows([(0, 100), (100, ROWS)])
    if path.stat().st_size > SMALL_BYTES:
        next(reading)
    content = path.read_bytes()
    path.write_bytes(content[:20] + b"\0" * 10 + bytes(len(content) - 60) + content[-30:])
    with pytest.raises(InputChangedError, match=r"in\.parquet was changed"):
        list(reading)


def test_trouble_is_not_taken_for_absence(tmp_path):
    """Where a file system says 'no such file' because it could not look, its store is asked once more."""

    class Blind(LocalFileSystem):
        cachable = False

        def exists(self, path, **options):
            return False

        def isfile(self, path):
            return False

        def info(self, path, **options):
            raise TimeoutError

    with pytest.raises(OutageError, match=r"in\.parquet cannot be read now \(TimeoutError\)"):
        open_source(Blind(), str(tmp_path / "in.parquet"))
    with pytest.raises(InputError, match="no such file or folder"):
        open_source(LocalFileSystem(), str(tmp_path / "in.parquet"))


@given(seed=st.integers(0, 10**6), compression=st.sampled_from(["none", "snappy", "zstd", "gzip"]))
def test_what_the_parquet_library_says_of_a_damaged_file_is_damage(seed, compression):
    """Bits flipped and ends cut off: whatever it raises over them, reading again is not tried."""
    dice = random.Random(seed)  # noqa: S311  # damage has to be the same each time
    sink = io.BytesIO()
    table = pa.table({"id": list(range(200)), "text": [f"text {i}" for i in range(200)]})
    pq.write_table(table, sink, row_group_size=100, write_page_checksum=True, compression=compression)
    content = bytearray(sink.getvalue())
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    if dice.random() < 0.2:
        content = content[: dice.randrange(len(content))]
    damage = None
    try:
        list(pq.ParquetFile(io.BytesIO(content), page_checksum_verification=True).iter_batches(64))
    except Exception as error:  # noqa: BLE001  # whatever it is
        damage = error
    assert damage is None or is_damage(damage), repr(damage)


@pytest.mark.parametrize("error", [*PASSING, *FORBIDDEN], ids=repr)
def test_a_finished_part_that_cannot_be_read_now_is_not_damaged(path, error):
    """Nobody is told to ask everything anew because a store did not answer."""
    for at in (0, 1):
        file = TroubledFile(path, Troubled(error, at))
        with file, pytest.raises(StorageError, match="cannot be read now") as told:
            PartReader(pa.PythonFile(file, mode="r"), ["text"]).group(3)
        assert "overwrite" not in str(told.value)
        assert "secret" not in str(told.value)


def test_a_finished_part_that_is_damaged_says_what_to_do(path):
    """As before: only asking anew helps."""
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StorageError, match=r"is damaged .*if_exists='overwrite'"):
        PartReader(pa.OSFile(str(path)), ["text"])


def table(word):
    """As many rows as any other, of the same size in bytes."""
    return pa.table({"text": [f"{word} {i}" for i in range(40)]})


class Keeping(LocalFileSystem):
    """A file system that answers from what it saw before, until it is told to forget."""

    cachable = False

    def __init__(self):
        super().__init__()
        self.seen = {}

    def invalidate_cache(self, path=None):
        if path is None:  # of one path only, kinds of stores forget different things
            self.seen.clear()

    def info(self, path, **options):
        return self.seen.setdefault(("info", path), super().info(path, **options))

    def find(self, path, **options):
        return self.seen.setdefault(("find", path), super().find(path, **options))


@pytest.fixture(params=["local", "keeping", "s3"])
def folder(request, tmp_path):
    """A file system, and a folder with two files."""
    there = {"local": LocalFileSystem, "keeping": Keeping, "s3": lambda: request.getfixturevalue("s3")}
    filesystem = there[request.param]()
    root = f"bucket/{tmp_path.name}" if request.param == "s3" else str(tmp_path)
    for name in ("a", "b"):
        put(filesystem, f"{root}/{name}.parquet", table("old"))
    return filesystem, root


def put(filesystem, path, content):
    """As somebody else does it: what this process knows of the store does not change."""
    sink = io.BytesIO()
    pq.write_table(content, sink)
    if isinstance(filesystem, LocalFileSystem):
        Path(path).write_bytes(sink.getvalue())
        return
    bucket, _, key = path.partition("/")
    filesystem.call_s3("put_object", Bucket=bucket, Key=key, Body=sink.getvalue())


def look(filesystem, root):
    """What another task of this process may have done before."""
    for path in filesystem.find(root):
        filesystem.info(path)


def take(filesystem, path):
    """The same for a file that goes."""
    if isinstance(filesystem, LocalFileSystem):
        filesystem.rm(path)
        return
    bucket, _, key = path.partition("/")
    filesystem.call_s3("delete_object", Bucket=bucket, Key=key)


def test_a_file_that_changes_behind_a_listing_is_noticed(folder):
    """Its size is the same, and a listing of this process still tells the old stamp: the store itself is asked."""
    filesystem, root = folder
    source = open_source(filesystem, root)
    source.check_unchanged()
    look(filesystem, root)
    put(filesystem, f"{root}/b.parquet", table("new"))
    with pytest.raises(InputChangedError, match=r"b\.parquet was changed"):
        source.check_unchanged()
    look(filesystem, root)
    take(filesystem, f"{root}/b.parquet")
    with pytest.raises(InputChangedError, match=r"b\.parquet was removed"):
        source.check_unchanged()


def test_a_file_that_was_replaced_after_planning_gives_no_row(folder):
    """It has as many rows as before, so that only its stamp tells; no row of it is handed out to be asked."""
    filesystem, root = folder
    source = open_source(filesystem, root)
    look(filesystem, root)
    put(filesystem, f"{root}/b.parquet", table("new"))
    with pytest.raises(InputChangedError, match=r"b\.parquet was changed"):
        next(source.windows([(0, 40), (40, 80)]))


def test_a_file_that_comes_behind_a_listing_is_planned(folder):
    """What another task of this process saw of the folder is not believed."""
    filesystem, root = folder
    look(filesystem, root)
    put(filesystem, f"{root}/c.parquet", table("new"))
    put(filesystem, f"{root}/b.parquet", table("new"))
    source = open_source(filesystem, root)
    assert [file.path.rpartition("/")[2] for file in source.files] == ["a.parquet", "b.parquet", "c.parquet"]
    texts = [text for _, batch in source.windows([(0, 120)]) for text in batch.column(0).to_pylist()]
    assert texts[:41] == [*(f"old {i}" for i in range(40)), "new 0"]
    source.check_unchanged()


class Counting(Remote):
    """Counts what it is asked for, and how much of that at the same time."""

    def __init__(self):
        super().__init__(OSError(), 10**9)
        self.asked = Counter()
        self.busy = self.most = 0
        self.lock = threading.Lock()

    def ls(self, path, detail=True, **options):
        self.asked["ls"] += 1
        return super().ls(path, detail, **options)

    def info(self, path, **options):
        self.asked["info"] += 1
        return super().info(path, **options)

    def cat_file(self, path, start=None, end=None, **options):
        with self.lock:
            self.asked["cat_file"] += 1
            self.busy += 1
            self.most = max(self.most, self.busy)
        time.sleep(0.005)
        with self.lock:
            self.busy -= 1
        return super().cat_file(path, start, end, **options)


def test_a_small_file_costs_one_request(tmp_path):
    """Each time it is read, and many at once; sizes and stamps come with the listing, however many files there are."""
    for i in range(200):
        pq.write_table(table(f"file {i}"), tmp_path / f"{i:03d}.parquet")
    store = Counting()
    source = open_source(store, str(tmp_path))
    assert store.asked["cat_file"] == 200
    texts = [text for _, batch in source.windows([(0, 8000)]) for text in batch.column(0).to_pylist()]
    assert texts == [f"file {i} {j}" for i in range(200) for j in range(40)]
    assert store.asked["cat_file"] == 400
    source.check_unchanged()
    assert store.asked["cat_file"] == 400
    assert store.asked["ls"] + store.asked["info"] < 20
    assert 8 < store.most <= 16


def test_a_large_file_is_read_where_it_is_wanted(tmp_path):
    """Neither the footer nor one column of some rows is worth reading the others for."""
    vectors = pa.array(np.random.default_rng(1).random(1_000_000, np.float32)).cast(pa.float32())
    rows = pa.table(
        {"text": [f"text {i}" for i in range(10_000)], "v": pa.FixedSizeListArray.from_arrays(vectors, 100)}
    )
    pq.write_table(rows, tmp_path / "in.parquet", row_group_size=1000, compression="none")

    class Weighing(Counting):
        read = 0

        def cat_file(self, path, start=None, end=None, **options):
            content = super().cat_file(path, start, end, **options)
            self.read += len(content)
            return content

    store = Weighing()
    source = open_source(store, str(tmp_path / "in.parquet"))
    assert store.asked["cat_file"] == 1
    assert sum(batch.num_rows for _, batch in source.windows([(3500, 4500)], ["text"])) == 1000
    assert store.read < (tmp_path / "in.parquet").stat().st_size / 10


def test_what_a_link_leads_to_is_watched(tmp_path):
    """The link itself stays as it was."""
    (tmp_path / "kept").mkdir()
    target, folder = tmp_path / "elsewhere.parquet", tmp_path / "kept"
    pq.write_table(table("old"), target)
    (folder / "a.parquet").symlink_to(target)
    source = open_source(LocalFileSystem(), str(folder))
    source.check_unchanged()
    pq.write_table(table("new"), target)
    with pytest.raises(InputChangedError, match=r"a\.parquet was changed"):
        source.check_unchanged()
