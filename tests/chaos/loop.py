"""All lanes at once, and one table of what they saw."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.chaos.lanes import Lane
from tests.chaos.pairs import Pairs
from tests.chaos.tries import Tries
from tests.chaos.versions import make_dice

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.chaos.books import Account
    from tests.chaos.places import Place
    from tests.chaos.world import World

__all__ = ["Report", "run_loop"]

STRIKES = {
    "SIGKILL": "kills",
    "SIGTERM": "requests to stop",
    "zombie": "zombies",
    "double": "doubles",
    "orphan": "orphans",
    "frozen": "frozen tries",
}
"""What is done → its name in the plural."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was seen."""

    accounts: Sequence[Account]
    seconds: float
    seed: int
    taken_for_dead: int
    """Tries that Airflow has heard nothing of for long: each orphan and each frozen one. A few that were killed, too: their
    end is overlooked when news of two tries of one task come together. Healthy ones only on a machine that is too busy.
    """

    @property
    def faults(self) -> list[str]:
        """Everything that must not be."""
        return [fault for account in self.accounts for fault in account.faults]

    def total(self, strike: str) -> int:
        """How often something was done."""
        return sum(account.strikes[strike] for account in self.accounts)

    @property
    def looks(self) -> Counter[str]:
        """What readers found."""
        return sum((account.looks for account in self.accounts), Counter())

    def table(self) -> str:
        """For people."""
        columns = ("", "strikes", "datasets", "rows", "lost", "wrong", "paid", "paid again", "bound", "worst", "looks")
        head = (*columns, "half or gone")
        lines = [head]
        for account in self.accounts:
            looks = account.looks
            strikes = ", ".join(f"{count} {name}" for name, count in sorted(account.strikes.items()))
            figures = (account.datasets, account.rows, account.lost, account.wrong, account.paid, account.again)
            figures += (account.bound, account.worst, looks.total(), looks["half"] + looks["gone"])
            lines.append((account.lane, strikes, *(f"{figure:,}" for figure in figures)))
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        shown = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        shown.append(", ".join(f"{self.total(strike)} {name}" for strike, name in STRIKES.items()))
        shown.append(f"Airflow took {self.taken_for_dead} tries for dead")
        found = sum((account.found for account in self.accounts), Counter())
        if found:
            shown.append("struck while " + ", ".join(f"{stage} {count}" for stage, count in found.most_common()))
        shown.append(f"seed {self.seed}, {self.seconds:.0f} s, {len(self.faults)} faults")
        return "\n".join([*shown, *self.faults])


def run_loop(
    world: World,
    *,
    kills: int,
    terms: int,
    pairs: int,
    orphans: int,
    frozen: int,
    seed: int,
    say: Callable[[str], None] = print,
) -> Report:
    """Run disk and S3 side by side, and two processes at one dataset beside them, now on disk and now on S3.

    :param kills: SIGKILLs in all; ``terms``: SIGTERMs in all; ``pairs``: zombies, and as many side-by-side runs.
    :param orphans: tries whose supervisor is killed; ``frozen``: tries that are stopped together with theirs.
    """
    began = time.monotonic()
    places: tuple[Place, ...] = (world.disk, world.bucket)
    lanes = [
        Lane(world, place, make_dice(seed, place.name), _share(kills, i), _share(terms, 1 - i), say)
        for i, place in enumerate(places)
    ]
    twos = [Pairs(world, place, make_dice(seed, place.name, "pairs"), say) for place in places]
    orphaned = [Tries(world, place, make_dice(seed, place.name, "orphans"), say) for place in places]
    stopped = [Tries(world, place, make_dice(seed, place.name, "frozen"), say) for place in places]

    def both() -> None:
        for number in range(pairs):
            twos[number % 2].zombie(number // 2 + 1)
            twos[1 - number % 2].double(number // 2 + 1)

    def orphan() -> None:
        for number in range(orphans):
            orphaned[number % 2].orphan(number // 2 + 1)

    def freeze() -> None:
        for number in range(frozen):
            stopped[number % 2].frozen(number // 2 + 1)

    jobs = [*(lane.run for lane in lanes), both, orphan, freeze]
    with ThreadPoolExecutor(len(jobs)) as pool:
        working = [pool.submit(job) for job in jobs]
        try:
            for work in as_completed(working):
                work.result()
        except BaseException:
            world.ended.set()
            raise
    beside = [two.account for two in (*twos, *orphaned, *stopped) if two.account.strikes]
    accounts = [*(lane.account for lane in lanes), *beside]
    return Report(accounts, time.monotonic() - began, seed, world.taken_for_dead())


def _share(amount: int, place: int) -> int:
    return (amount + 1 - place) // 2
