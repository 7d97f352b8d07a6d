"""One HTTP exchange with Elasticsearch, as it came: status, headers, bytes. The only file that opens a socket to it.

Built on the node below the Elasticsearch client, which neither decodes nor retries.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import zlib
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import aiohttp
from aiohttp.resolver import ThreadedResolver
from elastic_transport import AiohttpHttpNode, NodeConfig
from yarl import URL

from airflow_provider_modelstudio.inference.errors import ConfigurationError, Fault

from .address import forbidden_address
from .refusal import media_type

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from aiohttp.abc import ResolveResult

    from .address import ClusterConfig

__all__ = ["ElasticNode", "Exchange", "ExchangeError", "tls_context"]

log = logging.getLogger(__name__)


class Exchange(NamedTuple):
    """An answer, whatever it says."""

    status: int
    headers: Mapping[str, str]
    """Found by name in any case."""
    body: bytes

    @property
    def media(self) -> str:
        """Media type without parameters."""
        return media_type(self.headers.get("content-type"))


class ExchangeError(Exception):
    """No complete answer came.

    Chained to what the system said, never to an exception that carries the request and its headers.
    """

    def __init__(self, reason: str, *, fault: Fault, sent: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fault = fault
        self.sent = sent
        """Whether the request may have reached the server."""


class _TooLargeError(Exception):
    """More bytes came than the request can ask for."""


class _GuardedResolver(ThreadedResolver):
    """The system's resolver, without the addresses that only a trick would name."""

    # aiohttp's default, AF_INET, only concerns direct callers: its connector always names the family.
    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily | int = 0) -> list[ResolveResult]:
        found = await super().resolve(host, port, family)  # type: ignore[arg-type]  # 0 is AF_UNSPEC
        for one in found:
            if why := forbidden_address(one["host"]):
                raise OSError(None, f"{host} resolves to {one['host']}: refused, this is {why}")
        return found


