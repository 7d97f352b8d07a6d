"""A world in which the shipped engine can be killed, frozen and lied to, in virtual time and the same way each time.

The engine, the vault and the lease are the real ones.
Only what lies beyond their seams is made up: the clock, the store, the service.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from airflow_provider_modelstudio.inference.dataset import open_source
from airflow_provider_modelstudio.inference.engine import Options, StopSignal, run
from airflow_provider_modelstudio.inference.errors import ModelStudioError
from airflow_provider_modelstudio.inference.governor import Limits
from airflow_provider_modelstudio.inference.plan import make_plan
from airflow_provider_modelstudio.inference.storage import ObjectExistsError, ObjectMissingError
from airflow_provider_modelstudio.inference.storage.object_storage import UnansweredError, again
from airflow_provider_modelstudio.inference.tasks import Answer, RequestLimits
from airflow_provider_modelstudio.inference.vault import Vault
from airflow_provider_modelstudio.inference.vault.journal import decode_segment
from airflow_provider_modelstudio.inference.vault.records import Manifest
from tests.inference.fakes import Hashes, http, vector
from tests.inference.virtual_time import run_in_virtual_time

if TYPE_CHECKING:
    from pathlib import Path

TTL = 3.0
CONCURRENCY = 4
BATCH = 5


class Store:
    """Objects in memory. The one thing that survives every crash."""

    def __init__(self):
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.shown: dict[str, bytes] | None = None
        self.durable: dict[str, float] = {}
        """Text key (hex) → when its answer became durable."""


@dataclass
class Try:
    """One try of the run, as the operating system sees it."""

    number: int
    owner: str = "run"
    epoch: str = ""
    dead: bool = False
    frozen_until: float = 0.0
    skew: float = 0.0
    """Seconds that its clock is ahead of the others and of the store."""
    in_flight: Counter = field(default_factory=Counter)
    """Texts that were billed to this try and are not durable yet."""
    answered: set = field(default_factory=set)
    """Texts of which this try has an answer."""
    replayed_at: float = 0.0
    outcome: object = None


class World:
    """One history, from a seed."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.dice = random.Random(seed)  # noqa: S311  # a history has to be the same each time
        self.folder = folder
        self.store = Store()
        self.bills: list[tuple[float, int, str]] = []
        """When, by which try, for which text. The service answers each a little differently, with the number of the bill."""
        self.lost_answers = Counter()
        self.controls = Counter()
        """Questions that were answered and are asked once more, alone, to see whether the service is well."""
        self.tries: list[Try] = []
        self.violations: list[str] = []
        self.counters = Counter()
        self.spender: Try | None = None
        """The try that read the journal last: the only one that may send."""
        self.over = False
        """The dead may be buried."""
        rows = self.dice.randint(20, 160)
        distinct = max(5, int(rows * self.dice.choice([1.0, 1.0, 0.5])))
        self.texts = [f"text {self.dice.randrange(distinct) if distinct < rows else i}" for i in range(rows)]
        self.flaky = self.dice.choice([0.0, 0.0, 0.02, 0.1])
        self.lossy = self.dice.choice([0.0, 0.0, 0.05])
        self.creates_once = self.dice.random() < 0.7
        """The store can create an object only if there is none."""
        self.part_rows = self.dice.choice([17, 40, 200])
        pq.write_table(
            pa.table({"id": list(range(rows)), "text": self.texts}), folder / "in.parquet", row_group_size=23
        )

    def vault_keys(self):
        return {hashlib.blake2b(text.encode(), digest_size=16).hexdigest(): text for text in self.texts}


async def gate(world: World, me: Try) -> None:
    """Where the world can hold a try: dead ones never come back, frozen ones come back later."""
    loop = asyncio.get_running_loop()
    while me.dead or loop.time() < me.frozen_until:
        if me.dead and world.over:
            raise asyncio.CancelledError
        if me.dead:
            await loop.create_future()
        await asyncio.sleep(me.frozen_until - loop.time())


