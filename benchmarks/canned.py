"""A stand-in for ``_inference`` that costs next to nothing, so that a client can be measured.

    python benchmarks/canned.py [--port 9461] [--latency 0.1] [--tail 6.7] [--dimensions 1024]

Loopback only; all task types, JSON and CBOR as the client accepts, and OpenAI's ``/v1/embeddings``.
Answers are canned; a number in each is the row number in the text that was asked for (``r00000123 …``), so that order and
completeness of every run can be checked. ``GET /_bill`` tells what was answered.
It takes about 9 CPU ms for 1,000 rows, 10 in a request, so one core answers 100,000 rows a second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import resource
import socket
import struct
import time
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_ROW = re.compile(rb'"r(\d{8}) ')
_SPEAKS_CBOR = re.compile(rb"\r\naccept:[^\r]*cbor")
_VARIANTS = 64
_SEND_BUFFER = 512 * 1024
_SLOW_SHARE = 0.02
DIGITS, FLOAT32, EIGHT_DIGITS = range(3)
"""How the row number stands in an answer; the i-th float32 of a row is the number and i/16."""
SPARSE_TOKENS = 200
DOCUMENTS = 16
COMPLETION_CHARACTERS = 1_500


@dataclass(frozen=True)
class Kind:
    """The answers of one task type in one format."""

    task: str
    cbor: bool
    style: int
    opening: bytes
    between: bytes
    closing: bytes
    told: bytes
    """What GET says."""
    variants: list[list[bytes]]
    """Rows, cut where the number belongs."""

    def answer(self, rows: list[int]) -> bytes:
        """The body for these row numbers."""
        return self.opening + self.between.join(map(self._row, rows)) + self.closing

    def _row(self, row: int) -> bytes:
        first, *others = self.variants[row % _VARIANTS]
        return first + b"".join(self._number(row, i) + piece for i, piece in enumerate(others))

    def _number(self, row: int, i: int) -> bytes:
        if self.style == FLOAT32:
            return struct.pack(">f", row + i / 16)
        return b"%d" % row if self.style == DIGITS else b"%08d" % row


def make_kinds(dimensions: int) -> list[Kind]:
    """All answers there are. The first of each format is what an unknown task gets."""
    dice = random.Random(1)  # noqa: S311  # canned numbers
    kinds = []
    for cbor in (False, True):
        write = _cbor_kind if cbor else _json_kind
        vectors = [[_float32(dice.gauss(0, dimensions**-0.5)) for _ in range(dimensions - 1)] for _ in range(_VARIANTS)]
        weights = [[_float32(dice.random()) for _ in range(SPARSE_TOKENS)] for _ in range(_VARIANTS)]
        tokens = [dice.sample(range(1_000, 120_000), SPARSE_TOKENS) for _ in range(_VARIANTS)]
        dense = [_dense(vector, cbor=cbor) for vector in vectors]
        words = (" word" * (COMPLETION_CHARACTERS // 5))[: COMPLETION_CHARACTERS - 9].encode()
        kinds += [
            write("text_embedding", dimensions, dense),
            write("multi_modal_embedding", dimensions, dense),
            write("sparse_embedding", None, [_sparse(*pair, cbor=cbor) for pair in zip(tokens, weights, strict=True)]),
            write("rerank", None, [_ranking(cbor=cbor)] * _VARIANTS),
            write("completion", None, [_completion(words, cbor=cbor)] * _VARIANTS, style=EIGHT_DIGITS),
        ]
        if not cbor:
            kinds.append(_openai_kind(dense))
    return kinds


def _json_kind(task: str, dimensions: int | None, variants: list[list[bytes]], style: int = DIGITS) -> Kind:
    told = json.dumps(_told(task, dimensions)).encode()
    return Kind(task, False, style, f'{{"{task}":['.encode(), b",", b"]}", told, variants)  # JSON


def _cbor_kind(task: str, dimensions: int | None, variants: list[list[bytes]], style: int = FLOAT32) -> Kind:
    told = _cbor(_told(task, dimensions))
    return Kind(task, True, style, b"\xbf" + _cbor(task) + b"\x9f", b"", b"\xff\xff", told, variants)  # CBOR


def _openai_kind(variants: list[list[bytes]]) -> Kind:
    """What OpenAI's own API answers, for peers that speak nothing else."""
    rows = [[b'{"object":"embedding","index":0,' + head[1:], tail] for head, tail in variants]
    closing = b'],"model":"canned","usage":{"prompt_tokens":1,"total_tokens":1}}'
    return Kind("embeddings", False, DIGITS, b'{"object":"list","data":[', b",", closing, b"{}", rows)


