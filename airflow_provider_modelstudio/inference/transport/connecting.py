"""How a connection comes about: names, addresses, a proxy on the way, TLS. Nothing is asked here."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import logging
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit

from aiohappyeyeballs import start_connection
from httptools import HttpParserError, HttpParserUpgrade

from airflow_provider_modelstudio.inference.errors import ConfigurationError, Fault

from .address import forbidden_address
from .exchange import ExchangeError
from .http1 import HEAD_BYTES, HttpConnection, new_parser

if TYPE_CHECKING:
    from collections.abc import Callable

    from .address import ClusterConfig

__all__ = ["Connector", "host_and_port", "tls_context"]

log = logging.getLogger(__name__)

_NEXT_ADDRESS = 0.25
"""Seconds until the next address of a name is tried beside one that does not answer: RFC 8305's number."""

_PORTS = {"http": 80, "https": 443}
_FIRST_FINAL = _CONNECTED = 200


def host_and_port(parts: SplitResult, *, default: bool) -> str:
    """Host and port of a URL as ``Host`` has them; ``default``: whether the scheme's own port is told."""
    host = (parts.hostname or "").rstrip(".")
    shown = f"[{host}]" if ":" in host else host
    usual = _PORTS[parts.scheme]
    port = parts.port or usual
    return f"{shown}:{port}" if default or port != usual else shown


