"""What readers see: which committed dataset, and whether all files in the destination are ours.

Who publishes writes down an order first, under its epoch, and looks at the orders once more afterwards.
One that was frozen meanwhile finds the order of a newer attempt, and carries out that one last: readers end up with the
newest version, whoever wakes up when.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airflow_provider_modelstudio.inference.errors import DestinationError, SupersededError
from airflow_provider_modelstudio.inference.storage import PUBLISHED, ObjectMissingError

from .lease import ORDERS
from .records import restored

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_modelstudio.inference.storage import Storage

    from .lease import Lease
    from .records import Manifest

__all__ = ["Publication"]

_KEPT = 20
"""Orders that stay: files that they name are ours, and a publication that was killed may have left some."""


class Publication:
    """The destination of a storage, and the records about it."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def show(self, manifest: Manifest, manifest_key: str, lease: Lease) -> None:
        """Make a committed dataset what readers see.

        Raises :class:`~..errors.SupersededError` when a newer attempt has published meanwhile; readers see its dataset.
        """
        files = manifest.files(self._storage.destination)
        await self.check(files)
        orders = await self._orders()
        if await self.shows(manifest) and orders and await self._names(orders[-1], manifest):
            return
        record = {
            "cache_key": manifest.cache_key,
            "run_key": manifest.run_key,
            "rows": manifest.rows,
            "manifest": manifest_key,
            "files": _sizes(manifest, files),
        }
        shown = await self._storage.published() or {}
        # Killed from here on, files of both versions may be shown: all of them are ours, whatever is published next.
        order = {"record": record, "keys": files, "files": sorted({*shown, *files})}
        lease.check()
        mine = f"{ORDERS}/{lease.epoch}.json"
        await self._storage.create(mine, json.dumps(order, indent=1).encode())
        done = None
        while (newest := (await self._orders())[-1]) != done:
            try:
                await self._carry_out(await self._order(newest), lease if newest == mine else None)
            except (SupersededError, ObjectMissingError):  # replaced meanwhile, and removed
                if newest == (await self._orders())[-1]:
                    raise
                continue
            done = newest
        if done != mine:
            raise SupersededError(
                "a newer run into this destination has published; this one leaves, and its dataset stays"
            )
        for key in (await self._orders())[:-_KEPT]:
            await self._storage.delete(key)

    async def _carry_out(self, order: dict[str, Any], lease: Lease | None) -> None:
        """:param lease: of one whose order is its own; whoever carries out another's is past its own."""
        keys, record = order["keys"], order["record"]
        await self._storage.publish(keys)
        if lease is not None:
            lease.check()  # files of both versions may be there; the record names one
        await self._storage.replace(PUBLISHED, json.dumps(record, indent=1).encode())
        if await self._storage.published() != record["files"]:
            await self._storage.publish(keys)  # what the record named until now may go

    async def _orders(self) -> list[str]:
        """Keys of all orders, the newest last."""
        return [key for key in await self._storage.list_keys(ORDERS) if key[len(ORDERS) + 1 :][:8].isdigit()]

    async def _names(self, key: str, manifest: Manifest) -> bool:
        """Whether an order is to show this dataset."""
        return bool((await self._order(key))["record"]["run_key"] == manifest.run_key)

    async def _order(self, key: str) -> dict[str, Any]:
        content = await self._storage.read(key)
        return restored(
            self._storage.locate(key),
            content,
            lambda order: {"keys": order["keys"], "record": order["record"], "files": order["files"]},
        )

    async def shows(self, manifest: Manifest) -> bool:
        """Whether readers see this dataset, and nothing else."""
        files = manifest.files(self._storage.destination)
        shown = await self._storage.published() or {}
        return shown == _sizes(manifest, files) and (await self.record()).get("run_key") == manifest.run_key

    async def record(self) -> dict[str, Any]:
        """What readers see now; empty when nothing was published."""
        try:
            content = await self._storage.read(PUBLISHED)
        except ObjectMissingError:
            return {}
        return restored(self._storage.locate(PUBLISHED), content, lambda record: {**record, "files": record["files"]})

    async def check(self, files: Iterable[str] = ()) -> None:
        """Refuse a destination with files that are not ours."""
        shown = await self._storage.published() or {}
        strangers = set(shown) - {*files, *(await self.record()).get("files", ())}
        if strangers:  # else nothing more needs to be looked at
            for key in await self._orders():
                strangers -= set((await self._order(key))["files"])
        if strangers:
            raise DestinationError(
                f"the destination {self._storage.destination} holds files that this task did not write, such as "
                f"{min(strangers)!r}; name a new or empty destination, or move them away"
            )


def _sizes(manifest: Manifest, files: Iterable[str]) -> dict[str, int]:
    return {name: seal.bytes for name, seal in zip(files, manifest.parts, strict=True)}
