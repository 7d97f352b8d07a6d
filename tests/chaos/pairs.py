"""Two processes at the same dataset: one wakes up after it was taken for dead, or both start side by side.

Two runs of the Dag with the same source and destination have the same plan, as two tries of one run have.
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.chaos.books import Account, Attempts
from tests.chaos.readers import Reader
from tests.chaos.versions import SHAPES, make_version
from tests.chaos.victims import newest_epoch, open_victim
from tests.chaos.world import BOUND

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.chaos.places import Place
    from tests.chaos.versions import Version
    from tests.chaos.world import World

__all__ = ["Pairs"]

RUN_SECONDS = 240.0
SETTLED_SECONDS = 3.0
"""Without a new entry on the bill, after which none is to come."""
SHAPE = SHAPES["folder"]


@dataclass
class Pairs:
    """Zombies and doubles in one place."""

    world: World
    place: Place
    dice: random.Random
    say: Callable[[str], None]
    account: Account = field(init=False)

    def __post_init__(self) -> None:
        self.account = Account(f"{self.place.name}: pairs")

    def zombie(self, number: int) -> None:
        """Freeze a process, let another run take over, and wake it while the other works or when it is done."""
        place, world = self.place, self.world
        version = make_version(self.dice, f"{place.name}-zombie-{number:03}", SHAPE)
        early = number % 2 == 1
        source, destination = self._write(version)
        attempts = Attempts(world.sandbox, version)
        with Reader(place, version.name, shown=False) as reader:
            first = world.trigger(source, destination)
            world.wait_for("the first claim", lambda: self._epoch(version) == 1, RUN_SECONDS)
            victim = open_victim(place, version.name, newest_epoch(place.state(version.name))[1] or "")
            if victim is None:
                raise RuntimeError(f"{version.name}: the process was gone before it could be frozen")
            with victim:
                world.wait_for("the first answers", lambda: self._segments(version, 1) >= 10, RUN_SECONDS)
                victim.strike(signal.SIGSTOP)
                self._let_arrive(attempts)
                attempts.ended(BOUND)
                second = world.trigger(source, destination)
                if early:
                    world.wait_for("answers of the second", lambda: self._segments(version, 2) >= 10, RUN_SECONDS)
                else:
                    world.wait_for("the second run", lambda: self._ended(second), RUN_SECONDS)
                victim.strike(signal.SIGCONT)
                world.wait_for("both runs", lambda: self._ended(first) and self._ended(second), RUN_SECONDS)
        self.account.strikes["zombie"] += 1
        self._settle(version, reader, attempts, [first, second], woken=True)
        self.say(f"{version.name}: frozen, woken {'while the other worked' if early else 'when the other was done'}")

    def double(self, number: int) -> None:
        """Two runs at once."""
        place, world = self.place, self.world
        version = make_version(self.dice, f"{place.name}-double-{number:03}", SHAPE)
        source, destination = self._write(version)
        attempts = Attempts(world.sandbox, version)
        with Reader(place, version.name, shown=False) as reader:
            runs = [world.trigger(source, destination) for _ in range(2)]
            world.wait_for("both runs", lambda: all(self._ended(run) for run in runs), RUN_SECONDS)
        self.account.strikes["double"] += 1
        self._settle(version, reader, attempts, runs)
        self.say(f"{version.name}: two runs side by side")

    def _let_arrive(self, attempts: Attempts) -> None:
        """What the frozen process sent is on the bill: else it would be taken for the other one's, which asks it, too."""
        seen, since = attempts.paid(), time.monotonic()
        while time.monotonic() < since + SETTLED_SECONDS:
            time.sleep(0.2)
            if (now := attempts.paid()) != seen:
                seen, since = now, time.monotonic()

    def _write(self, version: Version) -> tuple[str, str]:
        source = f"source-of-{version.name}.parquet"
        self.place.write(source, version.table)
        return self.place.address(source), self.place.address(version.name)

    def _epoch(self, version: Version) -> int:
        return newest_epoch(self.place.state(version.name))[0]

    def _segments(self, version: Version, epoch: int) -> int:
        mine = f"/journal/e{epoch:08d}-"
        return sum(mine in key for key in self.place.state(version.name))

    def _ended(self, run_id: str) -> bool:
        time.sleep(0.2)
        return self.world.state(run_id) in {"success", "failed"}

    def _settle(
        self, version: Version, reader: Reader, attempts: Attempts, runs: list[str], *, woken: bool = False
    ) -> None:
        """Both succeeded, one dataset came of it, and nobody paid for what the other had made durable."""
        world, account = self.world, self.account
        account.looks += reader.looks
        for sight in ("half", "gone"):
            if reader.looks[sight]:
                account.fault(f"{version.name}: {reader.looks[sight]} looks found it {sight}")
        for run in runs:
            if world.state(run) != "success":
                account.fault(f"{version.name}: a run failed\n{world.last_words(run)}")
                return
        manifests = {world.summary(run)["manifest"] for run in runs}
        on_record = [key for key in self.place.state(version.name) if key.endswith("/manifest.json")]
        if len(manifests) != 1 or len(on_record) != 1:
            account.fault(f"{version.name}: {len(on_record)} datasets, {manifests}")
        vectors = world.sandbox.engine.embed(version.texts, query=False)
        account.check_rows(version, self.place.rows(version.name), vectors)
        attempts.settle(account, woken=woken)
