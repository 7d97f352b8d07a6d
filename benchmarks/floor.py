"""The floor: Parquet in, sockets, a decoder, Parquet out, and no feature at all.

    python benchmarks/floor.py --rows 100000 [--concurrency 64] [--latency 0.1] [--media json|cbor]

No retries, no pacing, no journal, no checksums, no errors: what is left when everything that a user needs is taken away.
Requests are cut by the window, answers go to their place, and a thread writes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simdjson
from rows import Meter, bill, check_output, make_input, server

WINDOW = 1024
REQUEST = 10
_HEAD = len(b"\xbf\x69embedding\x9f")
_OPENING = len(b"\xbf\x6etext_embedding\x9f")


class Place:
    """A window on its way."""

    def __init__(self, batch: pa.RecordBatch, dimensions: int) -> None:
        self.batch = batch
        self.matrix = np.empty((batch.num_rows, dimensions), np.float32)
        self.left = batch.num_rows


class Connection(asyncio.Protocol):
    """One connection that asks the next question as soon as it has an answer."""

    def __init__(self, floor: Floor) -> None:
        self._floor = floor
        self._held = bytearray()
        self._size = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # always a stream here
        """Begin."""
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        """Send the next request, if there is one."""
        following = self._floor.take()
        if following is None:
            self._floor.idle.append(self)
            return
        self._place, self._at, request = following
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Collect an answer."""
        self._held += data
        if not self._size:
            end = self._held.find(b"\r\n\r\n")
            if end < 0:
                return
            at = self._held.index(b"content-length:") + 15
            self._size = int(self._held[at : self._held.index(b"\r", at)])
            del self._held[: end + 4]
        if len(self._held) == self._size:
            body, self._held, self._size = bytes(self._held), bytearray(), 0
            self._floor.answered(self._place, self._at, body)
            self.ask()


class Floor:
    """All of it."""

    def __init__(self, source: Path, destination: Path, asked: argparse.Namespace, url: str) -> None:
        self._batches = pq.ParquetFile(source).iter_batches(WINDOW)
        self._dimensions = asked.dimensions
        self._cbor = asked.media == "cbor"
        accept = "cbor" if self._cbor else "json"
        self._head = (
            f"POST /_inference/text_embedding/canned HTTP/1.1\r\nhost: floor\r\n"
            f"accept: application/vnd.elasticsearch+{accept};compatible-with=8\r\n"
            "content-type: application/vnd.elasticsearch+json;compatible-with=8\r\ncontent-length: "
        ).encode()
        self._parser = simdjson.Parser()
        self._most = max(4, 4 * asked.concurrency * REQUEST // WINDOW)
        self._open: deque[Place] = deque()
        self._requests: deque[tuple[Place, int, bytes]] = deque()
        self.idle: list[Connection] = []
        self._thread = ThreadPoolExecutor(1)
        self._writing: deque[Any] = deque()
        self._destination = destination
        self._writer: pq.ParquetWriter | None = None
        self._asked = asked
        self._url = urlsplit(url)

    async def run(self) -> None:
        """From the first row to the last."""
        self._loop = asyncio.get_running_loop()
        self._done = self._loop.create_future()
        self._refill()
        for _ in range(self._asked.concurrency):
            await self._loop.create_connection(lambda: Connection(self), self._url.hostname or "", self._url.port or 0)
        await self._done
        self._thread.shutdown()
        for written in self._writing:
            written.result()
        if self._writer is not None:
            self._writer.close()

    def take(self) -> tuple[Place, int, bytes] | None:
        """The next request."""
        if not self._requests:
            self._refill()
        return self._requests.popleft() if self._requests else None

    def _refill(self) -> None:
        while len(self._open) < self._most and len(self._requests) < self._asked.concurrency:
            batch = next(self._batches, None)
            if batch is None:
                return
            place = Place(batch, self._dimensions)
            self._open.append(place)
            texts = batch.column("text").to_pylist()
            for at in range(0, len(texts), REQUEST):
                body = json.dumps({"input": texts[at : at + REQUEST]}).encode()
                self._requests.append((place, at, b"%s%d\r\n\r\n%s" % (self._head, len(body), body)))

    def answered(self, place: Place, at: int, body: bytes) -> None:
        """Put an answer where it belongs."""
        rows = min(REQUEST, len(place.matrix) - at)
        if self._cbor:
            stride = (len(body) - _OPENING - 2) // rows
            table = np.frombuffer(body, np.uint8, rows * stride, _OPENING).reshape(rows, stride)
            values = np.ascontiguousarray(table[:, _HEAD:-2]).reshape(rows, -1, 5)[:, :, 1:]
            place.matrix[at : at + rows] = np.ascontiguousarray(values).view(">f4")[:, :, 0]
        else:
            found: Any = self._parser.parse(body)
            found = found["text_embedding"]
            for i, row in enumerate(found):
                place.matrix[at + i] = np.frombuffer(row["embedding"].as_buffer(of_type="d"))
            del found, row
        place.left -= rows
        while self._open and not self._open[0].left:
            done = self._open.popleft()
            self._writing.append(self._thread.submit(self._write, done))
            while self._writing and self._writing[0].done():
                self._writing.popleft().result()
        for connection in self.idle[:]:
            if not (self._requests or len(self._open) < self._most):
                break
            self.idle.remove(connection)
            connection.ask()
            if connection in self.idle:
                break
        if not self._open and not self._requests and not self._done.done():
            self._done.set_result(None)

    def _write(self, place: Place) -> None:
        flat = pa.array(place.matrix.reshape(-1))
        kind = pa.list_(pa.field("element", pa.float32()), self._dimensions)
        batch = place.batch.append_column("embedding", pa.FixedSizeListArray.from_arrays(flat, type=kind))
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self._destination, batch.schema, compression="none", use_dictionary=False, write_statistics=False
            )
        self._writer.write_batch(batch)


def main() -> None:
    """Run once and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--dimensions", type=int, default=1024)
    parser.add_argument("--media", choices=("json", "cbor"), default="cbor")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, destination = Path(folder) / "in.parquet", Path(folder) / "out"
        destination.mkdir()
        make_input(source, asked.rows)
        with server(latency=asked.latency, dimensions=asked.dimensions) as url:
            floor = Floor(source, destination / "part.parquet", asked, url)
            meter = Meter()
            asyncio.run(floor.run())
            took = meter.read(asked.rows)
            told = bill(url)
        check_output(destination, asked.rows)
        print(json.dumps({**took, "server_cpu_seconds_per_1000_rows": told["cpu_seconds"] / asked.rows * 1000}))


if __name__ == "__main__":
    main()
