"""Programs that run beside us, and how all of each is ended.

Each program leads a session of its own.
Whatever it starts stays in that session, also when it becomes an orphan or gets its own process group, so it can be found.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self

__all__ = ["ProgramEndedError", "Sessions", "last_lines"]


KILL_SECONDS = 10.0
"""For the system to carry out what no program can refuse."""


class ProgramEndedError(Exception):
    """A program that should still run has ended."""

    def __init__(self, name: str, code: int, log: Path) -> None:
        super().__init__(f"{name} ended with code {code}")
        self.log = log


@dataclass(frozen=True, kw_only=True, slots=True)
class _Program:
    name: str
    process: subprocess.Popen[bytes]
    log: Path


class Sessions:
    """The programs of one folder.

    Leaving the context ends them.
    Entering it ends what an earlier run of the same folder could not end, because it was killed.
    """

    def __init__(self, folder: Path, *, polite_seconds: float = 6.0) -> None:
        """
        :param folder: where logs are kept; the working directory of every program.
        :param polite_seconds: from the request to end to the order to.
        """
        self.folder = folder.resolve()
        self.polite_seconds = polite_seconds
        self.logs = folder / "logs"
        self._record = folder / "sessions.json"
        self._programs: list[_Program] = []

    def __enter__(self) -> Self:
        self.logs.mkdir(parents=True, exist_ok=True)
        self._end(self._left_behind())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a program; what it prints goes to ``logs/<name>.log``."""
        path = self.logs / f"{name}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(  # noqa: S603  # our own programs, no shell
                command,
                cwd=self.folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._programs.append(_Program(name=name, process=process, log=path))
        self._record.write_text(json.dumps([program.process.pid for program in self._programs]))

    def check(self) -> None:
        """Raise :class:`ProgramEndedError` for the first program that has ended."""
        for program in self._programs:
            code = program.process.poll()
            if code is not None:
                raise ProgramEndedError(program.name, code, program.log)

    def stop(self) -> None:
        """End all programs and everything that they started. Takes at most some seconds."""
        self._end({program.process.pid for program in self._programs})
        self._programs.clear()
        self._record.unlink(missing_ok=True)

    def members(self) -> list[psutil.Process]:
        """Every living process of our programs."""
        return _members({program.process.pid for program in self._programs})

    def _end(self, leaders: set[int]) -> None:
        asked = time.monotonic()
        _send(signal.SIGTERM, _members(leaders))
        while (members := self._reap(leaders)) and time.monotonic() - asked < self.polite_seconds + KILL_SECONDS:
            if time.monotonic() - asked > self.polite_seconds:
                _send(signal.SIGKILL, members)
            time.sleep(0.05)

    def _reap(self, leaders: set[int]) -> list[psutil.Process]:
        for program in self._programs:
            program.process.poll()
        return _members(leaders)

    def _left_behind(self) -> set[int]:
        """Sessions recorded by a run that did not live to end them.

        A recorded number may mean another session by now; ours work in our folder.
        """
        try:
            recorded = set(json.loads(self._record.read_text()))
        except (FileNotFoundError, ValueError):
            return set()
        return {os.getsid(member.pid) for member in _members(recorded) if _works_in(member, self.folder)}


def last_lines(path: Path, count: int = 30) -> list[str]:
    """The end of a log file; empty when there is none."""
    with suppress(FileNotFoundError):
        return path.read_text(errors="replace").splitlines()[-count:]
    return []


def _members(sessions: set[int]) -> list[psutil.Process]:
    found = []
    for pid in psutil.pids() if sessions else ():
        with suppress(ProcessLookupError, PermissionError, psutil.Error):
            if os.getsid(pid) in sessions:
                process = psutil.Process(pid)
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
    return found


def _send(number: signal.Signals, processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(number)


def _works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return Path(process.cwd()) == folder
    except psutil.Error:
        return False
