"""The journal of a store with several writers: what it acknowledges is there, whatever else fails or overlaps."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_modelstudio.inference.errors import StorageError
from airflow_provider_modelstudio.inference.vault.journal import Journal, Record, decode_segment
from tests.inference.virtual_time import run_in_virtual_time


@dataclass
class Store:
    """Objects in memory; the n-th creation takes so long, and fails if it is one of those."""

    writers: int
    seconds: list = field(default_factory=lambda: [1.0])
    failing: frozenset = frozenset()
    objects: dict = field(default_factory=dict)
    begun: int = 0
    at_once: int = 0
    most_at_once: int = 0

    async def create(self, key, *content):
        number = self.begun
        self.begun += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        assert key not in self.objects
        try:
            await asyncio.sleep(self.seconds[number % len(self.seconds)])
            if number in self.failing:
                raise StorageError(f"creation {number} failed")
            self.objects[key] = b"".join(content)
        finally:
            self.at_once -= 1

    async def list_keys(self, prefix):
        return sorted(key for key in self.objects if key.startswith(prefix + "/"))

    async def delete(self, *keys):
        for key in keys:
            await asyncio.sleep(0.01)
            self.objects.pop(key, None)

    async def read(self, key):
        return self.objects[key]


def record(number, parts=(0,), error=None):
    columns = pa.record_batch({"x": pa.array([number], pa.int64())})
    return Record([number.to_bytes(16, "big")], [number], columns, [error], frozenset(parts))


async def on_record(store):
    """Number → answer, as the next attempt finds them."""
    fresh = Journal(store, "cache", "run")
    found = {}
    for key in await fresh.segments():
        segment = decode_segment(await store.read(key))
        numbers = [int.from_bytes(one, "big") for one in segment.keys.to_pylist()]
        assert numbers == segment.rows.to_pylist()
        found.update(zip(numbers, segment.answers.column("x").to_pylist(), strict=True))
    return found


appends = st.lists(st.floats(0, 6), min_size=1, max_size=30)
"""When each is asked to be made durable."""


@pytest.mark.parametrize("writers", [1, 2, 8])
@given(
    whens=appends,
    seconds=st.lists(st.floats(0.01, 3), min_size=1, max_size=8),
    failing=st.frozensets(st.integers(0, 12)),
)
def test_what_is_acknowledged_is_durable_and_a_failure_is_told_to_its_own_appends(writers, whens, seconds, failing):
    """At the moment of each acknowledgement a fresh journal finds the answer; who is not acknowledged is told, and is
    not there: exactly those that lay in a segment that failed.
    """
    store = Store(writers, seconds, failing)
    journal = Journal(store, "cache", "run")
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
        f"creation {number} failed" for number in failing if number < store.begun
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


def test_a_part_is_dropped_while_segments_are_written():
    """What only it waited for goes; what other parts wait for, what is being written, and each reason stay."""
    store = Store(8, [1.0, 1.0, 1.0, 1.0, 3.0])
    journal = Journal(store, "cache", "run")

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


@pytest.mark.parametrize("writers", [1, 2, 8])
def test_an_append_right_after_an_acknowledgement_is_written(writers):
    """Whoever hears of a write may ask for the next one before the writer is gone."""
    store = Store(writers)
    journal = Journal(store, "cache", "run")

    async def one_after_the_other(first):
        for number in range(first, first + 5):
            await journal.append(record(number))

    async def all_of_them():
        await asyncio.gather(*(one_after_the_other(10 * i) for i in range(writers)))
        assert sorted(await on_record(store)) == sorted(10 * i + j for i in range(writers) for j in range(5))

    run_in_virtual_time(all_of_them())
