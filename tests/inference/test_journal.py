"""The journal, of one writer or several, in logs or objects: what it acknowledges is there, whatever else fails or overlaps."""

from __future__ import annotations

import asyncio
import struct
import zlib
from dataclasses import dataclass, field
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_modelstudio.inference.errors import StorageError
from airflow_provider_modelstudio.inference.storage import ObjectMissingError
from airflow_provider_modelstudio.inference.vault.journal import (
    Journal,
    Place,
    Record,
    decode_segment,
    encode_segment,
    read_segments,
)
from tests.inference.virtual_time import run_in_virtual_time


@dataclass
class Store:
    """Objects in memory; the n-th write takes so long, and fails if it is one of those: in a log it leaves a half."""

    writers: int
    seconds: list = field(default_factory=lambda: [1.0])
    failing: frozenset = frozenset()
    has_logs: bool = False
    objects: dict = field(default_factory=dict)
    logs: list = field(default_factory=list)
    begun: int = 0
    at_once: int = 0
    most_at_once: int = 0

    def locate(self, key):
        return key

    async def write(self, done, torn=lambda: None):
        number = self.begun
        self.begun += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.seconds[number % len(self.seconds)])
            if number in self.failing:
                torn()
                raise StorageError(f"write {number} failed")
            done()
        finally:
            self.at_once -= 1

    async def create(self, key, *content):
        assert key not in self.objects
        await self.write(lambda: self.objects.update({key: b"".join(content)}))

    async def start_log(self, key):
        if not self.has_logs:
            return None
        assert key not in self.objects
        await asyncio.sleep(0.01)
        self.objects[key] = b""
        self.logs.append(MemoryLog(self, key))
        return self.logs[-1]

    async def list_keys(self, prefix):
        return sorted(key for key in self.objects if key.startswith(prefix + "/"))

    async def delete(self, *keys):
        for key in keys:
            await asyncio.sleep(0.01)
            self.objects.pop(key, None)

    async def delete_unless_grown(self, key, size):
        if len(self.objects[key]) <= size:
            await self.delete(key)

    async def read(self, key, start=0, end=None):
        return self.objects[key][start:end]


