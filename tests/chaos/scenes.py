"""One dataset at which two processes work, and what has to be true of it afterwards."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.chaos.books import Attempts
from tests.chaos.places import segments
from tests.chaos.readers import Reader
from tests.chaos.victims import newest_epoch, open_victim

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from tests.chaos.books import Account
    from tests.chaos.places import Place
    from tests.chaos.versions import Version
    from tests.chaos.victims import Victim
    from tests.chaos.world import World

__all__ = ["RUN_SECONDS", "Scene"]

RUN_SECONDS = 240.0
SETTLED_SECONDS = 3.0
"""Without a new entry on the bill, after which none is to come."""


class Scene:
    """A source, its destination, the bill, and somebody who reads while the context lasts."""

    def __init__(self, world: World, place: Place, version: Version, account: Account) -> None:
        self._world = world
        self._place = place
        self._version = version
        self._account = account
        source = f"source-of-{version.name}.parquet"
        place.write(source, version.table)
        self.addresses = place.address(source), place.address(version.name)
        self.attempts = Attempts(world.sandbox, version)
        self._reader = Reader(place, version.name, shown=False)

    def __enter__(self) -> Self:
        self._reader.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.__exit__(kind, error, trace)

    @property
    def epoch(self) -> int:
        """Number of the newest claim."""
        return newest_epoch(self._place.state(self._version.name))[0]

    def first(self) -> Victim:
        """The process that claims the first epoch, once it has kept some answers."""
        name, place = self._version.name, self._place
        self._world.wait_for("the first claim", lambda: self.epoch == 1, RUN_SECONDS)
        victim = open_victim(place, name, newest_epoch(place.state(name))[1] or "")
        if victim is None:
            raise RuntimeError(f"{name}: the process was gone before anything could be done to it")
        try:
            self.wait_for_answers(1)
        except BaseException:
            victim.close()
            raise
        return victim

    def wait_for_answers(self, epoch: int) -> None:
        """An attempt has kept ten answers, or more."""
        self._world.wait_for(
            f"answers of attempt {epoch}",
            lambda: segments(self._place, self._version.name, epoch) >= 10,
            RUN_SECONDS,
        )

    def let_arrive(self) -> None:
        """All that was sent is on the bill: else it would be taken for another attempt's, which asks the same."""
        seen, since = self.attempts.paid(), time.monotonic()
        while time.monotonic() < since + SETTLED_SECONDS:
            time.sleep(0.2)
            if (now := self.attempts.paid()) != seen:
                seen, since = now, time.monotonic()

    def wait_for_end(self, runs: Sequence[str]) -> None:
        """Airflow says of each run how it ended."""
        self._world.wait_for("the end of the runs", lambda: all(map(self._ended, runs)), RUN_SECONDS)

    def settle(self, runs: Sequence[str], *, woken: bool = False) -> None:
        """All succeeded, one dataset came of it, and nobody paid for what another had made durable."""
        world, account, name = self._world, self._account, self._version.name
        account.looks += self._reader.looks
        for sight in ("half", "gone"):
            if self._reader.looks[sight]:
                account.fault(f"{name}: {self._reader.looks[sight]} looks found it {sight}")
        for run in runs:
            if world.state(run) != "success":
                account.fault(f"{name}: a run failed\n{world.last_words(run)}")
                return
        manifests = {world.summary(run)["manifest"] for run in runs}
        on_record = [key for key in self._place.state(name) if key.endswith("/manifest.json")]
        if len(manifests) != 1 or len(on_record) != 1:
            account.fault(f"{name}: {len(on_record)} datasets, {manifests}")
        vectors = world.sandbox.engine.embed(self._version.texts, query=False)
        account.check_rows(self._version, self._place.rows(name), vectors)
        self.attempts.settle(account, woken=woken)

    def _ended(self, run_id: str) -> bool:
        time.sleep(0.2)
        return self._world.state(run_id) in {"success", "failed"}
