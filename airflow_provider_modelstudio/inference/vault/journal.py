"""Answers paid for, in the order they came: one self-checking segment for all that arrived during a write.

Where a store has logs, segments follow each other in one until it is large; elsewhere each is an object of its own.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from airflow_provider_modelstudio.inference.storage import ObjectMissingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_provider_modelstudio.inference.storage import Log, Piece, Storage

    from .lease import Lease

__all__ = [
    "Journal",
    "Place",
    "Reading",
    "Record",
    "Segment",
    "decode_segment",
    "encode_segment",
    "once_key",
    "read_segments",
]

log = logging.getLogger(__name__)

_MAGIC = b"MSJ1"
_HEADER = struct.Struct("<4sIQ")
KEY_TYPE = pa.binary(16)
LOG_BYTES = 4 * 1024 * 1024
"""After which a new log begins: what is in none but finished parts goes a whole log at a time."""


def once_key(key: bytes) -> bytes:
    """The key under which a first answer lies that was not what was asked for: no row's own, so no row takes it."""
    return bytes(byte ^ 0xFF for byte in key)


@dataclass(frozen=True, slots=True)
class Record:
    """Outcomes of one request, on their way into the journal."""

    keys: Sequence[bytes]
    rows: Sequence[int]
    """Rows that asked."""
    columns: pa.RecordBatch | None
    """Answers; ``None`` where there are reasons only, and nobody knows yet what answers look like."""
    errors: Sequence[str | None]
    parts: frozenset[int]
    """Parts that wait for these answers."""

    @property
    def has_reasons(self) -> bool:
        """Whether a row got a reason instead of an answer."""
        return self.errors.count(None) < len(self.errors)


def encode_segment(records: Sequence[Record], run_key: str) -> list[Piece]:
    """One self-checking segment with the outcomes of some requests, in pieces: an Arrow stream of one batch."""
    form = next((record.columns.schema for record in records if record.columns is not None), pa.schema([]))
    answers = [_answers(record, form) for record in records]
    head = {
        "": pa.array([key for record in records for key in record.keys], KEY_TYPE),
        "row": pa.array([row for record in records for row in record.rows], pa.int64()),
        "error": pa.array([error for record in records for error in record.errors], pa.string()),
    }
    fields = [pa.field(name, column.type) for name, column in head.items()]
    together = answers[0] if len(answers) == 1 else map(pa.concat_arrays, zip(*answers, strict=True))
    schema = pa.schema([*fields, *form], metadata={"run_key": run_key})
    batch = pa.RecordBatch.from_arrays([*head.values(), *together], schema=schema)
    pieces = [memoryview(schema.serialize()), memoryview(batch.serialize())]
    checksum = 0
    for piece in pieces:
        checksum = zlib.crc32(piece, checksum)
    return [_HEADER.pack(_MAGIC, checksum, sum(map(len, pieces))), *pieces]


def _answers(record: Record, form: pa.Schema) -> list[pa.Array]:
    if record.columns is None:
        return [pa.nulls(len(record.keys), field.type) for field in form]
    return list(record.columns.columns)


class Segment(NamedTuple):
    """Outcomes of some requests, side by side."""

    run_key: str
    """Of the run that paid."""
    keys: pa.Array
    rows: pa.Array
    errors: pa.Array
    answers: pa.RecordBatch


def decode_segment(content: bytes | memoryview) -> Segment | None:
    """What a segment holds; ``None`` when it is damaged."""
    if len(content) < _HEADER.size:
        return None
    magic, checksum, size = _HEADER.unpack_from(content)
    body = memoryview(content)[_HEADER.size :]
    if magic != _MAGIC or size != body.nbytes or zlib.crc32(body) != checksum:
        return None
    try:
        with pa.ipc.open_stream(pa.py_buffer(body)) as reader:
            batch = reader.read_next_batch()
    except (pa.ArrowException, OSError, StopIteration):  # an answer holds what looks like a segment
        return None
    if batch.schema.names[:3] != ["", "row", "error"]:
        return None
    answers = pa.RecordBatch.from_arrays(batch.columns[3:], schema=pa.schema(list(batch.schema)[3:]))
    run_key = (batch.schema.metadata or {}).get(b"run_key", b"").decode()
    return Segment(run_key, batch.column(0), batch.column(1), batch.column(2), answers)


class Place(NamedTuple):
    """Where a segment lies."""

    key: str
    start: int
    end: int


class Reading(NamedTuple):
    """What an object of the journal holds."""

    segments: list[tuple[Place, Segment]]
    cut: bool
    """The last segment is not whole: it was being written when its try was killed, or the power went."""
    damaged: bool


def read_segments(key: str, content: bytes) -> Reading:
    """All segments in an object that are whole; damage to one takes none of the others away."""
    segments, at, cut, damaged = [], 0, False, False
    while at < len(content):
        end = _end(content, at)
        segment = decode_segment(memoryview(content)[at:end])
        if segment is not None:
            segments.append((Place(key, at, end), segment))
            at = end
            continue
        following = content.find(_MAGIC, at + 1)
        while following >= 0 and decode_segment(memoryview(content)[following : _end(content, following)]) is None:
            following = content.find(_MAGIC, following + 1)
        cut = following < 0 and (end > len(content) or not any(content[at:]))
        damaged = damaged or not cut
        at = len(content) if following < 0 else following
    return Reading(segments, cut, damaged)


