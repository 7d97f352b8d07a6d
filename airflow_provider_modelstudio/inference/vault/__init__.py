"""What is durable: answers paid for, parts that are finished, and the one object that is the commit.

Layout below the state folder, which lies beside the dataset and never in it::

    epoch/00000003-<attempt>                     who holds attempt 3 at this destination
    lease/00000003-<attempt>                     until when it may spend
    <cache_key>/journal/e00000003-<attempt>-00000017.seg   answers, in the order they came: a segment, or a log of many
    <cache_key>/runs/<run_key>/plan.json         pinned inputs; created once
    <cache_key>/runs/<run_key>/spent/00000003-<attempt>   how many requests and tokens attempt 3 may have sent
    <cache_key>/runs/<run_key>/spent/00000003-<attempt>.exact   how many it did, once it has ended
    <cache_key>/runs/<run_key>/parts/…           output files, named by their content; created once
    <cache_key>/runs/<run_key>/keys/…            content key of each row of a part; created once
    <cache_key>/runs/<run_key>/quarantine/…      rows kept out of the dataset, named by content; created once
    <cache_key>/runs/<run_key>/seals/00000.json  this part is finished, these are its books; created once
    <cache_key>/runs/<run_key>/manifest.json     THE COMMIT; created once
    <cache_key>/runs/<run_key>/served/…          which task instances this run has served
    published.json                               which run readers see now
    publishing/00000003-<attempt>.json           what attempt 3 was to show, and files that it may have left there

An answer counts only once it is in a segment that is durable.
Parts and the manifest derive from answers.
A reader goes from the manifest to parts that were there before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace
from pathlib import Path  # noqa: TC003  # a named tuple reads its annotations
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_modelstudio.inference.errors import DestinationError, InputChangedError, StorageError
from airflow_provider_modelstudio.inference.storage import ObjectExistsError, ObjectMissingError

from .journal import Journal
from .lease import Lease
from .meter import Meter
from .publication import Publication
from .records import Counts, Manifest, Quarantined, Seal, restored

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from airflow_provider_modelstudio.inference.plan import Part, Plan
    from airflow_provider_modelstudio.inference.storage import Storage

__all__ = ["LocalFile", "Vault"]

_BELOW_A_RUN = ("seals", "keys", "parts", "quarantine", "spent", "served")
"""Folders; what names the parts comes first, so that nobody finds a name without its part."""
KEEP_UNFINISHED_SECONDS = 7 * 24 * 3600.0


class LocalFile(NamedTuple):
    """A finished file on local disk, on its way into the vault."""

    path: Path
    rows: int
    sha256: str
    bytes: int


class Vault:
    """The durable side of one run."""

    def __init__(self, storage: Storage, plan: Plan) -> None:
        self.storage = storage
        self.plan = plan
        self._cache = plan.cache_key
        self._run = f"{plan.cache_key}/runs/{plan.run_key}"
        self.journal = Journal(storage, plan.cache_key, plan.run_key)
        self.meter = Meter(storage, f"{self._run}/spent")
        self.publication = Publication(storage)

    # ------------------------------------------------------------------ commit

    async def committed(self) -> Manifest | None:
        """The manifest of this run, if it is finished."""
        return await self._manifest(self.manifest_key)

    async def can_show(self, manifest: Manifest) -> bool:
        """Whether the parts of this run are there.

        They are not where an attempt was frozen while it committed, and its run was replaced and removed meanwhile.
        """
        there = await self.parts_there(self.plan.run_key)
        return all(seal.key in there for seal in manifest.parts)

    async def _manifest(self, key: str) -> Manifest | None:
        try:
            content = await self.storage.read(key)
        except ObjectMissingError:
            return None
        return restored(self.storage.locate(key), content, Manifest.from_dict)

    @property
    def quarantine_key(self) -> str:
        """Folder of the rows that this run keeps out of the dataset."""
        return f"{self._run}/quarantine"

    @property
    def manifest_key(self) -> str:
        """Key of the commit."""
        return f"{self._run}/manifest.json"

    async def record_plan(self) -> None:
        """Pin the plan; a plan on record must be equal to go on with it."""
        try:
            await self.storage.create(f"{self._run}/plan.json", self.plan.as_json())
        except ObjectExistsError as error:
            raise InputChangedError(
                f"the plan on record in {self.storage.locate(self._run)} is another one; remove that folder"
            ) from error

    def lease(self, owner: str, attempt: str, clock: Callable[[], float], ttl: float) -> Lease:
        """The right to spend at this destination."""
        return Lease(self.storage, owner, attempt=attempt, clock=clock, ttl=ttl)

    async def commit(self, seals: Sequence[Seal], *, owner: str, removed: int) -> Manifest:
        """Make the run's dataset a fact. If another attempt was first, its dataset is the fact."""
        manifest = Manifest(
            cache_key=self.plan.cache_key,
            run_key=self.plan.run_key,
            rows=self.plan.rows,
            removed=removed,
            owner=owner,
            parts=tuple(sorted(seals, key=lambda seal: seal.part)),
        )
        if manifest.counts.rows != self.plan.rows or len(manifest.parts) != len(self.plan.parts):
            raise StorageError(
                f"the books do not balance: {self.plan.rows} rows planned, {manifest.counts.rows} booked; nothing was committed"
            )
        try:
            await self.storage.create(self.manifest_key, manifest.as_json())
        except ObjectExistsError:
            first = await self.committed()
            if first is not None and await self.can_show(first):
                return first
            await self.storage.replace(self.manifest_key, manifest.as_json())
        return manifest

    # ------------------------------------------------------------------ parts

    def part_key(self, part: Part, sha256: str) -> tuple[str, str]:
        """File name and key of a finished part."""
        name = f"part-{part.index:05d}-{sha256[:16]}.parquet"
        return name, f"{self._run}/parts/{name}"

    async def seal(
        self,
        part: Part,
        file: LocalFile,
        apart: LocalFile | None,
        *,
        keys: Path,
        columns: Sequence[str],
        counts: Counts,
    ) -> Seal:
        """Keep a finished part. Its answers in the journal are then no longer needed.

        :param apart: rows that are kept out of the dataset.
        :param keys: a local file with the content key of each row in ``file``, which is used up.
        """
        written = file.rows + (0 if apart is None else apart.rows)
        stored = (await asyncio.to_thread(keys.stat)).st_size
        if not counts.rows == part.rows == written or stored != 16 * file.rows:
            raise StorageError(
                f"the books of part {part.index} do not balance: {part.rows} rows planned, {counts.rows} booked, "
                f"{written} written"
            )
        name, key = self.part_key(part, file.sha256)
        keys_key = self._keys_key(part, file.sha256)
        await self.storage.create_from(key, file.path)
        await self.storage.create_from(keys_key, keys)
        quarantine = None if apart is None else await self._set_apart(part, apart)
        seal = await self._seal(
            Seal(
                part=part.index,
                name=name,
                key=key,
                keys=keys_key,
                rows=file.rows,
                bytes=file.bytes,
                sha256=file.sha256,
                columns=tuple(columns),
                digest=part.digest,
                counts=counts,
                quarantine=quarantine,
            )
        )
        await self.journal.drop_part(part.index)
        return seal

    async def adopt_unchanged(self) -> int:
        """Take over parts of the version that readers see, where files and form are the same; returns how many.

        A part with failed rows is built anew, since they are asked again.
        """
        shown = (await self.publication.record()).get("run_key")
        if shown in {None, self.plan.run_key}:
            return 0
        before = {
            seal.digest: seal for seal in (await self.seals(shown)).values() if seal.digest and not seal.counts.failed
        }
        sealed = await self.seals()
        adopted = 0
        for part in self.plan.parts:
            seal = before.get(part.digest)
            if seal is None or part.index in sealed or not await self._is_whole(seal):
                continue
            name, key = self.part_key(part, seal.sha256)
            keys_key = self._keys_key(part, seal.sha256)
            await self.storage.copy(seal.key, key)
            await self.storage.copy(seal.keys, keys_key)
            await self._seal(
                replace(
                    seal,
                    part=part.index,
                    name=name,
                    key=key,
                    keys=keys_key,
                    counts=Counts(reused=seal.rows, oddities=seal.counts.oddities),
                )
            )
            adopted += 1
        return adopted

    async def _is_whole(self, seal: Seal) -> bool:
        """Whether a part and its keys are there, in their size."""
        try:
            part, keys = await self.storage.open(seal.key), await self.storage.open(seal.keys)
        except ObjectMissingError:
            return False
        return bool(part.size() == seal.bytes and keys.size() == 16 * seal.rows)

    def _keys_key(self, part: Part, sha256: str) -> str:
        return f"{self._run}/keys/{part.index:05d}-{sha256[:16]}.bin"

    async def _seal(self, seal: Seal) -> Seal:
        key = f"{self._run}/seals/{seal.part:05d}.json"
        try:
            await self.storage.create(key, json.dumps(seal.as_dict()).encode())
        except ObjectExistsError:  # another attempt finished this part first: its part is the part
            first = restored(self.storage.locate(key), await self.storage.read(key), Seal.from_dict)
            if first.key not in await self.parts_there(self.plan.run_key):  # see :meth:`can_show`
                await self.storage.replace(key, json.dumps(seal.as_dict()).encode())
                return seal
            strays = _objects(seal) - _objects(first)  # who lists the quarantine must not find a row twice
            await self.storage.delete(*strays)
            return first
        return seal

    async def _set_apart(self, part: Part, apart: LocalFile) -> Quarantined:
        key = f"{self.quarantine_key}/part-{part.index:05d}-{apart.sha256[:16]}.parquet"
        await self.storage.create_from(key, apart.path)
        return Quarantined(key=key, rows=apart.rows, bytes=apart.bytes, sha256=apart.sha256)

    async def tidy_quarantine(self, manifest: Manifest) -> None:
        """Leave in the quarantine what the commit names: who lists it must not find a row twice."""
        named = {seal.quarantine.key for seal in manifest.parts if seal.quarantine is not None}
        found = await self.storage.list_keys(self.quarantine_key)
        await self.storage.delete(*(key for key in found if key not in named))

    async def seals(self, run_key: str | None = None) -> dict[int, Seal]:
        """Finished parts of this run, as far as they are there, or of another run with the same cache key."""
        run = f"{self._cache}/runs/{run_key or self.plan.run_key}"
        if run_key is not None:
            # A seal that a killed try had just written may be gone after a power cut; the commit that rests on it is not.
            with contextlib.suppress(DestinationError):  # a damaged one: the seals say the same
                if (manifest := await self._manifest(f"{run}/manifest.json")) is not None:
                    return {seal.part: seal for seal in manifest.parts}
        found = [
            restored(self.storage.locate(key), await self.storage.read(key), Seal.from_dict)
            for key in await self.storage.list_keys(f"{run}/seals")
        ]
        there = await self.parts_there(self.plan.run_key) if run_key is None and found else set()
        return {seal.part: seal for seal in found if run_key is not None or seal.key in there}

    async def parts_there(self, run_key: str) -> set[str]:
        """Keys of the parts of a run that the store has, whatever the run's record says."""
        return set(await self.storage.list_keys(f"{self._cache}/runs/{run_key}/parts"))

    async def runs(self) -> list[str]:
        """Run keys of all runs with this cache key."""
        return [key.rpartition("/")[2] for key in await self.storage.list_keys(f"{self._cache}/runs")]

    async def other_runs(self) -> list[str]:
        """Run keys of other runs whose answers may be shared."""
        return [run for run in await self.runs() if run != self.plan.run_key]

    async def forget_other_runs(self, segments: Mapping[str, str], lease: Lease) -> None:
        """Remove runs that this one, committed and shown, has replaced.

        Runs that did not finish keep their paid answers for a week, by the clock of the store.

        :param segments: those in the journal that other runs paid for, and which.
        """
        kept = set()
        now = await self.storage.modified(self.manifest_key)
        for run in await self.other_runs():
            folder = f"{self._cache}/runs/{run}"
            objects = await self.storage.list_keys(folder)
            below = [key for name in _BELOW_A_RUN for key in await self.storage.list_keys(f"{folder}/{name}")]
            unfinished = f"{folder}/manifest.json" not in objects
            if unfinished and now - await self._last_seen(folder) < KEEP_UNFINISHED_SECONDS:
                kept.add(run)
                continue
            for key in (f"{folder}/manifest.json", *below, f"{folder}/plan.json"):
                lease.check()  # what was listed is older then; one that was frozen may have found what is newer
                await self.storage.delete(key)
            for name in (*_BELOW_A_RUN, ""):
                await self.storage.forget_folder(f"{folder}/{name}".rstrip("/"))
        await self.journal.drop([segment for segment, run in segments.items() if run not in kept], lease)

    async def _last_seen(self, folder: str) -> float:
        """When a run was planned or last wrote down what it may spend, by the clock of the store; 0 if never."""
        seen = 0.0
        for key in (f"{folder}/plan.json", *await self.storage.list_keys(f"{folder}/spent")):
            with contextlib.suppress(ObjectMissingError):
                seen = max(seen, await self.storage.modified(key))
        return seen


def _objects(seal: Seal) -> set[str]:
    """Keys of everything that a seal names."""
    return {seal.key, seal.keys} | ({seal.quarantine.key} if seal.quarantine is not None else set())
