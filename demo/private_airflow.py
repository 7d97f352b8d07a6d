"""A whole Airflow in one folder: its own database, settings, ports and programs.

Nothing of an Airflow that is installed or configured elsewhere on the machine is read or touched.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from demo.sessions import last_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from demo.sessions import Sessions

__all__ = ["ApiError", "NotReadyError", "PrivateAirflow", "port_is_free"]

START_SECONDS = 240.0
"""Twenty on a quiet machine of two cores; ten times that on a busy one."""


class NotReadyError(Exception):
    """Airflow did not get to where it should be; the text says what it said."""


class ApiError(Exception):
    """The REST API refused."""

    def __init__(self, method: str, path: str, status: int, answer: str) -> None:
        super().__init__(f"{method} {path} → {status}: {answer[:500]}")
        self.status = status


class PrivateAirflow:
    """Scheduler, LocalExecutor, Dag processor and API server over SQLite, reachable from this machine only."""

    def __init__(self, sessions: Sessions, *, dags: Path, port: int, settings: Mapping[str, str]) -> None:
        """
        :param sessions: where the programs are started, and in which folder.
        :param dags: folder with the Dag files.
        :param port: for the API and the UI.
        :param settings: environment variables for Airflow and its tasks, on top of our own.
        """
        self.home = sessions.folder / "airflow"
        self.port = port
        self._sessions = sessions
        self._token: str | None = None
        self.environment = {**_outside(os.environ), **self._own_settings(dags), **settings}

    @property
    def url(self) -> str:
        """Where the UI is."""
        return f"http://127.0.0.1:{self.port}"

    def _own_settings(self, dags: Path) -> dict[str, str]:
        programs = Path(sys.executable).parent
        return {
            "AIRFLOW_HOME": str(self.home),
            "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.home}/airflow.db",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__SECRET_KEY": secrets.token_hex(16),
            # Workers prove to the API server who they are with tokens that the scheduler signs.
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "10",
        }

    def migrate(self) -> None:
        """Make the database, or bring it up to the installed Airflow. Does nothing where that was done."""
        done = self.home / "migrated"
        if done.exists() and done.read_text() == version("apache-airflow"):
            return
        self.home.mkdir(parents=True, exist_ok=True)
        log = self._sessions.logs / "migrate.log"
        with log.open("wb") as output:
            ended = subprocess.run(
                [sys.executable, "-m", "airflow", "db", "migrate"],
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if ended.returncode:
            raise NotReadyError("\n".join(["airflow db migrate failed:", *last_lines(log), f"(all of it: {log})"]))
        done.write_text(version("apache-airflow"))

    def start(self, dag_id: str, *, triggerer: bool = False) -> None:
        """Start the programs and return when the Dag can run.

        :param triggerer: start this program, too, which only tasks that defer need.

        Raises :class:`NotReadyError` or :class:`~demo.sessions.ProgramEndedError` when that does not come.
        """
        began = time.time()
        airflow = [sys.executable, "-m", "airflow"]
        self._sessions.start("api-server", [*airflow, "api-server"], self.environment)
        # The server of task logs listens on all interfaces; on one machine the files are enough.
        self._sessions.start("scheduler", [*airflow, "scheduler", "--skip-serve-logs"], self.environment)
        self._sessions.start("dag-processor", [*airflow, "dag-processor"], self.environment)
        if triggerer:
            self._sessions.start("triggerer", [*airflow, "triggerer", "--skip-serve-logs"], self.environment)
        waited_for = "an answer"
        while time.time() - began < START_SECONDS:
            self._sessions.check()
            waited_for = self._missing(dag_id, began)
            if not waited_for:
                return
            time.sleep(0.5)
        raise NotReadyError(f"Airflow is not ready after {START_SECONDS:.0f} s; missing: {waited_for}")

    def _missing(self, dag_id: str, began: float) -> str:
        try:
            health = self.get("/api/v2/monitor/health")
            for part in ("scheduler", "dag_processor"):
                if health[part]["status"] != "healthy":
                    return part
            errors = self.get("/api/v2/importErrors")["import_errors"]
            if errors:
                raise NotReadyError("\n".join(f"{error['filename']}: {error['stack_trace']}" for error in errors))
            seen = self.get(f"/api/v2/dags/{dag_id}")["last_parsed_time"]
        except ConnectionError:
            return "the API server"
        except ApiError as error:
            if error.status == http.HTTPStatus.NOT_FOUND:
                return f"the Dag {dag_id}"
            raise
        if seen is None or datetime.fromisoformat(seen).timestamp() < began:
            return f"a fresh look at the Dag {dag_id}"
        return ""

    def give_up_unfinished_runs(self, dag_id: str) -> None:
        """Mark runs as failed whose programs were ended under them; the next run would wait for them."""
        unfinished = self.get(f"/api/v2/dags/{dag_id}/dagRuns?state=running&state=queued")["dag_runs"]
        for run in unfinished:
            self.call("PATCH", self.run_path(dag_id, run["dag_run_id"]), {"state": "failed"})

    def trigger(self, dag_id: str, conf: Mapping[str, object]) -> str:
        """Unpause the Dag, ask for a run now, and return its id."""
        self.call("PATCH", f"/api/v2/dags/{dag_id}?update_mask=is_paused", {"is_paused": False})
        run = self.call("POST", f"/api/v2/dags/{dag_id}/dagRuns", {"logical_date": None, "conf": dict(conf)})
        return str(run["dag_run_id"])

    def run_path(self, dag_id: str, run_id: str) -> str:
        """Where the API has a run."""
        return f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}"

    def log_lines(self, dag_id: str, run_id: str, task_id: str, attempt: int) -> Iterator[str]:
        """What a task logged, a line each."""
        path = f"{self.run_path(dag_id, run_id)}/taskInstances/{task_id}/logs/{attempt}"
        for entry in self.get(f"{path}?full_content=true")["content"]:
            yield entry if isinstance(entry, str) else str(entry.get("event", ""))

    def get(self, path: str) -> Any:
        """GET a path of the API."""
        return self.call("GET", path)

    def call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        """Call the API, and return its decoded answer.

        Raises :class:`ApiError` when it refuses and :class:`ConnectionError` when it does not answer.
        """
        if self._token is None:
            self._token = self._ask("GET", "/auth/token", None, {})["access_token"]
        return self._ask(method, path, body, {"Authorization": f"Bearer {self._token}"})

    def _ask(self, method: str, path: str, body: Mapping[str, object] | None, headers: Mapping[str, str]) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(
                method,
                path,
                body=None if body is None else json.dumps(body),
                headers={"Content-Type": "application/json", "Accept": "application/json", **headers},
            )
            response = connection.getresponse()
            answer = response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise ConnectionError(f"{method} {path}: {error}") from error
        finally:
            connection.close()
        if response.status >= http.HTTPStatus.BAD_REQUEST:
            raise ApiError(method, path, response.status, answer)
        return json.loads(answer)


def port_is_free(port: int) -> bool:
    """Nobody listens on this port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _outside(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what belongs to another Airflow."""
    return {name: value for name, value in environment.items() if not name.upper().startswith("AIRFLOW")}
