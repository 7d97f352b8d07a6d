"""Attempts that were frozen, or waited, while a newer version was made: they harm nothing when they go on."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil

import pytest

from airflow_provider_modelstudio.inference.errors import InputChangedError, StorageError, SupersededError
from airflow_provider_modelstudio.inference.storage.local import LocalStorage
from tests.inference.fakes import Scripted, http
from tests.inference.virtual_time import run_in_virtual_time

OLD = [f"old {i}" for i in range(30)]
NEW = [*OLD[:20], *(f"new {i}" for i in range(10))]


class Frozen(LocalStorage):
    """A store that one attempt reaches only after ``meanwhile``, at one of its calls."""

    call: str
    key: re.Pattern
    meanwhile: object

    async def _reached(self, call, key):
        if self.meanwhile is not None and call == self.call and self.key.search(key):
            meanwhile, type(self).meanwhile = type(self).meanwhile, None
            await asyncio.sleep(100.0)  # so that its lease is over
            await meanwhile()

    async def create(self, key, *content):
        await self._reached("create", key)
        await super().create(key, *content)

    async def list_keys(self, prefix):
        await self._reached("list_keys", prefix)
        return await super().list_keys(prefix)


def start(place, **options):
    """A run whose lease is as virtual as its time."""
    return place.start(clock=lambda: asyncio.get_running_loop().time(), lease_seconds=3.0, **options)


def run(place, service=None, **options):
    """The same, to the end."""
    return run_in_virtual_time(start(place, service=service, **options))


def frozen(call, key, meanwhile):
    return type("FrozenHere", (Frozen,), {"call": call, "key": re.compile(key), "meanwhile": staticmethod(meanwhile)})


class Dying(LocalStorage):
    """A store that is gone before the runs that were replaced are removed."""

    async def delete(self, *keys):
        if any(key.endswith("manifest.json") for key in keys):
            raise StorageError("gone")
        await super().delete(*keys)


def test_a_run_that_waited_does_not_show_what_is_older(place):
    """It found its own version committed, and readers have a newer one: its next try looks at the source again."""
    place.write(OLD)
    waiting = start(place, owner="another")
    run(place)
    place.write(NEW)
    with pytest.raises(StorageError):
        run(place, storage=Dying)
    place.check(NEW)
    with pytest.raises(InputChangedError):
        run_in_virtual_time(waiting)
    place.check(NEW)


def test_one_that_wakes_up_removes_no_newer_run(place):
    """Frozen while it tidied up behind itself: what was committed since is not its to remove, and nothing is paid again."""
    place.write(OLD)

    async def newer():
        place.write(NEW)
        await start(place, owner="me")

    async def older():
        with pytest.raises(SupersededError):
            await start(place, storage=frozen("list_keys", r"/runs/\w+$", newer), owner="me")

    run(place, owner="before")  # so that there is a run to replace
    place.write([*OLD, "one more"])
    run_in_virtual_time(older())
    place.check(NEW)
    place.write([*NEW, "another one"])
    service = Scripted()
    run(place, service)
    assert set(service.billed) == {"another one"}


def test_a_commit_of_a_run_that_is_gone_counts_for_nothing(place):
    """Frozen in its commit, while its run was finished by others and replaced: if the source comes back, it is made anew."""
    place.write(OLD)
    source = place.source / "a.parquet"
    kept, stat = source.read_bytes(), source.stat()

    def bring_back():
        source.write_bytes(kept)
        os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    async def finished_and_replaced():
        await start(place, owner="me")
        place.write(NEW)
        await start(place, owner="another")

    async def older():
        with pytest.raises(SupersededError):
            await start(place, storage=frozen("create", r"manifest\.json$", finished_and_replaced), owner="me")

    run_in_virtual_time(older())
    place.check(NEW)
    leftover = [path for path in place.state.glob("*/runs/*/manifest.json") if not list(path.parent.glob("parts/*"))]
    assert len(leftover) == 1
    bring_back()
    service = Scripted()
    run(place, service)
    place.check(OLD)
    assert set(service.billed) == set(OLD) - set(NEW)
    assert json.loads((place.state / "published.json").read_text())["rows"] == len(OLD)


def test_answers_that_come_while_another_run_works_are_kept(place):
    """A run that was replaced still hears what it had asked, and keeps it; the one that replaced it has no use for it."""
    place.write(OLD)
    other = [f"another {i}" for i in range(30)]

    async def both():
        woken = asyncio.Event()

        async def slowly():
            await woken.wait()

        late = Scripted(lambda number, texts: slowly() if number < 3 else asyncio.sleep(1e6))
        first = asyncio.create_task(start(place, service=late, owner="one"))
        await asyncio.sleep(1.0)
        place.write(other)

        async def asked():
            if not woken.is_set():
                woken.set()
                await asyncio.sleep(1.0)

        second = await start(place, service=Scripted(lambda number, texts: asked()), owner="one")
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        return late, second

    late, second = run_in_virtual_time(both())
    assert set(late.billed) == set(OLD[:20])
    assert second.embedded == len(other)
    place.write(OLD)
    service = Scripted()
    run(place, service)
    place.check(OLD)
    assert set(service.billed) == set(OLD[20:])


def test_what_one_that_woke_up_kept_in_its_log_is_found(place):
    """Frozen with a request in flight, whose row was refused when the newer try asked: the log that the newer try had read has
    grown since, so it outlives the commit, and the next run has the answer from there.
    """
    place.write(OLD)
    last = OLD[-1]

    async def both():
        woken = asyncio.Event()

        async def slowly(texts):
            await (woken.wait() if last in texts else asyncio.sleep(1e6))

        late = Scripted(lambda number, texts: None if OLD[0] in texts else slowly(texts))
        first = asyncio.create_task(start(place, service=late, owner="one"))
        await asyncio.sleep(1.0)
        (log,) = place.state.glob("*/journal/*.seg")
        before = log.stat().st_size

        async def refused(texts):
            if not woken.is_set():
                woken.set()
                await asyncio.sleep(1.0)
            return http(400, "data_inspection_failed", upstream=400) if last in texts else None

        second = await start(place, service=Scripted(lambda number, texts: refused(texts)), owner="one")
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        return second, log, before

    second, log, before = run_in_virtual_time(both())
    assert (second.embedded, second.failed) == (len(OLD) - 1, 1)
    place.check(OLD, failed={last})
    assert list(place.state.glob("*/journal/*.seg")) == [log]
    assert log.stat().st_size > before
    place.write([*OLD, "one more"])
    service = Scripted()
    run(place, service)
    place.check([*OLD, "one more"])
    assert service.billed == {"one more": 1}
    assert list(place.state.glob("*/journal/*.seg")) == []


def test_a_state_folder_without_its_epochs_goes_on(place):
    """Brought back from a copy without them, or cleaned by somebody: a new attempt comes after all that published."""
    for texts in (NEW, OLD):
        place.write(texts)
        run(place)
    for left in ("epoch", "lease"):
        shutil.rmtree(place.state / left)
    place.write([*OLD, "one more"])
    assert run(place).embedded == 1
    place.check([*OLD, "one more"])
