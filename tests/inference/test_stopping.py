"""Asked to stop: whatever is slow just then, answers in flight are kept, and nobody waits for what is not needed."""

from __future__ import annotations

import asyncio
import sys
import threading
import time

import pyarrow as pa
import pytest

from airflow_provider_modelstudio.inference.dataset import Source
from airflow_provider_modelstudio.inference.dataset.parts import PartWriter
from airflow_provider_modelstudio.inference.engine import StopSignal, run_apart
from airflow_provider_modelstudio.inference.errors import InterruptedRunError
from airflow_provider_modelstudio.inference.storage.local import LocalStorage
from tests.inference.fakes import Scripted

TEXTS = [f"row number {i}" for i in range(600)]
LONG = 2.0
"""Seconds that something slow takes at most; a stop must not wait for it."""


class Slow:
    """Something that takes long, until it is let go."""

    def __init__(self):
        self.begun = threading.Event()
        self.released = threading.Event()

    def __call__(self):
        self.begun.set()
        self.released.wait(LONG)


@pytest.fixture
def slow():
    one = Slow()
    yield one
    one.released.set()


def reading(wait, *, survey):
    """A source of which the second window, as the survey or as the feeder reads it, is ``wait``-ed for."""

    class Waiting(Source):
        __slots__ = ()

        def windows(self, ranges, columns=None):
            for number, window in enumerate(Source.windows(self, ranges, columns)):
                if number and survey == (columns is not None):
                    wait()
                yield window

    return lambda source: Waiting(source.filesystem, source.location, source.files, source.schema)


@pytest.mark.parametrize("who", ["report", "fence"])
def test_whoever_answers_late_holds_up_nobody(place, who):
    """While Airflow is told how far the run is, or asked before the commit, the loop goes on: it has answers to keep."""
    asked, turned = threading.Event(), threading.Event()

    def late(*told):
        asked.set()
        waited.append(turned.wait(LONG))

    async def turning():
        while not asked.is_set():  # noqa: ASYNC110  # another thread sets it
            await asyncio.sleep(0.01)
        turned.set()

    async def all_of_it():
        turn = asyncio.create_task(turning())
        summary = await place.start(Scripted(lambda number, texts: asyncio.sleep(0.01)), **{who: late})
        await turn
        return summary

    waited = []
    place.write(TEXTS)
    assert run_apart(all_of_it(), StopSignal()).embedded == len(TEXTS)
    assert waited
    assert all(waited)


def stopped_after(place, service, stop, **options):
    """Seconds from the wish to stop to the end of the run."""
    at = []
    ask = stop.request

    def request():
        at.append(time.monotonic())
        ask()

    stop.request = request
    with pytest.raises(InterruptedRunError):
        run_apart(place.start(service, stop=stop, **options), stop)
    return time.monotonic() - at[0]


def answering_late(slow, stop):
    """A service whose first answers come while the run is stopping and something is slow."""

    def script(number, texts):
        async def wait():
            await asyncio.to_thread(slow.begun.wait, LONG)
            stop.request()
            await asyncio.sleep(0.05)
            assert not slow.released.is_set(), "the loop waited"

        return wait()

    return Scripted(script)


def test_answers_in_flight_are_kept_while_a_source_is_slow(place, slow):
    """The loop is free: they become durable although the reader's thread hangs, and the run ends without it."""
    place.write(TEXTS)
    stop = StopSignal()
    first = answering_late(slow, stop)
    assert stopped_after(place, first, stop, arrange=reading(slow, survey=False)) < LONG / 2
    slow.released.set()
    assert first.billed
    second = Scripted()
    place.run(second)
    place.check(TEXTS)
    assert first.billed + second.billed == dict.fromkeys(TEXTS, 1)


def test_a_stop_is_heard_while_the_source_is_looked_through(place):
    """A large source takes minutes, in which nothing is asked: the survey ends with the window it reads."""
    place.write(TEXTS)
    stop = StopSignal()
    windows = []

    def wait():
        windows.append(1)
        if len(windows) == 2:
            stop.request()
        time.sleep(0.01)

    service = Scripted()
    stopped_after(place, service, stop, arrange=reading(wait, survey=True))
    assert len(windows) <= 3
    assert service.requests == 0
    place.run(service)
    place.check(TEXTS)


def test_a_stop_is_heard_while_the_end_is_told(place, slow):
    """Everything is answered, and Airflow takes minutes to hear of it: the next try has only the commit to do."""
    place.write(TEXTS)
    stop, service = StopSignal(), Scripted()
    threading.Thread(target=lambda: (slow.begun.wait(), stop.request()), daemon=True).start()
    told = {"report": lambda progress: slow(), "progress_seconds": 1000.0}  # only at the end
    assert stopped_after(place, service, stop, **told) < LONG / 2
    slow.released.set()
    place.run(service)
    place.check(TEXTS)
    assert service.billed == dict.fromkeys(TEXTS, 1)


