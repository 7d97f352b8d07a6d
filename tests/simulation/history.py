"""Some versions of a source, each made by tries that are killed, frozen, stopped and doubled, then by one undisturbed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from airflow_provider_modelstudio.inference.budget import Budget
from airflow_provider_modelstudio.inference.dataset import open_source
from airflow_provider_modelstudio.inference.engine import Options, run, served
from airflow_provider_modelstudio.inference.errors import BudgetError, InterruptedRunError, ModelStudioError
from airflow_provider_modelstudio.inference.governor import Limits
from airflow_provider_modelstudio.inference.plan import make_plan
from airflow_provider_modelstudio.inference.storage import PUBLISHED
from airflow_provider_modelstudio.inference.tasks import RequestLimits
from airflow_provider_modelstudio.inference.vault import Vault
from airflow_provider_modelstudio.inference.vault.journal import Journal
from airflow_provider_modelstudio.inference.vault.records import Manifest
from tests.inference.fakes import Hashes, vector
from tests.inference.virtual_time import run_in_virtual_time

from .service import Service
from .storage import SimulatedStorage
from .world import BATCH, CONCURRENCY, TTL, Try, World

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["simulate"]

AIRFLOW_TRIES = 20
WAKING = 1.0
"""Seconds in which one that was frozen may show an older version, before it has looked at the orders again."""


def options_of(world: World, me: Try) -> Options:
    """How the engine runs in this world."""
    loop = asyncio.get_running_loop()
    return Options(
        limits=Limits(max_concurrency=CONCURRENCY, patience=60.0, timeout=10.0),
        on_row_error=world.policy,
        budget=Budget(max_requests=world.max_requests),
        owner=me.owner,
        errand=f"version {me.version}",
        attempt=f"{world.dice.getrandbits(48):012x}",
        lease_seconds=TTL,
        clock=lambda: loop.time() + me.skew,
        progress_seconds=1000.0,
    )


async def attempt(world: World, me: Try):
    """One try of the shipped engine."""
    task = Hashes(limits=RequestLimits(rows=BATCH))
    source = open_source(LocalFileSystem(), str(world.folder))
    plan = make_plan(source.files, endpoint={}, settings={}, output={}, single_file=False, part_rows=world.part_rows)
    vault = Vault(SimulatedStorage(world, me), plan)
    vault.journal = Journal(vault.storage, plan.cache_key, plan.run_key, log_bytes=world.log_bytes)
    try:
        summary = await run(
            plan,
            source,
            task,
            inference_id="endpoint",
            transport=Service(world, me),
            vault=vault,
            options=options_of(world, me),
            stop=me.stop,
            report=lambda progress: None,
        )
    except InterruptedRunError:
        world.counters["stops"] += 1
        if me.in_flight and not world.flaky:
            world.violations.append(f"try {me.number} was asked to stop and left {len(me.in_flight)} paid rows behind")
        raise
    world.acknowledged = max(me.version, world.acknowledged or 0)
    return summary


# ---------------------------------------------------------------------- what readers see


async def read_forever(world: World) -> None:
    """A reader who looks again and again."""
    while True:
        await asyncio.sleep(world.dice.uniform(0.05, 0.3))
        check_reader(world)


def check_reader(world: World) -> None:
    """A whole version, and none older than a run said is there; or nothing, before the first."""
    world.counters["looks"] += 1
    objects = world.store.objects
    record = objects.get(PUBLISHED)
    if record is not None and (manifest := objects.get(json.loads(record[0])["manifest"])) is not None:
        for seal in Manifest.from_dict(json.loads(manifest[0])).parts:
            part = objects.get(seal.key)
            if part is None or hashlib.sha256(part[0]).hexdigest() != seal.sha256:
                world.violations.append(f"the manifest names {seal.name}, which is not what it promises")
    elif record is not None and not somebody_wakes(world):
        world.violations.append("the record names a manifest that is not there")
    files = files_shown(world)
    now = (None if files is None else tuple(map(id, files)), world.acknowledged)
    if now == world.seen:
        return
    world.seen = now
    rows = None if files is None else rows_in(files)
    allowed = [expected(world, version) for version in range(world.acknowledged or 0, len(world.versions))]
    if rows is None:
        if world.acknowledged is not None:
            world.violations.append("a reader found nothing where a version had been")
    elif [(row["id"], row["text"], row["embedding"] and row["embedding"][:3]) for row in rows] not in allowed:
        older = any(rows_match(world, rows, version) for version in range(world.acknowledged or 0))
        if older and somebody_wakes(world):
            world.counters["older for a moment"] += 1  # who wakes up in the middle of a publication mends it at once
            world.seen = None
            return
        world.violations.append(f"a reader saw {'an older version' if older else 'what is no version'}")


def somebody_wakes(world: World) -> bool:
    """Whether one that was frozen may just have shown an older version, whose manifest may be gone."""
    now = asyncio.get_running_loop().time()
    return any(one.frozen_until <= now < one.frozen_until + WAKING for one in world.tries if one.frozen_until)


def rows_match(world, rows, version):
    return [(row["id"], row["text"]) for row in rows] == [row[:2] for row in expected(world, version)]


def files_shown(world: World) -> list[bytes] | None:
    """Contents of the files, as a reader opens them: by the record where files come one by one, else by the folder."""
    shown = world.store.shown
    if not world.copies:
        return None if shown is None else [shown[name] for name in sorted(shown)]
    record = world.store.objects.get(PUBLISHED)
    if record is None:
        return None
    files = json.loads(record[0])["files"]
    missing = [name for name, size in files.items() if len(shown.get(name, b"")) != size]
    if missing:
        world.violations.append(f"the record names {missing[0]}, which is not there")
    return [shown[name] for name in sorted(files) if name in shown]


def rows_in(files: list[bytes]) -> list[dict]:
    """Rows of some files, in order."""
    return [row for content in files for row in pq.read_table(pa.BufferReader(content)).to_pylist()]


def expected(world: World, version: int) -> list[tuple]:
    """Rows of a version: id, text, the first numbers of its vector."""
    rows = [
        (1000 * at + i, text, None if world.is_bad(text) else vector(text)[:3])
        for at, file in enumerate(world.versions[version])
        for i, text in enumerate(file)
    ]
    return [row for row in rows if row[2] is not None or world.policy == "null"]


# ---------------------------------------------------------------------- what happens


async def history(world: World) -> None:
    """Everything."""
    reader = asyncio.create_task(read_forever(world))
    running: list[asyncio.Task] = []
    world.write_first()
    for version in range(world.dice.choice([1, 2, 3])):
        if version:
            world.write_next()
        await disturbed_tries(world, version, running)
        await undisturbed_try(world, version)
        if world.violations:
            break
    await asyncio.sleep(5 * TTL)
    check_reader(world)
    world.over = True
    for task in running:
        task.cancel()
    reader.cancel()
    for result in await asyncio.gather(reader, *running, return_exceptions=True):
        if isinstance(result, Exception) and not isinstance(result, ModelStudioError):
            raise result
    check_bills(world)


async def disturbed_tries(world: World, version: int, running: list[asyncio.Task]) -> None:
    """Tries that are killed, frozen, stopped or doubled."""
    dice, loop = world.dice, asyncio.get_running_loop()
    for _ in range(dice.randint(1, 5)):
        owner = dice.choice(["run", "run", "somebody else"])
        me = Try(len(world.tries) + 1, version, owner, skew=dice.uniform(-500.0, 500.0))
        world.tries.append(me)
        running.append(asyncio.create_task(attempt(world, me)))
        if dice.random() < 0.2:  # the next one starts at the same moment
            world.counters["twins"] += 1
            continue
        await asyncio.sleep(dice.uniform(0.0, 3.0))
        act = dice.choice(["kill", "kill", "freeze", "double", "stop"])
        if act == "kill":
            world.counters["kills"] += 1
            me.dead = True
        elif act == "freeze":
            world.counters["freezes"] += 1
            me.frozen_until = loop.time() + dice.uniform(0.1, 4 * TTL)
        elif act == "stop":
            me.stop.request()
        else:
            world.counters["doubles"] += 1
        await asyncio.sleep(dice.choice([0.0, dice.uniform(0.0, 2 * TTL)]))


async def undisturbed_try(world: World, version: int) -> None:
    """As Airflow would try again; whoever met the guard raises it."""
    me = Try(len(world.tries) + 1, version, skew=world.dice.uniform(-500.0, 500.0))
    world.tries.append(me)
    outcome: object = None
    for _ in range(AIRFLOW_TRIES):
        try:
            outcome = await attempt(world, me)
            break
        except ModelStudioError as error:
            outcome = error
            if isinstance(error, BudgetError):
                world.counters["guards met"] += 1
                world.max_requests = None
            me.forget()
            await asyncio.sleep(world.dice.uniform(0.5, 3.0))
    if isinstance(outcome, Exception):
        world.violations.append(f"the undisturbed try failed: {outcome!r}")
        return
    check_reader(world)
    check_rows(world)
    check_quarantine(world, outcome)
    bills = sum(number == me.number for _, number, _ in world.bills)
    again = await served(SimulatedStorage(world, me), options_of(world, me))
    if again is None or (again.rows, again.requests) != (len(world.texts), 0):
        world.violations.append(f"an errand that was done is not on record: {again}")
    await attempt(world, me)
    if sum(number == me.number for _, number, _ in world.bills) != bills:
        world.violations.append("a finished run asked again")


# ---------------------------------------------------------------------- what must hold in the end


def check_rows(world: World) -> None:
    """Each row has the answer of a bill for its own text."""
    for row in rows_in(files_shown(world)):
        if row["embedding"] and world.bills[int(row["embedding"][3]) - 1][2] != row["text"]:
            world.violations.append(f"{row['text']!r} has the answer of another text")


def check_quarantine(world: World, summary) -> None:
    """The rows that were kept out, once each."""
    apart = [text for text in world.texts if world.is_bad(text)] if world.policy == "quarantine" else []
    objects = world.store.objects
    found = [] if summary.quarantine is None else [k for k in sorted(objects) if k.startswith(summary.quarantine + "/")]
    if [row["text"] for row in rows_in([objects[key][0] for key in found])] != apart:
        world.violations.append("the quarantine does not hold the rows that failed, once each")


def check_bills(world: World) -> None:
    """No try pays twice for a text, but where the answer was lost."""
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
    if world.controls.total() > max(
        0, failures - 2
    ):  # one for a request that failed three times, and for each time more
        world.violations.append(f"{world.controls.total()} questions were asked again although they were answered")


def simulate(seed: int, folder: Path) -> World:
    """Run one history; the same seed gives the same one."""
    world = World(seed, folder)
    random.seed(seed)
    run_in_virtual_time(asyncio.wait_for(history(world), 5000))
    return world
