"""Which windows are open, and who gets which answer.

The meeting point of feeder, sender and writer: rows come in with the feeder, answers with the sender,
and finished windows leave in order with the writer.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from airflow_provider_modelstudio.inference.dataset import WINDOW_ROWS
from airflow_provider_modelstudio.inference.errors import EndpointError, RowsRefusedError
from airflow_provider_modelstudio.inference.vault.records import Counts

from .aside import Aside
from .window import Asked, Window

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from airflow_provider_modelstudio.inference.survey.recall import Shelf
    from airflow_provider_modelstudio.inference.tasks import Decoded, InferenceTask

    from .window import Batch

__all__ = ["OpenWindows"]


class OpenWindows:
    """Windows from the moment they are read until they are written."""

    def __init__(
        self, task: InferenceTask, shelf: Shelf, folder: Path, *, shares: bool, dimensions: int | None, fail_rows: bool
    ) -> None:
        """:param folder: local folder for windows that have to wait long.
        :param shares: some rows of this run take the answer of another row.
        :param fail_rows: a row that the service refused ends the run.
        """
        self.counts = Counts()
        """Books of the windows that were written."""
        self.closed = False
        """No window will be added."""
        self.answer_schema: pa.Schema | None = None
        """Form of the answers, pinned by the first one."""
        self._weighed_rows = self._weighed_bytes = 0
        self._task = task
        self._names = list(task.output_columns)
        self._shelf = shelf
        self._folder = folder
        self._shares = shares
        self._dimensions = dimensions
        self._fail_rows = fail_rows
        self._windows: dict[int, Window | Aside] = {}
        """All that are open, by their first row, in order."""
        self._loose: dict[int, Window] = {}
        """Those in memory."""
        self._moved = asyncio.Event()
        self._sharers: dict[int, list[Asked]] = {}
        self._shared_reasons: dict[int, str] = {}

    # ------------------------------------------------------------------ feeder's side

    def is_full(self, most: int) -> bool:
        """Whether the next window must wait."""
        if len(self._loose) < most:
            return False
        if self.answer_schema is None and self._first.finished and self._last.finished:
            # Nothing is being asked, and rows that are not asked pile up.
            self.answer_schema = self._foreseen()
            self._moved.set()
            if self.answer_schema is None:
                self._set_aside()
                return False
        return True

    def _set_aside(self) -> None:
        """Windows that are finished, and whose form nobody knows, go to disk."""
        for at, window in list(self._loose.items()):
            if window.finished:
                self._windows[at] = Aside.put(self._loose.pop(at), self._folder)

    @property
    def _first(self) -> Window | Aside:
        return next(iter(self._windows.values()))

    @property
    def _last(self) -> Window | Aside:
        return next(reversed(self._windows.values()))

    def _foreseen(self) -> pa.Schema | None:
        """Form of the answers before there is one; ``None`` as long as the length of a vector is not known."""
        schema = self._task.output_schema(self._dimensions)
        known = self._dimensions is not None or schema.equals(self._task.output_schema(1))
        return schema if known else None

    async def moved(self) -> None:
        """Return when a window was finished or written."""
        self._moved.clear()
        await self._moved.wait()

    @property
    def row_bytes(self) -> float:
        """Of the latest answers to questions, on average; 0 as long as there is none."""
        return self._weighed_bytes / max(self._weighed_rows, 1)

    def _weigh(self, rows: int, size: int) -> None:
        if self._weighed_rows > 2 * WINDOW_ROWS:  # older ones count for less and less
            self._weighed_rows //= 2
            self._weighed_bytes //= 2
        self._weighed_rows += rows
        self._weighed_bytes += size

    def look_again(self) -> None:
        """Wake whoever waits for room: there may be more of it."""
        self._moved.set()

    def add(self, window: Window) -> None:
        """Open a window."""
        self._windows[window.first_row] = self._loose[window.first_row] = window

    def close(self) -> None:
        """No window will be added."""
        self.closed = True
        self._moved.set()

    def recall(
        self, window: Window, positions: np.ndarray, columns: pa.RecordBatch, reasons: Sequence[str | None], book: str
    ) -> None:
        """Answers that were on record, and reasons of rows that failed before.

        :param book: ``"embedded"``, ``"reused"`` or ``"deduplicated"``.
        """
        failed = {i: reason for i, reason in enumerate(reasons) if reason is not None}
        for i, reason in failed.items():
            self._fail(Asked(window, int(positions[i])), reason, self._rest(columns, i))
        if failed:
            good = np.delete(np.arange(len(positions)), list(failed))
            positions, columns = positions[good], columns.take(pa.array(good))
        if len(positions):
            window.give(positions, self.pin(columns))
            setattr(window.counts, book, getattr(window.counts, book) + len(positions))

    def share(self, asked: Asked, first: int) -> None:
        """Give a row the answer of row ``first``, now or when it comes."""
        reason = self._shared_reasons.get(first)
        columns = next((columns for _, columns in self._shelf.get(np.array([first]))), None)
        if reason is not None:
            asked.window.fail(asked.position, reason, columns)
        elif columns is not None:
            asked.window.give(np.array([asked.position]), columns)
            asked.window.counts.deduplicated += 1
        else:
            self._sharers.setdefault(first, []).append(asked)

    def check(self, window: Window) -> None:
        """Tell the writer when a window is finished."""
        if window.finished:
            self._moved.set()

    # ------------------------------------------------------------------ sender's side

    def pin(self, columns: pa.RecordBatch) -> pa.RecordBatch:
        """Refuse answers of another form than the first one: mixing them would ruin the dataset."""
        if columns.schema.names != self._names:
            columns = pa.RecordBatch.from_arrays(columns.columns, names=self._names)
        if self.answer_schema is None:
            self.answer_schema = columns.schema
            self._moved.set()
        elif not columns.schema.equals(self.answer_schema):
            raise EndpointError(
                f"the endpoint changed the form of its answers, from {_types(self.answer_schema)} to "
                f"{_types(columns.schema)}; was it re-created with another model? "
                "Run again with if_exists='overwrite' to ask everything anew"
            )
        return columns

    def deliver(self, batch: Batch, decoded: Decoded) -> None:
        """Give the rows of a request their answers."""
        self._weigh(len(batch.asked), decoded.columns.get_total_buffer_size())
        start = 0
        for end in range(1, len(batch.asked) + 1):
            window = batch.asked[start].window
            if end < len(batch.asked) and batch.asked[end].window is window:
                continue
            self._give(batch.asked[start:end], decoded, start)
            self.check(window)
            start = end
        if self._shares:
            for i, asked in enumerate(batch.asked):
                self._answer_sharers(asked.row, decoded.refused.get(i))

    def refuse(self, asked: Asked, reason: str) -> None:
        """Give a row its reason instead of an answer."""
        self._fail(asked, reason)
        self.check(asked.window)
        if self._shares:
            self._answer_sharers(asked.row, reason)

    def _give(self, asked: Sequence[Asked], decoded: Decoded, start: int) -> None:
        window = asked[0].window
        columns = decoded.columns.slice(start, len(asked))
        good = (
            [i for i in range(len(asked)) if start + i not in decoded.refused] if decoded.refused else range(len(asked))
        )
        if len(good) < len(asked):
            columns = columns.take(pa.array(good, pa.int64()))
        if good:
            positions = np.array([asked[i].position for i in good])
            window.give(positions, columns)
            window.counts.embedded += len(good)
            if self._shares:
                self._shelf.keep(positions + window.first_row, columns)
        for i in range(len(asked)):
            if start + i in decoded.refused:
                rest = self._rest(decoded.columns, start + i)
                if rest is not None and self._shares:
                    self._shelf.keep(np.array([asked[i].row]), rest)
                self._fail(asked[i], decoded.refused[start + i], rest)

    def _rest(self, columns: pa.RecordBatch, at: int) -> pa.RecordBatch | None:
        """What is kept of an answer that cannot be used, if anything is."""
        rest = columns.slice(at, 1)
        return None if all(column.null_count for column in rest.columns) else self.pin(rest)

    def _fail(self, asked: Asked, reason: str, rest: pa.RecordBatch | None = None) -> None:
        """A row that was asked for, and has a reason instead of an answer."""
        if self._fail_rows:
            raise RowsRefusedError(
                f"row {asked.row} of the source was refused: {reason}; "
                "mend the row, or set on_row_error='null' to keep it with a reason and go on; "
                "errors_only=True asks it again"
            )
        asked.window.fail(asked.position, reason, rest)

    def _answer_sharers(self, row: int, reason: str | None) -> None:
        if reason is not None and self._shelf.wants(row):
            self._shared_reasons[row] = reason
        for sharer in self._sharers.pop(row, ()):
            self.share(sharer, row)
            self.check(sharer.window)

    # ------------------------------------------------------------------ writer's side

    @property
    def schema(self) -> pa.Schema:
        """Form of the answers; what the task says when there was none."""
        return self.answer_schema if self.answer_schema is not None else self._task.output_schema(self._dimensions)

    async def oldest(self) -> Window:
        """The next window in order, once it is finished and the form of the answers is known."""
        while not (self._windows and self._first.finished and (self.answer_schema is not None or self._silent())):
            await self.moved()
        first = self._first
        return first.take() if isinstance(first, Aside) else first

    def written(self, window: Window) -> None:
        """The oldest window is in a part: it is booked and makes room."""
        self._windows.pop(window.first_row)
        self._loose.pop(window.first_row, None)
        self.counts.add(window.counts)
        self._moved.set()

    def _silent(self) -> bool:
        """Nothing was answered and nothing will be."""
        return self.closed and all(window.finished for window in self._windows.values())

    def counts_so_far(self) -> Counts:
        """Books of written and of open windows."""
        counts = Counts()
        counts.add(self.counts)
        for window in self._windows.values():
            counts.add(window.counts)
        return counts


def _types(schema: pa.Schema) -> str:
    return ", ".join(str(kind) for kind in schema.types)
