"""An operator in a process of its own, as Airflow's task runner has it: forked, with SIGTERM wired to ``on_kill``."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import resource
import signal
import socket
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from airflow_provider_modelstudio.operators.text_embedding import EmbedOperator
from tests.faults.bench import ENDPOINTS, context_of

_PATIENCE = 60.0

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.faults.processes"])


class TaskTimeout(BaseException):
    """What ``execution_timeout`` raises, wherever the task is."""


@dataclass(frozen=True)
class Outcome:
    """How a task ended."""

    kind: str
    """Class of the exception; empty for success."""
    message: str
    summary: dict | None
    peak_bytes: int
    """Most memory that the process had."""
    exit_code: int
    """Negative: killed by that signal."""
    seconds: float


class Watchful(EmbedOperator):
    """Renews its lease twenty times as often as it need, so that a test need not wait for half a minute."""

    def _options(self, context):
        return replace(super()._options(context), lease_seconds=1.5)


class Tapped(EmbedOperator):
    """Each thread of its process is interrupted by a signal again and again, whatever it is doing; the handler is Python's."""

    def execute(self, context):
        taps, over = [], threading.Event()
        signal.signal(signal.SIGUSR1, lambda *_: taps.append(1))

        def tap():
            while not over.wait(0.0005):
                for thread in threading.enumerate():
                    if thread is not threading.current_thread() and thread.is_alive():
                        with contextlib.suppress(ProcessLookupError):
                            signal.pthread_kill(thread.ident, signal.SIGUSR1)

        tapping = threading.Thread(target=tap)
        tapping.start()
        try:
            return {**super().execute(context), "taps": len(taps)}
        finally:
            over.set()
            tapping.join()


class Task:
    """A task that runs in a process."""

    def __init__(self, bench, parameters, context, operator_class=EmbedOperator, run=None):
        self._report = bench.folder / f"outcome-{time.monotonic_ns()}.json"
        environment = {name: value for name, value in os.environ.items() if name.startswith("AIRFLOW")}
        self._began = time.monotonic()
        self._process = _context.Process(
            target=run or _run,
            args=(operator_class, parameters, context, environment, str(self._report)),
            daemon=True,
        )
        self._process.start()

    def when(self, happened):
        """Return as soon as something happened; fails when the task ends before."""
        until = time.monotonic() + _PATIENCE
        while not happened():
            assert self._process.is_alive()
            assert time.monotonic() < until
            time.sleep(0.002)

    def signal(self, number):
        """Send a signal; ``Outcome.seconds`` counts from the last one."""
        self._began = time.monotonic()
        os.kill(self._process.pid, number)

    def outcome(self):
        """Wait for the end."""
        self._process.join(_PATIENCE)
        assert not self._process.is_alive()
        told = json.loads(self._report.read_text()) if self._report.exists() else {}
        return Outcome(
            kind=told.get("kind", ""),
            message=told.get("message", ""),
            summary=told.get("summary"),
            peak_bytes=told.get("peak_bytes", 0),
            exit_code=self._process.exitcode,
            seconds=time.monotonic() - self._began,
        )


class SupervisedTask(Task):
    """A task in a child of its process, which is to it what Airflow's supervisor is."""

    def __init__(self, bench, parameters, context, operator_class=EmbedOperator):
        super().__init__(bench, parameters, context, operator_class, run=_supervise)

    def orphan(self):
        """Kill the supervisor alone."""
        self.signal(signal.SIGKILL)
        self._process.join(_PATIENCE)
        assert self._process.exitcode == -signal.SIGKILL

    def when(self, happened):
        """See :class:`Task`; the task itself may be an orphan."""
        until = time.monotonic() + _PATIENCE
        while not happened():
            assert not self._report.exists(), self._report.read_text()
            assert time.monotonic() < until
            time.sleep(0.002)

    def outcome(self):
        """Wait for the end of the task itself."""
        until = time.monotonic() + _PATIENCE
        while not self._report.exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        return super().outcome()


def start_task(bench, context=None, *, kind=Task, operator_class=EmbedOperator, **parameters):
    """An EmbedOperator from the source to the destination, in a process."""
    given = {
        "inference_id": ENDPOINTS[EmbedOperator],
        "source": str(bench.source),
        "destination": str(bench.destination),
        "modelstudio_conn_id": bench.conn_id,
        **parameters,
    }
    return kind(bench, given, context or {}, operator_class)


def _run(operator_class, parameters, context, environment, report):
    os.environ.update(environment)
    timeout = context.pop("timeout", None)
    operator = operator_class(task_id="ask", **parameters)
    told = {"kind": "", "message": "", "summary": None}
    signal.signal(signal.SIGTERM, lambda number, frame: operator.on_kill())
    if timeout:
        signal.signal(signal.SIGALRM, _too_late)
        signal.setitimer(signal.ITIMER_REAL, timeout)
    try:
        told["summary"] = operator.execute(context_of(**context))
    except BaseException as error:  # noqa: BLE001  # told to the test
        told |= {"kind": type(error).__name__, "message": str(error)}
    told["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    unfinished = Path(f"{report}.new")
    unfinished.write_text(json.dumps(told), "utf-8")
    unfinished.rename(report)


class _Store:
    """Airflow's store of a task's state, as a task process has it: a line to its supervisor."""

    def __init__(self, line):
        self._line = line

    def set(self, key, value):
        self._line.sendall(b"set\n")
        if not self._line.recv(16):
            raise ConnectionError("the supervisor is gone")


def _supervise(operator_class, parameters, context, environment, report):
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        try:
            ours.close()
            _run(operator_class, parameters, {**context, "task_state_store": _Store(theirs)}, environment, report)
        finally:
            os._exit(0)
    theirs.close()
    while ours.recv(16):
        ours.sendall(b"done\n")


def _too_late(number, frame):
    raise TaskTimeout