class SimulatedStorage:
    """The storage contract over the world's store, as one try sees it."""

    def __init__(self, world: World, me: Try) -> None:
        self.world = world
        self.me = me

    destination = "/out"

    def locate(self, key):
        return key

    async def scratch(self, folder):
        return folder

    writers = 2

    async def _do(self, act):
        """Take a while; sometimes do it and lose the answer, sometimes lose the question."""
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
            return await self._put_if_absent(key, content)
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
        now = asyncio.get_running_loop().time()
        if key.startswith("epoch/"):
            self.me.epoch = key.rpartition("/")[2]
        if self.world.store.objects.get(key, (content,))[0] != content and key.endswith(".json") and "/" in key:
            self.world.counters["records changed"] += 1
            if self.world.creates_once:
                self.world.violations.append(f"{key} was created once, and then changed")
        self.world.store.objects[key] = (content, now)
        if "/journal/" in key:
            for text_key in decode_segment(content).keys.to_pylist():
                text = self.world.by_key[text_key.hex()]
                self.world.store.durable.setdefault(text, now)
                for one in self.world.tries:
                    one.in_flight.pop(text, None)

    async def create_from(self, key, path):
        content = path.read_bytes()
        if content != self.world.store.objects.setdefault(key, (content, asyncio.get_running_loop().time()))[0]:
            self.world.violations.append(f"{key} was written with two contents")
        await self._do(lambda: None)
        path.unlink()

    async def copy(self, source, key):
        await self._do(lambda: self._put(key, self._get(source)[0]))

    async def replace(self, key, content):
        await self._do(lambda: self._put(key, content))

    async def read(self, key):
        return await self._do(lambda: self._get(key)[0])

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
            spender = self.world.spender
            if (
                spender is None or spender.epoch < self.me.epoch
            ):  # one that was frozen since its claim reads, and sends nothing
                self.world.spender = self.me
        return await self._do(names)

    async def delete(self, *keys):
        for key in keys:
            await self._do(lambda key=key: self.world.store.objects.pop(key, None))

    async def clear(self, prefix):
        await self.delete(*await self.list_keys(prefix))

    async def modified(self, key):
        return await self._do(lambda: self._get(key)[1])

    async def published(self):
        shown = self.world.store.shown
        return await self._do(lambda: None if shown is None else {name: len(c) for name, c in shown.items()})

    async def publish(self, files):
        def show():
            self.world.store.shown = {name: self._get(key)[0] for name, key in files.items()}

        await self._do(show)


class Service:
    """The paid service, as one try reaches it."""

    def __init__(self, world: World, me: Try) -> None:
        self.world = world
        self.me = me

    async def infer(self, task_type, inference_id, body, *, expect_bytes):
        world, me = self.world, self.me
        loop = asyncio.get_running_loop()
        texts = json.loads(body)
        sent = loop.time()
        if world.spender is not me:
            world.violations.append(f"try {me.number} sends although try {world.spender.number} has taken over")
        await gate(world, me)
        await asyncio.sleep(world.dice.uniform(0.01, 0.2))
        if world.dice.random() < world.lossy / 2:
            world.counters["requests turned away"] += 1
            raise http(503)
        if len(texts) == 1 and me.answered >= set(texts):
            world.controls[texts[0]] += 1
        bought = {}
        # Billed from here on, whether or not the answer arrives.
        for text in texts:
            durable = world.store.durable.get(text)
            if durable is not None and durable < me.replayed_at:
                world.violations.append(f"try {me.number} paid for {text!r} although its answer was durable")
            world.bills.append((sent, me.number, text))
            bought[text] = len(world.bills)
        if world.dice.random() < world.lossy:
            world.lost_answers.update(texts)
            world.counters["lost answers"] += 1
            raise http(408)
        me.in_flight.update(texts)
        if sum(me.in_flight.values()) > CONCURRENCY * BATCH:
            world.violations.append(f"try {me.number} has {sum(me.in_flight.values())} rows paid and not durable")
        await asyncio.sleep(world.dice.uniform(0.0, 0.1))
        await gate(world, me)
        me.answered.update(texts)
        return Answer(json.dumps([[*vector(text)[:3], bought[text]] for text in texts]).encode(), "application/json")

    async def aclose(self):
        pass


async def attempt(world: World, me: Try):
    """One try of the shipped engine."""
    task = Hashes(limits=RequestLimits(rows=BATCH))
    source = open_source(LocalFileSystem(), str(world.folder / "in.parquet"))
    plan = make_plan(source.files, endpoint={}, settings={}, output={}, single_file=False, part_rows=world.part_rows)
    loop = asyncio.get_running_loop()
    options = Options(
        limits=Limits(max_concurrency=CONCURRENCY, patience=60.0, timeout=10.0),
        owner=me.owner,
        attempt=f"{world.dice.getrandbits(48):012x}",
        lease_seconds=TTL,
        clock=lambda: loop.time() + me.skew,
        progress_seconds=1000.0,
    )
    return await run(
        plan,
        source,
        task,
        inference_id="endpoint",
        transport=Service(world, me),
        vault=Vault(SimulatedStorage(world, me), plan),
        options=options,
        stop=StopSignal(),
        report=lambda progress: None,
    )


async def read_forever(world: World) -> None:
    """A reader who looks again and again: the whole dataset, or nothing."""
    while True:
        await asyncio.sleep(world.dice.uniform(0.05, 0.3))
        check_reader(world)