@dataclass
class MemoryLog:
    """One at a time, and nothing after an error."""

    store: Store
    key: str
    busy: bool = False
    broken: bool = False

    async def append(self, *content):
        assert (self.busy, self.broken) == (False, False)
        self.busy, self.broken = True, True
        whole = b"".join(content)
        await self.store.write(lambda: self.grow(whole), lambda: self.grow(whole[: len(whole) // 2]))
        self.busy = False
        if self.key not in self.store.objects:
            raise ObjectMissingError(self.key)
        self.broken = False

    def grow(self, content):
        if self.key in self.store.objects:
            self.store.objects[self.key] += content


class Good:
    """A lease that holds."""

    def check(self):
        pass


def record(number, parts=(0,), error=None):
    columns = pa.record_batch({"x": pa.array([number], pa.int64())})
    return Record([number.to_bytes(16, "big")], [number], columns, [error], frozenset(parts))


async def on_record(store):
    """Number → answer, as the next attempt finds them."""
    fresh = Journal(store, "cache", "run")
    found = {}
    for key in await fresh.segments():
        reading = await fresh.read(key)
        assert not reading.damaged
        for place, segment in reading.segments:
            assert (await fresh.segment(place)).keys == segment.keys
            numbers = [int.from_bytes(one, "big") for one in segment.keys.to_pylist()]
            assert numbers == segment.rows.to_pylist()
            found.update(zip(numbers, segment.answers.column("x").to_pylist(), strict=True))
    return found


STORES = [
    pytest.param(1, False, id="1 writer"),
    pytest.param(2, False, id="2 writers"),
    pytest.param(8, False, id="8 writers"),
    pytest.param(1, True, id="logs"),
]
appends = st.lists(st.floats(0, 6), min_size=1, max_size=30)
"""When each is asked to be made durable."""


@pytest.mark.parametrize(("writers", "has_logs"), STORES)
@given(
    whens=appends,
    seconds=st.lists(st.floats(0.01, 3), min_size=1, max_size=8),
    failing=st.frozensets(st.integers(0, 12)),
    log_bytes=st.sampled_from([1, 1_000, 1_000_000]),
)
def test_what_is_acknowledged_is_durable_and_a_failure_is_told_to_its_own_appends(
    writers, has_logs, whens, seconds, failing, log_bytes
):
    """At the moment of each acknowledgement a fresh journal finds the answer; who is not acknowledged is told, and is
    not there: exactly those that lay in a segment that failed.
    """
    store = Store(writers, seconds, failing, has_logs)
    journal = Journal(store, "cache", "run", log_bytes=log_bytes)
    fates = {}

    async def append(number, when):
        await asyncio.sleep(when)
        try:
            await journal.append(record(number))
        except StorageError as error:
            fates[number] = str(error)
            assert number not in await on_record(store)
        else:
            fates[number] = None
            assert (await on_record(store))[number] == number

    async def all_of_them():
        await asyncio.gather(*(append(number, when) for number, when in enumerate(whens)))
        assert await on_record(store) == {number: number for number, fate in fates.items() if fate is None}

    run_in_virtual_time(all_of_them())
    assert len(fates) == len(whens)
    assert {fate for fate in fates.values() if fate} == {
        f"write {number} failed" for number in failing if number < store.begun
    }
    assert store.most_at_once <= writers


def test_a_slow_segment_holds_up_no_other():
    """With two writers, answers that come while one segment is slow go into the next one, all of them together."""
    store = Store(2, [5.0, 1.0, 1.0])
    journal = Journal(store, "cache", "run")
    done = {}

    async def append(number, when):
        await asyncio.sleep(when)
        await journal.append(record(number))
        done[number] = round(asyncio.get_running_loop().time() - 1000.0, 1)

    async def all_of_them():
        await asyncio.gather(*(append(number, 0.1 * number) for number in range(6)))

    run_in_virtual_time(all_of_them())
    assert done == {0: 5.0, 1: 1.1, 2: 2.1, 3: 2.1, 4: 2.1, 5: 2.1}
    assert (store.begun, store.most_at_once) == (3, 2)


@pytest.mark.parametrize("store", [Store(8, [1.0, 1.0, 1.0, 1.0, 3.0]), Store(1, [0.05] * 4 + [3.0], has_logs=True)])
def test_a_part_is_dropped_while_segments_are_written(store):
    """What only it waited for goes; what other parts wait for, what is being written, and each reason stay."""
    journal = Journal(store, "cache", "run", log_bytes=1)

    async def together():
        await asyncio.gather(
            journal.append(record(0, {0})),
            later(0.1, record(1, {0, 1})),
            later(0.2, record(2, {1})),
            later(0.3, record(3, {0}, "refused")),
        )
        writing = asyncio.create_task(journal.append(record(4, {1})))
        await asyncio.sleep(0.5)
        await journal.drop_part(0)
        assert sorted(await on_record(store)) == [1, 2, 3]
        await writing
        assert sorted(await on_record(store)) == [1, 2, 3, 4]
        await journal.drop_part(1)
        assert sorted(await on_record(store)) == [3]

    async def later(seconds, one):
        await asyncio.sleep(seconds)
        await journal.append(one)

    run_in_virtual_time(together())


@pytest.mark.parametrize(("writers", "has_logs"), STORES)
def test_an_append_right_after_an_acknowledgement_is_written(writers, has_logs):
    """Whoever hears of a write may ask for the next one before the writer is gone."""
    store = Store(writers, has_logs=has_logs)
    journal = Journal(store, "cache", "run")

    async def one_after_the_other(first):
        for number in range(first, first + 5):
            await journal.append(record(number))

    async def all_of_them():
        await asyncio.gather(*(one_after_the_other(10 * i) for i in range(writers)))
        assert sorted(await on_record(store)) == sorted(10 * i + j for i in range(writers) for j in range(5))

    run_in_virtual_time(all_of_them())


def logged(**options):
    """A store that has logs, and a journal on it."""
    store = Store(1, has_logs=True)
    return store, Journal(store, "cache", "run", **options)


def test_segments_follow_each_other_until_a_log_is_large():
    """One object for many segments; the next one begins after so many bytes."""
    store, journal = logged()
    small = len(b"".join(encode_segment([record(0)], "run")))

    async def all_of_them():
        for number in range(5):
            await journal.append(record(number))
        assert len(store.objects) == 1
        few = Journal(store, "cache", "run", log_bytes=2 * small)
        few.epoch = "another"
        for number in range(5, 10):
            await few.append(record(number))
        assert [len(content) for content in store.objects.values()] == [5 * small, 2 * small, 2 * small, small]
        assert await on_record(store) == {number: number for number in range(10)}

    run_in_virtual_time(all_of_them())


def test_after_an_error_a_new_log_begins():
    """Nobody knows how much of a failed write is there: what was acknowledged before is read, and so is what comes next."""
    store, journal = logged()
    store.failing = frozenset({2})

    async def all_of_them():
        await journal.append(record(0))
        await journal.append(record(1))
        with pytest.raises(StorageError, match="write 2 failed"):
            await journal.append(record(2))
        await journal.append(record(3))
        assert await on_record(store) == {0: 0, 1: 1, 3: 3}
        first, second = [read_segments(key, content) for key, content in store.objects.items()]
        assert (first.cut, first.damaged, len(first.segments)) == (True, False, 2)
        assert (second.cut, second.damaged, len(second.segments)) == (False, False, 1)
        await journal.drop_part(0)
        assert store.objects == {}

    run_in_virtual_time(all_of_them())


def test_a_log_that_somebody_removed_costs_no_answer():
    """An attempt that took this one for dead: the answer goes into another log, and is acknowledged only then."""
    store, journal = logged()

    async def all_of_them():
        await journal.append(record(0))
        (gone,) = store.objects
        writing = asyncio.create_task(journal.append(record(1)))
        await asyncio.sleep(0.5)
        await store.delete(gone)
        await asyncio.sleep(1.0)
        assert not writing.done()
        await writing
        assert await on_record(store) == {1: 1}
        assert gone not in store.objects
        await journal.append(record(2))
        assert await on_record(store) == {1: 1, 2: 2}
        assert len(store.objects) == 1

    run_in_virtual_time(all_of_them())


def test_what_is_only_in_finished_parts_goes_with_its_log():
    """The log that is written, too; the next answer begins another."""
    store, journal = logged()

    async def all_of_them():
        await journal.append(record(0, {0, 1}))
        await journal.append(record(1, {0}))
        await journal.drop_part(0)
        assert await on_record(store) == {0: 0, 1: 1}
        await journal.drop_part(1)
        assert store.objects == {}
        await journal.append(record(2, {2}))
        assert await on_record(store) == {2: 2}

    run_in_virtual_time(all_of_them())


@pytest.mark.parametrize("has_logs", [False, True])
def test_a_reason_stays_until_the_commit(has_logs):
    """In an object of its own: what came together with it goes with its part."""
    store = Store(1, has_logs=has_logs)
    journal = Journal(store, "cache", "run")

    async def all_of_them():
        together = (record(0, {0}), record(1, {0}, "refused"), record(2, {0}), record(3, {0}))
        await asyncio.gather(*map(journal.append, together))
        assert await on_record(store) == {0: 0, 1: 1, 2: 2, 3: 3}
        await journal.drop_part(0)
        assert await on_record(store) == {1: 1}
        await journal.drop(await journal.segments(), Good())
        assert store.objects == {}

    run_in_virtual_time(all_of_them())


def test_a_log_that_has_grown_since_it_was_read_stays():
    """Somebody who was frozen woke up and kept an answer in it; what has not grown goes, whoever wrote it."""
    store, frozen = logged()
    frozen.epoch = "00000001-frozen"
    other, newer = Journal(store, "cache", "run"), Journal(store, "cache", "run")
    other.epoch, newer.epoch = "00000002-other", "00000003-newer"

    async def all_of_them():
        await frozen.append(record(0))
        await other.append(record(1))
        before = await newer.segments()
        for key in before:
            await newer.read(key)
        await frozen.append(record(2))
        await newer.append(record(3))
        await newer.drop(await newer.segments(), Good())
        assert await on_record(store) == {0: 0, 2: 2}
        await frozen.append(record(4))
        assert await on_record(store) == {0: 0, 2: 2, 4: 4}

    run_in_virtual_time(all_of_them())


MAGIC = encode_segment([record(0)], "run")[0][:4]
blobs = st.lists(
    st.one_of(
        st.binary(max_size=20),
        st.sampled_from([MAGIC, MAGIC * 5, MAGIC + bytes(12), MAGIC + b"\xff" * 12]),
        st.integers(0, 200).map(lambda size: MAGIC + bytes(4) + size.to_bytes(8, "little") + bytes(size)),
    ),
    min_size=1,
    max_size=4,
)
"""Answers, and among them some that look as if a segment began there."""


@given(st.lists(blobs, min_size=1, max_size=6), st.data())
def test_whatever_happens_to_one_segment_all_others_are_read(answers, data):
    """The end of an object may be missing, and a byte of it changed, wherever they are: exactly what that has not touched is
    read. What is cut is not called damaged, unless the length that it names is what was changed.
    """
    pieces = [b"".join(encode_segment([_blobs(i, some)], "run")) for i, some in enumerate(answers)]
    starts = [sum(map(len, pieces[:i])) for i in range(len(pieces) + 1)]
    whole = b"".join(pieces)
    kept = data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole)), st.sampled_from(starts)), "kept")
    content = bytearray(whole[:kept])
    flipped = data.draw(st.one_of(st.none(), st.integers(0, kept - 1)) if kept else st.none(), "flipped")
    if flipped is not None:
        content[flipped] ^= data.draw(st.integers(1, 255), "bits")
    reading = read_segments("key", bytes(content))
    bounds = list(pairwise(starts))
    touched = next((i for i, (start, end) in enumerate(bounds) if flipped is not None and start <= flipped < end), None)
    sound = [i for i, (_, end) in enumerate(bounds) if end <= kept and i != touched]
    assert [place for place, _ in reading.segments] == [Place("key", *bounds[i]) for i in sound]
    for i, (place, segment) in zip(sound, reading.segments, strict=True):
        again = decode_segment(bytes(content[place.start : place.end]))
        for one in (segment, again):
            assert one.run_key == "run"
            assert one.rows.to_pylist() == [i] * len(answers[i])
            assert one.answers.column("x").to_pylist() == answers[i]
    cut = kept not in starts
    if touched is None:
        assert (reading.cut, reading.damaged) == (cut, False)
    elif touched < max(sound, default=-1):
        assert (reading.cut, reading.damaged) == (cut, True)
    elif 8 <= flipped - bounds[touched][0] < 16:
        assert reading.cut is not reading.damaged
    else:  # nothing whole follows, so what was cut cannot be told from what was damaged before it
        cut = bounds[touched][1] > kept
        assert (reading.cut, reading.damaged) == (cut, not cut)


