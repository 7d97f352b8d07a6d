"""A world in which the shipped engine can be killed, frozen, stopped and lied to, in virtual time, the same way each time.

The engine, the vault and the lease are the real ones.
Only what lies beyond their seams is made up: the clock, the store, the service.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_provider_modelstudio.inference.engine import StopSignal

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["BATCH", "CONCURRENCY", "FILES", "TTL", "Store", "Try", "World", "gate"]

TTL = 3.0
CONCURRENCY = 4
BATCH = 5
FILES = 3
"""Of the source."""


class Store:
    """Objects in memory. The one thing that survives every crash."""

    def __init__(self):
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.shown: dict[str, bytes] | None = None
        self.durable: dict[str, float] = {}
        """Text → when its answer became durable."""


@dataclass
class Try:
    """One try of a run, as the operating system sees it."""

    number: int
    version: int
    owner: str = "run"
    epoch: str = ""
    dead: bool = False
    frozen_until: float = 0.0
    skew: float = 0.0
    """Seconds that its clock is ahead of the others and of the store."""
    stop: StopSignal = field(default_factory=StopSignal)
    in_flight: Counter = field(default_factory=Counter)
    """Texts that were billed to this try and are not durable yet."""
    answered: set = field(default_factory=set)
    """Texts of which this try has an answer."""
    replayed_at: float = 0.0

    def forget(self):
        """What a new process knows."""
        self.in_flight.clear()
        self.answered.clear()
        self.replayed_at = 0.0


class World:
    """One history, from a seed."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.dice = random.Random(seed)  # noqa: S311  # a history has to be the same each time
        self.folder = folder / "in"
        self.folder.mkdir()
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
        self.spent_under = ""
        """Its epoch then."""
        self.over = False
        """The dead may be buried."""
        self.flaky = self.dice.choice([0.0, 0.0, 0.02, 0.1])
        self.lossy = self.dice.choice([0.0, 0.0, 0.05])
        self.creates_once = self.dice.random() < 0.7
        """The store can create an object only if there is none."""
        self.copies = self.dice.random() < 0.5
        """The store publishes file by file, and readers go by the record; else it swaps a folder."""
        self.grows = not self.copies and self.dice.random() < 0.8
        """The store has logs, as a disk does."""
        self.log_bytes = self.dice.choice([1, 3_000, 1_000_000])
        """After which a new log begins."""
        self.has_clock = self.dice.random() < 0.5
        """The store stamps objects by a clock of its own."""
        self.part_rows = self.dice.choice([17, 40, 200])
        self.policy = self.dice.choice(["null", "quarantine"])
        self.versions: list[list[list[str]]] = []
        """Texts of each file of each version of the source."""
        self.acknowledged: int | None = None
        """The newest version that a run said is there."""
        self.max_requests: int | None = None
        """Of the run of the version that is made now."""
        self.sent = 0
        """By that run."""
        self.by_key: dict[str, str] = {}
        self.seen: object = None

    @property
    def texts(self) -> list[str]:
        """Of the newest version."""
        return self.rows_of(len(self.versions) - 1)

    def rows_of(self, version: int) -> list[str]:
        """Texts of a version, in order."""
        return [text for file in self.versions[version] for text in file]

    def is_bad(self, text: str) -> bool:
        """Whether the service refuses it."""
        return text.startswith("bad")

    def write_first(self) -> None:
        """Make the source."""
        dice = self.dice
        rows = dice.randint(20, 160)
        distinct = max(5, int(rows * dice.choice([1.0, 1.0, 0.5])))
        texts = [f"text {dice.randrange(distinct) if distinct < rows else i}" for i in range(rows)]
        for _ in range(dice.choice([0, 0, 2])):
            texts[dice.randrange(rows)] = f"bad {dice.randrange(3)}"
        self._write([texts[at::FILES] for at in range(FILES)])

    def write_next(self) -> None:
        """Change a file of the source: some rows are new, one may come back, some may be added."""
        dice, number = self.dice, len(self.versions)
        files = [list(file) for file in self.versions[-1]]
        file = files[dice.randrange(FILES)]
        for i in range(dice.choice([1, 3, 10])):
            file[dice.randrange(len(file))] = dice.choice([f"new {number} {i}", f"new {number} {i}", "text 0", "bad 0"])
        if dice.random() < 0.3:
            files[-1] += [f"added {number} {i}" for i in range(dice.randint(1, 20))]
        self._write(files)

    def _write(self, files: list[list[str]]) -> None:
        before = self.versions[-1] if self.versions else [None] * FILES
        self.versions.append(files)
        for at, texts in enumerate(files):
            if texts != before[at]:
                table = pa.table({"id": [1000 * at + i for i in range(len(texts))], "text": texts})
                pq.write_table(table, self.folder / f"{at}.parquet", row_group_size=23)
            for text in texts:
                self.by_key[hashlib.blake2b(text.encode(), digest_size=16).hexdigest()] = text
        self.sent = 0
        self.max_requests = self.dice.choice([None, None, self.dice.randint(1, 15)])
        # Of what was removed nothing is kept: it may be paid for again when it comes back.
        shown = set(self.rows_of(len(self.versions) - 2)) if len(self.versions) > 1 else set()
        self.store.durable = {text: since for text, since in self.store.durable.items() if text in shown}


async def gate(world: World, me: Try) -> None:
    """Where the world can hold a try: dead ones never come back, frozen ones come back later."""
    loop = asyncio.get_running_loop()
    while me.dead or loop.time() < me.frozen_until:
        if me.dead and world.over:
            raise asyncio.CancelledError
        if me.dead:
            await loop.create_future()
        await asyncio.sleep(me.frozen_until - loop.time())
