"""A run of a Dag, told while it goes on."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from demo.private_airflow import ApiError

if TYPE_CHECKING:
    from demo.private_airflow import PrivateAirflow
    from demo.screen import Screen
    from demo.sessions import Sessions

__all__ = ["RunFailedError", "watch"]

POLL_SECONDS = 1.0
LOG_LINES = 30
ENDED = {"success", "failed"}
GONE_WRONG = {"failed", "up_for_retry", "upstream_failed"}


class RunFailedError(Exception):
    """The run did not succeed; the text has the end of the log of the task that failed."""


def watch(airflow: PrivateAirflow, sessions: Sessions, screen: Screen, dag_id: str, run_id: str) -> dict[str, Any]:
    """Show the run until it has ended, and return what each task returned.

    Raises :class:`RunFailedError`, or :class:`~demo.sessions.ProgramEndedError` when a part of Airflow has ended.
    """
    run = airflow.run_path(dag_id, run_id)
    shown: dict[str, tuple[str, int]] = {}
    while True:
        sessions.check()
        state = airflow.get(run)["state"]
        tasks = airflow.get(f"{run}/taskInstances")["task_instances"]
        for task in sorted(tasks, key=lambda task: task["start_date"] or "~"):
            now = (task["state"] or "waiting", task["try_number"])
            if shown.get(task["task_id"], ("waiting", 0))[0] != now[0] and now[0] not in {"scheduled", "queued"}:
                seconds = f" after {task['duration']:.0f} s" if now[0] in ENDED and task["duration"] else ""
                screen.line(f"  {task['task_id']:<8} {now[0]}{seconds}")
                if now[0] in GONE_WRONG:
                    screen.plain(_end_of_log(airflow, dag_id, run_id, task["task_id"], task["try_number"]))
                shown[task["task_id"]] = now
            if now[0] == "running" and (progress := _progress(airflow, run, task["task_id"])):
                screen.passing(f"  {task['task_id']:<8} {progress}")
        if state in ENDED:
            break
        time.sleep(POLL_SECONDS)
    if state == "failed":
        raise RunFailedError(f"the run {run_id} of the Dag {dag_id} failed")
    return {task["task_id"]: _returned(airflow, run, task["task_id"]) for task in tasks}


def _progress(airflow: PrivateAirflow, run: str, task_id: str) -> str:
    try:
        told = airflow.get(f"{run}/taskInstances/{task_id}/state-store/progress")["value"]
    except ApiError:
        return ""  # it has said nothing so far
    left = told.get("seconds_left")
    return "{rows_done:,} of {rows:,} rows, {rows_per_second:.0f} rows/s".format_map(told) + (
        f", about {left:.0f} s left" if left is not None else ""
    )


def _returned(airflow: PrivateAirflow, run: str, task_id: str) -> Any:
    """``None`` for a task that returned nothing, as one that was skipped."""
    try:
        return airflow.get(f"{run}/taskInstances/{task_id}/xcomEntries/return_value?stringify=false")["value"]
    except ApiError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return None
        raise


def _end_of_log(airflow: PrivateAirflow, dag_id: str, run_id: str, task_id: str, attempt: int) -> str:
    try:
        lines = list(airflow.log_lines(dag_id, run_id, task_id, attempt))
    except ApiError as error:
        lines = [f"(no log: {error})"]
    return "\n".join(f"    {line}" for line in lines[-LOG_LINES:])
