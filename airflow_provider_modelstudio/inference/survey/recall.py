"""Answers that need not be asked again: where they are, and how to get them back.

Sources of answers, in the order they are believed: parts this run has sealed, the journal, parts of earlier runs.
Keys are read first and kept on local disk; answers are read when a row needs them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_modelstudio.inference.dataset.parts import PartReader
from airflow_provider_modelstudio.inference.errors import StorageError
from airflow_provider_modelstudio.inference.storage import ObjectMissingError
from airflow_provider_modelstudio.inference.vault.journal import once_key

from .flat import Flat, by_group, lay_out, pick

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from airflow_provider_modelstudio.inference.tasks import Decoded
    from airflow_provider_modelstudio.inference.vault import Vault
    from airflow_provider_modelstudio.inference.vault.journal import Place, Segment
    from airflow_provider_modelstudio.inference.vault.records import Seal

__all__ = ["KEY", "Known", "Shelf", "Source", "WiderRecord"]

KEY = np.dtype([("high", "<u8"), ("low", "<u8")])
"""A content key as two numbers; all zeros means that there is no answer."""
_BYTES = np.dtype(f"S{KEY.itemsize}")
"""The same as bytes, to be compared."""
CACHE_BYTES = 24 * 1024 * 1024
"""Decoded answers of earlier runs that are held at a time."""
KEYS_BYTES = 1024 * 1024
"""Keys that are copied at a time."""
SCATTERED = 2
"""Times that a part is read as a whole, a row group at a time, before its rows are taken to be wanted in no order."""
MOST_FLAT = 128
"""Parts laid out that are open at a time; each has a file of its own."""
SHELF_CHUNK_BYTES = 4 * 1024 * 1024


class WiderRecord(NamedTuple):
    """Where answers in a wider form are, and how they become answers of this run."""

    vaults: Sequence[Vault]
    narrow: Callable[[pa.RecordBatch], Decoded]


@dataclass(frozen=True, slots=True)
class Source:
    """A run of keys with their answers: one finished part, or one segment of the journal."""

    first: int
    rows: int
    vault: Vault
    seal: Seal | None
    segment: Place | None
    same_run: bool
    """The answers were paid for by this run."""
    narrow: Callable[[pa.RecordBatch], Decoded] | None = None
    """What makes this run's answers of them; ``None`` where they are such."""

    @property
    def book(self) -> str:
        """How rows that take these answers are counted."""
        if not self.same_run:
            return "reused"
        return "deduplicated" if self.segment is None else "embedded"

    def told(self, columns: pa.RecordBatch, reasons: list[str | None]) -> tuple[pa.RecordBatch, list[str | None]]:
        """Answers and reasons in the form of this run."""
        if self.narrow is None:
            return columns, reasons
        decoded = self.narrow(columns)
        return decoded.columns, [decoded.refused.get(i) for i in range(len(reasons))]


