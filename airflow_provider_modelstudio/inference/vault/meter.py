"""How many requests a run has sent, over all its tries: written down before they are sent.

A try that is killed may have sent fewer than it wrote down, and never more.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

from airflow_provider_modelstudio.inference.errors import StorageError

if TYPE_CHECKING:
    from airflow_provider_modelstudio.inference.storage import Storage

__all__ = ["RequestMeter"]


class RequestMeter:
    """Requests of one run, below its folder ``requests``: one object for each try."""

    def __init__(self, storage: Storage, folder: str) -> None:
        self.before = 0
        """Requests of earlier tries, at most."""
        self._storage = storage
        self._folder = folder
        self._key = ""
        self._allowed = 0

    async def open(self, epoch: int) -> None:
        """Read what earlier tries wrote down, as try number ``epoch``."""
        self._key = f"{self._folder}/{epoch:08d}"
        for key in await self._storage.list_keys(self._folder):
            self.before += int(json.loads(await self._storage.read(key))["requests"])

    def covers(self, requests: int) -> bool:
        """Whether so many requests of this try are written down."""
        return requests <= self._allowed

    async def allow(self, requests: int) -> None:
        """Return when so many requests of this try are written down."""
        await self._write(requests)
        self._allowed = requests

    async def settle(self, requests: int) -> None:
        """Write down that it were exactly so many: none will follow."""
        if self._allowed:
            self._allowed = 0
            with contextlib.suppress(StorageError):  # what is there is enough, and never too little
                await self._write(requests)

    async def _write(self, requests: int) -> None:
        await self._storage.replace(self._key, json.dumps({"requests": requests}).encode())
