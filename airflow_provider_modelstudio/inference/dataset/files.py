"""Files of a source: listed in one go, read with as few requests as their size allows, many small ones at a time."""

from __future__ import annotations

import contextlib
import posixpath
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from airflow_provider_modelstudio.inference.errors import InputChangedError, InputError
from airflow_provider_modelstudio.inference.plan import InputFile

from .schemas import read_partition
from .trouble import is_damage, refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from fsspec import AbstractFileSystem

__all__ = [
    "Footer",
    "changed",
    "changed_files",
    "contents",
    "footers",
    "list_files",
    "opened",
    "reading",
    "rows_of_groups",
]

SMALL_BYTES = 1024 * 1024
"""A file of so many bytes is read whole, with one request."""
AT_ONCE = 16
"""Files read at the same time; on an object store a request takes tens of milliseconds."""
TAIL_BYTES = 64 * 1024
"""Read of a larger file for its footer."""
READ_BUFFER = 1024 * 1024
"""Bytes read at a time from each column of a file."""
DAMAGED = ": not a readable Parquet file ({})"
_STAMPS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated")
_GLOB = "*?["


NOWHERE = -1
"""Size of a file that is a link to nothing."""


class NoSuchSourceError(InputError):
    """There is nothing where a source should be."""


class Listed(NamedTuple):
    """A file as a listing has it."""

    path: str
    size: int
    stamp: str
    """Changes whenever the content does."""


class Footer(NamedTuple):
    """What the end of a file says of it."""

    file: InputFile
    schema: pa.Schema


def list_files(filesystem: AbstractFileSystem, location: str) -> tuple[list[Listed], str]:
    """The Parquet files of a source in a fixed order, and the folder above their Hive partitions.

    A listing tells sizes and stamps for a thousand files at a time; to ask for those of a file on its own takes a
    request, and with some clients a listing of its whole folder.

    :param location: a file, a folder (read recursively) or a glob.
    """
    with reading(location, DAMAGED):
        filesystem.invalidate_cache()  # another task of this process may have listed it before a file came
        found, root = _entries(filesystem, location)
        return sorted(_listed(filesystem, path, entry) for path, entry in found.items()), root


def _entries(filesystem: AbstractFileSystem, location: str) -> tuple[dict[str, dict[str, Any]], str]:
    if any(sign in location for sign in _GLOB) and not filesystem.exists(location):
        root = location[: min(location.index(sign) for sign in _GLOB if sign in location)].rpartition("/")[0]
        matching = filesystem.glob(location, detail=True)
        return {path: entry for path, entry in matching.items() if entry["type"] == "file"}, root
    if filesystem.isfile(location):
        return {location: filesystem.info(location)}, posixpath.dirname(location)
    if not filesystem.exists(location):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            filesystem.info(location)  # many file systems take trouble of their own for absence; this one tells
        raise NoSuchSourceError(f"{location}: no such file or folder")
    root = location.rstrip("/")
    found = filesystem.find(root, detail=True)
    return {path: entry for path, entry in found.items() if _is_source(path[len(root) :])}, root


def _is_source(below: str) -> bool:
    hidden = any(step[:1] == "." or (step[:1] == "_" and "=" not in step) for step in below.split("/"))
    return not hidden and below.endswith((".parquet", ".parq", ".pq"))


def _listed(filesystem: AbstractFileSystem, path: str, entry: dict[str, Any]) -> Listed:
    if entry.get("islink"):  # the listing has the time of the link, not of what it leads to
        try:
            entry = filesystem.info(path)
        except FileNotFoundError:
            return Listed(path, NOWHERE, "")
    stamp = next((str(entry[name]) for name in _STAMPS if entry.get(name) is not None), "")
    return Listed(path, int(entry["size"]), stamp)


def changed_files(
    filesystem: AbstractFileSystem, location: str, files: Iterable[InputFile]
) -> Iterator[InputChangedError]:
    """What to raise for each of the files that is not what the plan pinned."""
    try:
        listed, _ = list_files(filesystem, location)
    except NoSuchSourceError:
        listed = []
    now = {file.path: (file.size, file.stamp) for file in listed}
    for file in files:
        if file.path not in now:
            yield InputChangedError(f"{file.path} was removed while the task was reading it")
        elif now[file.path] != (file.size, file.stamp):
            yield changed(file)


def changed(file: InputFile) -> InputChangedError:
    """What to raise for a file that is not what the plan pinned."""
    return InputChangedError(
        f"{file.path} was changed while the task was reading it; "
        "the next try plans anew, and asks only for rows it has no answer for"
    )


