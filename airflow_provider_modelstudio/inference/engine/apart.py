"""Run the loop in a thread of its own, so that what Airflow raises into the main thread finds nobody in the middle."""

from __future__ import annotations

import asyncio
import contextvars
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, TypeVar

from .sender import DRAIN_SECONDS

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from .options import StopSignal

__all__ = ["run_apart"]

Result = TypeVar("Result")


def run_apart(work: Coroutine[Any, Any, Result], stop: StopSignal) -> Result:
    """The result of ``work``.

    A timeout of Airflow is an exception that a signal raises wherever the main thread is.
    In a loop it would end in whatever callback runs just then, or cancel requests that are paid.
    Here it ends the waiting: the run is asked to stop, and has a moment to keep the answers in flight.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
    running = thread.submit(contextvars.copy_context().run, asyncio.run, work)
    try:
        return running.result()
    except BaseException:
        stop.request()
        wait([running], timeout=DRAIN_SECONDS + 1.0)
        raise
    finally:
        thread.shutdown(wait=False)
