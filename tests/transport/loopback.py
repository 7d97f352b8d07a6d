"""A server that says byte for byte what a test tells it to, on this machine, in a thread of its own."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import cbor2

if TYPE_CHECKING:
    import ssl

JSON = "application/vnd.elasticsearch+json;compatible-with=8"
CBOR = "application/vnd.elasticsearch+cbor;compatible-with=8"


@dataclass(frozen=True)
class Received:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


Handler = Callable[..., Awaitable[None]]


def reply(status: int, body: object = b"", *, media: str = JSON, product: bool = True, **headers: str) -> bytes:
    """A whole HTTP answer; anything but bytes is encoded as ``media`` says."""
    if not isinstance(body, bytes):
        body = cbor2.dumps(body) if "cbor" in media else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}"]
    if media:
        lines.append(f"content-type: {media}")
    if product:
        lines.append("X-Elastic-Product: Elasticsearch")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def error(status: int, reason: str, kind: str = "status_exception", **more: object) -> bytes:
    """Elasticsearch's form of an error."""
    told = {"type": kind, "reason": reason, "root_cause": [{"type": kind, "reason": reason}], **more}
    return reply(status, {"error": told, "status": status})


def saying(*answers: bytes) -> Handler:
    """One answer after the other; the last one again and again."""
    left = list(answers)

    async def handler(received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(left.pop(0) if len(left) > 1 else left[0])

    return handler


def by_path(**answers: bytes) -> Handler:
    """``root`` for ``/``, ``get`` and ``post`` for everything else by method."""

    async def handler(received: Received, writer: asyncio.StreamWriter) -> None:
        root = received.target == "/" and "root" in answers
        writer.write(answers["root" if root else received.method.lower()])

    return handler


@dataclass
class Loopback:
    handler: Handler
    tls: ssl.SSLContext | None = None
    host: str = "127.0.0.1"
    greeting: bytes = b""
    """Sent to whoever connects, before anything is read."""
    received: list[Received] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    connections: int = 0

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        self.port = self._server.sockets[0].getsockname()[1]
        scheme = "https" if self.tls else "http"
        self.url = f"{scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"
        return self

    def __exit__(self, *exc: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def posts(self) -> list[Received]:
        return [one for one in self.received if one.method == "POST"]

    async def _start(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, self.host, 0, ssl=self.tls, backlog=512)

    async def _stop(self) -> None:
        self._server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for _ in range(5):  # closing a socket takes the loop a few rounds
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.write(self.greeting)
        try:
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                first, *lines = head.split("\r\n")
                headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines if line)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                method, target, _ = first.split(" ")
                self.received.append(Received(method, target, headers, body))
                self.in_flight += 1
                self.most_in_flight = max(self.most_in_flight, self.in_flight)
                try:
                    if method == "CONNECT" and self.handler is tunnel:
                        await tunnel(self.received[-1], writer, reader)
                    else:
                        await self.handler(self.received[-1], writer)
                    await writer.drain()
                finally:
                    self.in_flight -= 1
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


async def tunnel(received: Received, writer: asyncio.StreamWriter, reader: asyncio.StreamReader) -> None:
    """What a proxy does after CONNECT: pass bytes in both directions."""
    host, _, port = received.target.partition(":")
    there_reader, there_writer = await asyncio.open_connection(host, int(port))
    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

    async def pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while chunk := await source.read(65536):
            target.write(chunk)
            await target.drain()
        target.close()

    try:
        await asyncio.gather(pass_on(reader, there_writer), pass_on(there_reader, writer))
    finally:
        there_writer.close()
