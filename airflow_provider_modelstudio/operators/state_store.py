"""What Airflow itself keeps of a task while it runs, from 3.3 on: its progress, and whether this try still counts."""

from __future__ import annotations

import logging
from dataclasses import asdict
from http import HTTPStatus
from typing import TYPE_CHECKING

from airflow_provider_modelstudio.inference.errors import OutageError, SupersededError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_modelstudio.inference.engine import Progress

__all__ = ["fence", "keep_progress"]

log = logging.getLogger(__name__)


def keep_progress(context: Context, progress: Progress) -> None:
    """Let Airflow show where the run is. A display must not stop paid work, so nothing is raised."""
    store = context.get("task_state_store")
    if store is None:  # before Airflow 3.3
        return
    try:
        store.set("progress", asdict(progress))
    except Exception:
        log.debug("progress could not be stored", exc_info=True)


def fence(context: Context, run_key: str) -> None:
    """Ask Airflow whether this try still counts: a try that it has given up on may not write its state any more.

    Raises :class:`~..inference.errors.SupersededError` when it does not, and :class:`~..inference.errors.OutageError`
    when nobody answers: whoever cannot be asked may have given up on us.
    """
    store = context.get("task_state_store")
    if store is None:  # before Airflow 3.3
        return
    try:
        store.set("commit", run_key)
    except ValueError as error:  # a setting of Airflow that makes no sense: nobody was asked, or ever will be
        log.warning("Airflow could not be asked whether this try still counts (%s)", type(error).__name__)
    except Exception as error:
        status = _status(error)
        if status in _GIVEN_UP:
            raise SupersededError("Airflow has given up on this try; the next one commits") from error
        if status is None or status in _LATER or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise OutageError(
                "Airflow could not be asked whether this try still counts; nothing is lost, and the next try commits "
                "without paying again"
            ) from error
        log.warning("Airflow knows this try, but does not keep its state (%s)", status)


_GIVEN_UP = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.GONE})
_LATER = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})


def _status(error: Exception) -> int | None:
    """What Airflow's API server said, as a task process hears it, or as a Dag that is tested in one process does;
    ``None`` when it said nothing.
    """
    detail = getattr(getattr(error, "error", None), "detail", None) or {}
    response = getattr(error, "response", None)
    status: int | None = detail.get("status_code") if response is None else response.status_code
    return status
