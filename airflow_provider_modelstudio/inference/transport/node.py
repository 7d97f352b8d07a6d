"""One HTTP exchange with Elasticsearch, as it came: status, headers, bytes. Keeps connections for the next one."""

from __future__ import annotations

import asyncio
import zlib
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from airflow_provider_modelstudio.inference.errors import Fault

from .connecting import Connector, host_and_port, tls_context
from .exchange import Exchange, ExchangeError, without_body

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .address import ClusterConfig
    from .http1 import HttpConnection

__all__ = ["ElasticNode", "Exchange", "ExchangeError", "tls_context"]

IDLE_SECONDS = 15.0
"""A connection that rested for longer is closed: servers and what is between close theirs at some time, too."""

_CLOSING_SECONDS = 1.0

_COMPRESSIONS = frozenset({"deflate", "gzip", "x-gzip"})


class ElasticNode:
    """The way to one cluster: as many connections as there are questions at a time.

    No repeating, no redirects, no cookies, no log of bodies; connecting has its limit, and what follows one deadline.
    Belongs to the event loop of its first exchange until it is closed.
    """

    def __init__(self, config: ClusterConfig) -> None:
        parts = urlsplit(config.url)
        self._prefix = parts.path
        self._host = host_and_port(parts, default=False)
        self._head = lru_cache(16)(self._written_head)  # a task asks for one path again and again
        self._connector = Connector(config)
        self._connections: set[HttpConnection] = set()
        self._idle: list[HttpConnection] = []
        """The one used last stands last."""
        self._sweep: asyncio.TimerHandle | None = None
        self._closings = 0
        """How often it was closed."""

    async def exchange(
        self,
        method: str,
        target: str,
        *,
        body: bytes | None,
        headers: Mapping[str, str],
        deadline: float,
        most_bytes: int,
    ) -> Exchange:
        """One answer of at most ``most_bytes``, within ``deadline`` seconds from when the question is written.

        Connecting comes before that, in the time that the connection's settings give it.

        Raises :class:`ExchangeError`, or ``ValueError`` for a header that holds a line break.
        """
        loop = asyncio.get_running_loop()
        head = self._head(method, target, tuple(headers.items()))
        request = head + b"\r\n" if body is None else b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)
        connection = self._rested(loop.time()) or await self._connected()
        # The server's clock starts as late as this: if ours started before, the server might not give up first.
        by = loop.time() + deadline
        try:
            answer = await connection.ask(request, most_bytes=most_bytes, by=by)
        except BaseException:
            # An answer that nobody waits for any more must not be taken for the next one.
            connection.abort()
            raise
        if not connection.closed:
            self._rest(connection, loop)
        if "content-encoding" in answer.headers:
            return _unpacked(answer, most_bytes)
        return answer

    async def close(self) -> None:
        """Close all connections. Who is still connecting sends nothing any more."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        self._idle.clear()
        self._closings += 1
        ends = [connection.end for connection in self._connections]
        for connection in list(self._connections):
            connection.abort()
        await self._connector.close()
        if ends:
            await asyncio.wait(ends, timeout=_CLOSING_SECONDS)

    def _written_head(self, method: str, target: str, headers: tuple[tuple[str, str], ...]) -> bytes:
        lines = [f"{method} {self._prefix}{target} HTTP/1.1", f"Host: {self._host}"]
        lines += [f"{name}: {value}" for name, value in headers]
        if any("\r" in line or "\n" in line for line in lines):
            raise ValueError("a header holds a line break")  # not quoted: it may be the key
        return "\r\n".join([*lines, ""]).encode()

    async def _connected(self) -> HttpConnection:
        closings = self._closings
        connection = await self._connector.open(self._connections.discard)
        if self._closings != closings:
            connection.abort()
            raise ExchangeError("no connection: closed here", fault=Fault.CONNECTION, sent=False)
        self._connections.add(connection)
        return connection

    def _rested(self, now: float) -> HttpConnection | None:
        """A connection that waits for a question."""
        while self._idle:
            connection = self._idle.pop()
            if now - connection.idle_since <= IDLE_SECONDS and not connection.stale:
                return connection
            connection.abort()
        return None

    def _rest(self, connection: HttpConnection, loop: asyncio.AbstractEventLoop) -> None:
        connection.idle_since = loop.time()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = loop.call_at(connection.idle_since + IDLE_SECONDS, self._swept, loop)

    def _swept(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close what has rested for too long; what rested longest stands first."""
        long_ago = loop.time() - IDLE_SECONDS
        kept = []
        for connection in self._idle:
            if connection.idle_since <= long_ago:
                connection.abort()
            elif not connection.closed:
                kept.append(connection)
        self._idle = kept
        self._sweep = loop.call_at(kept[0].idle_since + IDLE_SECONDS, self._swept, loop) if kept else None


def _unpacked(answer: Exchange, most_bytes: int) -> Exchange:
    """The answer as it was before a proxy compressed it: we never ask for that, and it costs no paid answer.

    Raises :class:`ExchangeError` for more than ``most_bytes``, and for what is damaged; of an error its status is left.
    """
    if answer.headers["content-encoding"].lower() not in _COMPRESSIONS:
        return answer
    unzip = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        body = unzip.decompress(answer.body, most_bytes + 1)
        if len(body) <= most_bytes and not unzip.eof:
            raise zlib.error("it ends too early")  # noqa: TRY301  # as much as one that is wrong
    except zlib.error as exc:
        if answer.status >= HTTPStatus.BAD_REQUEST:
            return answer._replace(body=b"")
        raise ExchangeError("the answer was cut or damaged on its way", fault=Fault.CUT, sent=True) from exc
    if len(body) > most_bytes:
        return without_body(answer.status, answer.headers)
    return answer._replace(body=body)
