"""Parquet in, Parquet out. The only room that opens Parquet: sources here, parts of a destination in ``parts``.

Reading streams: memory depends on the window, not on the file, the row group or the dataset.
"""

from __future__ import annotations

import contextlib
import posixpath
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_provider_modelstudio.inference.errors import InputChangedError, InputError
from airflow_provider_modelstudio.inference.plan import InputFile

from .schemas import conform, read_partition, unify
from .trouble import is_damage, refused

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fsspec import AbstractFileSystem

__all__ = ["WINDOW_ROWS", "Source", "concat", "open_source"]

WINDOW_ROWS = 1024
"""Rows of a window, and of an output row group: 4 MiB of vectors at 1,024 float32."""
WINDOW_BYTES = 32 * 1024 * 1024
"""A window of wide rows is cut earlier."""
READ_ROWS = range(32, 256)
"""Rows decoded at a time: a small damaged or hostile file must not become gigabytes in one step."""
READ_BYTES = 32 * 1024 * 1024
"""What they may decode to, if each cell is as large as its row group: so it is where a dictionary has one entry."""
PROBE_BYTES = 8 * 1024 * 1024
"""Of a row group beyond which one row is decoded before many are."""
READ_BUFFER = 1024 * 1024
"""Bytes read at a time from each column of a file."""
_DAMAGED = ": not a readable Parquet file ({})"
_GLOB = "*?["


