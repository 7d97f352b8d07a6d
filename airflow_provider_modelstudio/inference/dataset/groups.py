"""Rows that belong together: found and checked in one pass, and never cut apart by a window or a part."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from hashlib import blake2b
from typing import IO, TYPE_CHECKING

import numpy as np

from airflow_provider_modelstudio.inference.errors import InputError
from airflow_provider_modelstudio.inference.plan import PART_ROWS
from airflow_provider_modelstudio.inference.tasks.columns import column_at, read_texts
from airflow_provider_modelstudio.inference.tasks.groups import read_ids, spans

from . import Source, concat

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from airflow_provider_modelstudio.inference.tasks.groups import GroupId

__all__ = ["GroupedSource", "group_rows"]

_ID = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<i8")])
_BUCKET_IDS = 250_000
"""Ids matched at a time."""


@dataclass(frozen=True, slots=True)
class GroupedSource(Source):
    """A source whose windows hold whole groups."""

    group_column: str
    part_starts: tuple[int, ...]
    """First rows of the parts after the first one, so that each part holds whole groups."""

    def windows(
        self, ranges: Sequence[tuple[int, int]], columns: Sequence[str] | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """As :meth:`Source.windows` reads them; the rows of a group that may go on wait for the next ones.

        :param ranges: as before, and each of them of whole groups.
        """
        names = None if columns is None else [*columns, *_top_levels(self.schema, self.group_column)]
        ends = {end for _, end in ranges}
        held: pa.RecordBatch | None = None
        for at, read in Source.windows(self, ranges, names):
            first, batch = (at, read) if held is None else (at - held.num_rows, concat([held, read]))
            cut = batch.num_rows
            if first + cut not in ends:
                *_, (cut, _) = spans(read_ids(column_at(batch, self.group_column)))
            if cut:
                yield first, batch.slice(0, cut)
            held = batch.slice(cut) if cut < batch.num_rows else None


def group_rows(source: Source, group_column: str, same_column: str, part_rows: int = PART_ROWS) -> GroupedSource:
    """The source with its groups, each of which has one value in ``same_column``.

    Reads these two columns.
    Raises :class:`~..errors.InputError` for a null, a group that is not together, one with two values in
    ``same_column``, and one that is larger than a part.
    """
    starts: list[int] = []
    part_start = start = 0
    current: GroupId = None
    value: str | bytes | None = None
    with tempfile.TemporaryFile(prefix="modelstudio-") as seen:
        for first, ids, values in _read(source, group_column, same_column):
            for low, high in spans(ids):
                if ids[low] is None:
                    raise InputError(f"row {first + low} of the source has a null in column {group_column!r}")
                if ids[low] != current:
                    current, value, start = ids[low], values[low], first + low
                    seen.write(_digest(current) + start.to_bytes(8, "little"))
                other = next((at for at in range(low, high) if values[at] != value), None)
                if other is not None:
                    raise InputError(
                        f"rows {start} and {first + other} of the source are equal in column {group_column!r} and "
                        f"differ in column {same_column!r}"
                    )
                if first + high - start > part_rows:
                    raise InputError(
                        f"more than {part_rows} rows, from row {start} of the source on, are equal in column "
                        f"{group_column!r}; is it the right column? A query is ranked as a whole and has at most as many "
                        "candidates: leave some out, or cut it into several ids and merge by score where scores compare"
                    )
                if first + high - part_start > part_rows:
                    part_start = start
                    starts.append(start)
        _check_together(seen, group_column)
    return GroupedSource(source.filesystem, source.location, source.files, source.schema, group_column, tuple(starts))


def _read(
    source: Source, group_column: str, same_column: str
) -> Iterator[tuple[int, list[GroupId], list[str | bytes | None]]]:
    rows = sum(file.rows for file in source.files)
    names = [*_top_levels(source.schema, group_column), *_top_levels(source.schema, same_column)]
    for first, batch in source.windows([(0, rows)] if rows else [], names):
        yield first, read_ids(column_at(batch, group_column)), read_texts(column_at(batch, same_column))


def _top_levels(schema: pa.Schema, path: str) -> list[str]:
    """The column that a path leads into."""
    return [path if path in schema.names else path.split(".", 1)[0]]


def _digest(group: GroupId) -> bytes:
    raw = group if isinstance(group, bytes) else str(group).encode()
    return blake2b(raw, digest_size=16).digest()


def _check_together(seen: IO[bytes], group_column: str) -> None:
    """Raise when a group comes back after another one. Ids lie on disk, and are matched in buckets."""
    total = seen.tell() // _ID.itemsize
    buckets = -(-total // _BUCKET_IDS)
    for bucket in range(buckets):
        seen.seek(0)
        mine = []
        while content := seen.read(_BUCKET_IDS * _ID.itemsize):
            chunk = np.frombuffer(content, _ID)
            mine.append(chunk[chunk["high"] % np.uint64(buckets) == bucket])
        ids = np.sort(np.concatenate(mine), order=["high", "low", "row"])
        again = np.flatnonzero((ids["high"][1:] == ids["high"][:-1]) & (ids["low"][1:] == ids["low"][:-1]))
        if len(again):
            rows = ids["row"][again[0]], ids["row"][again[0] + 1]
            raise InputError(
                f"rows {rows[0]} and {rows[1]} of the source are equal in column {group_column!r}, and rows between them "
                f"are not; sort the source by {group_column!r}"
            )
