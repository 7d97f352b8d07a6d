"""HTTP/1.1 as far as an Elasticsearch client speaks it: read a request, lay an answer out as steps, take the steps.

An answer is a series of steps (bytes, a pause, a cut), so that a healthy answer and a damaged one are sent alike.
"""

from __future__ import annotations

import asyncio
import gzip
import socket
import struct
import zlib
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["BadRequestError", "Cut", "Pause", "Reply", "Request", "Step", "head", "lay_out", "read_request", "send"]

LONGEST_HEAD_BYTES = 16 * 1024
"""Elasticsearch's ``http.max_header_size``."""
LONGEST_BODY_BYTES = 100 * 1024 * 1024
"""Elasticsearch's ``http.max_content_length``."""

_CHUNK_BYTES = 256 * 1024
_ZIP_LEVEL = 3
"""What Elasticsearch compresses answers with."""


class BadRequestError(Exception):
    """A request that cannot be read; the connection is of no further use."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Request:
    """One request, read whole."""

    method: str
    target: str
    """As sent: path and query, still encoded."""
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes = b""
    version: str = "HTTP/1.1"

    @property
    def segments(self) -> tuple[str, ...]:
        """The decoded parts of the path, without empty ones at the ends."""
        path = self.target.partition("?")[0].strip("/")
        return tuple(unquote(part) for part in path.split("/")) if path else ()

    @property
    def query(self) -> dict[str, str]:
        """The parameters after the question mark."""
        return dict(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))

    @property
    def keep_alive(self) -> bool:
        """Whether the connection stays open after the answer."""
        wish = self.headers.get("connection", "").lower()
        return "close" not in wish and (self.version == "HTTP/1.1" or "keep-alive" in wish)


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer, before it is laid out."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    chunked: bool = False
    """As Elasticsearch sends the answers of models."""
    steps: tuple[Step, ...] | None = field(default=None, repr=False)
    """What to send instead of the usual: set by a fault."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Send nothing for a while."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Cut:
    """Close the connection: with a reset, or in good order."""

    reset: bool


@dataclass(frozen=True, slots=True)
class Repeat:
    """The same bytes many times, without holding them all."""

    piece: bytes
    times: int


Step = bytes | Pause | Cut | Repeat


async def read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    """The next request; ``None`` when the client has left. Raises :class:`BadRequestError`."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    except asyncio.LimitOverrunError:
        raise BadRequestError(431, "HTTP header is larger than 16384 bytes") from None
    if len(raw) > LONGEST_HEAD_BYTES:
        raise BadRequestError(431, "HTTP header is larger than 16384 bytes")
    first, *lines = raw[:-4].decode("latin-1").split("\r\n")
    try:
        method, target, version = first.split(" ")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    except ValueError:
        raise BadRequestError(400, "invalid request line") from None
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    try:
        body = await _read_body(reader, headers)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return Request(method, target, headers, body, version)


async def _read_body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = await _read_chunks(reader)
    else:
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit():
            raise BadRequestError(400, "invalid Content-Length")
        if int(length) > LONGEST_BODY_BYTES:
            raise BadRequestError(413, "entity content is too long")
        body = await reader.readexactly(int(length)) if int(length) else b""
    if headers.get("content-encoding", "").lower() in {"gzip", "x-gzip"}:
        unzip = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        try:
            body = unzip.decompress(body, LONGEST_BODY_BYTES)
        except zlib.error:
            raise BadRequestError(400, "the compressed body is damaged") from None
        if not unzip.eof:
            raise BadRequestError(400, "the compressed body is cut or too long")
    return body


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    chunks: list[bytes] = []
    room = LONGEST_BODY_BYTES
    while True:
        try:
            size = int((await reader.readuntil(b"\r\n")).partition(b";")[0].strip(), 16)
        except (ValueError, asyncio.LimitOverrunError):
            raise BadRequestError(400, "invalid chunk") from None
        room -= size
        if size < 0 or room < 0:
            raise BadRequestError(413, "entity content is too long")
        if size == 0:
            while await reader.readuntil(b"\r\n") != b"\r\n":  # trailers mean nothing here
                pass
            return b"".join(chunks)
        chunks.append(await reader.readexactly(size))
        await reader.readexactly(2)


def zipped(reply: Reply, request: Request) -> Reply:
    """The answer compressed, when the client takes that, as Elasticsearch does without TLS."""
    if not reply.body or "gzip" not in request.headers.get("accept-encoding", "").lower():
        return reply
    body = gzip.compress(reply.body, _ZIP_LEVEL)
    return replace(reply, body=body, headers=(*reply.headers, ("content-encoding", "gzip")))


def head(status: int, headers: Iterable[tuple[str, str]]) -> bytes:
    """Status line and headers, with the empty line."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def lay_out(reply: Reply, *, keep_alive: bool, with_body: bool = True) -> Iterator[Step]:
    """The steps that send ``reply``. ``with_body=False``: the answer to HEAD."""
    if reply.steps is not None:
        yield from reply.steps
        return
    headers = [*reply.headers]
    if not keep_alive:
        headers.append(("connection", "close"))
    if not reply.chunked or not with_body:
        headers.append(("content-length", str(len(reply.body))))
        yield head(reply.status, headers) + (reply.body if with_body else b"")
        return
    headers.append(("transfer-encoding", "chunked"))
    pieces = [head(reply.status, headers)]
    for at in range(0, len(reply.body), _CHUNK_BYTES):
        chunk = reply.body[at : at + _CHUNK_BYTES]
        pieces += [b"%x\r\n" % len(chunk), chunk, b"\r\n"]
    yield b"".join([*pieces, b"0\r\n\r\n"])


async def send(writer: asyncio.StreamWriter, steps: Iterable[Step]) -> bool:
    """Take the steps; ``False`` when the connection is closed after them."""
    for step in steps:
        match step:
            case bytes():
                writer.write(step)
                await writer.drain()
            case Repeat(piece, times):
                for _ in range(times):
                    writer.write(piece)
                    await writer.drain()
            case Pause(seconds):
                await asyncio.sleep(seconds)
            case Cut(reset):
                if reset:
                    _reset(writer)
                return False
    return True


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close so that the client sees a reset, after what was written has left."""
    sock: socket.socket | None = writer.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