@dataclass(frozen=True, slots=True)
class Source:
    """Parquet files with one schema, in a fixed order."""

    filesystem: AbstractFileSystem
    files: tuple[InputFile, ...]
    schema: pa.Schema

    @property
    def names_files(self) -> bool:
        """Whether rows name files, so that to ask for them means to read, and does not belong into the event loop."""
        return False

    def windows(
        self, ranges: Sequence[tuple[int, int]], columns: Sequence[str] | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Read row ranges in order, as ``(first row, rows)``.

        :param ranges: ascending, disjoint ``(start, end)`` of global row numbers; no window crosses a range.
        :param columns: top-level columns to read; ``None`` reads all.
        """
        names = self.schema.names if columns is None else [name for name in self.schema.names if name in set(columns)]
        schema = pa.schema([self.schema.field(name) for name in names], metadata=self.schema.metadata)
        cutter = _WindowCutter(list(ranges), schema)
        first = 0
        for file in self.files:
            last = first + file.rows
            if any(start < last and end > first for start, end in ranges):
                for at, batch in self._read(file, first, ranges, names):
                    yield from cutter.cut(at, conform(batch, schema, file))
            first = last
        yield from cutter.rest()

    def check_unchanged(self) -> None:
        """Raise :class:`~..errors.InputChangedError` when a file is not what the plan pinned."""
        with ThreadPoolExecutor(16, thread_name_prefix="stamps") as pool:
            for _ in pool.map(partial(_check_stamp, self.filesystem), self.files):
                pass

    def _read(
        self, file: InputFile, first: int, ranges: Sequence[tuple[int, int]], names: Sequence[str]
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Batches of the row groups that overlap a range, with the global number of their first row."""
        groups, starts, at = [], [], first
        for index, rows in enumerate(file.row_groups):
            if any(start < at + rows and end > at for start, end in ranges):
                groups.append(index)
                starts.append(at)
            at += rows
        _check_stamp(self.filesystem, file)  # before anything is paid for its rows
        with _opened(self.filesystem, file) as parquet:
            if _rows_of_groups(parquet.metadata) != file.row_groups:
                raise _changed(file)
            present = [name for name in names if name in parquet.schema_arrow.names]
            for index, start in zip(groups, starts, strict=True):
                at = start
                with _reading(
                    file.path, f", row group {index}: cannot be read ({{}}); the file is damaged or not Parquet"
                ):
                    for batch in _decoded(parquet, index, present):
                        yield at, batch
                        at += batch.num_rows
                    if at != start + file.row_groups[index]:
                        raise InputError(
                            f"{file.path}, row group {index}: has {at - start} rows instead of "
                            f"{file.row_groups[index]}; the file is damaged"
                        )


class _WindowCutter:
    """Cuts a stream of batches into windows that keep to the ranges and the size limits."""

    def __init__(self, ranges: list[tuple[int, int]], schema: pa.Schema) -> None:
        self._ranges = ranges
        self._schema = schema
        self._held: list[pa.RecordBatch] = []
        self._first = 0
        self._rows = 0
        self._bytes = 0

    def cut(self, at: int, batch: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
        end = at + batch.num_rows
        while self._ranges and self._ranges[0][0] < end:
            start, stop = self._ranges[0]
            low, high = max(at, start), min(end, stop)
            while low < high:
                if not self._rows:
                    self._first = low
                piece = batch.slice(low - at, min(high - low, WINDOW_ROWS - self._rows))
                while piece.num_rows > 1 and _weight(piece) > WINDOW_BYTES:
                    piece = piece.slice(0, piece.num_rows // 2)
                take = piece.num_rows
                self._held.append(piece)
                self._rows += take
                self._bytes += _weight(piece)
                low += take
                if self._rows >= WINDOW_ROWS or self._bytes >= WINDOW_BYTES:
                    yield from self.rest()
            if stop > end:
                return
            yield from self.rest()
            self._ranges.pop(0)

    def rest(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        if self._rows:
            yield self._first, concat(self._held)
            self._held, self._rows, self._bytes = [], 0, 0


def _changed(file: InputFile) -> InputChangedError:
    return InputChangedError(
        f"{file.path} was changed while the task was reading it; "
        "the next try plans anew, and asks only for rows it has no answer for"
    )


def _rows_of_groups(metadata: pq.FileMetaData) -> tuple[int, ...]:
    return tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))


def _decoded(parquet: pq.ParquetFile, index: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a row group, fewer at a time where cells turn out to be large: a cell may have 100 MB."""
    group = parquet.metadata.row_group(index)
    rows = _read_rows(group)
    decode = partial(parquet.iter_batches, row_groups=[index], columns=columns)
    if group.total_byte_size > PROBE_BYTES:
        rows = _fitting(rows, next(decode(batch_size=1), None))
    given = 0
    while True:
        at = 0
        for batch in decode(batch_size=rows):
            at += batch.num_rows
            if at <= given:  # before we began anew
                continue
            yield batch.slice(given - (at - batch.num_rows))
            given = at
            fewer = _fitting(rows, batch)
            if 2 * fewer <= rows and at < group.num_rows:  # halved at least, so that we begin anew a few times at most
                rows = fewer
                break
        else:
            return


def _fitting(rows: int, batch: pa.RecordBatch | None) -> int:
    """At most so many rows, fewer if rows like these would be too much."""
    if batch is None or not batch.num_rows:
        return rows
    return max(1, min(rows, READ_BYTES * int(batch.num_rows) // max(_weight(batch), 1)))


def _weight(batch: pa.RecordBatch) -> int:
    """Bytes that rows have of their own: a dictionary is there once, however many they are."""
    if not any(pa.types.is_dictionary(field.type) for field in batch.schema):
        return int(batch.nbytes)
    own = (column.indices if isinstance(column, pa.DictionaryArray) else column for column in batch.columns)
    return sum(int(column.nbytes) for column in own)


def _read_rows(group: pq.RowGroupMetaData) -> int:
    """How many rows of a row group to decode at a time."""
    # Sizes of single columns would be nearer the truth; asking for that of an encrypted one ends the process.
    return max(READ_ROWS.start, min(READ_ROWS.stop, READ_BYTES // max(int(group.total_byte_size), 1)))


def concat(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """The batches as one."""
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def open_source(filesystem: AbstractFileSystem, location: str, *, exclude: Sequence[str] = ()) -> Source:
    """List the files of a source and read their footers.

    :param location: a file, a folder (read recursively, Hive partitions become columns) or a glob.
    :param exclude: folders that belong to us and are never read.
    """
    with _reading(location, _DAMAGED):
        paths, root = _list(filesystem, location)
    fenced = tuple(folder.rstrip("/") + "/" for folder in exclude)
    paths = [path for path in paths if not path.startswith(fenced)] if fenced else paths
    if not paths:
        raise InputError(f"{location}: no Parquet file here; source takes a file, a folder or a glob")
    with ThreadPoolExecutor(16, thread_name_prefix="footers") as pool:
        footers = list(pool.map(lambda path: _footer(filesystem, path, root), paths))
    files = tuple(file for file, _ in footers)
    return Source(filesystem, files, unify(footers))


def _list(filesystem: AbstractFileSystem, location: str) -> tuple[list[str], str]:
    filesystem.invalidate_cache()  # another task of this process may have listed it before a file came
    if any(sign in location for sign in _GLOB) and not filesystem.exists(location):
        root = location[: min(location.index(sign) for sign in _GLOB if sign in location)].rpartition("/")[0]
        return sorted(path for path in filesystem.glob(location) if filesystem.isfile(path)), root
    if filesystem.isfile(location):
        return [location], posixpath.dirname(location)
    if not filesystem.exists(location):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            filesystem.info(location)  # many file systems take trouble of their own for absence; this one tells
        raise InputError(f"{location}: no such file or folder")
    root = location.rstrip("/")
    found = []
    for path in filesystem.find(root):
        below = path[len(root) :].lstrip("/")
        hidden = any(step[:1] == "." or (step[:1] == "_" and "=" not in step) for step in below.split("/"))
        if not hidden and path.endswith((".parquet", ".parq", ".pq")):
            found.append(path)
    return sorted(found), root


def _footer(filesystem: AbstractFileSystem, path: str, root: str) -> tuple[InputFile, pa.Schema]:
    try:
        with _reading(path, _DAMAGED):
            size, stamp = _stamp(filesystem, path)
            with filesystem.open(path, "rb") as handle:
                parquet = pq.ParquetFile(handle)
                metadata, schema = parquet.metadata, parquet.schema_arrow
                groups = _rows_of_groups(metadata)
    except InputChangedError as error:  # listed, and not there: a link to nowhere
        raise InputError(path + _DAMAGED.format("there is no such file")) from error
    if sum(groups) != metadata.num_rows:
        raise InputError(path + _DAMAGED.format("its row groups do not add up"))
    doubled = next((name for name in schema.names if schema.names.count(name) > 1), None)
    if doubled is not None:
        raise InputError(f"{path} has more than one column {doubled!r}; rename all but one")
    partition = read_partition(path.removeprefix(root))
    for name in dict(partition):
        if name not in schema.names:
            schema = schema.append(pa.field(name, pa.string()))
    return InputFile(path=path, size=size, stamp=stamp, row_groups=groups, partition=partition), schema


@contextmanager
def _opened(filesystem: AbstractFileSystem, file: InputFile) -> Iterator[pq.ParquetFile]:
    with ExitStack() as stack:
        with _reading(file.path, _DAMAGED):
            handle = stack.enter_context(filesystem.open(file.path, "rb"))
            parquet = pq.ParquetFile(handle, buffer_size=READ_BUFFER, pre_buffer=False, page_checksum_verification=True)
        yield parquet


@contextmanager
def _reading(path: str, damaged: str) -> Iterator[None]:
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


def _check_stamp(filesystem: AbstractFileSystem, file: InputFile) -> None:
    with _reading(file.path, _DAMAGED):
        size, stamp = _stamp(filesystem, file.path)
    if (size, stamp) != (file.size, file.stamp):
        raise _changed(file)


def _stamp(filesystem: AbstractFileSystem, path: str) -> tuple[int, str]:
    # Listings are kept by each kind of store in its own way; only to forget them all is the same everywhere.
    filesystem.invalidate_cache()
    info = filesystem.info(path)
    for name in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated"):
        if info.get(name) is not None:
            return int(info["size"]), str(info[name])
    return int(info["size"]), ""
