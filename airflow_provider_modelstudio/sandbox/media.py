"""Which format an answer takes, by the rules of an 8.x server. Pure.

A server of version 8 speaks to clients that ask for 8 or 7 and refuses 9.
When a request has a body, either both headers carry a version or none does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_provider_modelstudio.sandbox.refusals import Refusal, simple, status_exception
from airflow_provider_modelstudio.sandbox.wire import read_cbor, read_json, to_cbor, to_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["Format", "agree"]

CURRENT, OLDEST = 8, 7

_TOKEN = re.compile(r"[a-z0-9!#$%&'*+\-.^_`|~]+")
_TYPES = {
    "application/json": "json",
    "application/vnd.elasticsearch+json": "json",
    "application/cbor": "cbor",
    "application/vnd.elasticsearch+cbor": "cbor",
}


@dataclass(frozen=True, slots=True)
class Format:
    """A format and the content type it is announced with."""

    name: str = "json"
    content_type: str = "application/json"

    def write(self, value: Any) -> bytes:
        """``value`` as the body of an answer."""
        return to_cbor(value) if self.name == "cbor" else to_json(value)

    def read(self, body: bytes) -> Any:
        """What a body says. Raises :class:`~.wire.UnreadableError`."""
        return read_cbor(body) if self.name == "cbor" else read_json(body)


@dataclass(frozen=True, slots=True)
class _MediaType:
    header: str
    name: str
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def version(self) -> int | None:
        given = self.parameters.get("compatible-with")
        return None if given is None else int(given)

    def as_format(self) -> Format | None:
        name = _TYPES.get(self.name)
        if name is None:
            return None
        version = self.version or CURRENT
        tail = f";compatible-with={version}" if "vnd." in self.name else ""
        return Format(name, self.name + tail)


def agree(
    accept: str | None, content_type: str | None, *, has_body: bool, format_parameter: str | None = None
) -> tuple[Format, Format]:
    """Format of the answer, and of the body.

    Raises :class:`~.refusals.Refusal` with 400 for versions and malformed headers, 406 for a body of an unknown type.
    """
    wanted = _parse(accept, "Accept")
    given = _parse(content_type, "Content-Type")
    _check_versions(wanted, given, has_body=has_body)
    body = given.as_format() if given else None
    if has_body and body is None:
        if content_type is None:
            raise simple(406, "Content-Type header is missing")
        raise simple(406, f"Content-Type header [{content_type}] is not supported")
    if format_parameter in {"json", "cbor"}:
        return Format(format_parameter, f"application/{format_parameter}"), body or Format()
    return (wanted.as_format() if wanted else None) or body or Format(), body or Format()


def _parse(header: str | None, name: str) -> _MediaType | None:
    """``None`` when nothing is asked for: no header, or a browser's list of ranges."""
    if header is None or "," in header or header.strip() == "*/*":
        return None
    kind, *parameters = (part.strip().lower() for part in header.split(";"))
    main, _, sub = kind.partition("/")
    told: dict[str, str] = {}
    sound = bool(_TOKEN.fullmatch(main) and _TOKEN.fullmatch(sub))
    for parameter in filter(None, parameters):
        key, _, value = parameter.partition("=")
        sound = sound and bool(_TOKEN.fullmatch(key)) and bool(value)
        told[key] = value
    sound = sound and told.get("compatible-with", "0").isascii() and told.get("compatible-with", "0").isdigit()
    if not sound:
        raise _refused(f"invalid media-type [{header}]", name)
    return _MediaType(header, kind, told)


def _check_versions(wanted: _MediaType | None, given: _MediaType | None, *, has_body: bool) -> None:
    accept_version = wanted.version if wanted else None
    content_version = given.version if given else None
    accept = wanted.header if wanted else "null"
    content = given.header if given else "null"
    if not OLDEST <= (CURRENT if accept_version is None else accept_version) <= CURRENT:
        raise _refused(
            f"Accept version must be either version {CURRENT} or {OLDEST}, but found {accept_version}. Accept={accept}"
        )
    if not has_body:
        return
    if not OLDEST <= (CURRENT if content_version is None else content_version) <= CURRENT:
        raise _refused(
            f"Content-Type version must be either version {CURRENT} or {OLDEST}, but found {content_version}. "
            f"Content-Type={content}"
        )
    demand = "A compatible version is required on both Content-Type and Accept headers if either one has requested a compatible version"
    if (accept_version or CURRENT) != (content_version or CURRENT):
        raise _refused(f"{demand} and the compatible versions must match. Accept={accept}, Content-Type={content}")
    if (accept_version is None) != (content_version is None):
        raise _refused(f"{demand}. Accept={accept}, Content-Type={content}")


def _refused(why: str, header: str = "Accept, Content-Type") -> Refusal:
    return Refusal(
        400,
        "media_type_header_exception",
        f"Invalid media-type value on headers [{header}]",
        caused_by=status_exception(400, why),
    )
