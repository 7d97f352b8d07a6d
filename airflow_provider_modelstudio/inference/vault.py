"""What is durable: answers paid for, parts that are finished, and the one object that is the commit.

Layout below the state folder, which lies beside the dataset and never in it::

    <cache_key>/epoch/00000003                   who holds attempt 3; created once
    <cache_key>/journal/e00000003-00000017.seg   answers, in the order they came; created once
    <cache_key>/runs/<run_key>/plan.json         pinned inputs; created once
    <cache_key>/runs/<run_key>/parts/…           output files, named by their content; created once
    <cache_key>/runs/<run_key>/keys/…            content key of each row of a part; created once
    <cache_key>/runs/<run_key>/seals/00000.json  this part is finished, these are its books; created once
    <cache_key>/runs/<run_key>/manifest.json     THE COMMIT; created once
    published.json                               which run readers see now
    publishing.json                              files that a publication may have left in the destination

An answer counts only once it is in a segment that is durable.
Parts and the manifest derive from answers.
A reader goes from the manifest to parts that were there before it.
"""

from __future__ import annotations

import asyncio
import json
import struct
import zlib
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from .errors import DestinationError, InputChangedError, StorageError
from .lease import Lease
from .storage import PUBLISHED, ObjectExistsError, ObjectMissingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from .plan import Part, Plan
    from .storage import Storage

__all__ = ["Counts", "Manifest", "Record", "Seal", "Vault", "decode_segment", "encode_segment"]

Restored = TypeVar("Restored")

_MAGIC = b"MSJ1"
_HEADER = struct.Struct("<4sIQ")
KEY_TYPE = pa.binary(16)
MAX_REASONS = 20
KEEP_UNFINISHED_SECONDS = 7 * 24 * 3600.0


@dataclass(slots=True)
class Counts:
    """Books of some rows: each row is in exactly one of the four."""

    embedded: int = 0
    reused: int = 0
    deduplicated: int = 0
    failed: int = 0
    tokens: int = 0
    """Estimated tokens of the rows embedded."""
    errors: dict[str, int] = field(default_factory=dict)
    """Reason → rows, the first reasons only."""

    def fail(self, reason: str) -> None:
        """Book one row without an answer."""
        self.failed += 1
        if reason in self.errors or len(self.errors) < MAX_REASONS:
            self.errors[reason] = self.errors.get(reason, 0) + 1

    def add(self, other: Counts) -> None:
        """Book everything ``other`` booked."""
        self.embedded += other.embedded
        self.reused += other.reused
        self.deduplicated += other.deduplicated
        self.failed += other.failed
        self.tokens += other.tokens
        for reason, rows in other.errors.items():
            if reason in self.errors or len(self.errors) < MAX_REASONS:
                self.errors[reason] = self.errors.get(reason, 0) + rows

    @property
    def rows(self) -> int:
        """Rows booked."""
        return self.embedded + self.reused + self.deduplicated + self.failed


@dataclass(frozen=True, kw_only=True, slots=True)
class Seal:
    """A finished part."""

    part: int
    name: str
    """File name in the dataset."""
    key: str
    """Where the file is kept."""
    keys: str
    """Where the content keys of its rows are: 16 bytes a row, zeros for a row without an answer."""
    rows: int
    bytes: int
    sha256: str
    columns: tuple[str, ...]
    """Columns that hold answers."""
    counts: Counts

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Seal:
        """Back from :meth:`as_dict`."""
        return cls(**{**record, "columns": tuple(record["columns"]), "counts": Counts(**record["counts"])})


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """A committed dataset: its files and its books."""

    cache_key: str
    run_key: str
    rows: int
    removed: int
    """Rows of the version before whose content is not in this one."""
    owner: str
    """Who ran it, for example Dag, run and task."""
    parts: tuple[Seal, ...]

    def as_json(self) -> bytes:
        """Canonical bytes."""
        record = {
            "cache_key": self.cache_key,
            "run_key": self.run_key,
            "rows": self.rows,
            "removed": self.removed,
            "owner": self.owner,
            "parts": [seal.as_dict() for seal in self.parts],
        }
        return json.dumps(record, sort_keys=True, indent=1).encode()

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Manifest:
        """Back from what :meth:`as_json` wrote."""
        return cls(**{**record, "parts": tuple(Seal.from_dict(part) for part in record["parts"])})

    @property
    def counts(self) -> Counts:
        """Books of all parts."""
        counts = Counts()
        for seal in self.parts:
            counts.add(seal.counts)
        return counts

    def files(self, destination: str) -> dict[str, str]:
        """File name in the dataset → key; a single-file dataset is named by its destination."""
        if destination.endswith(".parquet"):
            return {destination.rpartition("/")[2]: self.parts[0].key}
        return {seal.name: seal.key for seal in self.parts}


@dataclass(frozen=True, slots=True)
class Record:
    """Outcomes of one request, on their way into the journal."""

    keys: Sequence[bytes]
    columns: pa.RecordBatch
    errors: Sequence[str | None]
    parts: frozenset[int]
    """Parts that wait for these answers."""


