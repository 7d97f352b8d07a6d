"""Histories of power cuts and kills, over the shipped engine, vault and local storage."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from airflow_provider_modelstudio.inference.dataset import open_source
from airflow_provider_modelstudio.inference.engine import Options, StopSignal, run
from airflow_provider_modelstudio.inference.governor import Limits
from airflow_provider_modelstudio.inference.plan import make_plan
from airflow_provider_modelstudio.inference.storage.local import LocalStorage
from airflow_provider_modelstudio.inference.tasks import RequestLimits
from airflow_provider_modelstudio.inference.vault import Vault
from airflow_provider_modelstudio.inference.vault.journal import Journal
from tests.inference.fakes import Hashes, Scripted, http, vector
from tests.inference.virtual_time import run_in_virtual_time
from tests.powercut.disk import ModelDisk

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["InPlace", "World", "simulate"]

BATCH = 5
CONCURRENCY = 3
MOST_CUTS = 8


class InPlace(LocalStorage):
    """A store that writes where readers look, as one that knows nothing of power cuts would."""

    def _create(self, key, content):
        path = self._path(key)
        self._make_folder(path.parent)
        descriptor = self._disk.create(path)
        self._disk.write(descriptor, content)
        self._disk.sync(descriptor)
        self._disk.close(descriptor)
        self._sync(path.parent)

    def _replace(self, key, content):
        path = self._path(key)
        self._make_folder(path.parent)
        if path.exists():
            self._disk.unlink(path)
        self._create(key, [content])


class Told(Journal):
    """The journal, and what it said was durable."""

    told: set[bytes]

    async def append(self, record):
        await super().append(record)
        self.told |= set(record.keys)


class World:
    """One history, from a seed."""

    def __init__(self, seed: int, folder: Path, storage_class=LocalStorage, **lies) -> None:
        self.dice = random.Random(seed)  # noqa: S311  # a history has to be the same each time
        self.folder = folder
        self.root = folder / "disk"
        self.root.mkdir()
        self.disk = ModelDisk(self.root, self.dice, **lies)
        self.storage_class = storage_class
        self.single_file = self.dice.random() < 0.2
        self.policy = self.dice.choice(["null", "quarantine"])
        self.log_bytes = self.dice.choice([1, 3_000, 1_000_000])
        self.bad = set(self.dice.sample([f"row {i}" for i in range(60)], 4))
        self.paid = Counter()
        self.told: set[bytes] = set()
        self.told_before: set[bytes] = set()
        """What was durable before this try began."""
        self.violations: list[str] = []
        self.counters = Counter()
        self.versions: list[list[str]] = []
        self.acknowledged: list[str] | None = None
        """Texts of the version that a run said is there."""

    def write(self, texts):
        self.versions.append(texts)
        pq.write_table(pa.table({"id": list(range(len(texts))), "text": texts}), self.folder / "in.parquet")

    def service(self):
        def script(number, texts):
            async def slowly():
                await asyncio.sleep(self.dice.uniform(0.01, 0.1))
                if self.bad & set(texts):
                    return http(400, "data_inspection_failed", upstream=400)
                return None

            return slowly()

        return Scripted(script)

    def attempt(self, service):
        task = Hashes(limits=RequestLimits(rows=BATCH))
        source = open_source(LocalFileSystem(), str(self.folder / "in.parquet"))
        plan = make_plan(source.files, endpoint={}, settings={}, output={}, single_file=self.single_file, part_rows=20)
        storage = self.storage_class(
            self.root / "_out.inference", self.root / self.name, single_file=self.single_file, disk=self.disk
        )
        vault = Vault(storage, plan)
        vault.journal = Told(storage, plan.cache_key, plan.run_key, log_bytes=self.log_bytes)
        vault.journal.told = self.told
        return run(
            plan,
            source,
            task,
            inference_id="endpoint",
            transport=service,
            vault=vault,
            options=Options(
                limits=Limits(max_concurrency=CONCURRENCY, patience=60.0),
                on_row_error=self.policy,
                owner="run",
                lease_seconds=3.0,
                clock=asyncio.get_running_loop().time,
                progress_seconds=1000.0,
            ),
            stop=StopSignal(),
            report=lambda progress: None,
        )

    @property
    def name(self):
        return "out.parquet" if self.single_file else "out"

    # ------------------------------------------------------------------ what must hold

    def rows(self):
        """What readers see; ``None`` when there is nothing."""
        destination = self.root / self.name
        if not destination.exists():
            return None
        files = [destination] if self.single_file else sorted(destination.iterdir())
        return [row for file in files for row in pq.read_table(file).to_pylist()]

    def expected(self, texts):
        rows = [(i, t, None if t in self.bad else vector(t)) for i, t in enumerate(texts)]
        return [row for row in rows if row[2] is not None or self.policy == "null"]

    def check_reader(self):
        """A whole version, and never an older one than was acknowledged."""
        self.counters["looks"] += 1
        try:
            rows = self.rows()
        except Exception as error:  # noqa: BLE001  # whatever a reader stumbles over
            self.violations.append(f"a reader found a broken file: {error!r}")
            return
        seen = None if rows is None else [(row["id"], row["text"], row["embedding"]) for row in rows]
        allowed = [self.expected(texts) for texts in self.versions]
        if self.acknowledged is None:
            allowed.append(None)
        else:
            allowed = allowed[self.versions.index(self.acknowledged) :]
        if seen not in allowed:
            self.violations.append("a reader saw a dataset that is missing, half or older than was acknowledged")

    def check_summary(self, summary):
        if self.policy == "quarantine" and summary.quarantine is not None:
            apart = pq.read_table(summary.quarantine).column("text").to_pylist()
            if apart != [text for text in self.versions[-1] if text in self.bad]:
                self.violations.append("the quarantine does not hold the rows that failed, once each")

    def check_paid(self, service):
        for text, times in service.billed.items():
            if times > 1 or hashlib.blake2b(text.encode(), digest_size=16).digest() in self.told_before:
                self.violations.append(f"{text!r} was paid again although its answer was durable")
        self.paid.update(service.billed)


async def one_try(world: World, calls: int | None) -> bool:
    """Run until it ends or dies; ``True`` when it said that all is done."""
    disk, service = world.disk, world.service()
    world.told_before = set(world.told)
    disk.calls_left = calls
    ours = asyncio.all_tasks()
    trying = asyncio.create_task(world.attempt(service))
    while not trying.done() and not disk.off:
        await asyncio.wait([trying], timeout=0.05)
    died = disk.off
    for task in asyncio.all_tasks() - ours:
        task.cancel()
    (outcome,) = await asyncio.gather(trying, return_exceptions=True)
    world.check_paid(service)
    if died:
        return False
    if isinstance(outcome, BaseException):
        world.violations.append(f"an undisturbed try failed: {outcome!r}")
        raise outcome
    world.acknowledged = world.versions[-1]
    world.check_summary(outcome)
    return True


async def history(world: World) -> None:
    """Two versions of a source, each run until it is done, through cuts and kills; then all must still be there."""
    # Nobody asks after a task that the power has ended; told of it while pytest parses a failure, Python 3.11 trips.
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    dice, disk = world.dice, world.disk
    rows = [f"row {i}" for i in range(dice.choice([0, 3, 30, 60]))]
    for texts in (rows, [*rows[: len(rows) // 2], *(f"new {i}" for i in range(dice.choice([0, 7])))]):
        world.write(texts)
        for cut in range(MOST_CUTS + 1):
            dies = cut < MOST_CUTS and dice.random() < 0.85
            done = await one_try(world, dice.randrange(1, dice.choice([12, 40, 120, 400])) if dies else None)
            if not done and dice.random() < 0.3:
                world.counters["kills"] += 1
                disk.restart()
            else:
                world.counters["cuts"] += 1
                disk.cut()
            world.check_reader()
            if done or world.violations:
                break
        if world.violations:
            return
    again = world.service()
    world.told_before = set()
    await world.attempt(again)
    if again.requests:
        world.violations.append("a finished run asked again")
    world.check_reader()


def simulate(seed: int, folder: Path, storage_class=LocalStorage, **lies) -> World:
    """Run one history; the same seed gives the same one."""
    world = World(seed, folder, storage_class, **lies)
    random.seed(seed)
    try:
        run_in_virtual_time(asyncio.wait_for(history(world), 5000))
    except Exception as error:  # noqa: BLE001  # whatever a try stumbles over
        if not world.violations:
            world.violations.append(f"nothing goes on: {error!r}")
    world.counters["rows paid again"] += sum(times - 1 for times in world.paid.values())
    return world
