"""How a question gets to an inference endpoint and its answer back, undecoded.

No retries, no batching, no pauses: one call, one answer or one :class:`~..errors.RequestError`.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

from airflow_provider_modelstudio import __version__
from airflow_provider_modelstudio.inference.errors import Fault, RequestError
from airflow_provider_modelstudio.inference.tasks import Answer

from .address import inference_path
from .node import ElasticNode, Exchange, ExchangeError
from .refusal import (
    CBOR,
    COMPATIBLE,
    JSON,
    conceal,
    is_answer_type,
    names_elasticsearch,
    not_elasticsearch,
    read_object,
    refused,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .address import ClusterConfig

__all__ = ["ElasticTransport", "EndpointFacts", "Transport"]

log = logging.getLogger(__name__)

_SLACK_BYTES = 1024 * 1024
"""Room for blanks and field names of an answer, and the most that is read of a free one or of an error."""

_USER_AGENT = f"airflow-provider-modelstudio/{__version__}"

_SHOWN = 80
"""Characters of what somebody else said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EndpointFacts:
    """What Elasticsearch tells about an inference endpoint, for free."""

    cluster_name: str | None
    """``None`` when our user may not ask."""
    version: str | None
    """Of Elasticsearch, for example ``8.17.0``; ``None`` when our user may not ask."""
    inference_id: str
    task_type: str
    service: str
    """Opaque: whoever created the endpoint chose it."""
    service_settings: Mapping[str, Any]
    task_settings: Mapping[str, Any]
    dimensions: int | None
    """Length of the vectors, where the endpoint names it."""
    accepts_cbor: bool
    """Whether answers come as CBOR: half the bytes of JSON, and cheap to decode."""


class Transport(Protocol):
    """The way to an inference service: one call at a time, many at once."""

    async def infer(self, task_type: str, inference_id: str, body: bytes, *, expect_bytes: int) -> Answer:
        """The answer to a JSON body. Billed.

        ``expect_bytes``: about how long the answer may become; twice as much and 1 MiB are read at most.
        Raises :class:`~..errors.RequestError` only, for an endpoint that :meth:`describe` knows.
        """

    async def describe(self, task_type: str, inference_id: str) -> EndpointFacts:
        """What the endpoint is. Free.

        Raises :class:`~..errors.RequestError`, or :class:`~..errors.ConfigurationError` for an id that none can have.
        """

    async def aclose(self) -> None:
        """Close all connections."""


