"""A finished part laid out on local disk, so that a row of it costs what it holds and not its whole row group."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from airflow_provider_modelstudio.inference.dataset import concat

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from airflow_provider_modelstudio.inference.dataset.parts import PartReader

__all__ = ["RUN_ROWS", "Flat", "by_group", "lay_out", "pick"]

RUN_ROWS = 16
"""Rows in a run, on average, from which on a slice for each costs less than a copy of all."""


def by_group(rows: np.ndarray, ends: Sequence[int]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Each row group that has some of the rows: its number, which of ``rows`` they are, and where they are in it.

    :param ends: row number after the last row of each group.
    """
    if not len(rows):
        return
    groups = np.searchsorted(np.array(ends), rows, side="right")
    order = np.argsort(groups, kind="stable")
    for places in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
        group = int(groups[places[0]])
        yield group, places, rows[places] - (ends[group - 1] if group else 0)


def pick(group: pa.RecordBatch, places: np.ndarray, at: np.ndarray) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    """The rows ``at`` of a row group, in pieces, each with its share of ``places``.

    Long runs are slices, which copy nothing and hold the group for as long as they live: so it is only where they are
    most of it. Else the rows are copied, in one piece.
    """
    ends = np.flatnonzero((np.diff(at) != 1) | (np.diff(places) != 1)) + 1
    if (len(ends) + 1) * RUN_ROWS <= len(at):
        runs = np.split(places, ends)
        slices = [group.slice(first, len(run)) for run, first in zip(runs, at[[0, *ends]].tolist(), strict=True)]
        if 2 * sum(piece.nbytes for piece in slices) >= group.nbytes:
            yield from zip(runs, slices, strict=True)
            return
    yield places, group.take(pa.array(at))


def lay_out(reader: PartReader, path: Path) -> bool:
    """Write all rows of a part, as they are in memory; ``False`` when this disk has no room for them."""
    groups = map(reader.group, range(len(reader.group_ends)))
    first = next(groups)
    try:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, first.schema) as writer:
            writer.write_batch(first)
            for group in groups:
                writer.write_batch(group)
    except OSError:
        path.unlink(missing_ok=True)
        return False
    return True


class Flat:
    """Rows of a part that was laid out."""

    def __init__(self, path: Path, ends: Sequence[int]) -> None:
        """:param ends: row number after the last row of each row group."""
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        laid_out = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(self._map)))
        self._ends = ends
        self._groups = [laid_out.get_batch(i) for i in range(laid_out.num_record_batches)]

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, pa.RecordBatch]:
        """The rows, and which of ``rows`` each of them is."""
        pieces = []
        for group, places, at in by_group(rows, self._ends):
            pieces.append((places, self._groups[group].take(pa.array(at))))
            self._map.madvise(mmap.MADV_DONTNEED)  # what was looked at does not count as memory of ours
        return np.concatenate([places for places, _ in pieces]), concat([columns for _, columns in pieces])
