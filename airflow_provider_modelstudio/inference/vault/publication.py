"""What readers see: which committed dataset, and whether all files in the destination are ours."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airflow_provider_modelstudio.inference.errors import DestinationError
from airflow_provider_modelstudio.inference.storage import PUBLISHED, ObjectMissingError

from .records import restored

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_modelstudio.inference.storage import Storage

    from .records import Manifest

__all__ = ["Publication"]

_INTENT = "publishing.json"


class Publication:
    """The destination of a storage, and the two records about it."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def show(self, manifest: Manifest, manifest_key: str) -> None:
        """Make a committed dataset what readers see."""
        files = manifest.files(self._storage.destination)
        await self.check(files)
        if await self.shows(manifest):
            return
        sizes = _sizes(manifest, files)
        shown = await self._storage.published() or {}
        # Killed from here on, files of both versions may be shown: all of them are ours, whatever is published next.
        await self._replace(_INTENT, {"files": sorted({*shown, *files})})
        await self._storage.publish(files)
        record = {
            "cache_key": manifest.cache_key,
            "run_key": manifest.run_key,
            "rows": manifest.rows,
            "manifest": manifest_key,
            "files": sizes,
        }
        await self._replace(PUBLISHED, record)
        if await self._storage.published() != sizes:
            await self._storage.publish(files)  # what the record named until now may go

    async def shows(self, manifest: Manifest) -> bool:
        """Whether readers see this dataset, and nothing else."""
        files = manifest.files(self._storage.destination)
        shown = await self._storage.published() or {}
        return shown == _sizes(manifest, files) and (await self.record()).get("run_key") == manifest.run_key

    async def _replace(self, key: str, record: dict[str, Any]) -> None:
        await self._storage.replace(key, json.dumps(record, indent=1).encode())

    async def _record(self, key: str) -> dict[str, Any]:
        try:
            content = await self._storage.read(key)
        except ObjectMissingError:
            return {}
        return restored(self._storage.locate(key), content, lambda record: {**record, "files": record["files"]})

    async def record(self) -> dict[str, Any]:
        """What readers see now; empty when nothing was published."""
        return await self._record(PUBLISHED)

    async def check(self, files: Iterable[str] = ()) -> None:
        """Refuse a destination with files that are not ours."""
        shown = await self._storage.published() or {}
        before, passing = await self.record(), await self._record(_INTENT)
        strangers = sorted(set(shown) - {*files, *before.get("files", ()), *passing.get("files", ())})
        if strangers:
            raise DestinationError(
                f"the destination {self._storage.destination} holds files that this task did not write, such as "
                f"{strangers[0]!r}; name a new or empty destination, or move them away"
            )


def _sizes(manifest: Manifest, files: Iterable[str]) -> dict[str, int]:
    return {name: seal.bytes for name, seal in zip(files, manifest.parts, strict=True)}
