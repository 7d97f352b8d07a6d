"""The official Elasticsearch client, made safe for calls that cost money, and its errors as ours."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import elastic_transport
import urllib3
from elastic_transport import NodeConfig, Urllib3HttpNode
from elasticsearch import ApiError, Elasticsearch, UnsupportedProductError

from airflow_provider_modelstudio.inference.errors import Fault, RequestError
from airflow_provider_modelstudio.inference.transport.address import BasicAuth, forbidden_address
from airflow_provider_modelstudio.inference.transport.node import tls_context
from airflow_provider_modelstudio.inference.transport.refusal import (
    COMPATIBLE,
    JSON,
    conceal,
    not_elasticsearch,
    refused,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from elastic_transport import ApiResponseMeta, TransportApiResponse

    from airflow_provider_modelstudio.inference.transport.address import ClusterConfig

__all__ = ["ask", "make_client", "send_question"]

_PROXY = "_modelstudio_proxy"


class Guarded:
    """A connection that is given up before a byte is sent when it leads to an address that only a trick would name.

    Its socket is asked: what a name resolves to may change between a look and a connection.
    """

    def _new_conn(self) -> socket.socket:
        connected: socket.socket = super()._new_conn()  # type: ignore[misc]  # of urllib3's class beside this one
        address = str(connected.getpeername()[0])
        if why := forbidden_address(address):
            connected.close()
            refusal = OSError(errno.EHOSTUNREACH, f"it leads to {address}: refused, this is {why}")
            raise urllib3.exceptions.NewConnectionError(self, str(refusal)) from refusal  # type: ignore[arg-type]
        return connected


class _GuardedHTTP(Guarded, urllib3.connection.HTTPConnection):
    """Over HTTP."""


class _GuardedHTTPS(Guarded, urllib3.connection.HTTPSConnection):
    """Over TLS."""


class _QuietNode(Urllib3HttpNode):
    """The client's node, without its log of headers and bodies, and with a look at where a name leads."""

    def __init__(self, config: NodeConfig) -> None:
        super().__init__(config)
        proxy = config._extras.get(_PROXY)  # noqa: SLF001 - elastic-transport's documented place for such things
        if proxy:
            parts = urlsplit(proxy)
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else None
            self.pool = urllib3.ProxyManager(
                f"{parts.scheme}://{parts.hostname}:{parts.port or 80}",
                proxy_headers=urllib3.make_headers(proxy_basic_auth=login),
                ssl_context=config.ssl_context,
                timeout=urllib3.Timeout(total=config.request_timeout),
            ).connection_from_host(config.host, config.port, config.scheme)
        else:
            self.pool.ConnectionCls = _GuardedHTTPS if config.scheme == "https" else _GuardedHTTP
        self._resolves = not proxy

    def perform_request(self, *args: Any, **kwargs: Any) -> Any:
        """The answer; nothing is asked of an address that only a trick would name."""
        if self._resolves:
            try:
                found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
            except OSError as exc:
                raise elastic_transport.ConnectionError(f"{self.host}: {exc.strerror}") from exc
            for *_, address in found:
                if why := forbidden_address(str(address[0])):
                    raise elastic_transport.ConnectionError(f"{self.host} resolves to {address[0]}: this is {why}")
        return super().perform_request(*args, **kwargs)

    def _log_request(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: bodies hold texts and, where an endpoint is created, keys."""


class _CompatibleTransport(elastic_transport.Transport):
    """Speaks the protocol of Elasticsearch 8 whatever the client's own major is."""

    def perform_request(self, method: str, target: str, **kwargs: Any) -> TransportApiResponse:
        """The answer to a request whose media types all say version 8."""
        headers = {
            name: re.sub(r"; *compatible-with=\d+", COMPATIBLE, value) if name.lower() in _MEDIA_HEADERS else value
            for name, value in (kwargs.pop("headers", None) or {}).items()
        }
        return super().perform_request(method, target, headers=headers, **kwargs)


_MEDIA_HEADERS = frozenset({"accept", "content-type"})


def make_client(config: ClusterConfig) -> Elasticsearch:
    """A client that never repeats a call and waits longer than the server does."""
    parts = urlsplit(config.url)
    login: dict[str, Any] = {}
    if isinstance(config.auth, BasicAuth):
        # Encoded by us: the client takes ASCII alone, and its error quotes the password.
        login["basic_auth"] = config.auth.header.removeprefix("Basic ")
    elif config.auth:
        login["api_key"] = config.auth.encoded
    node = NodeConfig(
        scheme=parts.scheme,
        host=config.host,
        port=parts.port or 0,
        path_prefix=parts.path,
        ssl_context=tls_context(config) if parts.scheme == "https" else None,
        _extras={_PROXY: config.proxy},
    )
    return Elasticsearch(
        [node],
        node_class=_QuietNode,
        transport_class=_CompatibleTransport,
        request_timeout=config.deadline,
        max_retries=0,
        retry_on_status=(),
        retry_on_timeout=False,
        **login,
    )


def send_question(client: Elasticsearch, path: str, question: bytes, config: ClusterConfig) -> TransportApiResponse:
    """The answer to a JSON body, by the client's transport: the client itself throws a paid answer away
    when a proxy has taken the product header off.
    """
    headers = {"accept": JSON + COMPATIBLE, "content-type": JSON + COMPATIBLE}
    if config.auth:
        headers["authorization"] = config.auth.header
    target = f"{path}?timeout={config.server_timeout * 1000:.0f}ms"
    return client.transport.perform_request(
        "POST", target, body=question, headers=headers, request_timeout=config.deadline, max_retries=0
    )


def ask(
    call: str,
    send: Callable[[], Any],
    config: ClusterConfig,
    *,
    questions: bytes = b"",
    secrets: frozenset[str] = frozenset(),
    paid: bool = False,
) -> dict[str, Any]:
    """The object that ``send`` gets from the client.

    ``call``: method, path and host, for messages.
    ``questions``: the JSON body, of which no message repeats anything. ``secrets``: those in the body.
    ``paid``: whether the model is asked.
    Raises :class:`~..inference.errors.RequestError` only.
    """
    hide = config.secrets | secrets
    try:
        answer = send()
    except UnsupportedProductError as exc:
        failed = _foreign(call, exc.meta, "the header X-Elastic-Product is missing")
    except ApiError as exc:
        failed = _odd(call, exc.meta, exc.body, hide, questions, paid=paid)
    except elastic_transport.SerializationError:
        failed = RequestError(
            f"{call}: the answer cannot be read", fault=Fault.NOT_ELASTICSEARCH, reason="the answer cannot be read"
        )
    except elastic_transport.TransportError as exc:
        failed = _unanswered(call, exc, config, paid=paid)
    else:
        if answer.meta.status == HTTPStatus.OK and isinstance(answer.body, dict):
            return answer.body
        failed = _odd(call, answer.meta, answer.body, hide, questions, paid=paid)
    # Outside the handlers: the client's exceptions hold the server's body, and with it what it echoes.
    raise failed


def _odd(
    call: str, meta: ApiResponseMeta, body: object, secrets: frozenset[str], questions: bytes, *, paid: bool
) -> RequestError:
    if meta.status < HTTPStatus.BAD_REQUEST:
        return _foreign(call, meta, "the answer is no JSON object")
    failed = refused(
        call, meta.status, _headers(meta), body, now=datetime.now(UTC), secrets=secrets, questions=questions
    )
    failed.maybe_billed &= paid
    return failed


def _foreign(call: str, meta: ApiResponseMeta, why: str) -> RequestError:
    return not_elasticsearch(call, meta.status, _headers(meta), why, now=datetime.now(UTC))


def _headers(meta: ApiResponseMeta) -> dict[str, str]:
    return {name.lower(): value for name, value in meta.headers.items()}


def _unanswered(call: str, exc: elastic_transport.TransportError, config: ClusterConfig, *, paid: bool) -> RequestError:
    cause = exc.errors[0] if exc.errors else None
    sent = cause is not None and not isinstance(
        cause,
        urllib3.exceptions.NewConnectionError
        | urllib3.exceptions.ConnectTimeoutError
        | urllib3.exceptions.SSLError
        | urllib3.exceptions.ProxyError,
    )
    late = isinstance(exc, elastic_transport.ConnectionTimeout) and sent
    why = "no complete answer in time" if late else _system_reason(cause) if cause else str(exc.message)
    reason = conceal(why, secrets=config.secrets)
    return RequestError(
        f"{call}: {reason}",
        fault=Fault.TIMEOUT if late else Fault.CONNECTION,
        reason=reason,
        maybe_billed=paid and sent,
    )


def _system_reason(exc: BaseException) -> str:
    """What the system said, below the wrappings of the HTTP library."""
    below: BaseException | None = exc
    while below is not None:
        if isinstance(below, ssl.SSLCertVerificationError):
            return f"the server's certificate is not trusted: {below.verify_message}"
        if isinstance(below, OSError) and below.strerror:
            return f"no connection: {below.strerror}"
        below = below.__cause__ or below.__context__
    return f"the connection broke ({type(exc).__name__})"
