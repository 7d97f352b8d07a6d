"""Run the loop in a thread of its own, so that what Airflow raises into the main thread finds nobody in the middle."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import uvloop

from .options import DRAIN_SECONDS

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from .options import StopSignal

__all__ = ["run_apart"]

Result = TypeVar("Result")

COLLECT_EVERY = 10_000
"""New objects between two looks for garbage, of which a run makes next to none."""


STORE_THREADS = 32
"""That wait for a store. Python's own choice is four more than there are cores: a few answers on their way to a store in
trouble would leave none to renew the lease.
"""


def run_apart(work: Coroutine[Any, Any, Result], stop: StopSignal) -> Result:
    """The result of ``work``.

    A timeout of Airflow is an exception that a signal raises wherever the main thread is.
    In a loop it would end in whatever callback runs just then, or cancel requests that are paid.
    Here it ends the waiting: the run is asked to stop, and has a moment to keep the answers in flight.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
    with _lean_memory():
        running = thread.submit(contextvars.copy_context().run, _run, work)
        try:
            return running.result()
        except BaseException:
            if not running.done():
                stop.request()
                wait([running], timeout=DRAIN_SECONDS + 1.0)
            raise
        finally:
            thread.shutdown(wait=False)


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.get_loop().set_default_executor(ThreadPoolExecutor(STORE_THREADS, thread_name_prefix="store"))
        return runner.run(work)


@contextlib.contextmanager
def _lean_memory() -> Iterator[None]:
    """Spend neither time on the objects that Airflow left behind nor memory on holes between vectors.

    Looking through some hundred thousand objects again and again for garbage takes a fifth of a run.
    Arrow's usual allocator keeps about twice the memory that jemalloc does, where there is one.
    """
    pool, thresholds = pa.default_memory_pool(), gc.get_threshold()
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY, *thresholds[1:])
    if "jemalloc" in pa.supported_memory_backends():
        pa.set_memory_pool(pa.jemalloc_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(pool)
        gc.set_threshold(*thresholds)
        gc.unfreeze()