class Connector:
    """Opens connections to one cluster. Belongs to one event loop until :meth:`close`."""

    def __init__(self, config: ClusterConfig) -> None:
        self._target = urlsplit(config.url)
        self._proxy = urlsplit(config.proxy) if config.proxy else None
        self._tls = tls_context(config) if self._target.scheme == "https" else None
        self._connect_timeout = config.connect_timeout
        self._looks: dict[tuple[str, int], asyncio.Task[list[Any]]] = {}

    async def open(self, on_lost: Callable[[HttpConnection], object]) -> HttpConnection:
        """A new connection, within the time that connecting may take.

        Raises :class:`~.exchange.ExchangeError`; nothing was sent.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout) as limit:
                return await self._open(loop, on_lost)
        except ExchangeError:
            raise
        except ssl.SSLCertVerificationError as exc:
            cause: Exception | None = exc
            reason = f"the server's certificate is not trusted: {exc.verify_message or 'unknown reason'}"
        except (OSError, RuntimeError) as exc:  # uvloop raises RuntimeError, too
            cause = exc
            said = exc.strerror if isinstance(exc, OSError) else None
            reason = "no connection in time" if limit.expired() else f"no connection: {said or type(exc).__name__}"
        except Exception as exc:  # noqa: BLE001  # odd names, what a loop cannot do; it may quote a secret
            cause = None
            reason = f"no connection: {type(exc).__name__}"
        raise ExchangeError(reason, fault=Fault.CONNECTION, sent=False) from cause

    async def close(self) -> None:
        """Wait for nobody's address any more."""
        looks = list(self._looks.values())
        self._looks.clear()  # one that is cancelled before it begins does not do it
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)

    async def _open(
        self, loop: asyncio.AbstractEventLoop, on_lost: Callable[[HttpConnection], object]
    ) -> HttpConnection:
        first = self._proxy or self._target
        addresses = await self._addresses(loop, first.hostname or "", first.port or _PORTS[first.scheme])
        connected = await start_connection(addresses, happy_eyeballs_delay=_NEXT_ADDRESS, loop=loop)
        opening = _Opening(loop)
        transport, _ = await loop.create_connection(lambda: opening, sock=connected)
        connection = HttpConnection(loop, transport, on_lost)
        try:
            if self._tls is None:
                transport.set_protocol(connection)
            else:
                if self._proxy is not None:
                    if self._proxy.scheme == "https":
                        transport = await _encrypted(loop, transport, opening, self._tls, self._proxy)
                    await opening.tunnel(transport, _tunnel_request(self._target, self._proxy))
                transport = await _encrypted(loop, transport, connection, self._tls, self._target)
                connection.transport = transport
        except BaseException:
            transport.abort()
            raise
        if transport.is_closing():
            raise ConnectionResetError
        return connection

    async def _addresses(self, loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[Any]:
        """Where ``host`` is now. Connections that are opened at the same time share one look."""
        look = self._looks.get((host, port))
        if look is None:
            look = self._looks[host, port] = loop.create_task(self._look(loop, host, port))
            look.add_done_callback(_heard)
        # Who waits may be cancelled, and the others wait on.
        await asyncio.wait([look])
        if look.cancelled():  # by close(): whoever waited was not
            raise ConnectionAbortedError
        return look.result()

    async def _look(self, loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[Any]:
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=_flags(host))
        finally:
            # Who comes later asks anew: who has moved must not be sought where he was.
            self._looks.pop((host, port), None)
        for *_, address in found:
            if why := forbidden_address(str(address[0])):
                raise OSError(None, f"{host} resolves to {address[0]}: refused, this is {why}")
        return found


class _Opening(asyncio.Protocol):
    """A connection on which nobody may speak yet but a proxy that was asked for a tunnel."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._opened: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """What to close."""
        self._transport = transport

    async def tunnel(self, transport: asyncio.Transport, request: bytes) -> None:
        """Wait until the proxy has connected.

        Raises :class:`~.exchange.ExchangeError` when it refuses.
        """
        self._opened = self._loop.create_future()
        self._parser = new_parser(self)
        self._read = 0
        transport.write(request)
        await self._opened

    def data_received(self, data: bytes) -> None:
        """The proxy's answer, or what nobody has asked for."""
        if self._opened is None or self._opened.done():
            self._transport.close()
            return
        self._read += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self._end(_refused())
        if self._read > HEAD_BYTES:
            self._end(_refused())

    def on_headers_complete(self) -> None:
        """The proxy has decided."""
        status = self._parser.get_status_code()
        if status >= _FIRST_FINAL:
            self._end(None if status == _CONNECTED else _refused())

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is there any more."""
        self._end(exc or ConnectionResetError())

    def _end(self, error: Exception | None) -> None:
        if self._opened is None or self._opened.done():
            return
        if error is None:
            self._opened.set_result(None)
        else:
            self._opened.set_exception(error)


async def _encrypted(
    loop: asyncio.AbstractEventLoop,
    transport: asyncio.Transport,
    protocol: asyncio.Protocol,
    tls: ssl.SSLContext,
    whose: SplitResult,
) -> asyncio.Transport:
    """``transport`` with TLS over it, once the other side has proved to be who the URL names."""
    if transport.is_closing():
        raise ConnectionResetError
    host = (whose.hostname or "").rstrip(".")
    encrypted = await loop.start_tls(transport, protocol, tls, server_hostname=host)
    if encrypted is None:  # asyncio's way to say that it was closed meanwhile
        raise ConnectionResetError
    return encrypted


def _refused() -> ExchangeError:
    return ExchangeError("the proxy refused to connect", fault=Fault.NOT_ELASTICSEARCH, sent=False)


def _tunnel_request(target: SplitResult, proxy: SplitResult) -> bytes:
    where = host_and_port(target, default=True)
    lines = [f"CONNECT {where} HTTP/1.1", f"Host: {where}"]
    if proxy.username is not None:
        login = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        try:
            raw = login.encode("latin-1")
        except UnicodeEncodeError:
            raw = login.encode()
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(raw).decode()}")
    return "\r\n".join([*lines, "", ""]).encode()


def _flags(host: str) -> int:
    """An address that is written down is taken as it is; a name leads to what this machine can reach."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return socket.AI_ADDRCONFIG
    return 0


def _heard(look: asyncio.Task[list[Any]]) -> None:
    """Nothing: those who wait are told, and when nobody waits any more nobody misses it."""
    if not look.cancelled():
        look.exception()


def tls_context(config: ClusterConfig) -> ssl.SSLContext:
    """How the server proves who it is: TLS 1.2 or newer, the system's authorities or the connection's own.

    Raises :class:`~..errors.ConfigurationError` for a ``ca_certificate`` that cannot be read.
    """
    given = config.ca_certificate
    try:
        if given and "-----BEGIN" in given:
            context = ssl.create_default_context(cadata=given)
        elif given and Path(given).is_dir():
            context = ssl.create_default_context(capath=given)
        else:
            context = ssl.create_default_context(cafile=given)
    except (OSError, ValueError) as exc:
        raise ConfigurationError("ca_certificate is neither a readable PEM file nor PEM text") from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not config.verify_tls:
        log.warning("verify_tls is off: anybody between here and %s can read and change everything", config.host)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