def _end(content: bytes, at: int) -> int:
    """Where the segment that begins at ``at`` ends, going by its header."""
    if len(content) - at < _HEADER.size:
        return at + _HEADER.size
    return at + _HEADER.size + int(_HEADER.unpack_from(content, at)[2])


class Journal:
    """Objects below ``<cache_key>/journal``, each written by one attempt."""

    def __init__(self, storage: Storage, cache_key: str, run_key: str, *, log_bytes: int = LOG_BYTES) -> None:
        """:param log_bytes: size of a log after which the next one begins."""
        self.epoch = ""
        """Of the attempt that writes; names its objects."""
        self._storage = storage
        self._folder = f"{cache_key}/journal"
        self._run_key = run_key
        self._log_bytes = log_bytes
        self._begun = 0
        """Objects of this attempt."""
        self._log: Log | None = None
        """The one that is written; ``None`` before the first segment and after an error."""
        self._log_key = ""
        self._log_size = 0
        self._queue: list[tuple[Record, asyncio.Future[None]]] = []
        self._flushing: set[asyncio.Task[None]] = set()
        self._waiting_for: dict[str, set[int]] = {}
        """Object of this attempt → parts that are not sealed yet and have answers in it."""
        self._read: dict[str, int] = {}
        """Object → its size when it was read."""

    async def append(self, record: Record) -> None:
        """Return when the outcomes are durable. What arrives during writes goes together into the next one."""
        done = asyncio.get_running_loop().create_future()
        self._queue.append((record, done))
        if len(self._flushing) < self._storage.writers:
            self._flushing.add(asyncio.create_task(self._flush()))
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
                except BaseException:  # the loop ends, and whoever waits must, too
                    for _, done in batch:
                        done.cancel()
                    raise
                else:
                    for _, done in batch:
                        if not done.done():
                            done.set_result(None)
        finally:
            # At once, not when the loop finds the time: what is appended in between would wait for nobody.
            me = asyncio.current_task()
            self._flushing = {task for task in self._flushing if task is not me}

    async def _write_segment(self, records: Sequence[Record]) -> None:
        """Write down what came. What holds reasons goes apart: a reason is in no part, and rows of later parts may ask
        the same, so it stays until the commit.
        """
        plain = [record for record in records if not record.has_reasons]
        reasons = [record for record in records if record.has_reasons]
        if plain:  # first: these were paid for
            # In the loop: half a millisecond is less than a thread takes to hand over the interpreter and back.
            content = encode_segment(plain, self._run_key)
            await self._write(content, set().union(*(record.parts for record in plain)))
        if reasons:
            await self._storage.create(self._next_key(), *encode_segment(reasons, self._run_key))

    async def _write(self, content: Sequence[Piece], parts: set[int]) -> None:
        """:param parts: those that wait for it."""
        if self._log_size >= self._log_bytes:
            self._log = None
        if self._log is not None:
            try:
                await self._append(self._log, content, parts)
            except ObjectMissingError:
                log.warning("somebody has removed %s, which is being written", self._storage.locate(self._log_key))
            else:
                return
        key = self._next_key()
        begun = await self._storage.start_log(key)
        if begun is None:
            await self._storage.create(key, *content)
            self._waiting_for[key] = parts
        else:
            self._log, self._log_key, self._log_size = begun, key, 0
            self._waiting_for[key] = set()
            await self._append(begun, content, parts)

    async def _append(self, begun: Log, content: Sequence[Piece], parts: set[int]) -> None:
        self._waiting_for[self._log_key] |= parts  # before it is there: no part is sealed without it
        try:
            await begun.append(*content)
        except BaseException:
            self._log = None
            raise
        self._log_size += sum(len(piece) for piece in content)

    def _next_key(self) -> str:
        self._begun += 1
        return f"{self._folder}/e{self.epoch}-{self._begun:08d}.seg"

    async def drop_part(self, part: int) -> None:
        """Forget objects of which every answer is in a sealed part, now that ``part`` is one."""
        for parts in self._waiting_for.values():
            parts.discard(part)
        done = [key for key, parts in self._waiting_for.items() if not parts]
        for key in done:
            del self._waiting_for[key]
        if self._log_key in done:
            self._log = None
        await self._storage.delete(*done)

    async def segments(self) -> list[str]:
        """Keys of all objects with segments, oldest first."""
        return [key for key in await self._storage.list_keys(self._folder) if key.endswith(".seg")]

    async def read(self, key: str) -> Reading:
        """Everything in an object of the journal."""
        content = await self._storage.read(key)
        self._read[key] = len(content)
        return await asyncio.to_thread(read_segments, key, content)

    async def segment(self, place: Place) -> Segment | None:
        """One segment; ``None`` when it is damaged."""
        return decode_segment(await self._storage.read(place.key, place.start, place.end))

    def wrote(self, key: str) -> bool:
        """Whether this attempt did."""
        return key.startswith(f"{self._folder}/e{self.epoch}-")

    async def drop(self, keys: Sequence[str], lease: Lease) -> None:
        """Forget objects whose answers are in a committed dataset; a newer attempt may rest on them already.

        What has grown since it was read stays: somebody who was frozen woke up and kept an answer in it.
        """
        self._log = None
        for key in keys:
            lease.check()
            if key in self._read:
                await self._storage.delete_unless_grown(key, self._read[key])
            else:
                await self._storage.delete(key)