class Known:
    """All answers on record for one cache key, numbered from 0."""

    def __init__(
        self,
        vault: Vault,
        keys_path: Path,
        sealed_path: Path,
        also: Sequence[Vault] = (),
        wider: WiderRecord | None = None,
    ) -> None:
        """:param keys_path: where the keys go.
        :param sealed_path: where the keys of this run's finished parts go, too, whether or not others may share them.
        :param also: vaults of other destinations whose answers may be shared.
        :param wider: vaults with wider answers, which are believed last.
        """
        self._vault = vault
        self._also = also
        self._wider = wider
        self.keys_path = keys_path
        self.sealed_path = sealed_path
        self.sources: list[Source] = []
        self.rows = 0
        self.previous = range(0)
        """Numbers of the answers of the version that readers see now."""
        self.built = 0
        """Rows of finished parts that this run has built itself; their keys stand first in the file of sealed keys."""
        self.journal = range(0)
        """Numbers of the answers in the journal that this run paid for; those of other runs follow."""
        self.segments: frozenset[str] = frozenset()
        """Objects that were in the journal, by whomever."""
        self.foreign: dict[str, str] = {}
        """Those of other runs, and whose they are."""
        self.cut: list[str] = []
        """Where those are whose last segment a kill or a power cut left incomplete."""
        self._once = np.empty(0, _BYTES)
        """Ascending keys in this run's journal that have a reason; among them, see :func:`~..vault.journal.once_key`."""
        self._once_at = np.empty(0, np.int64)
        """The number of each."""
        self.damaged: list[str] = []
        """Where segments fail their checksum, and keys of parts of another size; their rows are asked again."""
        self.missing: list[str] = []
        """Where parts of earlier runs, and keys of parts, ought to be; the same."""
        self._readers: OrderedDict[int, PartReader] = OrderedDict()
        self._cache: OrderedDict[tuple[int, int], pa.RecordBatch] = OrderedDict()
        self._cached_bytes = 0
        self._rows_read: Counter[int] = Counter()
        """Of each part, with repetitions."""
        self._flat: OrderedDict[int, Flat] = OrderedDict()
        self._no_room = False
        """On local disk, for parts to be laid out."""
        # One thread, which ends when this object does: each thread that reads row groups keeps memory of its own for them.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="recall")

    async def read(self, *, share: bool, reuse: bool) -> dict[int, Seal]:
        """Collect the keys of everything on record; returns this run's finished parts.

        :param share: rows with equal keys share answers; else an answer that went into a finished part is used up.
        :param reuse: answers of earlier runs count.
        """
        # Before the finished parts: whoever still finishes one while we read removes answers only after that.
        segments = await self._vault.journal.segments()
        self.segments = frozenset(segments)
        sealed = await self._vault.seals()
        others = (
            {run: (await self._vault.seals(run)).values() for run in await self._vault.other_runs()} if reuse else {}
        )
        theirs = {seal.sha256 for seals in others.values() for seal in seals}
        with self.keys_path.open("wb") as file, self.sealed_path.open("wb") as own:
            for seal in sorted(sealed.values(), key=lambda seal: seal.sha256 in theirs):
                whole = await self._copy_keys(self._vault, seal, *((own, file) if share else (own,)))
                if whole and share:
                    self._add(Source(self.rows, seal.rows, self._vault, seal, None, same_run=True))
                self.built += seal.rows if whole and seal.sha256 not in theirs else 0
            first = self.rows
            await self._own_segments(file, segments, () if share else sealed)
            self.journal = range(first, self.rows)
            order = np.argsort(self._once, kind="stable")
            self._once, self._once_at = self._once[order], self._once_at[order]
            if reuse:
                mixed = set() if share else set(self.foreign.values()) & set(others)
                used_up = {run: await self._keys_of(others[run]) for run in mixed}
                for key, run in self.foreign.items():
                    file.write(await self._segments(self._vault, key, used_up=used_up.get(run)))
                await self._read_earlier(file, others, {seal.sha256 for seal in sealed.values()})
        return sealed

    async def _read_earlier(self, file: IO[bytes], others: Mapping[str, Collection[Seal]], mine: set[str]) -> None:
        """Earlier runs, most believed first.

        :param others: run → its finished parts.
        :param mine: digests of parts whose rows are this run's own already.
        """
        shown = (await self._vault.publication.record()).get("run_key")
        for run, seals in others.items():
            first = self.rows
            await self._parts(file, self._vault, run, [seal for seal in seals if seal.sha256 not in mine])
            if run == shown:
                self.previous = range(first, self.rows)
        for vault in self._also:
            await self._read_also(vault, file)
        if self._wider is not None:
            await self._read_wider(*self._wider, file, shown)

    async def _read_also(self, vault: Vault, file: IO[bytes]) -> None:
        for run in await vault.runs():
            await self._parts(file, vault, run, (await vault.seals(run)).values())

    async def _read_wider(
        self, vaults: Sequence[Vault], narrow: Callable[[pa.RecordBatch], Decoded], file: IO[bytes], shown: str | None
    ) -> None:
        """Of this destination and of others, also what a run has not finished: whoever changes the form pays for nothing."""
        for vault in vaults:
            for key in await vault.journal.segments():
                file.write(await self._segments(vault, key, narrow=narrow))
            for run in await vault.runs():
                first = self.rows
                await self._parts(file, vault, run, (await vault.seals(run)).values(), narrow)
                if run == shown:
                    self.previous = range(first, self.rows)

    async def _parts(
        self,
        file: IO[bytes],
        vault: Vault,
        run: str,
        seals: Collection[Seal],
        narrow: Callable[[pa.RecordBatch], Decoded] | None = None,
    ) -> None:
        """Answers of the parts that another run has finished, as far as they are there."""
        there = await vault.parts_there(run) if seals else set()
        for seal in seals:
            if seal.key not in there:
                self.missing.append(vault.storage.locate(seal.key))
            elif await self._copy_keys(vault, seal, file):
                self._add(Source(self.rows, seal.rows, vault, seal, None, same_run=False, narrow=narrow))

    async def _copy_keys(self, vault: Vault, seal: Seal, *files: IO[bytes]) -> bool:
        """Whether the keys of a part are whole; then they are in all the files, and never in memory as a whole."""
        try:
            reader = await vault.storage.open(seal.keys)
        except ObjectMissingError:
            self.missing.append(vault.storage.locate(seal.keys))
            return False
        if reader.size() != seal.rows * KEY.itemsize:
            self.damaged.append(vault.storage.locate(seal.keys))
            return False
        while content := await asyncio.to_thread(reader.read, KEYS_BYTES):
            for file in files:
                file.write(content)
        return True

    async def _own_segments(self, file: IO[bytes], segments: Sequence[str], used_up: Container[int]) -> None:
        """Answers that this run paid for, but for those of rows in the parts that are ``used_up``."""
        starts = np.array([part.first_row for part in self._vault.plan.parts])
        for key in segments:
            for place, segment in await self._read(self._vault, key):
                if segment.run_key != self._vault.plan.run_key:
                    self.foreign[key] = segment.run_key
                    break  # whoever writes an object writes for one run
                parts = np.searchsorted(starts, segment.rows.to_numpy(), side="right") - 1
                free = pa.array([part not in used_up for part in parts.tolist()])
                refused = pa.array(np.flatnonzero(np.array(pc.and_(segment.errors.is_valid(), free))))
                self._once = np.concatenate([self._once, np.array(segment.keys.take(refused).to_pylist(), _BYTES)])
                self._once_at = np.concatenate([self._once_at, refused.to_numpy() + self.rows])
                self._add(Source(self.rows, len(segment.keys), self._vault, None, place, same_run=True))
                file.write(_keys(segment, free))

    async def _read(self, vault: Vault, key: str) -> list[tuple[Place, Segment]]:
        """Segments of an object of the journal, as far as they are whole."""
        reading = await vault.journal.read(key)
        for where, trouble in ((self.damaged, reading.damaged), (self.cut, reading.cut)):
            if trouble and (location := vault.storage.locate(key)) not in where:
                where.append(location)
        return reading.segments

    async def _keys_of(self, seals: Collection[Seal]) -> np.ndarray:
        """Keys of the rows in finished parts of another run: their answers may be in its journal as well."""
        found = [np.empty(0, KEY)]
        for seal in seals:
            with contextlib.suppress(ObjectMissingError):
                found.append(np.frombuffer(await self._vault.storage.read(seal.keys), KEY))
        return np.concatenate(found)

    async def _segments(
        self,
        vault: Vault,
        key: str,
        *,
        narrow: Callable[[pa.RecordBatch], Decoded] | None = None,
        used_up: np.ndarray | None = None,
    ) -> bytes:
        """Answers that another run paid for. Why a row failed there is asked anew.

        :param used_up: keys of rows that have their answer in a part, too: where each row has its own, it counts once.
        """
        found = []
        for place, segment in await self._read(vault, key):
            self._add(Source(self.rows, len(segment.keys), vault, None, place, same_run=False, narrow=narrow))
            wanted = segment.errors.is_null()
            if used_up is not None:
                keys = np.frombuffer(b"".join(segment.keys.to_pylist()), KEY)
                wanted = pc.and_(wanted, pa.array(~np.isin(keys, used_up)))
            found.append(_keys(segment, wanted))
        return b"".join(found)

    async def vectors(self, seals: Iterable[Seal]) -> pa.Schema | None:
        """Form of the answers in finished parts, where it has the length of a vector: new ones must have the same."""
        for seal in seals:
            if seal.rows > seal.counts.failed:
                schema = (await _open_part(self._vault, seal)).schema
                return schema if any(pa.types.is_fixed_size_list(kind) for kind in schema.types) else None
        return None

    def _add(self, source: Source) -> None:
        self.sources.append(source)
        self.rows += source.rows

    async def first_answers(self, keys: Sequence[bytes]) -> dict[int, tuple[pa.RecordBatch, str]]:
        """Position in ``keys`` → answer and reason of those that were answered once, not with what was asked for."""
        if not len(self._once):
            return {}
        wanted = np.array([once_key(key) for key in keys], _BYTES)
        at = np.minimum(np.searchsorted(self._once, wanted), len(self._once) - 1)
        there = np.flatnonzero(self._once[at] == wanted)
        found = {}
        for positions, columns, reasons, _ in await self.answers(self._once_at[at[there]]):
            for i, position in enumerate(there[positions].tolist()):
                found[position] = (columns.slice(i, 1), reasons[i] or "")
        return found

    async def answers(self, numbers: np.ndarray) -> list[tuple[np.ndarray, pa.RecordBatch, list[str | None], str]]:
        """Fetch answers: positions in ``numbers``, answer columns, reasons of failed rows, how they are booked."""
        found = []
        firsts = np.array([source.first for source in self.sources])
        owners = np.searchsorted(firsts, numbers, side="right") - 1
        for owner in np.unique(owners):
            source = self.sources[owner]
            at = np.flatnonzero(owners == owner)
            rows = numbers[at] - source.first
            if source.segment is not None:
                group = await self._load(int(owner), 0)
                taken = group.take(pa.array(rows))
                reasons = taken.column(0).to_pylist()
                columns = pa.RecordBatch.from_arrays(taken.columns[1:], schema=pa.schema(list(taken.schema)[1:]))
                found.append((at, *source.told(columns, reasons), source.book))
                continue
            for places, columns in await self._rows(int(owner), rows):
                found.append((at[places], *source.told(columns, [None] * columns.num_rows), source.book))
        return found

    async def _rows(self, owner: int, rows: np.ndarray) -> list[tuple[np.ndarray, pa.RecordBatch]]:
        """Rows of a part, in pieces, and which of ``rows`` each of them is."""
        flat = await self._laid_out(owner)
        if flat is not None:
            return [await asyncio.get_running_loop().run_in_executor(self._thread, flat.take, rows)]
        ends = (await self._reader(owner)).group_ends
        return [
            piece
            for group, places, at in by_group(rows, ends)
            for piece in pick(await self._load(owner, group), places, at)
        ]

    async def _laid_out(self, owner: int) -> Flat | None:
        """A part of which rows were wanted in no order, so that reading row groups again and again would take for ever."""
        if owner not in self._flat:
            if self._no_room or self._rows_read[owner] <= SCATTERED * self.sources[owner].rows:
                return None
            run = partial(asyncio.get_running_loop().run_in_executor, self._thread)
            reader, path = await self._reader(owner), self.keys_path.with_name(f"flat-{owner}.arrow")
            if not path.exists() and not await run(lay_out, reader, path):
                self._no_room = True
                return None
            self._flat[owner] = await run(Flat, path, reader.group_ends)
            if len(self._flat) > MOST_FLAT:
                self._flat.popitem(last=False)
        self._flat.move_to_end(owner)
        return self._flat[owner]

    async def _reader(self, owner: int) -> PartReader:
        if owner not in self._readers:
            vault, seal = self.sources[owner].vault, self.sources[owner].seal
            assert seal is not None  # noqa: S101  # segments have no reader
            self._readers[owner] = await _open_part(vault, seal)
            if len(self._readers) > 8:  # noqa: PLR2004  # open files, not memory, are what is bounded here
                self._readers.popitem(last=False)
        self._readers.move_to_end(owner)
        return self._readers[owner]

    async def _load(self, owner: int, group: int) -> pa.RecordBatch:
        if (owner, group) in self._cache:
            self._cache.move_to_end((owner, group))
            return self._cache[owner, group]
        segment, vault = self.sources[owner].segment, self.sources[owner].vault
        if segment is None:
            reader = await self._reader(owner)
            # The store may take its time.
            batch = await asyncio.get_running_loop().run_in_executor(self._thread, reader.group, group)
            self._rows_read[owner] += batch.num_rows
        else:
            decoded = await vault.journal.segment(segment)
            if decoded is None:
                raise StorageError(f"{vault.storage.locate(segment.key)} was damaged while the task was running")
            # Reasons first; then what columns there are.
            batch = pa.RecordBatch.from_arrays(
                [decoded.errors, *decoded.answers.columns],
                schema=pa.schema([pa.field("", pa.string()), *decoded.answers.schema]),
            )
        self._cache[owner, group] = batch
        self._cached_bytes += batch.nbytes
        while self._cached_bytes > CACHE_BYTES and len(self._cache) > 1:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return batch