class ElasticTransport:
    """A :class:`Transport` to one cluster. Belongs to the event loop of its first call until :meth:`aclose`."""

    def __init__(self, config: ClusterConfig) -> None:
        self.config = config
        self._node = ElasticNode(config)
        self._host = config.host
        self._accept = CBOR if config.media == "cbor" else JSON
        whole = float(config.server_timeout).is_integer()
        self._timeout = f"{config.server_timeout:.0f}s" if whole else f"{config.server_timeout * 1000:.0f}ms"

    async def infer(self, task_type: str, inference_id: str, body: bytes, *, expect_bytes: int) -> Answer:
        """See :class:`Transport`."""
        path = inference_path(task_type, inference_id)
        accept = self._accept
        try:
            answer = await self._call("POST", path, body=body, accept=accept, expect_bytes=expect_bytes)
        except RequestError as exc:
            # Refused before the model was asked: something on the way of POST knows less than on the way of GET.
            if self.config.media != "auto" or accept == JSON or not _is_wrong_media(exc):
                raise
            self._accept = JSON
            answer = await self._call("POST", path, body=body, accept=JSON, expect_bytes=expect_bytes)
        return Answer(answer.body, answer.media)

    async def describe(self, task_type: str, inference_id: str) -> EndpointFacts:
        """See :class:`Transport`. Settles whether :meth:`infer` asks for CBOR."""
        path = inference_path(task_type, inference_id)
        cluster = await self._cluster()
        accept = JSON if self.config.media == "json" else CBOR
        try:
            answer = await self._call("GET", path, accept=accept)
        except RequestError as exc:
            if self.config.media != "auto" or not _is_wrong_media(exc):
                raise
            answer = await self._call("GET", path, accept=JSON)
        told = self._object(answer, path).get("endpoints")
        if not isinstance(told, list) or len(told) != 1 or not isinstance(told[0], dict):
            raise self._not_elasticsearch(f"GET {path} at {self._host}", answer, "no endpoint in the answer")
        if self.config.media == "auto":
            self._accept = CBOR if answer.media.endswith("cbor") else JSON
        return _endpoint_facts(inference_id, task_type, told[0], cluster, accepts_cbor=answer.media.endswith("cbor"))

    async def aclose(self) -> None:
        """Close all connections."""
        await self._node.close()

    async def _cluster(self) -> Mapping[str, Any]:
        """Name and version; nothing when our user may use models but not look at the cluster."""
        try:
            answer = await self._call("GET", "/", accept=JSON)
        except RequestError as exc:
            if exc.status == HTTPStatus.FORBIDDEN and exc.fault is Fault.HTTP:
                return {}
            raise
        return self._object(answer, "/")

    def _object(self, answer: Exchange, path: str) -> Mapping[str, Any]:
        """The object in a free answer, which has to come from Elasticsearch itself."""
        told = read_object(answer.body, answer.media)
        if not names_elasticsearch(answer.headers):
            raise self._not_elasticsearch(
                f"GET {path} at {self._host}", answer, "the header X-Elastic-Product is missing"
            )
        if told is None:
            raise self._not_elasticsearch(f"GET {path} at {self._host}", answer, "the answer cannot be read")
        return told

    async def _call(
        self, method: str, path: str, *, accept: str, body: bytes | None = None, expect_bytes: int = 0
    ) -> Exchange:
        call = f"{method} {path} at {self._host}"
        headers, target = {"accept": accept + COMPATIBLE, "user-agent": _USER_AGENT}, path
        if self.config.auth:
            headers["authorization"] = self.config.auth.header
        if body is not None:
            headers["content-type"] = JSON + COMPATIBLE
            target = f"{path}?timeout={self._timeout}"
        began = asyncio.get_running_loop().time()
        try:
            answer = await self._node.exchange(
                method,
                target,
                body=body,
                headers=headers,
                deadline=self.config.deadline,
                most_bytes=2 * expect_bytes + _SLACK_BYTES,
            )
        except ExchangeError as exc:
            reason = conceal(exc.reason, secrets=self.config.secrets)
            raise RequestError(
                f"{call}: {reason}",
                fault=exc.fault,
                reason=reason,
                maybe_billed=exc.sent and body is not None,
            ) from exc
        seconds = asyncio.get_running_loop().time() - began
        log.debug("%s %s: %d, %d bytes in %.3f s", method, path, answer.status, len(answer.body), seconds)
        if answer.status == HTTPStatus.OK and is_answer_type(answer.media):
            return answer
        if answer.status < HTTPStatus.BAD_REQUEST:
            # Elasticsearch's own success was paid for, whatever somebody in between made of its form.
            paid = body is not None and answer.status == HTTPStatus.OK and names_elasticsearch(answer.headers)
            raise self._not_elasticsearch(call, answer, _odd_success(answer), maybe_billed=paid)
        raise refused(
            call,
            answer.status,
            answer.headers,
            read_object(answer.body, answer.media) or answer.body.decode("utf-8", "replace"),
            now=datetime.now(UTC),
            secrets=self.config.secrets,
            questions=body or b"",
        )

    def _not_elasticsearch(self, call: str, answer: Exchange, why: str, *, maybe_billed: bool = False) -> RequestError:
        now = datetime.now(UTC)
        return not_elasticsearch(call, answer.status, answer.headers, why, now=now, maybe_billed=maybe_billed)


def _odd_success(answer: Exchange) -> str:
    if answer.status != HTTPStatus.OK:
        return "a redirect, which is never followed" if "location" in answer.headers else "no status of _inference"
    return f"content type {answer.media[:_SHOWN]!a} instead of Elasticsearch's"


def _is_wrong_media(exc: RequestError) -> bool:
    return exc.status == HTTPStatus.NOT_ACCEPTABLE or exc.error_type == "media_type_header_exception"


def _endpoint_facts(
    inference_id: str, task_type: str, told: Mapping[str, Any], cluster: Mapping[str, Any], *, accepts_cbor: bool
) -> EndpointFacts:
    version = cluster.get("version")
    settings = _mapping(told.get("service_settings"))
    dimensions = settings.get("dimensions")
    return EndpointFacts(
        cluster_name=_text(cluster.get("cluster_name")),
        version=_text(version.get("number")) if isinstance(version, dict) else None,
        inference_id=inference_id,
        task_type=_text(told.get("task_type")) or task_type,
        service=_text(told.get("service")) or "",
        service_settings=settings,
        task_settings=_mapping(told.get("task_settings")),
        dimensions=dimensions if isinstance(dimensions, int) and not isinstance(dimensions, bool) else None,
        accepts_cbor=accepts_cbor,
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
