"""What a run has spent, over all its tries: written down before it is spent.

A try that is killed may have spent less than it wrote down, and more only by what a model wrote in answers that it had
not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

from airflow_provider_modelstudio.inference.budget import Spent
from airflow_provider_modelstudio.inference.errors import StorageError, StorageRefusedError

from .records import restored

if TYPE_CHECKING:
    from airflow_provider_modelstudio.inference.storage import Storage

__all__ = ["Meter"]


EXACT = ".exact"


class Meter:
    """What one run has spent, below its folder ``spent``: an object for each try, and one more for its sum in the end.

    The sum is an object of its own, since a write that was given up may land after all that came later.
    """

    def __init__(self, storage: Storage, folder: str) -> None:
        self.before = Spent()
        """By earlier tries, at most."""
        self._storage = storage
        self._folder = folder
        self._key = ""
        self._allowed = Spent()
        self._touched = False
        self._writing = asyncio.Lock()

    async def open(self, epoch: str) -> None:
        """Read what earlier tries wrote down, as the try of this epoch."""
        self._key = f"{self._folder}/{epoch}"
        keys = set(await self._storage.list_keys(self._folder))
        for key in sorted(keys):
            if key + EXACT in keys:
                continue
            content = await self._storage.read(key)
            self.before = self.before.plus(restored(self._storage.locate(key), content, lambda told: Spent(**told)))

    def covers(self, spent: Spent) -> bool:
        """Whether so much of this try is written down."""
        return spent.within(self._allowed)

    async def allow(self, spent: Spent) -> None:
        """Return when so much of this try is written down, at least."""
        async with self._writing:
            most = Spent(*map(max, zip(spent, self._allowed, strict=True)))
            self._touched = True
            await self._write(self._key, most)
            self._allowed = most

    async def settle(self, spent: Spent) -> None:
        """Write down that it was just so much, as far as this try knows: nothing will follow."""
        self._allowed = Spent()
        if self._touched:
            # What is there is enough, and never too little.
            with contextlib.suppress(StorageError, StorageRefusedError):
                await self._write(self._key + EXACT, spent)

    async def _write(self, key: str, spent: Spent) -> None:
        await self._storage.replace(key, json.dumps(spent._asdict()).encode())
