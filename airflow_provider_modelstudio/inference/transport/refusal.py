"""What Elasticsearch means by an answer that is no success. Pure.

The status alone misleads: an outage of the model arrives as 400 with ``status [503]`` in the text,
and Elasticsearch's own timeout arrives as 429.
"""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import cbor2

from airflow_provider_modelstudio.inference.decide import scrub
from airflow_provider_modelstudio.inference.errors import Fault, RequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = [
    "CBOR",
    "COMPATIBLE",
    "JSON",
    "conceal",
    "is_answer_type",
    "media_type",
    "names_elasticsearch",
    "not_elasticsearch",
    "read_object",
    "refused",
    "retry_after_seconds",
]

JSON = "application/vnd.elasticsearch+json"
CBOR = "application/vnd.elasticsearch+cbor"

COMPATIBLE = "; compatible-with=8"
"""Spoken to every server: 8.x knows nothing newer, and 9.x still understands it."""

LONGEST_PAUSE_SECONDS = 300.0
"""A server that asks for more is not believed."""

LONGEST_REASON = 500
"""Characters."""

_JSON_TYPES = frozenset({JSON, "application/json"})
_CBOR_TYPES = frozenset({CBOR, "application/cbor"})
_DEEPEST_CAUSE = 20
_LONGEST_READ = 2000
_SHOWN = 80
"""Characters of what somebody else said."""
_STATUS_INSIDE = re.compile(r"\bstatus \[(\d{3})\]")
_OWN_TIMEOUT = re.compile(r"request timed out after", re.IGNORECASE)
# The endpoint's key is Elasticsearch's, we do not know it; the model service may quote it when it is wrong.
_MODEL_STUDIO_KEY = re.compile(r"\bsk-[\w-]{8,}", re.ASCII)
_ERROR_TYPE = re.compile(r"[a-z0-9_]{1,80}")
_HIDDEN = "***"
_ECHO = 16
_SHORTEST_TEXT = 12
"""Characters of an echo and of a whole text that are hidden here: what is decided depends on the server's own words."""


def media_type(content_type: str | None) -> str:
    """Media type without parameters, in lower case; empty when there is none."""
    return (content_type or "").partition(";")[0].strip().lower()


def read_object(body: bytes, content_type: str) -> dict[str, Any] | None:
    """The object in a body of one of Elasticsearch's media types; ``None`` when it cannot be read."""
    try:
        if content_type in _CBOR_TYPES:
            value = cbor2.loads(body)
        elif content_type in _JSON_TYPES:
            value = json.loads(body)
        else:
            return None
    except (ValueError, EOFError, RecursionError, cbor2.CBORError):
        return None
    return value if isinstance(value, dict) else None


def is_answer_type(content_type: str) -> bool:
    """Whether a media type is one that Elasticsearch answers in."""
    return content_type in _JSON_TYPES | _CBOR_TYPES


def refused(
    call: str,
    status: int,
    headers: Mapping[str, str],
    told: object,
    *,
    now: datetime,
    secrets: Iterable[str] = (),
    questions: bytes = b"",
) -> RequestError:
    """What an answer that is no success means.

    ``call``: method, path and host, for the message.
    ``headers``: found by name in lower case. ``told``: the decoded body, or text when it could not be decoded.
    ``now``: the time here, for a ``Retry-After`` with a date and an answer without one.
    ``secrets`` and what is echoed of ``questions``, the JSON body of a paid call, are kept out of the message.
    """
    error = told.get("error") if isinstance(told, dict) else None
    # A proxy that stopped waiting had passed the question on, whether it says something or not.
    waited = status in {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT}
    if error is None and (told or waited) and not names_elasticsearch(headers):
        shown = repr(conceal(str(told), secrets=secrets, questions=questions)[:_SHOWN]) if told else "no reason given"
        return not_elasticsearch(call, status, headers, shown, now=now, maybe_billed=waited and bool(questions))
    if not isinstance(error, dict):
        error = {"reason": told if error is None else error}
    # Read after cleaning: a row that talks about "status [503]", echoed, must not decide anything.
    said = [_clean(text, secrets, questions) for text in _reasons(error)]
    inside = next((found for text in said if (found := _STATUS_INSIDE.search(text))), None)
    upstream = int(inside[1]) if inside else None
    kind = error.get("type")
    kind = kind if isinstance(kind, str) and _ERROR_TYPE.fullmatch(kind) else None
    reason = _shorten(next((text for text in said if text), ""))
    # Elasticsearch gave up waiting for the model, which goes on and may bill.
    timed_out = status == HTTPStatus.REQUEST_TIMEOUT or (
        status == HTTPStatus.TOO_MANY_REQUESTS and any(_OWN_TIMEOUT.search(text) for text in said)
    )
    who = f"{f' ({kind})' if kind else ''}{f', the model service {upstream}' if upstream else ''}"
    return RequestError(
        f"{call}: Elasticsearch answered {status}{who}: {reason or 'no reason given'}",
        fault=Fault.HTTP,
        status=status,
        upstream_status=upstream,
        error_type=kind,
        reason=reason,
        retry_after=_pause(headers, now),
        maybe_billed=timed_out and bool(questions),
    )


