"""Who may spend: one attempt at a time at one destination, without comparing the clocks of two machines.

Each attempt claims an epoch, a number above all it sees and a name of its own behind it, and keeps a lease on it.
Two that claim at the same time may take the same number; their names say who is first, as in Lamport's bakery.
So nothing here rests on a store that creates an object only once.
An attempt spends only while its own lease is valid on its own clock, and starts only when every earlier
attempt has released its lease or let it run out.
It writes its claim and its lease before it looks for newer epochs: of two that race, at least one sees the other.

A newer attempt of the same owner takes over: Airflow has given up on the older one, which leaves.
A newer attempt of another owner waits its turn.

A lease saves money; it does not guard the data.
Data are guarded by objects that are created once, whoever creates them.

https://lamport.azurewebsites.net/pubs/bakery.pdf
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_modelstudio.inference.errors import StorageError, StorageRefusedError, SupersededError
from airflow_provider_modelstudio.inference.storage import ObjectMissingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_modelstudio.inference.storage import Storage

__all__ = ["ORDERS", "TTL", "Lease", "Process"]

log = logging.getLogger(__name__)

TTL = 30.0
"""Seconds a lease is good for without being renewed."""
ORDERS = "publishing"
"""Folder of what attempts were to publish."""
MARGIN = 3.0
"""Seconds before its end at which we stop to trust our own lease."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process, so that another one on the same machine can tell whether it is gone."""

    host: str
    boot: str
    space: str
    """Of process numbers: containers of one machine count each for itself."""
    pid: int
    started: str

    @classmethod
    def current(cls) -> Process:
        """The process that asks."""
        return cls(socket.gethostname(), _boot(), _space(), os.getpid(), _started(os.getpid()))

    def is_gone(self) -> bool:
        """Whether it surely does not run any more; ``False`` when we cannot tell."""
        here = Process.current()
        if not self.boot or (self.host, self.boot, self.space) != (here.host, here.boot, here.space):
            return False
        return _started(self.pid) != self.started