def check_reader(world: World) -> None:
    """What a reader sees now is whole."""
    world.counters["reads"] += 1
    objects, shown = world.store.objects, world.store.shown
    for key, (content, _) in objects.items():
        if key.endswith("/manifest.json"):
            for seal in Manifest.from_dict(json.loads(content)).parts:
                part = objects.get(seal.key)
                if part is None or hashlib.sha256(part[0]).hexdigest() != seal.sha256:
                    world.violations.append(f"the manifest names {seal.name}, which is not what it promises")
    if shown is not None:
        rows = sum(pq.ParquetFile(pa.BufferReader(content)).metadata.num_rows for content in shown.values())
        if rows != len(world.texts):
            world.violations.append(f"a reader saw {rows} of {len(world.texts)} rows")


async def history(world: World) -> None:
    """Tries that are killed, frozen, doubled; then one that nobody disturbs."""
    world.by_key = world.vault_keys()
    loop = asyncio.get_running_loop()
    reader = asyncio.create_task(read_forever(world))
    running: list[tuple[Try, asyncio.Task]] = []
    for number in range(1, world.dice.randint(2, 6)):
        me = Try(number, world.dice.choice(["run", "run", "somebody else"]), skew=world.dice.uniform(-500.0, 500.0))
        world.tries.append(me)
        running.append((me, asyncio.create_task(attempt(world, me))))
        if world.dice.random() < 0.2:  # the next one starts at the same moment
            world.counters["twins"] += 1
            continue
        await asyncio.sleep(world.dice.uniform(0.0, 3.0))
        act = world.dice.choice(["kill", "kill", "freeze", "double"])
        if act == "kill":
            world.counters["kills"] += 1
            me.dead = True
        elif act == "freeze":
            world.counters["freezes"] += 1
            me.frozen_until = loop.time() + world.dice.uniform(0.1, 4 * TTL)
        else:
            world.counters["doubles"] += 1
        await asyncio.sleep(world.dice.choice([0.0, world.dice.uniform(0.0, 2 * TTL)]))
    last = Try(99, skew=world.dice.uniform(-500.0, 500.0))
    world.tries.append(last)
    for _ in range(20):  # as Airflow would try again
        try:
            last.outcome = await attempt(world, last)
            break
        except ModelStudioError as error:
            last.outcome = error
            last.in_flight.clear()
            last.answered.clear()
            last.replayed_at = 0.0
            await asyncio.sleep(world.dice.uniform(0.5, 3.0))
    await asyncio.sleep(5 * TTL)
    world.over = True
    for _, task in running:
        task.cancel()
    reader.cancel()
    for result in await asyncio.gather(reader, *(task for _, task in running), return_exceptions=True):
        if isinstance(result, Exception) and not isinstance(result, ModelStudioError):
            raise result
    check_end(world, last)


def check_end(world: World, last: Try) -> None:
    """All rows are there, once, in order, with their own vector; nothing was paid without need."""
    if isinstance(last.outcome, Exception):
        world.violations.append(f"the undisturbed try failed: {last.outcome!r}")
        return
    check_reader(world)
    shown = [world.store.shown[name] for name in sorted(world.store.shown)]
    rows = [row for content in shown for row in pq.read_table(pa.BufferReader(content)).to_pylist()]
    expected = [(i, text, vector(text)[:3]) for i, text in enumerate(world.texts)]
    bills_match = all(world.bills[int(row["embedding"][3]) - 1][2] == row["text"] for row in rows)
    if not bills_match or [(row["id"], row["text"], row["embedding"][:3]) for row in rows] != expected:
        world.violations.append("the dataset is not what an undisturbed run would have written")
    bills = Counter(text for _, _, text in world.bills)
    world.counters["rows billed again"] += sum(n - 1 for n in bills.values() if n > 1)
    tries = defaultdict(Counter)
    for _, number, text in world.bills:
        tries[number][text] += 1
    for number, texts in tries.items():
        for text, n in texts.items():
            if n - 1 > world.lost_answers[text] + world.controls[text]:
                world.violations.append(f"try {number} paid {n} times for {text!r}")
    failures = world.counters["lost answers"] + world.counters["requests turned away"]
    if world.controls.total() > failures // 3:  # each stands for a request that failed three times
        world.violations.append(f"{world.controls.total()} questions were asked again although they were answered")


def simulate(seed: int, folder: Path) -> World:
    """Run one history; the same seed gives the same one."""
    world = World(seed, folder)
    random.seed(seed)
    run_in_virtual_time(asyncio.wait_for(history(world), 5000))
    return world


__all__ = ["World", "simulate"]