def _told(task: str, dimensions: int | None) -> dict[str, Any]:
    settings = {} if dimensions is None else {"dimensions": dimensions}
    endpoint = {"inference_id": "canned", "task_type": task, "service": "canned", "service_settings": settings}
    return {"cluster_name": "canned", "version": {"number": "8.17.0"}, "endpoints": [endpoint]}


def _dense(vector: list[float], *, cbor: bool) -> list[bytes]:
    if cbor:
        return [b"\xbf" + _cbor("embedding") + b"\x9f\xfa", b"".join(map(_cbor, vector)) + b"\xff\xff"]
    return [b'{"embedding":[', (".0," + ",".join(f"{value:.9g}" for value in vector) + "]}").encode()]


def _sparse(tokens: list[int], weights: list[float], *, cbor: bool) -> list[bytes]:
    pairs = list(zip(map(str, tokens), weights, strict=True))
    if cbor:
        head = b"\xbf" + _cbor("is_truncated") + b"\xf4" + _cbor("embedding") + b"\xbf" + _cbor("row") + b"\xfa"
        return [head, b"".join(_cbor(token) + _cbor(weight) for token, weight in pairs) + b"\xff\xff"]
    head = b'{"is_truncated":false,"embedding":{"row":'
    return [head, (".0" + "".join(f',"{token}":{weight:.9g}' for token, weight in pairs) + "}}").encode()]


def _ranking(*, cbor: bool) -> list[bytes]:
    """The last document is the best."""
    if cbor:
        heads = [b"\xbf" + _cbor("index") + _cbor(i) + _cbor("relevance_score") + b"\xfa" for i in range(DOCUMENTS)]
        return [heads[0], *(b"\xff" + head for head in heads[1:]), b"\xff"]
    pieces = [f'{{"index":{i},"relevance_score":' for i in range(DOCUMENTS)]
    after = [f"{i / 16:.4f}"[1:] + "}" for i in range(DOCUMENTS)]
    return [
        piece.encode()
        for piece in (pieces[0], *(f"{after[i]},{pieces[i + 1]}" for i in range(DOCUMENTS - 1)), after[-1])
    ]


def _completion(words: bytes, *, cbor: bool) -> list[bytes]:
    if cbor:
        size = struct.pack(">H", 9 + len(words))
        return [b"\xbf" + _cbor("result") + b"\x79" + size + b"r", words + b"\xff"]
    return [b'{"result":"r', words + b'"}']


def _cbor(value: object) -> bytes:
    """As Elasticsearch writes CBOR; short texts and numbers alone."""
    if isinstance(value, dict):
        return b"\xbf" + b"".join(_cbor(part) for pair in value.items() for part in pair) + b"\xff"
    if isinstance(value, list):
        return b"\x9f" + b"".join(map(_cbor, value)) + b"\xff"
    if isinstance(value, str):
        return bytes([0x60 + len(value)]) + value.encode()
    if isinstance(value, int):
        return bytes([value]) if value < 24 else b"\x19" + struct.pack(">H", value)  # noqa: PLR2004  # CBOR's own
    return b"\xfa" + struct.pack(">f", value)


