"""Everything around the loop: a service that keeps a bill, an S3 API, and a whole Airflow, all on this machine."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from moto.server import ThreadedMotoServer

from airflow_provider_modelstudio.sandbox.server import Sandbox
from demo.private_airflow import ApiError, PrivateAirflow
from demo.sessions import Sessions
from tests.chaos.places import Bucket, Disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["BATCH", "BOUND", "CONCURRENCY", "World", "open_world"]

CONCURRENCY = 8
BATCH = 10
BOUND = CONCURRENCY * BATCH
"""Texts that may be in flight when a process is killed."""
LATENCY = 0.06
"""Seconds that the service takes: long enough for a kill to find requests in flight."""
ORDER_SECONDS = 0.5
"""Between two runs that are ordered."""
DAG_ID = "kill_loop"
HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """What a lane works with."""

    sandbox: Sandbox
    airflow: PrivateAirflow
    sessions: Sessions
    disk: Disk
    bucket: Bucket

    ended: threading.Event = field(default_factory=threading.Event)
    """One of the lanes has failed: the others need not go on."""
    ordering: threading.Lock = field(default_factory=threading.Lock)
    """Runs are ordered one after another: a scheduler ends where its database (SQLite) is locked as it takes one up."""

    def trigger(self, source: str, destination: str, *, batch_size: int = BATCH, concurrency: int = CONCURRENCY) -> str:
        """Ask Airflow for a run; its id."""
        run_id = f"chaos-{uuid.uuid4().hex[:12]}"
        conf = {"source": source, "destination": destination, "batch_size": batch_size, "concurrency": concurrency}
        with self.ordering:
            try:
                self._call("POST", f"/api/v2/dags/{DAG_ID}/dagRuns", dag_run_id=run_id, logical_date=None, conf=conf)
            except ApiError as error:
                if error.status != HTTPStatus.CONFLICT:  # the order came through, only its answer did not
                    raise
            time.sleep(ORDER_SECONDS)
        return run_id

    def state(self, run_id: str) -> str:
        """``running``, ``success`` …"""
        return str(self._call("GET", self._path(run_id))["state"])

    def task(self, run_id: str) -> tuple[str, int]:
        """State of the task, and the number of its newest try."""
        task = self._call("GET", f"{self._path(run_id)}/taskInstances/embed")
        return task["state"], task["try_number"]

    def taken_for_dead(self) -> int:
        """Tries that Airflow has given up on because it heard nothing of them."""
        return int(self._call("GET", "/api/v2/eventLogs?event=heartbeat%20timeout&limit=1")["total_entries"])

    def summary(self, run_id: str) -> dict[str, Any]:
        """What the operator returned."""
        path = f"{self._path(run_id)}/taskInstances/embed/xcomEntries/return_value?stringify=false"
        return dict(self._call("GET", path)["value"])

    def last_words(self, run_id: str, lines: int = 25) -> str:
        """The end of the log of the last try, for whoever must find out what went wrong."""
        task = self._call("GET", f"{self._path(run_id)}/taskInstances/embed")
        log = list(self.airflow.log_lines(DAG_ID, run_id, "embed", task["try_number"]))
        return "\n".join([f"{run_id}, try {task['try_number']}, {task['state']}:", *log[-lines:]])

    def wait_for(self, what: str, happened: Callable[[], bool], seconds: float) -> None:
        """Return when something has happened; ``TimeoutError`` when it does not happen."""
        until = time.monotonic() + seconds
        while not happened():
            if time.monotonic() > until or self.ended.is_set():
                raise TimeoutError(f"{what}: not within {seconds:.0f} s")
            time.sleep(0.02)

    def _path(self, run_id: str) -> str:
        return self.airflow.run_path(DAG_ID, run_id)

    def _call(self, method: str, path: str, **body: object) -> Any:
        """Ask Airflow, again while its database (SQLite, and many who write) is locked."""
        for _ in range(9):
            try:
                return self.airflow.call(method, path, body or None)
            except ApiError as error:
                if error.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise
            time.sleep(0.5)
        return self.airflow.call(method, path, body or None)


@contextmanager
def open_world(folder: Path) -> Iterator[World]:
    """Start all of it below ``folder``; at the end nothing is left running."""
    temporary = folder / "tmp"  # a killed process leaves its temporary files; here they are found and removed
    temporary.mkdir(parents=True)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    try:
        with (
            Sandbox(
                engine="hashed", dimensions=32, latency=LATENCY, user="chaos", password="made-up-secret"
            ) as sandbox,
            Sessions(folder / "sessions") as sessions,
        ):
            endpoint = "http://{}:{}".format(*moto.get_host_and_port())
            keys = {"region_name": "us-east-1", "endpoint_url": endpoint}
            client = boto3.client("s3", aws_access_key_id="made-up", aws_secret_access_key="made-up-secret", **keys)
            settings = {
                "TMPDIR": str(temporary),
                "PYTHONPATH": os.pathsep.join([str(CHECKOUT), str(HERE / "preload"), os.environ.get("PYTHONPATH", "")]),
                "AIRFLOW_CONN_MODELSTUDIO_DEFAULT": json.dumps(
                    {"conn_type": "modelstudio", "host": sandbox.url, "login": "chaos", "password": "made-up-secret"}
                ),
                "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(
                    {"conn_type": "aws", "login": "made-up", "password": "made-up-secret", "extra": keys}
                ),
                "AIRFLOW__CORE__PARALLELISM": "12",
                "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
                # A task without a supervisor is missed after twenty seconds, not five minutes. A healthy one has
                # six heartbeats in that time, of which a busy machine may lose five.
                "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
                "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
                "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "3",
                "AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS": "7",
            }
            airflow = PrivateAirflow(sessions, dags=HERE / "dags", port=_free_port(), settings=settings)
            airflow.migrate()
            airflow.start(DAG_ID)
            yield World(
                sandbox=sandbox,
                airflow=airflow,
                sessions=sessions,
                disk=Disk(folder / "disk"),
                bucket=Bucket(client, "chaos", "aws_default"),
            )
    finally:
        moto.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
