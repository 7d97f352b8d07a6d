"""Two runs at the same dataset: one wakes up after it was taken for dead, or both start side by side.

Two runs of the Dag with the same source and destination have the same plan, but not the same owner:
each waits its turn. Two tries of one run, of which the newer takes over, are in :mod:`~tests.chaos.tries`.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.chaos.books import Account
from tests.chaos.scenes import Scene
from tests.chaos.versions import SHAPES, make_version
from tests.chaos.world import BOUND

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.chaos.places import Place
    from tests.chaos.world import World

__all__ = ["Pairs"]

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
        version = make_version(self.dice, f"{self.place.name}-zombie-{number:03}", SHAPE)
        early = number % 2 == 1
        with Scene(self.world, self.place, version, self.account) as scene:
            first = self.world.trigger(*scene.addresses)
            with scene.first() as victim:
                victim.strike(signal.SIGSTOP)
                scene.let_arrive()
                scene.attempts.ended(BOUND)
                second = self.world.trigger(*scene.addresses)
                if early:
                    scene.wait_for_answers(2)
                else:
                    scene.wait_for_end([second])
                victim.strike(signal.SIGCONT)
                scene.wait_for_end([first, second])
        self.account.strikes["zombie"] += 1
        scene.settle([first, second], woken=True)
        self.say(f"{version.name}: frozen, woken {'while the other worked' if early else 'when the other was done'}")

    def double(self, number: int) -> None:
        """Two runs at once."""
        version = make_version(self.dice, f"{self.place.name}-double-{number:03}", SHAPE)
        with Scene(self.world, self.place, version, self.account) as scene:
            runs = [self.world.trigger(*scene.addresses) for _ in range(2)]
            scene.wait_for_end(runs)
        self.account.strikes["double"] += 1
        scene.settle(runs)
        self.say(f"{version.name}: two runs side by side")