def not_elasticsearch(
    call: str, status: int, headers: Mapping[str, str], why: str, *, now: datetime, maybe_billed: bool = False
) -> RequestError:
    """The error for an answer of somebody in between; the parameters are those of :func:`refused`."""
    return RequestError(
        f"{call}: this was not Elasticsearch, something in between answered {status}: {why}",
        fault=Fault.NOT_ELASTICSEARCH,
        status=status,
        reason=why,
        retry_after=_pause(headers, now),
        maybe_billed=maybe_billed,
    )


def names_elasticsearch(headers: Mapping[str, str]) -> bool:
    """Whether an answer says that Elasticsearch made it."""
    return headers.get("x-elastic-product") == "Elasticsearch"


def _pause(headers: Mapping[str, str], now: datetime) -> float | None:
    return retry_after_seconds(headers.get("retry-after"), now=_http_date(headers.get("date")) or now)


def _reasons(error: Mapping[str, Any]) -> list[str]:
    """All reasons of the chain, innermost first."""
    return list(dict.fromkeys(cause["reason"] for cause in _causes(error) if isinstance(cause.get("reason"), str)))


def _causes(error: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The error and what caused it, innermost first."""
    chain: list[Mapping[str, Any]] = []
    roots = error.get("root_cause")
    if isinstance(roots, list):
        chain += [root for root in roots[:_DEEPEST_CAUSE] if isinstance(root, dict)]
    cause: Any = error
    deep: list[Mapping[str, Any]] = []
    while isinstance(cause, dict) and len(deep) < _DEEPEST_CAUSE:
        deep.append(cause)
        cause = cause.get("caused_by")
    # root_cause is Elasticsearch's own innermost exception: without caused_by it repeats the error.
    yield from reversed(deep[1:])
    yield from chain
    yield deep[0]


def _one_line(text: str) -> str:
    """``text`` without line breaks and control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def conceal(reason: str, *, secrets: Iterable[str] = (), questions: bytes = b"") -> str:
    """A reason fit for a log: one line, at most 500 characters, no secrets, no echo of the questions."""
    return _shorten(_clean(reason, secrets, questions))


def _shorten(reason: str) -> str:
    return reason if len(reason) <= LONGEST_REASON else reason[: LONGEST_REASON - 1] + "…"


def _clean(reason: str, secrets: Iterable[str], questions: bytes) -> str:
    # Secrets go first: a cut or a fold might leave half of one, which nothing would recognise.
    for secret in sorted(secrets, key=len, reverse=True):
        reason = reason.replace(secret, _HIDDEN)
    reason = _MODEL_STUDIO_KEY.sub(_HIDDEN, reason)
    reason = _one_line(reason[:_LONGEST_READ])
    return scrub(reason, _asked(questions), run=_ECHO, shortest=_SHORTEST_TEXT) if questions else reason


def _asked(questions: bytes) -> list[str]:
    """The texts of a request."""
    try:
        return [_one_line(text) for text in _texts(json.loads(questions))]
    except (ValueError, RecursionError):
        return [_one_line(questions.decode("utf-8", "replace"))]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)


def retry_after_seconds(value: str | None, *, now: datetime) -> float | None:
    """Seconds of a ``Retry-After``, which is a number or an HTTP date; ``None`` when it says nothing usable.

    At most 300. ``now``: the time at the server, with a time zone.
    """
    if value is None:
        return None
    value = value.strip()
    if re.fullmatch(r"[0-9]+(?:\.[0-9]+)?", value, re.ASCII):
        return min(float(value), LONGEST_PAUSE_SECONDS)
    moment = _http_date(value)
    if moment is None or not math.isfinite(seconds := (moment - now).total_seconds()) or seconds < 0:
        return None
    return min(seconds, LONGEST_PAUSE_SECONDS)


def _http_date(value: str | None) -> datetime | None:
    """The moment an HTTP date names; ``None`` when it names none."""
    try:
        moment = parsedate_to_datetime(value or "")
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