def footers(filesystem: AbstractFileSystem, files: Sequence[Listed], root: str) -> Iterator[Footer]:
    """Read the footer of each file, in order."""
    for file in files:
        if file.size == NOWHERE:
            raise InputError(file.path + DAMAGED.format("it is a link, and there is no such file"))
    for file, content in zip(files, contents(filesystem, files), strict=True):
        yield _footer(filesystem, file, content, root)


def contents(filesystem: AbstractFileSystem, files: Iterable[Listed | InputFile]) -> Iterator[bytes | None]:
    """The content of each file, in order; ``None`` for one that is not small. The next ones are read meanwhile."""

    def read(file: Listed | InputFile) -> bytes | None:
        if file.size > SMALL_BYTES:
            return None
        with reading(file.path, DAMAGED):
            content: bytes = filesystem.cat_file(file.path)
            return content

    if isinstance(filesystem, LocalFileSystem):  # a thread costs more than the read
        yield from map(read, files)
        return
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="files")
    promised: deque[Future[bytes | None]] = deque()
    try:
        for file in files:
            promised.append(pool.submit(read, file))
            if len(promised) > AT_ONCE:
                yield promised.popleft().result()
        while promised:
            yield promised.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _footer(filesystem: AbstractFileSystem, file: Listed, content: bytes | None, root: str) -> Footer:
    with opened(filesystem, file.path, file.size, content, TAIL_BYTES) as parquet:
        metadata, schema = parquet.metadata, parquet.schema_arrow
        groups = rows_of_groups(metadata)
    if sum(groups) != metadata.num_rows:
        raise InputError(file.path + DAMAGED.format("its row groups do not add up"))
    doubled = next((name for name in schema.names if schema.names.count(name) > 1), None)
    if doubled is not None:
        raise InputError(f"{file.path} has more than one column {doubled!r}; rename all but one")
    partition = read_partition(file.path.removeprefix(root))
    for name in dict(partition):
        if name not in schema.names:
            schema = schema.append(pa.field(name, pa.string()))
    return Footer(
        InputFile(path=file.path, size=file.size, stamp=file.stamp, row_groups=groups, partition=partition), schema
    )


def rows_of_groups(metadata: pq.FileMetaData) -> tuple[int, ...]:
    """Rows of each row group."""
    return tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))


@contextmanager
def opened(
    filesystem: AbstractFileSystem, path: str, size: int, content: bytes | None, tail: int = 0
) -> Iterator[pq.ParquetFile]:
    """A Parquet file, of which ``content`` was read before, or which is read range by range.

    :param tail: bytes at the end to read at once, for whoever wants the footer alone.
    """
    with ExitStack() as stack:
        with reading(path, DAMAGED):
            handle: Any
            if content is not None:
                handle = pa.BufferReader(content)
            elif isinstance(filesystem, LocalFileSystem):
                handle = stack.enter_context(filesystem.open(path, "rb"))
            else:
                handle = pa.PythonFile(_Ranges(filesystem, path, size, tail), mode="r")
            parquet = pq.ParquetFile(handle, buffer_size=READ_BUFFER, pre_buffer=False, page_checksum_verification=True)
        yield parquet


class _Ranges:
    """A file of known size, read by ranges: opening it would ask for its size once more, and read more than is wanted."""

    closed = False

    def __init__(self, filesystem: AbstractFileSystem, path: str, size: int, tail: int) -> None:
        self._filesystem = filesystem
        self._path = path
        self._size = size
        self._at = 0
        self._tail_at = max(size - tail, 0)
        self._tail = filesystem.cat_file(path, start=self._tail_at, end=size) if tail else b""

    def read(self, size: int = -1) -> bytes:
        start, end = self._at, self._size if size < 0 else min(self._at + size, self._size)
        self._at = end
        if start >= end:
            return b""
        if self._tail and start >= self._tail_at:
            return bytes(self._tail[start - self._tail_at : end - self._tail_at])
        content: bytes = self._filesystem.cat_file(self._path, start=start, end=end)
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        """Nothing is open."""


@contextmanager
def reading(path: str, damaged: str) -> Iterator[None]:
    """Say of whatever goes wrong within whose fault it is; see :func:`~.trouble.refused`."""
    try:
        yield
    except MemoryError:
        raise  # of this machine: neither the file's nor its store's
    except Exception as error:  # each client of a store has its own family of errors
        told = refused(path, error, damaged)
        if told is error:
            raise
        if is_damage(error):
            raise told from error
        raise told from None  # what a store says may hold an address that is signed, and Airflow logs all that is chained
