"""Parquet in, Parquet out. The only room that opens Parquet: sources here, parts of a destination in ``parts``.

Reading streams: memory depends on the window, not on the file, the row group or the dataset.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING

import pyarrow as pa

from airflow_provider_modelstudio.inference.errors import InputError

from .files import Footer, changed, changed_files, contents, footers, list_files, opened, reading, rows_of_groups
from .schemas import conform, unify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow.parquet as pq
    from fsspec import AbstractFileSystem

    from airflow_provider_modelstudio.inference.plan import InputFile

__all__ = ["WINDOW_ROWS", "Source", "concat", "open_source"]

WINDOW_ROWS = 1024
"""Rows of a window, and of an output row group: 4 MiB of vectors at 1,024 float32."""
WINDOW_BYTES = 32 * 1024 * 1024
"""A window of wide rows is cut earlier."""
READ_ROWS = range(32, 256)
"""Rows decoded at a time: a small damaged or hostile file must not become gigabytes in one step."""
READ_BYTES = 32 * 1024 * 1024
"""What they may decode to, if each cell is as large as its row group: so it is where a dictionary has one entry."""
SMALL_BYTES = 64 * 1024
"""Of rows that need not be weighed to a byte."""
PROBE_BYTES = 8 * 1024 * 1024
"""Of a row group beyond which one row is decoded before many are."""


@dataclass(frozen=True, slots=True)
class Source:
    """Parquet files with one schema, in a fixed order."""

    filesystem: AbstractFileSystem
    location: str
    """Where the files were listed."""
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

        Raises :class:`~..errors.InputChangedError` when a file is not what the plan pinned, before anything is read.
        """
        self.check_unchanged()
        names = self.schema.names if columns is None else [name for name in self.schema.names if name in set(columns)]
        schema = pa.schema([self.schema.field(name) for name in names], metadata=self.schema.metadata)
        cutter = _WindowCutter(list(ranges), schema)
        wanted = [(file, first) for file, first in self._firsts() if _overlap(ranges, first, file.rows)]
        read = contents(self.filesystem, (file for file, _ in wanted))
        for (file, first), content in zip(wanted, read, strict=True):
            for at, batch in self._read(file, content, first, ranges, names):
                yield from cutter.cut(at, conform(batch, schema, file))
        yield from cutter.rest()

    def check_unchanged(self) -> None:
        """Raise :class:`~..errors.InputChangedError` when a file is not what the plan pinned."""
        for error in changed_files(self.filesystem, self.location, self.files):
            raise error

    def _firsts(self) -> Iterator[tuple[InputFile, int]]:
        """Files with the global number of their first row."""
        first = 0
        for file in self.files:
            yield file, first
            first += file.rows

    def _read(
        self,
        file: InputFile,
        content: bytes | None,
        first: int,
        ranges: Sequence[tuple[int, int]],
        names: Sequence[str],
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Batches of the row groups that overlap a range, with the global number of their first row."""
        starts = [*accumulate(file.row_groups, initial=first)]
        wanted = [i for i, rows in enumerate(file.row_groups) if _overlap(ranges, starts[i], rows)]
        try:
            yield from self._groups(file, content, [(i, starts[i]) for i in wanted], names)
        except InputError:
            self.check_unchanged()  # a file that is replaced while it is read looks damaged
            raise

    def _groups(
        self, file: InputFile, content: bytes | None, groups: Sequence[tuple[int, int]], names: Sequence[str]
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        with opened(self.filesystem, file.path, file.size, content) as parquet:
            if rows_of_groups(parquet.metadata) != file.row_groups:
                raise changed(file)
            present = [name for name in names if name in parquet.schema_arrow.names]
            for index, start in groups:
                at = start
                with reading(
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
        self._weigh = _scales(schema)
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
                while (weight := self._weigh(piece)) > WINDOW_BYTES and piece.num_rows > 1:
                    piece = piece.slice(0, piece.num_rows // 2)
                take = piece.num_rows
                self._held.append(piece)
                self._rows += take
                self._bytes += weight
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


def _overlap(ranges: Sequence[tuple[int, int]], first: int, rows: int) -> bool:
    """Whether one of the ranges, which ascend, has one of the rows."""
    at = bisect_right(ranges, first, key=itemgetter(1))
    return at < len(ranges) and ranges[at][0] < first + rows


def _decoded(parquet: pq.ParquetFile, index: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a row group, fewer at a time where cells turn out to be large: a cell may have 100 MB."""
    group = parquet.metadata.row_group(index)
    rows = _read_rows(group)
    weigh = _scales(parquet.schema_arrow)
    # Arrow's threads cost more than they save for so few rows.
    decode = partial(parquet.iter_batches, row_groups=[index], columns=columns, use_threads=False)
    if group.total_byte_size > PROBE_BYTES:
        rows = _fitting(rows, next(decode(batch_size=1), None), weigh)
    given = 0
    while True:
        at = 0
        for batch in decode(batch_size=rows):
            at += batch.num_rows
            if at <= given:  # before we began anew
                continue
            begun = given - (at - batch.num_rows)
            yield batch.slice(begun) if begun else batch
            given = at
            fewer = _fitting(rows, batch, weigh)
            if 2 * fewer <= rows and at < group.num_rows:  # halved at least, so that we begin anew a few times at most
                rows = fewer
                break
        else:
            return


def _fitting(rows: int, batch: pa.RecordBatch | None, weigh: Callable[[pa.RecordBatch], int]) -> int:
    """At most so many rows, fewer if rows like these would be too much."""
    if batch is None or not batch.num_rows:
        return rows
    return max(1, min(rows, READ_BYTES * int(batch.num_rows) // max(weigh(batch), 1)))


def _scales(schema: pa.Schema) -> Callable[[pa.RecordBatch], int]:
    """What tells how many bytes rows have of their own: a dictionary is there once, however many they are."""
    if any(pa.types.is_dictionary(field.type) for field in schema):
        return _own_bytes
    # The nulls of a column that a file lacks share a few bytes, until windows are made of them.
    return attrgetter("nbytes") if any(_is_fixed(field.type) for field in schema) else _about_bytes


def _is_fixed(kind: pa.DataType) -> bool:
    """Whether values take their room where they are null, too, and more of it than a number."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_fixed_size_list(kind) or pa.types.is_fixed_size_binary(kind):
        return True
    return any(_is_fixed(kind.field(i).type) for i in range(kind.num_fields))


def _about_bytes(batch: pa.RecordBatch) -> int:
    """Bytes of the rows, or what they are a slice of, where that is little.

    ``nbytes`` takes longer than a few rows took to be decoded, while the sum of the buffers is at hand.
    """
    whole = int(batch.get_total_buffer_size())
    return whole if whole <= SMALL_BYTES else int(batch.nbytes)


def _own_bytes(batch: pa.RecordBatch) -> int:
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
    listed, root = list_files(filesystem, location)
    fenced = tuple(folder.rstrip("/") + "/" for folder in exclude)
    listed = [file for file in listed if not file.path.startswith(fenced)] if fenced else listed
    if not listed:
        raise InputError(f"{location}: no Parquet file here; source takes a file, a folder or a glob")
    files: list[InputFile] = []
    schema = unify(_noted(footers(filesystem, listed, root), files))
    return Source(filesystem, location, tuple(files), schema)


def _noted(found: Iterator[Footer], files: list[InputFile]) -> Iterator[Footer]:
    """Footers as they pass: of very many files, only the last schema is held."""
    for footer in found:
        files.append(footer.file)
        yield footer
