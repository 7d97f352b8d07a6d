"""Two tries of one task instance at once: Airflow has taken the first for dead, and it is not.

Airflow starts the next try when the supervisor of a task, its parent process, has sent no heartbeat for some time.
Nothing ends a task whose supervisor is dead; and a machine that stood still wakes with both of them.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.chaos.books import Account
from tests.chaos.scenes import RUN_SECONDS, Scene
from tests.chaos.versions import SHAPES, make_version
from tests.chaos.victims import open_supervisor
from tests.chaos.world import BOUND

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.chaos.places import Place
    from tests.chaos.versions import Version
    from tests.chaos.victims import Victim
    from tests.chaos.world import World

__all__ = ["Tries"]

SHAPE = SHAPES["folder"]
SLOW = {"batch_size": 2, "concurrency": 1}
"""An orphan must still be at work when Airflow has missed its supervisor and started the next try."""
END_SECONDS = 60.0
"""In which a try that does not count any more has to end by itself."""


@dataclass
class Tries:
    """Orphans and frozen tries in one place."""

    world: World
    place: Place
    dice: random.Random
    say: Callable[[str], None]
    account: Account = field(init=False)

    def __post_init__(self) -> None:
        self.account = Account(f"{self.place.name}: tries")

    def orphan(self, number: int) -> None:
        """Kill a supervisor: its task goes on until the next try takes over, or until it is done."""
        version = make_version(self.dice, f"{self.place.name}-orphan-{number:03}", SHAPE)
        slow = number % 2 == 1
        with Scene(self.world, self.place, version, self.account) as scene:
            run = self.world.trigger(*scene.addresses, **(SLOW if slow else {}))
            with scene.first() as victim:
                with open_supervisor(victim) as supervisor:
                    supervisor.strike(signal.SIGKILL)
                if slow:
                    self._overtake(scene, version, victim)
                else:
                    self._let_finish(scene, version, victim)
                self._finish(scene, version, run, victim, woken=slow)
        self.account.strikes["orphan"] += 1
        self.say(
            f"{version.name}: orphaned, {'and the next try took over' if slow else 'and left when it had everything'}"
        )

    def _overtake(self, scene: Scene, version: Version, victim: Victim) -> None:
        """The next try begins while the orphan works, and goes on from what that has kept."""
        before = scene.attempts.paid()
        self.world.wait_for("the next try", lambda: scene.epoch == 2, RUN_SECONDS)
        if victim.is_gone():
            self.account.fault(f"{version.name}: the orphan ended before the next try began")
        if scene.attempts.paid() == before:
            self.account.fault(f"{version.name}: the orphan did nothing")
        # Until it sees the other it goes on, so that the bill does not tell any more whose a payment is.
        scene.attempts.ended(SLOW["batch_size"] * SLOW["concurrency"])
        scene.wait_for_answers(2)
        if not victim.is_gone(wait=END_SECONDS):
            self.account.fault(f"{version.name}: the orphan lives on beside the next try")

    def _let_finish(self, scene: Scene, version: Version, victim: Victim) -> None:
        """What an orphan was answered is kept, and it commits nothing, since Airflow cannot be asked whether it counts; the
        next try commits, and has nothing to pay.
        """
        if not victim.is_gone(wait=END_SECONDS):
            self.account.fault(f"{version.name}: the orphan lives on")
        if scene.attempts.paid() < len(set(version.texts)):
            self.account.fault(f"{version.name}: the orphan did not ask for everything")
        scene.attempts.ended(0)

    def frozen(self, number: int) -> None:
        """Stop a supervisor and its task; wake them while the next try works, or when it is done."""
        version = make_version(self.dice, f"{self.place.name}-frozen-{number:03}", SHAPE)
        early = number % 2 == 1
        with Scene(self.world, self.place, version, self.account) as scene:
            run = self.world.trigger(*scene.addresses)
            with scene.first() as victim, open_supervisor(victim) as supervisor:
                supervisor.strike(signal.SIGSTOP)
                victim.strike(signal.SIGSTOP)
                scene.let_arrive()
                scene.attempts.ended(BOUND)
                if early:
                    scene.wait_for_answers(2)
                else:
                    scene.wait_for_end([run])
                victim.strike(signal.SIGCONT)
                supervisor.strike(signal.SIGCONT)
                self._finish(scene, version, run, victim, woken=True)
        self.account.strikes["frozen"] += 1
        self.say(f"{version.name}: try frozen, woken {'while the next worked' if early else 'when the next was done'}")

    def _finish(self, scene: Scene, version: Version, run: str, victim: Victim, *, woken: bool) -> None:
        """The run succeeds by its second try; the first one ends by itself and harms nothing."""
        scene.wait_for_end([run])
        if not victim.is_gone(wait=END_SECONDS):
            self.account.fault(f"{version.name}: the first try lives on")
        scene.let_arrive()  # by then Airflow has heard, too, what the first one's supervisor says of it
        scene.settle([run], woken=woken)
        if (ended := self.world.task(run)) != ("success", 2):
            self.account.fault(f"{version.name}: the task is {ended}")
