"""The storage contract over the world's store, as one try sees it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pyarrow as pa

from airflow_provider_modelstudio.inference.errors import StorageError
from airflow_provider_modelstudio.inference.storage import PUBLISHED, ObjectExistsError, ObjectMissingError
from airflow_provider_modelstudio.inference.storage.object_storage import UnansweredError, again
from airflow_provider_modelstudio.inference.vault.journal import decode_segment

from .world import gate

if TYPE_CHECKING:
    from .world import Try, World

__all__ = ["SimulatedStorage"]


class SimulatedStorage:
    """Takes a while; sometimes does what it is told and loses the answer, sometimes loses the question."""

    destination = "/out"

    def __init__(self, world: World, me: Try) -> None:
        self.world = world
        self.me = me

    @property
    def writers(self):
        return 1 if self.world.grows else 2

    def locate(self, key):
        return key

    async def scratch(self, folder):
        return folder

    async def _do(self, act):
        world = self.world

        async def once():
            await gate(world, self.me)
            await asyncio.sleep(world.dice.uniform(0.001, 0.03))
            await gate(world, self.me)
            fate = world.dice.random()
            if fate < world.flaky / 2:
                world.counters["lost store questions"] += 1
                raise UnansweredError("nobody answered")
            result = act()
            if fate < world.flaky:
                world.counters["lost store answers"] += 1
                raise UnansweredError("nobody answered")
            await asyncio.sleep(world.dice.uniform(0.001, 0.01))
            await gate(world, self.me)
            return result

        return await again(once)

    async def create(self, key, *pieces):
        content = b"".join(pieces)
        if not self.world.creates_once:
            await self._put_if_absent(key, content)
            return
        try:
            await self._do(lambda: self._create(key, content))
        except ObjectExistsError:
            if await self.read(key) != content:
                raise

    async def _put_if_absent(self, key, content):
        try:
            there = await self.read(key)
        except ObjectMissingError:
            await self._do(lambda: self._put(key, content))
        else:
            if there != content:
                raise ObjectExistsError(key)

    def _create(self, key, content):
        if key in self.world.store.objects:
            raise ObjectExistsError(key)
        self._put(key, content)

    def _put(self, key, content):
        world, now = self.world, asyncio.get_running_loop().time()
        if key.startswith("epoch/"):
            self.me.epoch = key.rpartition("/")[2]
        if world.store.objects.get(key, (content,))[0] != content and key.endswith(".json") and "/runs/" in key:
            world.counters["records changed"] += 1
            if world.creates_once and not self._names_what_is_gone(key):
                world.violations.append(f"{key} was created once, and then changed")
        world.store.objects[key] = (content, now)
        if "/journal/" in key and content:
            self.kept(content)

    def kept(self, segment):
        """What is in a segment cannot be lost any more."""
        world = self.world
        for text_key in decode_segment(segment).keys.to_pylist():
            text = world.by_key[text_key.hex()]
            world.store.durable.setdefault(text, asyncio.get_running_loop().time())
            for one in world.tries:
                one.in_flight.pop(text, None)

    def _names_what_is_gone(self, key):
        """A manifest of a run that was replaced: it came from one who was frozen, and counts for nothing."""
        objects = self.world.store.objects
        return any(seal["key"] not in objects for seal in json.loads(objects[key][0]).get("parts", []))

    async def start_log(self, key):
        if not self.world.grows:
            return None
        await self._do(lambda: self._put(key, b""))
        return SimulatedLog(self, key)

    async def create_from(self, key, path):
        content = path.read_bytes()

        def put():
            if self.world.store.objects.setdefault(key, (content, asyncio.get_running_loop().time()))[0] != content:
                self.world.violations.append(f"{key} was written with two contents")

        await self._do(put)
        path.unlink()

    async def copy(self, source, key):
        await self._do(lambda: self._put(key, self._get(source)[0]))

    async def replace(self, key, content):
        await self._do(lambda: self._put(key, content))

    async def read(self, key, start=0, end=None):
        return await self._do(lambda: self._get(key)[0][start:end])

    def _get(self, key):
        try:
            return self.world.store.objects[key]
        except KeyError:
            raise ObjectMissingError(key) from None

    async def open(self, key):
        return pa.BufferReader(await self.read(key))

    async def list_keys(self, prefix):
        def names():
            below = [key for key in self.world.store.objects if key.startswith(prefix + "/")]
            return sorted({prefix + "/" + key[len(prefix) + 1 :].split("/")[0] for key in below})

        if prefix.endswith("/journal") and not self.me.replayed_at:
            self.me.replayed_at = asyncio.get_running_loop().time()
            world = self.world
            # One that was frozen since its claim reads, and sends nothing; the spender itself may have claimed again.
            if world.spent_under < self.me.epoch:
                world.spender, world.spent_under = self.me, self.me.epoch
        return await self._do(names)

    async def delete(self, *keys):
        for key in keys:
            await self._do(lambda key=key: self.world.store.objects.pop(key, None))

    async def delete_unless_grown(self, key, size):
        def delete():
            objects = self.world.store.objects
            if len(objects.get(key, (b"",))[0]) > size:
                self.world.counters["logs that had grown"] += 1
            else:
                objects.pop(key, None)

        await self._do(delete)

    async def forget_folder(self, prefix):
        pass

    @property
    def has_clock(self):
        return self.world.has_clock

    async def modified(self, key):
        return await self._do(lambda: self._get(key)[1])

    async def published(self):
        shown = self.world.store.shown
        return await self._do(lambda: None if not shown else {name: len(c) for name, c in shown.items()})

    async def publish(self, files):
        """At once, as a disk swaps a folder, or file by file, as an object store does."""
        store = self.world.store
        if not self.world.copies:

            def swap():
                store.shown = {name: self._get(key)[0] for name, key in files.items()}

            await self._do(swap)
            return
        if store.shown is None:
            store.shown = {}
        shown = await self.published() or {}
        for name, key in files.items():
            if name not in shown:
                await self._do(lambda name=name, key=key: store.shown.__setitem__(name, self._get(key)[0]))
        try:
            named = set(json.loads(await self.read(PUBLISHED))["files"])
        except ObjectMissingError:
            named = set()
        for name in sorted(set(shown) - set(files) - named):
            await self._do(lambda name=name: store.shown.pop(name, None))


class SimulatedLog:
    """A file that one process writes: in two steps, between which it may be killed, frozen, or lose the file."""

    def __init__(self, storage, key):
        self.storage = storage
        self.world = storage.world
        self.key = key

    async def append(self, *pieces):
        content, world = b"".join(pieces), self.world
        cut = world.dice.randrange(len(content) + 1)
        fate = world.dice.random()
        if fate < world.flaky / 20:  # some of it is there, or all, and nobody knows
            for key in decode_segment(content).keys.to_pylist():
                world.lost_answers[world.by_key.get(key.hex())] += 1
            content = content[: world.dice.choice([cut, len(content)])]
        for piece in (content[:cut], content[cut:]):
            await gate(world, self.storage.me)
            await asyncio.sleep(world.dice.uniform(0.0005, 0.01))
            await gate(world, self.storage.me)
            if self.key not in world.store.objects:  # it has no name any more; whoever writes does not see that yet
                continue
            before, stamp = world.store.objects[self.key]
            world.store.objects[self.key] = (before + piece, stamp)
        if self.key not in world.store.objects:
            world.counters["logs removed while they were written"] += 1
            raise ObjectMissingError(self.key)
        if fate < world.flaky / 20:
            world.counters["logs that broke"] += 1
            raise StorageError("a disk that is broken")
        self.storage.kept(content)
        await asyncio.sleep(world.dice.uniform(0.0005, 0.005))
        await gate(world, self.storage.me)
