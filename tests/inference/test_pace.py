"""What a run waits for, in virtual time: the service and nothing else."""

from __future__ import annotations

import asyncio
import itertools
import json

import numpy as np
import pyarrow as pa
import pytest

from airflow_provider_modelstudio.inference.engine import StopSignal
from airflow_provider_modelstudio.inference.engine.feeder import windows_open
from airflow_provider_modelstudio.inference.errors import InterruptedRunError, StorageError, StorageRefusedError
from airflow_provider_modelstudio.inference.governor import Limits
from airflow_provider_modelstudio.inference.storage.local import LocalStorage
from airflow_provider_modelstudio.inference.tasks import Decoded, RequestLimits
from tests.inference.fakes import Hashes, Scripted
from tests.inference.virtual_time import run_in_virtual_time


def test_what_may_be_in_flight_is_read_in_time(place):
    """Slow answers in the first windows hold up these alone: rows for all that may go later are read meanwhile."""
    texts = [f"row number {i}" for i in range(12_000)]
    place.write(texts)
    slow = {texts[at] for at in (0, 1_100, 2_200)}
    answered_meanwhile = []

    def script(number, asked):
        async def wait():
            if slow & set(asked):
                await asyncio.sleep(20.0)
                answered_meanwhile.append(service.billed.total())
            await asyncio.sleep(0.1)

        return wait()

    service = Scripted(script)
    limits = Limits(max_concurrency=128, patience=900.0)
    place.run(service, Hashes(limits=RequestLimits(rows=10)), part_rows=20_000, limits=limits)
    place.check(texts)
    assert service.most_in_flight == 128
    assert answered_meanwhile[0] > 8 * 128 * 10


@pytest.mark.parametrize(
    ("rows", "row_bytes", "windows"),
    [
        (1_280, 0.0, 2 + 10),  # nobody knows yet
        (1_280, 4_096.0, 2 + 10),  # 42 MB
        (5_120, 4_096.0, 2 + 16),  # 64 MiB instead of 168 MB
        (5_120, 16_384.0, 2 + 5),  # what is in flight has its place, whatever it takes
        (4, 1e9, 2 + 1),
        (4, 0.001, 2 + 1),
    ],
)
def test_memory_bounds_what_waits_for_slow_answers(rows, row_bytes, windows):
    """As many windows as a heavy tail needs, unless their answers are large."""
    assert windows_open(rows, row_bytes) == windows


class Wide(Hashes):
    """Vectors of 4,096 zeros."""

    def decode(self, answer, questions):
        flat = pa.array(np.zeros(4_096 * len(questions), np.float32))
        return Decoded(pa.RecordBatch.from_arrays([pa.FixedSizeListArray.from_arrays(flat, 4_096)], ["embedding"]))


def test_large_answers_open_fewer_windows(place):
    """What answers take is seen as they come; of large ones fewer wait for one that is slow."""
    texts = [f"row number {i}" for i in range(9_000)]
    place.write(texts)

    def answered_meanwhile(task, dimensions):
        counted = []

        def script(number, asked):
            async def wait():
                if texts[1_100] in asked:
                    await asyncio.sleep(20.0)
                    counted.append(service.billed.total())
                await asyncio.sleep(0.1)

            return wait()

        service = Scripted(script)
        limits = Limits(max_concurrency=64, patience=900.0)
        place.run(service, task, part_rows=20_000, limits=limits, dimensions=dimensions)
        return counted[0]

    small, large = answered_meanwhile(Hashes(setting="small"), 4), answered_meanwhile(Wide(setting="large"), 4_096)
    assert small > 7 * 1_024
    assert 5 * 1_024 < large <= 7 * 1_024


