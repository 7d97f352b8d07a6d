"""The loop: a run starts, its process is struck at some moment, Airflow tries again, until so many strikes are done."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

from tests.chaos.books import Account, Attempts
from tests.chaos.places import segments
from tests.chaos.readers import Reader
from tests.chaos.versions import SHAPES, make_version
from tests.chaos.victims import newest_epoch, open_victim
from tests.chaos.world import BOUND

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from tests.chaos.places import Place
    from tests.chaos.versions import Version
    from tests.chaos.victims import Victim
    from tests.chaos.world import World

__all__ = ["Lane"]

MOMENTS = ("claim", "answer", "answers", "part", "seal", "commit", "shown")
"""Where a strike may be aimed at, besides any moment."""
LONGEST_DELAY = 3.0
"""Seconds: about what an attempt needs from its claim to the middle of its work."""
SETTLE_SECONDS = 0.3
"""For the service to work out, and bill, what had reached it when the process died."""
RUN_SECONDS = 240.0


@dataclass
class Lane:
    """Datasets one after another in one place."""

    world: World
    place: Place
    dice: random.Random
    kills: int
    terms: int
    """Requests to stop, which must cost nothing."""
    say: Callable[[str], None]
    account: Account = field(init=False)

    def __post_init__(self) -> None:
        self.account = Account(f"{self.place.name}: kills")
        self._orders = self._draw()

    def run(self) -> Account:
        """Strike until the number is reached. The dataset that is being made then is finished in peace."""
        number, shapes = 0, []
        while self.left:
            if not shapes:
                shapes = self.dice.sample(sorted(SHAPES), len(SHAPES))
            number += 1
            shape = SHAPES[shapes.pop()]
            name = f"{self.place.name}-{number:03}{'.parquet' if shape.single_file else ''}"
            version = make_version(self.dice, name, shape)
            self._make(version)
            if self.left:
                self._make(make_version(self.dice, name, shape, version))
        return self.account

    @property
    def left(self) -> int:
        return self.kills + self.terms - self.account.strikes.total()

    def _draw(self) -> Iterator[tuple[signal.Signals, str, float]]:
        """Signal, moment, and how much of something; half of the moments are named ones, each as often as the others."""
        signals = [signal.SIGKILL] * self.kills + [signal.SIGTERM] * self.terms
        self.dice.shuffle(signals)
        named: list[str] = []
        for i, number in enumerate(signals):
            if number == signal.SIGTERM:
                yield number, "answers", self.dice.randint(3, 40)
            elif i % 2:
                yield number, "after", self.dice.uniform(0, LONGEST_DELAY)
            else:
                named = named or self.dice.sample(MOMENTS, len(MOMENTS))
                moment = named.pop()
                yield number, moment, self.dice.randint(2, 60) if moment == "answers" else 1

    def _make(self, version: Version) -> None:
        """One run of the Dag, with its strikes."""
        world, place, account = self.world, self.place, self.account
        source = f"source-of-{version.name.removesuffix('.parquet')}.parquet"
        place.write(source, version.table)
        attempts = Attempts(world.sandbox, version)
        with Reader(place, version.name, shown=version.number > 1) as reader:
            epoch, _ = newest_epoch(place.state(version.name))
            run_id = world.trigger(place.address(source), place.address(version.name))
            until, asked_state = time.monotonic() + RUN_SECONDS, 0.0
            while True:
                now = time.monotonic()
                if now > until or world.ended.is_set():
                    raise TimeoutError(f"{version.name}: not done in {RUN_SECONDS:.0f} s\n{world.last_words(run_id)}")
                newest, key = newest_epoch(place.state(version.name))
                if key is not None and newest > epoch and self.left:
                    epoch = newest
                    self._strike(version, epoch, key, attempts)
                elif now - asked_state > 0.5:
                    asked_state = now
                    state = world.state(run_id)
                    if state == "success":
                        break
                    if state == "failed":
                        raise RuntimeError(f"{version.name}: the run failed\n{world.last_words(run_id)}")
                time.sleep(0.01 + place.pause)
        account.looks += reader.looks
        for sight in ("half", "gone"):
            if reader.looks[sight]:
                account.fault(f"{version.name} v{version.number}: {reader.looks[sight]} looks found it {sight}")
        engine = world.sandbox.engine
        account.check_rows(version, place.rows(version.name), engine.embed(version.texts, query=False))
        attempts.settle(account)
        summary = world.summary(run_id)
        if (summary["rows"], summary["failed"]) != (version.rows, 0):
            account.fault(f"{version.name} v{version.number}: the summary says {summary}")

    def _strike(self, version: Version, epoch: int, key: str, attempts: Attempts) -> None:
        victim = open_victim(self.place, version.name, key)
        if victim is None:
            return
        with victim:
            before = self.place.state(version.name)
            shown = self._shown(version)
            number, moment, amount = next(self._orders)
            if not self._wait(victim, version, epoch, before, shown, moment, amount) or not victim.strike(number):
                # It got away; the order stands for the next attempt.
                self._orders = chain([(number, moment, amount)], self._orders)
                return
            if not victim.is_gone(wait=15.0):
                self.account.fault(f"{version.name}: the process lives on after {number.name}")
        time.sleep(SETTLE_SECONDS)
        stage = self._stage(version, epoch, before, shown)
        attempts.ended(BOUND if number == signal.SIGKILL and stage not in {"committed", "published"} else 0)
        self.account.strikes[number.name] += 1
        self.account.found[stage] += 1
        aim = f"{amount:.2f} s" if moment == "after" else f"{moment} {amount:.0f}"
        self.say(f"{version.name} v{version.number}: {number.name} of attempt {epoch} at {aim}, found {stage}")

    def _wait(
        self,
        victim: Victim,
        version: Version,
        epoch: int,
        before: frozenset[str],
        shown: bytes | None,
        moment: str,
        amount: float,
    ) -> bool:
        """Return ``True`` at the moment, and ``False`` when the process ended before it."""
        if moment == "claim":
            return True
        if moment == "after":
            return not victim.is_gone(wait=amount)
        while not victim.is_gone(wait=self.place.pause):
            if moment == "shown":
                if self._shown(version) != shown:
                    return True
                continue
            new = self.place.state(version.name) - before
            if moment in {"answer", "answers"}:
                if segments(self.place, version.name, epoch) >= amount:
                    return True
            elif any(f"/{PLACES[moment]}" in key for key in new):
                return True
        return False

    def _stage(self, version: Version, epoch: int, before: frozenset[str], shown: bytes | None) -> str:
        """How far the attempt got."""
        new = self.place.state(version.name) - before
        if any("/manifest.json" in key for key in new):
            return "committed" if self._shown(version) == shown else "published"
        if any("/seals/" in key for key in new):
            return "sealing"
        return "asking" if any(f"/journal/e{epoch:08d}-" in key for key in new) else "planning"

    def _shown(self, version: Version) -> bytes | None:
        try:
            return self.place.read_state(version.name, "published.json")
        except FileNotFoundError:
            return None


PLACES = {"part": "parts/", "seal": "seals/", "commit": "manifest.json"}
"""Moment → what appears in the state folder then."""