def _float32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


class Books:
    """What was answered."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.in_flight = self.most_in_flight = 0
        self._asked_at = array("d")
        """When each question came, on the machine's monotonic clock."""
        self._rows = array("q", [0])
        """Rows asked for before each, and in all."""

    def ask(self, rows: int) -> None:
        """A question came."""
        self._asked_at.append(self._clock())
        self._rows.append(self._rows[-1] + rows)

    @property
    def middle_rows_per_second(self) -> float | None:
        """While a run was under way: from a tenth of its questions to nine tenths."""
        start, end = len(self._asked_at) // 10, len(self._asked_at) * 9 // 10
        seconds = self._asked_at[end] - self._asked_at[start] if end > start else 0.0
        return (self._rows[end] - self._rows[start]) / seconds if seconds else None

    def bill(self) -> bytes:
        """As JSON."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        told: dict[str, Any] = {"requests": len(self._asked_at), "rows": self._rows[-1]}
        told |= {"most_in_flight": self.most_in_flight, "middle_rows_per_second": self.middle_rows_per_second}
        told |= {"first_at": self._asked_at[0] if self._asked_at else None}
        return json.dumps({**told, "cpu_seconds": round(used.ru_utime + used.ru_stime, 6)}).encode()


class Connection(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self, kinds: list[Kind], books: Books, latency: float, tail: float) -> None:
        self._kinds = kinds
        self._books = books
        self._latency = latency
        self._tail = tail
        self._held = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # always a stream here
        """Remember where to answer, and make room for a whole answer there."""
        self._transport = transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)

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
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        line = head.split(b"\r\n", 1)[0].decode()
        cbor = _SPEAKS_CBOR.search(head) is not None
        speaking = [kind for kind in self._kinds if kind.cbor is cbor]
        kind = next((one for one in speaking if one.task in line), speaking[0])
        if " /_bill " in line:
            self._write(self._books.bill(), cbor=False)
        elif not line.startswith("post"):
            self._write(kind.told, cbor=cbor)
        else:
            rows = [int(row) for row in _ROW.findall(body)]
            self._books.ask(len(rows))
            content, delay = kind.answer(rows), self._latency
            if self._tail and random.random() < _SLOW_SHARE:  # noqa: S311  # two slow ones in a hundred
                delay *= self._tail
            if delay:
                self._books.in_flight += 1
                self._books.most_in_flight = max(self._books.most_in_flight, self._books.in_flight)
                asyncio.get_running_loop().call_later(delay, self._late, content, cbor)
            else:
                self._write(content, cbor=cbor)

    def _late(self, content: bytes, cbor: bool) -> None:
        self._books.in_flight -= 1
        self._write(content, cbor=cbor)

    def _write(self, content: bytes, *, cbor: bool) -> None:
        head = (
            b"HTTP/1.1 200 OK\r\nX-Elastic-Product: Elasticsearch\r\n"
            b"content-type: application/vnd.elasticsearch+%s;compatible-with=8\r\ncontent-length: %d\r\n\r\n"
        )
        self._transport.write(head % (b"cbor" if cbor else b"json", len(content)) + content)


async def serve(kinds: list[Kind], port: int, latency: float, tail: float) -> None:
    """Answer until cancelled."""
    books, loop = Books(), asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(kinds, books, latency, tail), "127.0.0.1", port, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds")
    parser.add_argument("--tail", type=float, default=0.0, help="two in a hundred take this many times the latency")
    parser.add_argument("--dimensions", type=int, default=1024)
    parser.add_argument("--core", type=int, help="run on this core alone")
    asked = parser.parse_args()
    if asked.core is not None:
        os.sched_setaffinity(0, {asked.core})
    kinds = make_kinds(asked.dimensions)
    asyncio.run(serve(kinds, asked.port, asked.latency, asked.tail))


if __name__ == "__main__":
    main()
