"""Rows on their way: which of them have an answer, and what they look like when all have one. Pure."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from airflow_provider_modelstudio.inference.survey.flat import RUN_ROWS
from airflow_provider_modelstudio.inference.survey.recall import KEY
from airflow_provider_modelstudio.inference.vault.records import Counts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_provider_modelstudio.inference.decide.size import Cut
    from airflow_provider_modelstudio.inference.plan import Part
    from airflow_provider_modelstudio.inference.tasks import Decoded, Question

__all__ = ["Asked", "Batch", "Window"]


class Window:
    """Some hundred or thousand consecutive rows of one part.

    Answers come in any order; the window is finished when each row has an answer or a reason.
    """

    __slots__ = ("_columns", "_positions", "_reasons", "batch", "counts", "first_row", "keys", "left", "part")

    def __init__(self, part: Part, first_row: int, batch: pa.RecordBatch, keys: np.ndarray) -> None:
        """:param keys: content key of each row, zeros for a row that is not asked; taken over."""
        self.part = part
        self.first_row = first_row
        self.batch = batch
        self.keys = keys
        self.counts = Counts()
        self.left = int(batch.num_rows)
        self._positions: list[np.ndarray] = []
        self._columns: list[pa.RecordBatch] = []
        self._reasons: dict[int, str] = {}

    @classmethod
    def of_failed(
        cls, part: Part, first_row: int, batch: pa.RecordBatch, reasons: Sequence[str | None], counts: Counts
    ) -> Window:
        """A finished window without an answer, as it was booked."""
        window = cls(part, first_row, batch, np.zeros(batch.num_rows, KEY))
        window.counts = counts
        window.left = 0
        window._reasons = {i: reason for i, reason in enumerate(reasons) if reason is not None}
        return window

    @property
    def reasons(self) -> list[str | None]:
        """Why a row has no answer; ``None`` where it has one."""
        return [self._reasons.get(i) for i in range(self.rows)] if self._reasons else [None] * self.rows

    @property
    def rows(self) -> int:
        """Rows of the window."""
        return int(self.batch.num_rows)

    @property
    def finished(self) -> bool:
        """Whether each row has an answer or a reason."""
        return self.left == 0

    def give(self, positions: np.ndarray, columns: pa.RecordBatch) -> None:
        """Answers for the rows at ``positions``; whoever calls books them."""
        self._positions.append(positions)
        self._columns.append(columns)
        self.left -= len(positions)

    def fail(self, position: int, reason: str, rest: pa.RecordBatch | None = None) -> None:
        """A reason instead of an answer, booked as failed.

        :param rest: one row with what is kept of an answer that cannot be used.
        """
        if rest is not None:
            self._positions.append(np.array([position]))
            self._columns.append(rest)
        self._reasons[position] = reason
        self.keys[position] = (0, 0)
        self.counts.fail(reason)
        self.left -= 1

    def build(self, answers: pa.Schema, error_column: str) -> pa.RecordBatch:
        """The finished rows: input columns, answer columns, error column."""
        columns = self._in_order(answers)
        errors = pa.array(self.reasons, pa.string())
        schema = self.batch.schema
        for field in answers:
            schema = schema.append(field)
        schema = schema.append(pa.field(error_column, pa.string()))
        return pa.RecordBatch.from_arrays([*self.batch.columns, *columns, errors], schema=schema)

    def _in_order(self, answers: pa.Schema) -> list[pa.Array]:
        if not self._columns:
            return [pa.nulls(self.rows, field.type) for field in answers]
        positions = np.concatenate(self._positions)
        order = np.argsort(positions, kind="stable")
        starts = np.cumsum([0, *map(len, self._positions)])
        begins = np.zeros(len(order) + 1, bool)
        begins[starts] = True
        runs = np.flatnonzero(np.concatenate([[True], (np.diff(order) != 1) | begins[order[1:]]]))
        if len(order) == self.rows and (len(runs) == len(self._columns) or len(runs) * RUN_ROWS <= self.rows):
            ends = np.append(runs[1:], self.rows)
            pieces = np.searchsorted(starts, order[runs], side="right") - 1
            slices = zip(pieces.tolist(), (order[runs] - starts[pieces]).tolist(), (ends - runs).tolist(), strict=True)
            return list(pa.concat_batches([self._columns[i].slice(at, rows) for i, at, rows in slices]).columns)
        place = np.full(self.rows, -1, np.int64)
        place[positions] = np.arange(len(positions))
        return list(pa.concat_batches(self._columns).take(pa.array(place, mask=place < 0)).columns)


class Asked(NamedTuple):
    """Who asked: a row of a window."""

    window: Window
    position: int

    @property
    def row(self) -> int:
        """Number of the row in the dataset."""
        return self.window.first_row + self.position


class Batch:
    """Questions that go into one request, and how often they went."""

    __slots__ = ("alone", "asked", "attempts", "cut", "failed_at", "questions", "size", "tokens", "unfit")

    def __init__(self, items: list[tuple[Asked, Question]], alone: int = 0, unfit: Decoded | None = None) -> None:
        self.asked = [asked for asked, _ in items]
        self.questions = [question for _, question in items]
        self.tokens = sum([question.tokens for question in self.questions])
        self.size = sum([question.size for question in self.questions])
        self.cut: Cut | None = None
        """What this is a piece of, if that was refused as too large."""
        self.attempts = 0
        """Failed attempts that count, so far."""
        self.alone = alone
        """Those of them since which other requests were answered."""
        self.failed_at = math.inf
        """Clock of the engine at the last failure."""
        self.unfit = unfit
        """The first answer, if it was not what was asked for."""

    @property
    def parts(self) -> frozenset[int]:
        """Parts that wait for the answers."""
        return frozenset([window.part.index for window, _ in self.asked])

    @property
    def rows(self) -> list[int]:
        """Numbers of the rows that ask."""
        return [window.first_row + position for window, position in self.asked]

    def pieces(self, rows: int) -> list[Batch]:
        """The same questions in requests of at most ``rows``."""
        items = list(zip(self.asked, self.questions, strict=True))
        return [Batch(items[at : at + rows], self.alone) for at in range(0, len(items), rows)]

    def fitting(self, size: int) -> list[Batch]:
        """The same questions in requests of at most ``size`` bytes, or of one question."""
        if self.size <= size or len(self.questions) == 1:
            return [self]
        starts, held = [0], 0
        for at, question in enumerate(self.questions):
            if at > starts[-1] and held + question.size > size:
                starts.append(at)
                held = 0
            held += question.size
        items = list(zip(self.asked, self.questions, strict=True))
        return [Batch(items[at:end], self.alone) for at, end in pairwise([*starts, len(items)])]
