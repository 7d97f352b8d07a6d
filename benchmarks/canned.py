"""A stand-in for ``_inference`` that costs next to nothing, so that a client can be measured.

    python benchmarks/canned.py --port 9461 [--latency 0.1] [--tail 6] [--dimensions 1024]

Loopback only. Vectors are canned; the first number of each is the row number in its text (``r00000123 …``), so that
order and completeness of every run can be checked.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import struct

_ROW = re.compile(rb'"r(\d{8})')
_PIECES = 64


class Canned:
    """Answers, put together from pieces that were made once."""

    def __init__(self, dimensions: int) -> None:
        dice = random.Random(1)  # noqa: S311  # canned numbers
        self.json, self.cbor = [], []
        for _ in range(_PIECES):
            numbers = [dice.gauss(0, dimensions**-0.5) for _ in range(dimensions - 1)]
            floats = struct.unpack(f"<{dimensions - 1}f", struct.pack(f"<{dimensions - 1}f", *numbers))
            self.json.append(("," + ",".join(f"{x:.9g}" for x in floats) + "]}").encode())
            self.cbor.append(b"".join(b"\xfa" + struct.pack(">f", x) for x in floats) + b"\xff\xff")

    def answer(self, rows: list[int], *, cbor: bool) -> bytes:
        """The body for these row numbers."""
        if cbor:
            parts = [b"\xbf\x6etext_embedding\x9f"]
            for row in rows:
                parts += (b"\xbf\x69embedding\x9f\xfa", struct.pack(">f", row), self.cbor[row % _PIECES])
            parts.append(b"\xff\xff")
        else:
            parts = [b'{"text_embedding":[']
            for i, row in enumerate(rows):
                parts += (b',{"embedding":[' if i else b'{"embedding":[', b"%d.0" % row, self.json[row % _PIECES])
            parts.append(b"]}")
        return b"".join(parts)


class Connection(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self, canned: Canned, latency: float, tail: float, dimensions: int) -> None:
        self._canned = canned
        self._latency = latency
        self._tail = tail
        self._dimensions = dimensions
        self._held = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # always a stream here
        """Remember where to answer."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every whole request."""
        self._held += data
        while (end := self._held.find(b"\r\n\r\n")) >= 0:
            head = self._held[:end].lower()
            at = head.find(b"content-length:")
            size = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._held) < end + 4 + size:
                return
            body, self._held = self._held[end + 4 : end + 4 + size], self._held[end + 4 + size :]
            accept = head[head.find(b"accept:") :].split(b"\r\n", 1)[0]
            self._answer(head, body, cbor=b"cbor" in accept)

    def _answer(self, head: bytes, body: bytes, *, cbor: bool) -> None:
        kind = b"cbor" if cbor else b"json"
        if head.startswith(b"post"):
            content = self._canned.answer([int(row) for row in _ROW.findall(body)], cbor=cbor)
            delay = self._latency
            if self._tail and random.random() < 0.02:  # noqa: PLR2004, S311  # two slow ones in a hundred
                delay *= self._tail
        else:
            # Free calls are answered in JSON, or in CBOR where it was asked for.
            settings = {"dimensions": self._dimensions}
            told = {
                "cluster_name": "canned",
                "version": {"number": "8.17.0"},
                "endpoints": [
                    {
                        "inference_id": "canned",
                        "task_type": "text_embedding",
                        "service": "canned",
                        "service_settings": settings,
                    }
                ],
            }
            content, delay = _encode(told, cbor=cbor), 0.0
        head = (
            b"HTTP/1.1 200 OK\r\nX-Elastic-Product: Elasticsearch\r\n"
            b"content-type: application/vnd.elasticsearch+%s;compatible-with=8\r\ncontent-length: %d\r\n\r\n"
            % (kind, len(content))
        )
        if delay:
            asyncio.get_running_loop().call_later(delay, self._transport.write, head + content)
        else:
            self._transport.write(head + content)


def _encode(value: object, *, cbor: bool) -> bytes:
    import cbor2  # noqa: PLC0415  # only for the few free calls
    import msgspec  # noqa: PLC0415  # only for the few free calls

    return cbor2.dumps(value) if cbor else msgspec.json.encode(value)


async def serve(port: int, latency: float, tail: float, dimensions: int) -> None:
    """Answer until cancelled."""
    canned = Canned(dimensions)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(canned, latency, tail, dimensions), "127.0.0.1", port, backlog=1024
    )
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds")
    parser.add_argument("--tail", type=float, default=0.0, help="two in a hundred take this many times the latency")
    parser.add_argument("--dimensions", type=int, default=1024)
    asked = parser.parse_args()
    asyncio.run(serve(asked.port, asked.latency, asked.tail, asked.dimensions))


if __name__ == "__main__":
    main()
