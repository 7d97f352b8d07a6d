"""Which process works on a destination now, and how it is struck: never a process that did not claim an epoch there."""

from __future__ import annotations

import json
import os
import select
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

    from tests.chaos.places import Place

__all__ = ["Victim", "newest_epoch", "open_supervisor", "open_victim"]


def newest_epoch(keys: Iterable[str]) -> tuple[int, str | None]:
    """Number and key of the newest claim in a state folder; 0 when there is none."""
    claims = [(int(key.rpartition("/")[2].partition("-")[0]), key) for key in keys if key.startswith("epoch/")]
    return max(claims, default=(0, None))


@dataclass
class Victim:
    """A running process, held by a descriptor, so that nobody else can get its number."""

    pid: int
    descriptor: int

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it, awake."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.descriptor, signal.SIGCONT)  # nothing stays frozen
        os.close(self.descriptor)

    def strike(self, number: signal.Signals) -> bool:
        """Send a signal; ``False`` when the process is gone already."""
        if self.is_gone():
            return False
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.descriptor, number)
            return True
        return False

    def is_gone(self, wait: float = 0.0) -> bool:
        """Whether it has ended, or does within so many seconds."""
        watch = select.poll()
        watch.register(self.descriptor, select.POLLIN)
        return bool(watch.poll(wait * 1000))


def open_victim(place: Place, destination: str, key: str) -> Victim | None:
    """The process that claimed an epoch; ``None`` when it is gone."""
    try:
        claim = json.loads(place.read_state(destination, key))
    except FileNotFoundError:
        return None
    try:
        descriptor = os.pidfd_open(claim["pid"])
    except ProcessLookupError:
        return None
    victim = Victim(claim["pid"], descriptor)
    if _started(claim["pid"]) != claim["started"] or victim.is_gone():
        os.close(descriptor)
        return None
    return victim


def open_supervisor(victim: Victim) -> Victim:
    """The process that Airflow knows a task by: the parent of the one that does the work."""
    pid = int(_stat(victim.pid)[1])
    supervisor = Victim(pid, os.pidfd_open(pid))
    if victim.is_gone() or int(_stat(victim.pid)[1]) != pid:
        os.close(supervisor.descriptor)
        raise RuntimeError(f"process {victim.pid} was gone before its supervisor was found")
    return supervisor


def _started(pid: int) -> str:
    """In clock ticks since boot; tells a process from another one with its number."""
    try:
        return _stat(pid)[19]
    except OSError:
        return ""


def _stat(pid: int) -> list[str]:
    """What Linux tells of a process, from its state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