def test_a_stop_is_heard_while_the_source_is_listed_once_more(place, slow):
    """Everything is answered, and the listing before the commit hangs: the run ends without it."""

    class Hanging(Source):
        __slots__ = ()

        def check_unchanged(self):
            if service.billed.total() == len(TEXTS):
                slow()
            Source.check_unchanged(self)

    def arrange(source):
        return Hanging(source.filesystem, source.location, source.files, source.schema)

    place.write(TEXTS)
    stop, service = StopSignal(), Scripted()
    threading.Thread(target=lambda: (slow.begun.wait(), stop.request()), daemon=True).start()
    assert stopped_after(place, service, stop, arrange=arrange, drain_seconds=0.05) < LONG / 2
    slow.released.set()
    place.run(service)
    place.check(TEXTS)
    assert service.billed == dict.fromkeys(TEXTS, 1)


def test_a_second_signal_in_the_middle_of_the_first_stops_as_well():
    """Signals come at any moment, so also while one is heard: nothing there may wait for itself."""
    stop, lines = StopSignal(), []

    def interrupted(frame, event, argument):  # Python traces nothing in here
        lines.append(frame.f_lineno)
        stop.request()
        return interrupted

    def first():
        sys.settrace(interrupted)
        stop.request()
        sys.settrace(None)

    thread = threading.Thread(target=first, daemon=True)
    thread.start()
    thread.join(LONG)
    assert not thread.is_alive()
    assert len(lines) > 2
    assert stop.requested


def test_many_calls_to_a_store_leave_room_for_one_more():
    """A dozen writes that hang on a machine of two cores do not keep the lease from being renewed."""
    barrier = threading.Barrier(20)

    async def many():
        await asyncio.gather(*(asyncio.to_thread(barrier.wait, LONG) for _ in range(20)))

    run_apart(many(), StopSignal())


def test_a_survey_that_hears_nothing_is_left_behind(place, slow):
    """It hangs in a read: the run ends all the same, and what the survey still does then harms nobody."""
    place.write(TEXTS)
    stop = StopSignal()
    threading.Thread(target=lambda: (slow.begun.wait(), stop.request()), daemon=True).start()
    assert stopped_after(place, Scripted(), stop, arrange=reading(slow, survey=True), drain_seconds=0.05) < LONG / 2
    slow.released.set()
    place.run()
    place.check(TEXTS)


@pytest.mark.parametrize("reads_before", [0, 1], ids=["its footer", "its rows"])
def test_answers_in_flight_are_kept_while_a_finished_part_is_slow(place, slow, reads_before):
    """What is on record is read in a thread as well."""
    place.write(TEXTS[:400])
    place.run(part_rows=25)
    place.write(["new", *TEXTS[:400], *TEXTS[400:]])
    stop = StopSignal()
    first = answering_late(slow, stop)

    opened, reads = [], []

    class SlowParts(LocalStorage):
        async def open(self, key):
            file = await super().open(key)
            opened.extend([key] if "/parts/" in key else [])
            return pa.PythonFile(SlowFile(file), mode="r") if len(opened) == 3 else file

    class SlowFile:
        closed = False

        def __init__(self, file):
            self.file = file
            self.tell, self.seek, self.close = file.tell, file.seek, file.close

        def read(self, size):
            reads.append(size)
            until = time.monotonic() + LONG
            while not first.requests and time.monotonic() < until:
                time.sleep(0.005)
            if len(reads) > reads_before:
                slow()
            return self.file.read(size)

    threading.Timer(0.5, slow.released.set).start()  # the loop's own threads are waited for
    with pytest.raises(InterruptedRunError):
        run_apart(place.start(first, stop=stop, storage=SlowParts, part_rows=50), stop)
    second = Scripted()
    place.run(second, part_rows=50)
    assert first.billed
    assert (first.billed + second.billed) == dict.fromkeys(["new", *TEXTS[400:]], 1)


def test_a_part_that_is_being_finished_is_dropped_after_that(tmp_path):
    """A run that is stopped may drop a file that another thread closes: one after the other, and nothing is left."""
    schema = pa.schema([("x", pa.int64())])
    for i in range(50):
        writer = PartWriter(tmp_path / f"{i}.parquet", schema, [])
        writer.write(pa.record_batch([list(range(2000))], schema=schema))
        closing = threading.Thread(target=writer.close)
        closing.start()
        writer.discard()
        closing.join()
    assert list(tmp_path.iterdir()) == []
