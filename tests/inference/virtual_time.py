"""An event loop whose time passes at once: hours of waiting take no time, and happen the same way each time."""

from __future__ import annotations

import asyncio
import selectors


class _NoSelector(selectors.DefaultSelector):
    """Never waits: the loop moves its clock instead."""

    loop: VirtualLoop

    def select(self, timeout=None):
        if timeout is None:
            raise RuntimeError("the world stands still: nobody waits for anything that will happen")
        self.loop.now += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes at once, and whose threads run in place."""

    def __init__(self):
        selector = _NoSelector()
        super().__init__(selector)
        selector.loop = self
        self.now = 1000.0

    def time(self):
        return self.now

    def run_in_executor(self, executor, func, *args):
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except BaseException as error:  # noqa: BLE001  # as an executor hands it over
            future.set_exception(error)
        return future


def run_in_virtual_time(coroutine):
    """Run to the end; whatever is still waiting then is cancelled."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.run_until_complete(_cancel_the_rest())
        loop.close()


async def _cancel_the_rest():
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