async def _open_part(vault: Vault, seal: Seal) -> PartReader:
    return await asyncio.to_thread(PartReader, await vault.storage.open(seal.key), seal.columns)


def _keys(segment: Segment, wanted: pa.Array) -> bytes:
    """Keys of a segment, zeros for those that are not wanted."""
    keys = pc.if_else(wanted, segment.keys, pa.scalar(bytes(KEY.itemsize), segment.keys.type))
    return b"".join(keys.to_pylist())


class Shelf:
    """Answers that later rows of the same run will want again, on local disk beyond a few megabytes."""

    def __init__(self, wanted: np.ndarray, folder: Path) -> None:
        """:param wanted: ascending row numbers whose answers other rows share."""
        self._wanted = wanted
        self._folder = folder
        self._chunk = np.full(len(wanted), -1, np.int32)
        self._at = np.zeros(len(wanted), np.int32)
        self._chunks: list[pa.RecordBatch] = []
        self._open: list[pa.RecordBatch] = []
        self._open_rows = 0
        self._open_bytes = 0

    def keep(self, rows: np.ndarray, columns: pa.RecordBatch) -> None:
        """Put aside the answers of those rows that are wanted again."""
        slots, asked = self._slots(rows)
        if not len(slots):
            return
        kept = columns.take(pa.array(asked))
        self._chunk[slots] = len(self._chunks)
        self._at[slots] = self._open_rows + np.arange(len(slots))
        self._open.append(kept)
        self._open_rows += kept.num_rows
        self._open_bytes += kept.nbytes
        if self._open_bytes >= SHELF_CHUNK_BYTES:
            self._write()

    def get(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
        """Answers of those rows that are there: positions in ``rows`` and columns."""
        slots, asked = self._slots(rows)
        there = self._chunk[slots] >= 0
        slots, asked = slots[there], asked[there]
        for chunk in np.unique(self._chunk[slots]):
            inside = self._chunk[slots] == chunk
            source = self._chunks[chunk] if chunk < len(self._chunks) else pa.concat_batches(self._open)
            yield asked[inside], source.take(pa.array(self._at[slots[inside]]))

    def wants(self, row: int) -> bool:
        """Whether other rows share the answer of this one."""
        return bool(len(self._slots(np.array([row]))[0]))

    def _slots(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        slots = np.searchsorted(self._wanted, rows)
        there = slots < len(self._wanted)
        there[there] = self._wanted[slots[there]] == rows[there]
        asked = np.flatnonzero(there)
        return slots[asked], asked

    def _write(self) -> None:
        batch = pa.concat_batches(self._open)
        path = self._folder / f"shelf-{len(self._chunks):05d}.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
        self._chunks.append(pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0))
        self._open, self._open_rows, self._open_bytes = [], 0, 0
