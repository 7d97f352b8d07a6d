"""How a run behaves, where it is, and how to stop it."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Sequence  # noqa: TC003  # dataclasses read their annotations
from dataclasses import dataclass, field
from typing import Literal

from airflow_provider_modelstudio.inference.budget import Budget
from airflow_provider_modelstudio.inference.governor import Limits
from airflow_provider_modelstudio.inference.survey.recall import WiderRecord  # noqa: TC001  # dataclasses read their annotations
from airflow_provider_modelstudio.inference.vault import Vault  # noqa: TC001  # dataclasses read their annotations
from airflow_provider_modelstudio.inference.vault.lease import TTL

__all__ = ["Options", "Progress", "StopSignal", "boot_clock"]


DRAIN_SECONDS = 3.0
"""Airflow kills a task 5 s after it asked it to stop."""


def boot_clock() -> float:
    """Seconds that go on while the machine is suspended, so that a frozen attempt knows that its lease ran out."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _no_fence() -> None:
    """Nobody else decides about this try."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How a run behaves; none of it changes a good answer."""

    limits: Limits = field(default_factory=Limits)
    on_row_error: Literal["null", "fail", "quarantine"] = "null"
    max_error_rate: float | None = None
    """Share of rows, 0 to 1, that may fail before the run stops; ``None`` for no bound."""
    budget: Budget = field(default_factory=Budget)
    reuse: bool = True
    """Answers of earlier runs count."""
    reuse_from: Vault | None = None
    """Another destination whose answers count, too."""
    wider: WiderRecord | None = None
    """Answers in a form that holds more than the task writes; they count, too."""
    fence: Callable[[], None] = _no_fence
    """Called before the commit; raises :class:`~..errors.SupersededError` when Airflow has given up on this try, and
    :class:`~..errors.OutageError` when Airflow does not answer: then it is called a few times more."""
    fence_pauses: Sequence[float] = (1.0, 2.0, 4.0, 8.0, 15.0)
    """Seconds before that is called again."""
    owner: str = ""
    """Who runs this, for example Dag, run and task; a retry of the same owner gets the same summary."""
    attempt: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    """Name of this attempt, which no other one has."""
    errand: str = ""
    """Name of everything that the owner asks for, but for what only the endpoint can tell; empty for nobody's."""
    dimensions: int | None = None
    """Of a dense vector, where the endpoint says so; used when no row was answered."""
    drain_seconds: float = DRAIN_SECONDS
    """How long a run that is asked to stop waits for what is under way."""
    progress_seconds: float = 5.0
    """Between two reports."""
    lease_seconds: float = TTL
    """How long another attempt waits for one that does not answer."""
    clock: Callable[[], float] = boot_clock
    """Seconds for the lease."""

    def too_many(self, failed: int, rows: int) -> bool:
        """Whether more of the rows failed than may."""
        return self.max_error_rate is not None and failed > self.max_error_rate * rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a run is."""

    rows: int
    rows_done: int
    rows_to_ask: int
    embedded: int
    reused: int
    deduplicated: int
    failed: int
    requests: int
    cost_estimated: float | None
    """Of what this try asked, in the currency of the price."""
    in_flight: int
    limit: int
    """Requests that may be in flight."""
    limited_by: str
    """What keeps the run from going faster."""
    rows_per_second: float
    seconds: float
    seconds_left: float | None


class StopSignal:
    """Asks a run to stop, from any thread or signal handler."""

    def __init__(self) -> None:
        self._asked = False
        """No lock: a signal handler that another signal interrupts would wait for itself."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._heard: asyncio.Event | None = None

    def request(self) -> None:
        """Stop soon: no new requests, answers in flight are kept."""
        self._asked = True
        if self._loop is not None and self._heard is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: there is nothing left to stop
                self._loop.call_soon_threadsafe(self._heard.set)

    @property
    def requested(self) -> bool:
        """Whether the run was asked to stop; for threads, which cannot wait for it."""
        return self._asked

    async def wait(self) -> None:
        """Return when the run was asked to stop."""
        self._loop, self._heard = asyncio.get_running_loop(), asyncio.Event()
        if not self._asked:
            await self._heard.wait()