@pytest.mark.parametrize("seconds", [0.08, 0.8])
def test_nobody_waits_for_the_books(place, seconds):
    """What will be spent is written down while what was written down before is spent: as fast as with books that take no
    time, unless writing takes as long as asking that much.
    """
    texts = [f"row number {i}" for i in range(2_000)]
    place.write(texts)

    def takes(pause, name):
        class SlowBooks(LocalStorage):
            async def replace(self, key, content):
                if "/spent/" in key:
                    await asyncio.sleep(pause)
                await super().replace(key, content)

        async def timed():
            loop = asyncio.get_running_loop()
            began = loop.time()
            service = Scripted(lambda number, texts: asyncio.sleep(0.05 + number % 7 / 60))
            await place.start(service, Hashes(limits=RequestLimits(rows=1)), storage=SlowBooks, endpoint=name)
            return loop.time() - began

        return run_in_virtual_time(timed())

    names = itertools.count()
    quick, slow = (takes(pause, f"e{next(names)}") for pause in (0.0, seconds))
    assert quick < 1.1 * 2_000 / 8 * 0.1
    if seconds < 0.1:
        assert slow < quick + 5 * seconds
    else:
        assert slow > 2 * quick


def test_books_that_cannot_be_written_ahead_end_no_run(place):
    """What is counted ahead is needed later, or never: a store in trouble just then is asked again when it is."""
    texts = [f"row number {i}" for i in range(200)]
    place.write(texts)
    books = []

    class TroubledBooks(LocalStorage):
        async def replace(self, key, content):
            if "/spent/" in key:
                books.append(content)
                if len(books) == 2:  # the first one was needed at once
                    raise StorageError("a store in trouble")
            await super().replace(key, content)

    place.run(
        Scripted(lambda number, asked: asyncio.sleep(0.05 + number % 7 / 60)),
        Hashes(limits=RequestLimits(rows=1)),
        storage=TroubledBooks,
    )
    place.check(texts)
    assert len(books) > 2


@pytest.mark.parametrize("how", ["stopped", "cancelled", "cancelled twice"])
def test_books_that_nobody_answers_for_do_not_keep_a_run_from_its_end(place, how):
    """What is written ahead is given up with the run, however that ends, so that its end can write what was spent."""
    place.write([f"row number {i}" for i in range(2_000)])
    books, never, hanging = [], [], asyncio.Event()

    class HangingBooks(LocalStorage):
        async def replace(self, key, content):
            if "/spent/" in key:
                books.append(json.loads(content))
                if len(books) == 2:  # the first one was needed at once, this one is written ahead
                    hanging.set()
                    await asyncio.get_running_loop().create_future()
            await super().replace(key, content)

    async def answer(number):
        await asyncio.sleep(0.3 + number / 20)
        if number > 1:
            never.append(asyncio.get_running_loop().create_future())  # else nobody knows of it, and it is forgotten
            await never[-1]

    async def end():
        stop, service = StopSignal(), Scripted(lambda number, texts: answer(number))
        limits = Limits(max_concurrency=4)
        run = asyncio.create_task(place.start(service, storage=HangingBooks, stop=stop, limits=limits))
        await hanging.wait()
        await asyncio.sleep(0.05)
        if how == "stopped":
            stop.request()
        else:
            run.cancel()
        await asyncio.sleep(0.1)
        if how == "cancelled twice":
            run.cancel()
        await asyncio.wait({run}, timeout=600.0)
        assert run.done()
        with pytest.raises((InterruptedRunError, asyncio.CancelledError)):
            run.result()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert service.requests == books[-1]["requests"]

    run_in_virtual_time(end())
    assert len(books) == 3


def test_a_part_that_cannot_be_kept_ends_the_run_at_once(place):
    """Nobody asks for all of the next part before it is noticed."""
    rows = 20 * 1_024
    place.write([f"row number {i}" for i in range(rows)])

    class Refuses(LocalStorage):
        async def create_from(self, key, path):
            raise StorageRefusedError("nothing is taken here")

    service = Scripted(lambda number, texts: asyncio.sleep(0.05))
    with pytest.raises(StorageRefusedError, match="nothing is taken"):
        place.run(service, storage=Refuses, part_rows=rows // 2, limits=Limits(max_concurrency=4))
    assert service.billed.total() < 0.75 * rows