class Lease:
    """The right to spend, of one attempt at one destination."""

    def __init__(
        self,
        storage: Storage,
        owner: str,
        *,
        attempt: str,
        clock: Callable[[], float],
        ttl: float = TTL,
        process: Process | None = None,
    ) -> None:
        """:param owner: equal for the tries of one task instance.
        :param attempt: a name that nobody else has.
        :param clock: seconds; goes on while the machine is suspended.
        """
        self.epoch = ""
        """Epochs are ordered as words are: by number, then by name."""
        self._storage = storage
        self._owner = owner
        self._clock = clock
        self._ttl = ttl
        self._margin = MARGIN * ttl / TTL
        self._process = process or Process.current()
        self._attempt = attempt
        self._beats = 0
        self._valid_until = -1.0
        self._replaced = False
        """A newer attempt of ours has taken over."""
        self._passed = False
        """A newer attempt of another owner may have seen our lease run out, and gone on."""
        self._queued: set[str] = set()
        """Newer epochs of other owners, which wait their turn."""

    def check(self) -> None:
        """Raise :class:`~..errors.SupersededError` unless this attempt may spend now."""
        if self._replaced:
            raise SupersededError(
                "another attempt of this run has taken over; this one leaves, and what it was answered is kept"
            )
        if self._passed:
            raise SupersededError(
                "another run into this destination has started; this one leaves, and what it was answered is kept"
            )
        if self._clock() >= self._valid_until:
            raise SupersededError(
                f"the lease could not be renewed for {self._ttl:.0f} s; another attempt may have taken over"
            )

    async def acquire(self) -> None:
        """Claim the next epoch, and wait until no earlier attempt may spend."""
        await self._claim()
        await self._renew()
        while self._passed and not self._replaced:  # by one that came between our claim and our lease
            await self.release()
            self._passed, self._queued = False, set()
            await self._claim()
            await self._renew()
        born = await self._storage.modified(self._epoch_key(self.epoch))
        waiting = {epoch: None for epoch in await self._epochs() if epoch < self.epoch}
        seen: dict[str, tuple[bytes, float]] = {}
        told = False
        while waiting:
            for epoch in list(waiting):
                if await self._is_over(epoch, born, seen):
                    del waiting[epoch]
            if waiting:
                if not told:
                    log.info("waiting for an earlier run into this destination to end")
                    told = True
                await asyncio.sleep(self._ttl / 10)
                if self._clock() > self._valid_until - self._ttl / 3:
                    await self._renew()
                self.check()
        await self._renew()
        self.check()

    async def forget_earlier(self) -> None:
        """Remove the traces of earlier attempts; our own epoch stays the highest."""
        for epoch in await self._epochs():
            if epoch < self.epoch:
                await self._storage.delete(self._lease_key(epoch))
                await self._storage.delete(self._epoch_key(epoch))

    async def keep(self) -> None:
        """Renew the lease until cancelled, or until another attempt has taken over and waits for it to run out."""
        while not (self._replaced or self._passed):
            await asyncio.sleep(self._ttl / 3)
            # The next beat tries again; check() knows when it is too late.
            with contextlib.suppress(StorageError, StorageRefusedError):
                await self._renew()

    async def release(self) -> None:
        """Let the next attempt start at once; this one may not spend any more."""
        self._valid_until = -1.0
        if self.epoch:
            with contextlib.suppress(StorageError, StorageRefusedError):
                await self._write("released")

    async def _claim(self) -> None:
        me = json.dumps(
            {
                "owner": self._owner,
                "host": self._process.host,
                "boot": self._process.boot,
                "space": self._process.space,
                "pid": self._process.pid,
                "started": self._process.started,
            }
        ).encode()
        # Above those that published, too: their orders stay when somebody has removed the claims.
        seen = [*await self._epochs(), *await self._names(ORDERS)]
        number = int(max(seen, default="0")[:8]) + 1
        self.epoch = f"{number:08d}-{self._attempt}"
        await self._storage.create(self._epoch_key(self.epoch), me)

    async def _renew(self) -> None:
        asked = self._clock()
        await self._write("held")
        for epoch in await self._epochs():
            if epoch > self.epoch and epoch not in self._queued:
                if await self._takes_over(epoch):
                    self._replaced = True
                else:
                    self._queued.add(epoch)
        if self._queued and self._clock() >= self._valid_until:
            self._passed = True
        if not (self._replaced or self._passed):
            self._valid_until = asked + self._ttl - self._margin

    async def _takes_over(self, epoch: str) -> bool:
        """Whether a newer attempt is one of ours; one that is gone already was."""
        try:
            claim = json.loads(await self._storage.read(self._epoch_key(epoch)))
        except ObjectMissingError:
            return True
        return bool(claim["owner"] == self._owner)

    async def _write(self, state: str) -> None:
        self._beats += 1
        beat = {"beat": self._beats, "state": state}
        await self._storage.replace(self._lease_key(self.epoch), json.dumps(beat).encode())

    async def _is_over(self, epoch: str, born: float, seen: dict[str, tuple[bytes, float]]) -> bool:
        """Whether an earlier attempt can spend no more."""
        looked = self._clock()
        try:
            lease = await self._storage.read(self._lease_key(epoch))
            age = born - await self._storage.modified(self._lease_key(epoch)) if self._storage.has_clock else 0.0
        except ObjectMissingError:
            return True  # it has no lease yet; before it spends it will find our epoch
        if json.loads(lease)["state"] == "released" or age > self._ttl + 1.0:  # both stamps by the store's own clock
            return True
        if await self._is_gone(epoch):
            return True
        last = seen.get(epoch)
        if last is None or last[0] != lease:
            seen[epoch] = (lease, looked)
            return False
        return self._clock() - last[1] > self._ttl

    async def _is_gone(self, epoch: str) -> bool:
        try:
            claim: dict[str, Any] = json.loads(await self._storage.read(self._epoch_key(epoch)))
        except ObjectMissingError:
            return False
        return Process(claim["host"], claim["boot"], claim["space"], claim["pid"], claim["started"]).is_gone()

    async def _epochs(self) -> list[str]:
        return await self._names("epoch")

    async def _names(self, folder: str) -> list[str]:
        """Names in a folder of objects that are named by the epochs of their attempts."""
        names = [key.rpartition("/")[2] for key in await self._storage.list_keys(folder)]
        return [name for name in names if name[:8].isdigit()]

    def _epoch_key(self, epoch: str) -> str:
        return f"epoch/{epoch}"

    def _lease_key(self, epoch: str) -> str:
        return f"lease/{epoch}"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _space() -> str:
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Start time of a process in clock ticks since boot; empty when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    zombie = fields[0] == "Z"
    return "" if zombie else fields[19]
