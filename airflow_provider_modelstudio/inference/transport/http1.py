"""One connection that asks one question at a time in HTTP/1.1. llhttp knows the grammar."""

from __future__ import annotations

import asyncio
import select
from typing import TYPE_CHECKING

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from airflow_provider_modelstudio.inference.errors import Fault

from .exchange import Exchange, ExchangeError, without_body

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HEAD_BYTES", "HttpConnection", "new_parser"]

HEAD_BYTES = 64 * 1024
"""Most of an answer's headers, and of what may come between two bytes of its body."""

_FIRST_FINAL = 200
_SWITCHING_PROTOCOLS = 101


def new_parser(reader: object) -> HttpResponseParser:
    """A parser for one answer, which calls ``reader``; as lenient as browsers are: a paid answer cannot be bought back."""
    parser = HttpResponseParser(reader)
    parser.set_dangerous_leniencies(
        lenient_headers=True,
        lenient_keep_alive=True,  # else "Connection: close" of an interim answer would spoil the one that follows
        lenient_optional_cr_before_lf=True,
        lenient_spaces_after_chunk_size=True,
    )
    return parser


class HttpConnection(asyncio.Protocol):
    """A connection to who answers, over a ``transport`` that may be exchanged for one with TLS before the first question.

    After a failure, a question that was given up, or anything that comes unasked it is ``closed``, and takes no question.
    ``on_lost``: called once when nothing of it is open any more.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        on_lost: Callable[[HttpConnection], object],
    ) -> None:
        self.transport = transport
        self._tcp = transport
        """What carries ``transport``, where that has TLS, which knows nothing of what becomes of it."""
        self.closed = False
        self.idle_since = 0.0
        """By the loop's clock; kept by whoever pools it."""
        self._loop = loop
        self._on_lost = on_lost
        self.end: asyncio.Future[None] = loop.create_future()
        """Done when nothing of it is open any more."""
        self._waiter: asyncio.Future[Exchange] | None = None
        self._unread = None
        socket = transport.get_extra_info("socket")
        if socket is not None and (descriptor := socket.fileno()) >= 0:
            self._unread = select.poll()
            self._unread.register(descriptor, select.POLLIN)

    @property
    def closing(self) -> bool:
        """Whether it takes no question any more. It may be on the point of closing, and not have been told yet."""
        return self.closed or self.transport.is_closing() or self._tcp.is_closing()

    @property
    def stale(self) -> bool:
        """Whether it takes no question, or something lies unread that nobody has asked for: bytes, or the end."""
        return self.closing or (self._unread is not None and bool(self._unread.poll(0)))

    def ask(self, request: bytes, *, most_bytes: int, by: float) -> asyncio.Future[Exchange]:
        """What the server answers to the bytes of a request, at most ``most_bytes`` of body, before the loop's clock says ``by``.

        The body comes as it was sent, compressed or not.
        Raises :class:`~.exchange.ExchangeError`. Whoever stops waiting has to :meth:`abort`.
        """
        waiter: asyncio.Future[Exchange] = self._loop.create_future()
        if self.closing:
            waiter.set_exception(
                ExchangeError("the connection broke (before it was used)", fault=Fault.CONNECTION, sent=False)
            )
            return waiter
        self._waiter = waiter
        # A new one for each answer: nothing of one, such as its trailers, can turn up in the next.
        self._parser = new_parser(self)
        self._status = 0
        self._headers: dict[str, str] = {}
        self._chunks: list[bytes] = []
        self._most_bytes = self._room = most_bytes
        self._head_room = HEAD_BYTES
        self._silence = 0
        self._whole = self._surplus = False
        self._timer = self._loop.call_at(by, self._late)
        self.transport.write(request)
        return waiter

    def abort(self) -> None:
        """Close, without a word to the other side. Safe to call twice."""
        waiter = self._take()
        self.closed = True
        self.transport.abort()
        if waiter is not None and not waiter.done():
            waiter.set_exception(ExchangeError("the connection broke (closed here)", fault=Fault.CONNECTION, sent=True))

    # ------------------------------------------------------------------------------------------ what asyncio calls

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer, or what nobody has asked for."""
        if self._waiter is None:
            self.abort()
            return
        self._silence += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            # What follows a whole answer does not spoil it.
            if not self._whole:
                self._fail(self._damage())
                return
            self._surplus = True
        if self._head_room < 0:
            self._fail(_no_http())
        elif self._room < 0:
            self._overlong()
        elif self._whole:
            self._answered()
        elif self._silence > HEAD_BYTES:
            self._fail(self._damage())

    def eof_received(self) -> None:
        """No more bytes will come; asyncio closes what is left."""
        self._ended(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is open any more."""
        self._ended(exc)
        self._on_lost(self)
        if not self.end.done():
            self.end.set_result(None)

    # ---------------------------------------------------------------------------------------- what the parser calls

    def on_message_begin(self) -> None:
        """An answer begins: the one that is waited for, one that comes before it, or one too many."""
        self._surplus = self._whole

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer."""
        if self._status:
            return
        self._head_room -= len(name) + len(value)
        self._headers.setdefault(
            name.decode("ascii", "replace").strip().lower(), value.decode("utf-8", "surrogateescape").strip()
        )

    def on_headers_complete(self) -> None:
        """The head is read."""
        if self._whole:
            return
        status = self._parser.get_status_code()
        if status < _FIRST_FINAL and status != _SWITCHING_PROTOCOLS:
            self._headers = {}
            return
        self._status = status
        length = self._headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._most_bytes:
            self._room = -1

    def on_body(self, chunk: bytes) -> None:
        """Some of the body."""
        if self._whole or not self._status:  # an interim answer has no body, and may send one all the same
            return
        self._silence = 0
        self._room -= len(chunk)
        if self._room >= 0:
            self._chunks.append(chunk)

    def on_message_complete(self) -> None:
        """The answer is whole, unless it only told to wait for another one."""
        if self._status and not self._whole:
            self._whole = True
            self._surplus = not self._parser.should_keep_alive() or self._status < _FIRST_FINAL

    # ------------------------------------------------------------------------------------------------------- ends

    def _answered(self) -> None:
        chunks = self._chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        # An answer that comes before its question was sent leaves the rest of the question on the way.
        keep = not (
            self._surplus or self.closing or self.transport.get_write_buffer_size() or self._tcp.get_write_buffer_size()
        )
        self._settle(Exchange(self._status, self._headers, body), keep=keep)

    def _overlong(self) -> None:
        try:
            rest = without_body(self._status, self._headers)
        except ExchangeError as exc:
            self._fail(exc)
        else:
            self._settle(rest, keep=False)

    def _late(self) -> None:
        self._fail(ExchangeError("no complete answer in time", fault=Fault.TIMEOUT, sent=True))

    def _ended(self, exc: Exception | None) -> None:
        self.closed = True
        if self._waiter is None:
            return
        if exc is None and self._lasts_to_the_end():
            self._answered()
            return
        if self._status:
            error = ExchangeError("the answer was cut or damaged on its way", fault=Fault.CUT, sent=True)
        else:
            why = type(exc).__name__ if exc else "closed by the server"
            error = ExchangeError(f"the connection broke ({why})", fault=Fault.CONNECTION, sent=True)
        error.__cause__ = exc
        self._fail(error)

    def _lasts_to_the_end(self) -> bool:
        """Whether the end of the connection is the end of the body: nothing else was to tell it."""
        return self._status > 0 and not {"content-length", "transfer-encoding"} & self._headers.keys()

    def _damage(self) -> ExchangeError:
        if self._status:
            return ExchangeError("the answer was cut or damaged on its way", fault=Fault.CUT, sent=True)
        return _no_http()

    def _take(self) -> asyncio.Future[Exchange] | None:
        """Who waits, and waits for this connection no more."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            self._timer.cancel()
            self._chunks = []  # a connection that rests holds no body
        return waiter

    def _settle(self, answer: Exchange, *, keep: bool) -> None:
        waiter = self._take()
        if not keep:
            self.abort()
        if waiter is not None and not waiter.done():
            waiter.set_result(answer)

    def _fail(self, error: ExchangeError) -> None:
        waiter = self._take()
        self.abort()
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)


def _no_http() -> ExchangeError:
    return ExchangeError("the answer is no valid HTTP", fault=Fault.NOT_ELASTICSEARCH, sent=True)