def _blobs(number, blobs):
    columns = pa.record_batch({"x": pa.array(blobs, pa.binary())})
    return Record(
        [bytes([i]) * 16 for i in range(len(blobs))], [number] * len(blobs), columns, [None] * len(blobs), frozenset()
    )


def test_what_a_disk_fills_up_with_zeros_is_no_damage():
    """Room that was made for a segment before the power went."""
    sound = b"".join(encode_segment([record(7)], "run"))
    reading = read_segments("key", sound + bytes(4096))
    assert (len(reading.segments), reading.cut, reading.damaged) == (1, True, False)
    assert read_segments("key", b"") == ([], False, False)


def test_an_answer_that_looks_like_an_empty_segment_is_none():
    """Four letters and zeros, as Arrow fills up with them: the checksum of nothing is right."""
    sound = b"".join(encode_segment([_blobs(0, [MAGIC + bytes(12)])], "run"))
    reading = read_segments("key", bytes([sound[0] ^ 1]) + sound[1:] + sound)
    assert [place for place, _ in reading.segments] == [Place("key", len(sound), 2 * len(sound))]
    assert (reading.cut, reading.damaged) == (False, True)


@pytest.mark.parametrize("body", [b"no stream of Arrow's", pa.schema([]).serialize().to_pybytes(), b"\xff" * 40])
def test_what_only_looks_like_a_segment_is_none(body):
    """The bytes of an answer are whatever somebody sent, even with the checksum of a segment."""
    sound = b"".join(encode_segment([record(0)], "run"))
    alike = struct.pack("<4sIQ", MAGIC, zlib.crc32(body), len(body)) + body
    assert decode_segment(alike) is None
    reading = read_segments("key", sound + alike + sound)
    assert [place.start for place, _ in reading.segments] == [0, len(sound) + len(alike)]
    assert (reading.cut, reading.damaged) == (False, True)
