"""The example Dag ``reembed_docs`` in a private Airflow, against the sandbox, told as it goes. See ``make help``."""

from __future__ import annotations

import argparse
import fcntl
import json
import secrets
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demo.private_airflow import ApiError, NotReadyError, PrivateAirflow, port_is_free
from demo.screen import Screen
from demo.sessions import ProgramEndedError, Sessions, last_lines
from demo.watch import RunFailedError, watch

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).resolve().parents[1]
PORTS = range(1024, 65_536)
FOLDER = CHECKOUT / ".demo"
DAG_ID = "reembed_docs"
CONF = {
    # Small enough for a laptop: the sandbox reads some 30 texts a second and core.
    "packages": [
        "apache-airflow-providers-standard",
        "click",
        "cryptography",
        "httpx",
        "more-itertools",
        "pendulum",
        "psutil",
        "requests",
        "rich",
    ],
    "max_rows": 2_500,
    "max_chars": 160,
}
QUESTIONS = ("how much memory is a process using", "show a progress bar in the terminal", "读取CPU温度")
SANDBOX_SECONDS = 60.0


class CannotStartError(Exception):
    """Something outside must change first; the text says what."""


def main() -> int:
    """Run the demo; the exit code."""
    given = _arguments()
    screen = Screen()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        with _alone(), Sessions(FOLDER) as sessions, _undisturbed_end():
            _tell_story(screen, sessions, sandbox_port=given.sandbox_port, airflow_port=given.airflow_port)
            if given.keep:
                screen.plain(f"\nAirflow stays at http://127.0.0.1:{given.airflow_port} until you press Ctrl-C.")
                _stay(sessions)
    except KeyboardInterrupt:
        screen.plain("\nStopped. Nothing is left running.")
        return 130
    except CannotStartError as error:
        screen.plain(f"\n{error}")
        return 2
    except ProgramEndedError as error:
        screen.plain("\n".join([f"\n{error}. The last it said:", *last_lines(error.log), f"All of it: {error.log}"]))
        return 1
    except (NotReadyError, RunFailedError, ApiError, ConnectionError) as error:
        screen.plain(f"\n{error}\nLogs: {FOLDER / 'logs'} and {FOLDER / 'airflow' / 'logs'}")
        return 1
    screen.plain(
        "\nAll programs have ended. `make demo` again goes on from here; `make demo KEEP=1` leaves Airflow open."
    )
    return 0


def _stay(sessions: Sessions) -> None:
    """Return on Ctrl-C."""
    with suppress(KeyboardInterrupt):
        while True:
            sessions.check()
            time.sleep(1)


def _tell_story(screen: Screen, sessions: Sessions, *, sandbox_port: int, airflow_port: int) -> None:
    for variable, port in (("SANDBOX_PORT", sandbox_port), ("AIRFLOW_PORT", airflow_port)):
        if port not in PORTS:
            raise CannotStartError(f"{variable}={port} is no port; take one from {PORTS[0]} to {PORTS[-1]}")
        if not port_is_free(port):
            others = {sandbox_port, airflow_port}
            around = (*range(port + 1, PORTS.stop), *range(PORTS.start, port))
            free = next(other for other in around if other not in others and port_is_free(other))
            raise CannotStartError(f"Port {port} is taken by another program. Try: make demo {variable}={free}")

    password = secrets.token_urlsafe(16)
    connection = {
        "conn_type": "modelstudio",
        "host": f"http://127.0.0.1:{sandbox_port}",
        "login": "demo",
        "password": password,
    }
    settings = {
        "AIRFLOW_CONN_MODELSTUDIO_DEFAULT": json.dumps(connection),
        "REEMBED_DOCS_FOLDER": str(FOLDER / "data"),
        "SANDBOX_PASSWORD": password,
    }
    airflow = PrivateAirflow(sessions, dags=CHECKOUT / "example_dags", port=airflow_port, settings=settings)
    screen.line(f"The sandbox, in place of Elasticsearch and Model Studio: {_start_sandbox(sessions, airflow)}")
    screen.passing("A database for Airflow …")
    airflow.migrate()
    screen.passing("Airflow starts …")
    airflow.start(DAG_ID)
    screen.line(f"Airflow {version('apache-airflow')} with scheduler and LocalExecutor: {airflow.url}")
    airflow.give_up_unfinished_runs(DAG_ID)

    screen.line(f"The Dag {DAG_ID}, triggered:")
    summary = _run(airflow, sessions, screen)
    if summary["requests"]:
        screen.line("The same again, nothing has changed:")
        _run(airflow, sessions, screen)

    screen.line("Three questions to the vectors just written, by cosine:")
    asked = subprocess.run(  # noqa: S603  # our own program, no shell
        [sys.executable, "-m", "demo.questions", summary["destination"], *QUESTIONS],
        cwd=CHECKOUT,
        env=airflow.environment,
        check=False,
    )
    if asked.returncode:
        raise RunFailedError("the questions could not be answered")


def _run(airflow: PrivateAirflow, sessions: Sessions, screen: Screen) -> dict[str, Any]:
    """Run the Dag, show what came of it, and return the summary of the operator."""
    run_id = airflow.trigger(DAG_ID, CONF)
    returned = watch(airflow, sessions, screen, DAG_ID, run_id)
    summary: dict[str, Any] = returned["embed"]
    screen.line(f"  {returned['report']}")
    screen.line(
        f"  {summary['requests']} requests, about {summary['tokens_estimated']:,} tokens; {_event(airflow, run_id)}"
    )
    screen.line(f"  vectors: {summary['destination']}")
    return summary


def _event(airflow: PrivateAirflow, run_id: str) -> str:
    events = airflow.get(f"/api/v2/assets/events?source_dag_id={DAG_ID}&order_by=-timestamp&limit=10")["asset_events"]
    for event in events:
        if event["source_run_id"] == run_id:
            return f"asset event {event['name']} with {event['extra']['rows']:,} rows"
    return "no asset event"


def _start_sandbox(sessions: Sessions, airflow: PrivateAirflow) -> str:
    """Start it, and return how it introduces itself."""
    port = json.loads(airflow.environment["AIRFLOW_CONN_MODELSTUDIO_DEFAULT"])["host"].rpartition(":")[2]
    command = [sys.executable, "-m", "airflow_provider_modelstudio.sandbox", "--port", port, "--user", "demo"]
    sessions.start("sandbox", command, airflow.environment)
    began = time.monotonic()
    while time.monotonic() - began < SANDBOX_SECONDS:
        sessions.check()
        for line in last_lines(sessions.logs / "sandbox.log"):
            if line.startswith("sandbox ready at "):
                return line.removeprefix("sandbox ready at ")
        time.sleep(0.1)
    raise NotReadyError(f"the sandbox is not ready after {SANDBOX_SECONDS:.0f} s")


@contextmanager
def _alone() -> Iterator[None]:
    """Keep a second demo out of the folder of the first."""
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotStartError(
                "Another `make demo` is running in this checkout. Wait for it, or end it with Ctrl-C."
            ) from None
        yield


@contextmanager
def _undisturbed_end() -> Iterator[None]:
    """Let no second Ctrl-C keep the programs from being ended."""
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--sandbox-port", type=int, default=19_200)
    parser.add_argument("--airflow-port", type=int, default=18_080)
    parser.add_argument("--keep", action="store_true", help="leave Airflow running until Ctrl-C")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