class ElasticNode(AiohttpHttpNode):
    """The client's node, with what a paid call needs.

    More than 100 connections, a cap on the answer while it is read, one deadline over everything, no redirects,
    a look at resolved addresses, and no log of bodies.
    Belongs to the event loop of its first exchange until it is closed.
    """

    def __init__(self, config: ClusterConfig) -> None:
        parts = urlsplit(config.url)
        super().__init__(
            NodeConfig(
                scheme=parts.scheme,
                host=config.host,
                port=parts.port or 0,
                path_prefix=parts.path,
                connections_per_node=config.connections,
                ssl_context=tls_context(config) if parts.scheme == "https" else None,
            )
        )
        self._url = lru_cache(16)(partial(URL, encoded=True))  # a task asks for one path again and again
        self._connect_timeout = config.connect_timeout
        self._proxy = config.proxy

    def _create_aiohttp_session(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.session = aiohttp.ClientSession(
            auto_decompress=False,
            connector=aiohttp.TCPConnector(
                # aiohttp's own total of 100 would hold back what the governor allows.
                limit=0,
                limit_per_host=self._connections_per_node,
                resolver=_GuardedResolver(),
                # Each connection looks its name up anew: who has moved must not be sought where he was.
                # With 0, unlike with no cache at all, connections that are opened at one time share one look.
                ttl_dns_cache=0,
                ssl=self._ssl_context or False,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("accept", "accept-encoding", "user-agent"),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout),
        )

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
        """One answer within ``deadline`` seconds, name look-up and body included, of at most ``most_bytes``.

        Raises :class:`ExchangeError` only.
        """
        if self.session is None:
            self._create_aiohttp_session()
        try:
            async with asyncio.timeout(deadline):
                return await self._exchange(method, target, body=body, headers=headers, most_bytes=most_bytes)
        except (aiohttp.ClientError, OSError, zlib.error, _TooLargeError) as exc:
            failed, cause = _translated(exc), _showable_cause(exc)
        # Outside the handler: an exception raised in it would keep the original, and with it the headers, as context.
        raise failed from cause

    async def _exchange(
        self, method: str, target: str, *, body: bytes | None, headers: Mapping[str, str], most_bytes: int
    ) -> Exchange:
        assert self.session is not None  # noqa: S101 - for the type checker: exchange() has just made it
        async with self.session.request(
            method,
            self._url(self.base_url + target),
            data=body,
            headers=headers,
            allow_redirects=False,
            proxy=self._proxy,
        ) as response:
            try:
                read = await _read(response, most_bytes)
            except _TooLargeError:
                response.close()
                if response.ok:
                    raise
                # What an error says at such length says nothing; its status does.
                read = b""
            return Exchange(response.status, response.headers, read)


async def _read(response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    """The body. We never ask for compression; a proxy that compresses all the same costs no paid answer."""
    if (response.content_length or 0) > most_bytes:
        raise _TooLargeError
    zipped = response.headers.get("content-encoding", "").lower() in {"gzip", "x-gzip", "deflate"}
    unzip = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32) if zipped else None
    chunks = []
    room = most_bytes
    async for raw in response.content.iter_any():
        chunk = unzip.decompress(raw, room + 1) if unzip else raw
        room -= len(chunk)
        if room < 0:
            raise _TooLargeError
        chunks.append(chunk)
    if unzip and not unzip.eof:
        raise zlib.error("cut")
    return b"".join(chunks)


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


def _certificate_reason(exc: Exception) -> str:
    error = getattr(exc, "certificate_error", None)
    return f"the server's certificate is not trusted: {getattr(error, 'verify_message', '') or 'unknown reason'}"


def _connect_reason(exc: Exception) -> str:
    error = getattr(exc, "os_error", exc)
    return f"no connection: {getattr(error, 'strerror', None) or type(error).__name__}"


class _Meaning(NamedTuple):
    fault: Fault
    sent: bool
    reason: str | Callable[[Exception], str]


# The first that fits counts, so the special ones stand before the general ones.
_MEANINGS: tuple[tuple[type[Exception], _Meaning], ...] = (
    (_TooLargeError, _Meaning(Fault.TOO_LARGE, True, "the answer is longer than anything the request can ask for")),
    (aiohttp.ConnectionTimeoutError, _Meaning(Fault.CONNECTION, False, "no connection in time")),
    (aiohttp.ClientConnectorCertificateError, _Meaning(Fault.CONNECTION, False, _certificate_reason)),
    (aiohttp.ClientConnectorError, _Meaning(Fault.CONNECTION, False, _connect_reason)),
    (aiohttp.ClientHttpProxyError, _Meaning(Fault.NOT_ELASTICSEARCH, False, "the proxy refused to connect")),
    (aiohttp.ClientResponseError, _Meaning(Fault.NOT_ELASTICSEARCH, True, "the answer is no valid HTTP")),
    (aiohttp.ClientPayloadError, _Meaning(Fault.CUT, True, "the answer was cut or damaged on its way")),
    (zlib.error, _Meaning(Fault.CUT, True, "the answer was cut or damaged on its way")),
    (TimeoutError, _Meaning(Fault.TIMEOUT, True, "no complete answer in time")),
    (Exception, _Meaning(Fault.CONNECTION, True, lambda exc: f"the connection broke ({type(exc).__name__})")),
)


def _translated(exc: Exception) -> ExchangeError:
    fault, sent, reason = next(meaning for kind, meaning in _MEANINGS if isinstance(exc, kind))
    return ExchangeError(reason if isinstance(reason, str) else reason(exc), fault=fault, sent=sent)


def _showable_cause(exc: Exception) -> BaseException | None:
    """What the system said, without aiohttp's wrapping, which holds the request or the proxy's password."""
    if isinstance(exc, aiohttp.ClientConnectorCertificateError):
        return exc.certificate_error
    if isinstance(exc, aiohttp.ClientConnectorError):
        return exc.os_error
    return None if isinstance(exc, aiohttp.ClientResponseError | aiohttp.ServerDisconnectedError) else exc
