"""Answers paid for, in the order they came: one self-checking object for all that arrived during a write."""

from __future__ import annotations

import asyncio
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_provider_modelstudio.inference.storage import Piece, Storage

    from .lease import Lease

__all__ = ["Journal", "Record", "Segment", "decode_segment", "encode_segment", "once_key"]

_MAGIC = b"MSJ1"
_HEADER = struct.Struct("<4sIQ")
KEY_TYPE = pa.binary(16)


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


def encode_segment(records: Sequence[Record], run_key: str) -> list[Piece]:
    """One self-checking object with the outcomes of some requests, in pieces: vectors are not copied to join them."""
    form = next((record.columns.schema for record in records if record.columns is not None), pa.schema([]))
    answers = [_answers(record, form) for record in records]
    head = {
        "": pa.array([key for record in records for key in record.keys], KEY_TYPE),
        "row": pa.array([row for record in records for row in record.rows], pa.int64()),
        "error": pa.array([error for record in records for error in record.errors], pa.string()),
    }
    fields = [pa.field(name, column.type) for name, column in head.items()]
    batch = pa.RecordBatch.from_arrays(
        [*head.values(), *(pa.concat_arrays([columns[i] for columns in answers]) for i in range(len(form)))],
        schema=pa.schema([*fields, *form], metadata={"run_key": run_key}),
    )
    sink = _Pieces()
    with pa.PythonFile(sink, mode="w") as file, pa.ipc.new_stream(file, batch.schema) as writer:
        writer.write_batch(batch)
    return [_HEADER.pack(_MAGIC, sink.checksum, sink.size), *sink.pieces]


class _Pieces:
    """What Arrow writes, as it comes."""

    closed = False

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.size = 0
        self.checksum = 0

    def write(self, content: pa.Buffer | bytes) -> int:
        piece = memoryview(content)
        self.pieces.append(piece)
        self.size += piece.nbytes
        self.checksum = zlib.crc32(piece, self.checksum)
        return piece.nbytes

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing is open."""


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


def decode_segment(content: bytes) -> Segment | None:
    """What a segment holds; ``None`` when it is damaged."""
    if len(content) < _HEADER.size:
        return None
    magic, checksum, size = _HEADER.unpack_from(content)
    body = memoryview(content)[_HEADER.size :]
    if magic != _MAGIC or size != body.nbytes or zlib.crc32(body) != checksum:
        return None
    with pa.ipc.open_stream(pa.py_buffer(body)) as reader:
        batch = reader.read_next_batch()
    answers = pa.RecordBatch.from_arrays(batch.columns[3:], schema=pa.schema(list(batch.schema)[3:]))
    run_key = (batch.schema.metadata or {}).get(b"run_key", b"").decode()
    return Segment(run_key, batch.column(0), batch.column(1), batch.column(2), answers)


class Journal:
    """Segments below ``<cache_key>/journal``, created once each."""

    def __init__(self, storage: Storage, cache_key: str, run_key: str) -> None:
        self.epoch = ""
        """Of the attempt that writes; names its segments."""
        self._storage = storage
        self._folder = f"{cache_key}/journal"
        self._run_key = run_key
        self._written = 0
        self._queue: list[tuple[Record, asyncio.Future[None]]] = []
        self._flushing: set[asyncio.Task[None]] = set()
        self._waiting_for: dict[str, set[int]] = {}
        """Segment → parts that are not sealed yet and have answers in it."""

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
                else:
                    for _, done in batch:
                        if not done.done():
                            done.set_result(None)
        finally:
            # At once, not when the loop finds the time: what is appended in between would wait for nobody.
            me = asyncio.current_task()
            self._flushing = {task for task in self._flushing if task is not me}

    async def _write_segment(self, records: Sequence[Record]) -> None:
        self._written += 1
        key = f"{self._folder}/e{self.epoch}-{self._written:08d}.seg"
        # In the loop: half a millisecond is less than a thread takes to hand over the interpreter and back.
        await self._storage.create(key, *encode_segment(records, self._run_key))
        if not any(error is not None for record in records for error in record.errors):
            self._waiting_for[key] = set().union(*(record.parts for record in records))
        # A reason is in no part, and rows of later parts may ask the same: it stays until the commit.

    async def drop_part(self, part: int) -> None:
        """Forget segments of which every answer is in a sealed part, now that ``part`` is one."""
        for parts in self._waiting_for.values():
            parts.discard(part)
        done = [key for key, parts in self._waiting_for.items() if not parts]
        for key in done:
            del self._waiting_for[key]
        await self._storage.delete(*done)

    async def segments(self) -> list[str]:
        """Keys of all segments, oldest first."""
        return [key for key in await self._storage.list_keys(self._folder) if key.endswith(".seg")]

    def wrote(self, segment: str) -> bool:
        """Whether this attempt did."""
        return segment.startswith(f"{self._folder}/e{self.epoch}-")

    async def drop(self, segments: Sequence[str], lease: Lease) -> None:
        """Forget segments whose answers are in a committed dataset; a newer attempt may rest on them already."""
        for key in segments:
            lease.check()
            await self._storage.delete(key)