def encode_segment(records: Sequence[Record], run_key: str) -> bytes:
    """One self-checking object with the outcomes of some requests."""
    columns = pa.concat_batches([record.columns for record in records])
    keys = pa.array([key for record in records for key in record.keys], KEY_TYPE)
    errors = pa.array([error for record in records for error in record.errors], pa.string())
    batch = pa.RecordBatch.from_arrays(
        [keys, errors, *columns.columns],
        schema=pa.schema(
            [pa.field("", KEY_TYPE), pa.field("error", pa.string()), *columns.schema], metadata={"run_key": run_key}
        ),
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    body = memoryview(sink.getvalue())
    return b"".join((_HEADER.pack(_MAGIC, zlib.crc32(body), body.nbytes), body))


def decode_segment(content: bytes) -> tuple[str, pa.RecordBatch] | None:
    """Run and outcomes of a segment: content key, error, answer columns; ``None`` when it is damaged."""
    if len(content) < _HEADER.size:
        return None
    magic, checksum, size = _HEADER.unpack_from(content)
    body = memoryview(content)[_HEADER.size :]
    if magic != _MAGIC or size != body.nbytes or zlib.crc32(body) != checksum:
        return None
    with pa.ipc.open_stream(pa.py_buffer(body)) as reader:
        batch = reader.read_next_batch()
    return (batch.schema.metadata or {}).get(b"run_key", b"").decode(), batch


class Vault:
    """The durable side of one run."""

    def __init__(self, storage: Storage, plan: Plan) -> None:
        self.storage = storage
        self.plan = plan
        self._cache = plan.cache_key
        self._run = f"{plan.cache_key}/runs/{plan.run_key}"
        self._lease: Lease | None = None
        self._segments = 0
        self._queue: list[tuple[Record, asyncio.Future[None]]] = []
        self._flushing: asyncio.Task[None] | None = None
        self._waiting_for: dict[str, set[int]] = {}
        """Segment → parts that are not sealed yet and have answers in it."""

    # ------------------------------------------------------------------ commit

    async def committed(self) -> Manifest | None:
        """The manifest of this run, if it is finished."""
        try:
            content = await self.storage.read(self.manifest_key)
        except ObjectMissingError:
            return None
        return self._restored(self.manifest_key, content, Manifest.from_dict)

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

    def lease(self, clock: Callable[[], float], ttl: float) -> Lease:
        """The right to spend on this cache key; its epoch names this attempt's segments."""
        self._lease = Lease(self.storage, self._cache, self.plan.run_key, clock=clock, ttl=ttl)
        return self._lease

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
            if first is None:
                raise
            return first
        return manifest

    async def publish(self, manifest: Manifest) -> None:
        """Show the committed dataset to readers."""
        files = manifest.files(self.storage.destination)
        await self.check_destination(files)
        sizes = {name: seal.bytes for name, seal in zip(files, manifest.parts, strict=True)}
        shown = await self.storage.published() or {}
        if shown == sizes and (await self.published()).get("run_key") == manifest.run_key:
            return
        # Killed from here on, files of both versions may be shown: all of them are ours, whatever is published next.
        await self._replace("publishing.json", {"files": sorted({*shown, *files})})
        await self.storage.publish(files)
        record = {
            "cache_key": manifest.cache_key,
            "run_key": manifest.run_key,
            "rows": manifest.rows,
            "manifest": self.manifest_key,
            "files": sizes,
        }
        await self._replace(PUBLISHED, record)
        if await self.storage.published() != sizes:
            await self.storage.publish(files)  # what the record named until now may go

    async def _replace(self, key: str, record: dict[str, Any]) -> None:
        await self.storage.replace(key, json.dumps(record, indent=1).encode())

    async def _record(self, key: str) -> dict[str, Any]:
        try:
            content = await self.storage.read(key)
        except ObjectMissingError:
            return {}
        return self._restored(key, content, lambda record: {**record, "files": record["files"]})

    def _restored(self, key: str, content: bytes, make: Callable[[dict[str, Any]], Restored]) -> Restored:
        """What a record on the store says; it is ours, so nonsense in it is damage."""
        try:
            return make(json.loads(content))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DestinationError(
                f"{self.storage.locate(key)} is damaged ({type(error).__name__}); bring it back from a copy, or move the "
                "state folder and the destination away: what they hold is then asked for again"
            ) from error

    async def published(self) -> dict[str, Any]:
        """What readers see now; empty when nothing was published."""
        return await self._record(PUBLISHED)

    async def check_destination(self, files: Iterable[str] = ()) -> None:
        """Refuse a destination with files that are not ours."""
        shown = await self.storage.published() or {}
        before, passing = await self.published(), await self._record("publishing.json")
        strangers = sorted(set(shown) - {*files, *before.get("files", ()), *passing.get("files", ())})
        if strangers:
            raise DestinationError(
                f"the destination {self.storage.destination} holds files that this task did not write, such as "
                f"{strangers[0]!r}; name a new or empty destination, or move them away"
            )

    # ------------------------------------------------------------------ parts

    def part_key(self, part: Part, sha256: str) -> tuple[str, str]:
        """File name and key of a finished part."""
        name = f"part-{part.index:05d}-{sha256[:16]}.parquet"
        return name, f"{self._run}/parts/{name}"

    async def seal(
        self,
        part: Part,
        *,
        path: Path,
        sha256: str,
        size: int,
        keys: bytes,
        columns: Sequence[str],
        counts: Counts,
    ) -> Seal:
        """Keep a finished part. Its answers in the journal are then no longer needed."""
        if counts.rows != part.rows or len(keys) != 16 * part.rows:
            raise StorageError(
                f"the books of part {part.index} do not balance: {part.rows} rows planned, {counts.rows} booked"
            )
        name, key = self.part_key(part, sha256)
        keys_key = f"{self._run}/keys/{part.index:05d}-{sha256[:16]}.bin"
        await self.storage.create_from(key, path)
        await self.storage.create(keys_key, keys)
        seal = Seal(
            part=part.index,
            name=name,
            key=key,
            keys=keys_key,
            rows=part.rows,
            bytes=size,
            sha256=sha256,
            columns=tuple(columns),
            counts=counts,
        )
        seal_key = f"{self._run}/seals/{part.index:05d}.json"
        try:
            await self.storage.create(seal_key, json.dumps(seal.as_dict()).encode())
        except ObjectExistsError:  # another attempt finished this part first: its part is the part
            seal = self._restored(seal_key, await self.storage.read(seal_key), Seal.from_dict)
        await self._drop_segments(part.index)
        return seal

    async def seals(self, run_key: str | None = None) -> dict[int, Seal]:
        """Finished parts of this run, or of another run with the same cache key."""
        run = f"{self._cache}/runs/{run_key or self.plan.run_key}"
        found = [
            self._restored(key, await self.storage.read(key), Seal.from_dict)
            for key in await self.storage.list_keys(f"{run}/seals")
        ]
        return {seal.part: seal for seal in found}

    async def runs(self) -> list[str]:
        """Run keys of all runs with this cache key."""
        return [key.rpartition("/")[2] for key in await self.storage.list_keys(f"{self._cache}/runs")]

    async def other_runs(self) -> list[str]:
        """Run keys of other runs whose answers may be shared."""
        return [run for run in await self.runs() if run != self.plan.run_key]

    async def forget_other_runs(self) -> None:
        """Remove runs that this one, committed and shown, has replaced.

        Runs that did not finish keep their paid answers for a week, by the clock of the store.
        """
        now = await self.storage.modified(self.manifest_key)
        for run in await self.other_runs():
            folder = f"{self._cache}/runs/{run}"
            objects = await self.storage.list_keys(folder)
            if f"{folder}/manifest.json" not in objects:
                try:
                    age = now - await self.storage.modified(f"{folder}/plan.json")
                except ObjectMissingError:
                    age = KEEP_UNFINISHED_SECONDS
                if age < KEEP_UNFINISHED_SECONDS:
                    continue
            # What names the parts goes first: nobody may find a name without its part.
            await self.storage.delete(f"{folder}/manifest.json")
            for below in ("seals", "keys", "parts"):
                for key in await self.storage.list_keys(f"{folder}/{below}"):
                    await self.storage.delete(key)
            await self.storage.delete(f"{folder}/plan.json")

    # ------------------------------------------------------------------ journal

    async def append(self, record: Record) -> None:
        """Return when the outcomes are durable. What arrives during a write goes into the next one."""
        done = asyncio.get_running_loop().create_future()
        self._queue.append((record, done))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        await done

    async def _flush(self) -> None:
        try:
            while self._queue:
                batch, self._queue = self._queue, []
                try:
                    await self._write_segment([record for record, _ in batch])
                except Exception as error:  # noqa: BLE001  # every waiter gets it, nobody else can
                    for _, done in batch:
                        if not done.done():
                            done.set_exception(error)
                else:
                    for _, done in batch:
                        if not done.done():
                            done.set_result(None)
        finally:
            self._flushing = None

    async def _write_segment(self, records: Sequence[Record]) -> None:
        self._segments += 1
        epoch = 0 if self._lease is None else self._lease.epoch
        key = f"{self._cache}/journal/e{epoch:08d}-{self._segments:08d}.seg"
        await self.storage.create(key, await asyncio.to_thread(encode_segment, records, self.plan.run_key))
        self._waiting_for[key] = set().union(*(record.parts for record in records))

    async def _drop_segments(self, part: int) -> None:
        for key, parts in list(self._waiting_for.items()):
            parts.discard(part)
            if not parts:
                del self._waiting_for[key]
                await self.storage.delete(key)

    async def segments(self) -> list[str]:
        """Keys of all segments, oldest first."""
        return [key for key in await self.storage.list_keys(f"{self._cache}/journal") if key.endswith(".seg")]

    async def drop_journal(self, segments: Sequence[str]) -> None:
        """Forget segments whose answers are in a committed dataset."""
        for key in segments:
            await self.storage.delete(key)
