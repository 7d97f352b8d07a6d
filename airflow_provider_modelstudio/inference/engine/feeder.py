"""Reads windows, hands out what is known, packs the rest into requests."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from airflow_provider_modelstudio.inference.dataset import WINDOW_ROWS
from airflow_provider_modelstudio.inference.errors import InputChangedError
from airflow_provider_modelstudio.inference.survey import REFUSED
from airflow_provider_modelstudio.inference.tasks import Decoded, Question

from .window import Asked, Window

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from airflow_provider_modelstudio.inference.dataset import Source
    from airflow_provider_modelstudio.inference.plan import Part
    from airflow_provider_modelstudio.inference.survey import RowSurvey, Survey
    from airflow_provider_modelstudio.inference.survey.recall import Known
    from airflow_provider_modelstudio.inference.tasks import InferenceTask, Refused

    from .sender import Sender
    from .windows import OpenWindows

__all__ = ["OPEN_BYTES", "Feeder", "windows_open"]

OPEN_BYTES = 64 * 1024 * 1024
"""Of answers that wait for earlier ones."""
_NO_KEY = bytes(16)


class _Read(NamedTuple):
    """A window as it comes from the reader's thread."""

    window: Window
    origins: np.ndarray


def windows_open(rows_in_flight: int, row_bytes: float) -> int:
    """How many windows may be open.

    Eight times what may be in flight, since a slow answer holds up its own window while the others go on; fewer where
    that is more than :data:`OPEN_BYTES`, but always what may be in flight and two more.
    Where not all rows of a window are asked, less is in flight.

    :param row_bytes: of an answer, on average; 0 as long as there is none.
    """
    wanted = -(-8 * rows_in_flight // WINDOW_ROWS)
    if row_bytes > 0:
        wanted = min(wanted, int(OPEN_BYTES / (WINDOW_ROWS * row_bytes)))
    return 2 + max(wanted, -(-rows_in_flight // WINDOW_ROWS))


def _close(reading: Generator[_Read]) -> None:
    """In the thread that reads, so that nothing is being read; the files are given back."""
    with contextlib.suppress(Exception):  # nobody needs what was read, and nobody waits for this
        reading.close()


class Feeder:
    """One pass over the rows that are left."""

    def __init__(
        self, source: Source, task: InferenceTask, survey: Survey, known: Known, windows: OpenWindows, sender: Sender
    ) -> None:
        self._source = source
        self._task = task
        self._survey = survey
        self._known = known
        self._windows = windows
        self._sender = sender
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="reader")

    async def run(self, left: Sequence[Part]) -> None:
        """Feed the rows of the parts that are left. Reads one window ahead."""
        loop = asyncio.get_running_loop()
        reading = self._read(left)
        upcoming = loop.run_in_executor(self._reader, next, reading, None)
        try:
            while (read := await upcoming) is not None:
                upcoming = loop.run_in_executor(self._reader, next, reading, None)
                await self._room()
                await self._open(read)
            self._sender.close()
            self._windows.close()
        finally:
            upcoming.cancel()
            # A slow read may still hold its thread: neither the loop, which has answers to keep, nor the run waits for it.
            loop.run_in_executor(self._reader, _close, reading)
            self._reader.shutdown(wait=False)

    def _read(self, left: Sequence[Part]) -> Generator[_Read]:
        """In the reader's thread."""
        parts = iter(left)
        part = None
        blocks: dict[int, RowSurvey] = {}
        ranges = [(part.first_row, part.end_row) for part in left if part.rows]
        for first, batch in self._source.windows(ranges):
            while part is None or first >= part.end_row:
                part = next(parts)
            keys, origins = self._survey.read(blocks, part, first, batch.num_rows)
            yield _Read(Window(part, first, batch, keys.copy()), origins)

    async def _room(self) -> None:
        """Wait until another window may be open; memory is bounded here."""
        while self._windows.is_full(self._most()):
            await self._windows.moved()

    def _most(self) -> int:
        return windows_open(self._sender.rows_in_flight, self._windows.row_bytes)

    async def _open(self, read: _Read) -> None:
        """Hand out what is known about a window, and pack the rest."""
        window, origins = read
        rows = np.arange(window.first_row, window.first_row + window.rows)
        needed = np.flatnonzero((origins == REFUSED) | (origins == rows))
        questions = await self._questions(window, needed)
        self._windows.add(window)
        known = np.flatnonzero(origins < REFUSED)
        if len(known):
            for at, columns, reasons, book in await self._known.answers(-2 - origins[known]):
                self._windows.recall(window, known[at], columns, reasons, book)
        for position in np.flatnonzero((origins >= 0) & (origins != rows)).tolist():
            self._windows.share(Asked(window, position), int(origins[position]))
        first = await self._known.first_answers(
            [question.key if isinstance(question, Question) else _NO_KEY for question in questions]
        )
        for i, (position, question) in enumerate(zip(needed.tolist(), questions, strict=True)):
            if i in first and isinstance(question, Question):
                columns, reason = first[i]
                self._sender.feed(Asked(window, position), question, Decoded(columns, {0: reason}, unfit=True))
            elif isinstance(question, Question):
                self._sender.feed(Asked(window, position), question)
            else:
                window.fail(position, question.reason)
        self._windows.check(window)

    async def _questions(self, window: Window, needed: np.ndarray) -> list[Question | Refused]:
        """What the rows at ``needed`` ask, or why they are refused unasked.

        In the loop, although it takes a millisecond: in the reader's thread it would fight the loop for the interpreter.
        Where that reads files it waits for them elsewhere.
        """
        if not len(needed):
            return []
        batch = window.batch if len(needed) == window.rows else window.batch.take(pa.array(needed))
        ask = self._task.questions
        questions = await asyncio.to_thread(ask, batch) if self._source.names_files else ask(batch)
        told = b"".join([question.key if isinstance(question, Question) else _NO_KEY for question in questions])
        if window.keys[needed].tobytes() != told:
            raise InputChangedError("a source file was changed while the task was reading it")
        return questions
