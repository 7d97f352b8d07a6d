"""Where Elasticsearch is, who we are there, and how long we wait. Pure.

Two rules: an address that only a trick would name is refused, and no secret shows in a ``repr`` or a message.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal
from urllib.parse import quote, quote_plus, urlsplit

from airflow_provider_modelstudio.inference.errors import ConfigurationError

__all__ = [
    "ApiKey",
    "BasicAuth",
    "ClusterConfig",
    "forbidden_address",
    "inference_path",
    "is_loopback",
    "listing_path",
    "normal_url",
    "secret_shapes",
]

SHORTEST_SECRET = 8
"""Characters. Masking a shorter one would black out ordinary words in the log."""

LONGEST_WAIT_SECONDS = 3600.0
"""Of the server's timeout: the longest that any model host is documented to take."""

_METADATA_NAMES = frozenset(
    {
        "instance-data",
        "instance-data.ec2.internal",
        "metadata",
        "metadata.azure.com",
        "metadata.goog",
        "metadata.google.internal",
        "metadata.tencentyun.com",
    }
)

_FORBIDDEN_NETWORKS = tuple(
    (ipaddress.ip_network(network), why)
    for network, why in (
        ("0.0.0.0/8", "no host"),
        ("100.100.100.200/32", "the cloud's metadata service"),
        ("168.63.129.16/32", "the cloud's metadata service"),
        ("169.254.0.0/16", "link-local, where metadata services are"),
        ("192.0.0.192/32", "the cloud's metadata service"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("::/128", "no host"),
        ("fd00:ec2::254/128", "the cloud's metadata service"),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
    )
)

# IPv6 networks that carry an IPv4 address, and the bit at which it ends.
_CARRIERS = (
    (ipaddress.IPv6Network("::ffff:0:0/96"), 0),
    (ipaddress.IPv6Network("::/96"), 0),
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),
    (ipaddress.IPv6Network("2002::/16"), 80),
)

_HOST_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?", re.ASCII)
# Elasticsearch's own rule for ids; the leading dot marks the endpoints it comes with.
_INFERENCE_ID = re.compile(r"\.?[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?", re.ASCII)
_LONGEST_ID = 256
_TASK_TYPE = re.compile(r"[a-z][a-z_]{0,63}", re.ASCII)
_PATH_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]+)*")


def _ipv4_of(host: str) -> ipaddress.IPv4Address | None:
    """The address as the C library reads it: one to four numbers, each decimal, octal (0…) or hexadecimal (0x…)."""
    numbers = []
    for part in host.split("."):
        if re.fullmatch(r"0x[0-9a-f]*", part):
            numbers.append(int(part[2:] or "0", 16))
        elif re.fullmatch(r"0[0-7]*", part):
            numbers.append(int(part, 8))
        elif re.fullmatch(r"[1-9][0-9]{0,9}", part):
            numbers.append(int(part))
        else:
            return None
    *heads, tail = numbers
    tail_bytes = 4 - len(heads)
    if tail_bytes < 1 or any(head > 255 for head in heads) or tail >= 256**tail_bytes:  # noqa: PLR2004 - a byte
        return None
    return ipaddress.IPv4Address(int.from_bytes([*heads, *tail.to_bytes(tail_bytes, "big")], "big"))


def _address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address a host names literally, in any spelling; ``None`` for a name."""
    try:
        return ipaddress.IPv6Address(host.split("%", 1)[0])
    except ValueError:
        return _ipv4_of(host.rstrip(".").lower())


def forbidden_address(host: str) -> str | None:
    """Why no request may go to ``host`` (a name or an address in any spelling); ``None`` when it may.

    A name is judged by itself only: judge what it resolves to as well.
    """
    if host.rstrip(".").lower() in _METADATA_NAMES:
        return "the cloud's metadata service"
    address = _address_of(host)
    if address is None:
        return None
    carried = [address]
    if isinstance(address, ipaddress.IPv6Address):
        carried += [
            ipaddress.IPv4Address(int(address) >> shift & 0xFFFFFFFF)
            for network, shift in _CARRIERS
            # ::1 and :: lie in the network of the old "compatible" addresses, and carry none.
            if address in network and int(address) > 1
        ]
    for one in carried:
        for network, why in _FORBIDDEN_NETWORKS:
            if one.version == network.version and one in network:
                return why
    return None


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine."""
    address = _address_of(host)
    if address is None:
        return host.rstrip(".").lower() == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def normal_url(url: str, *, what: str, allow_http: bool = False) -> str:
    """``scheme://host:port/prefix`` of a URL that a request may go to.

    ``what``: the field's name, for the message.
    Raises :class:`~..errors.ConfigurationError` without quoting the URL, which may hold a secret.
    """
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise ConfigurationError(f"{what} holds characters that no URL has")
    try:
        parts = urlsplit(url)
        port = parts.port
        host = parts.hostname or ""
    except ValueError:
        # Not chained: it quotes what stands where a port should, such as a password.
        raise ConfigurationError(f"{what} is no valid URL: host or port cannot be read") from None
    if "@" in parts.netloc:
        raise ConfigurationError(f"{what} must not hold a user or a password: use the fields login and password")
    if "?" in url or "#" in url:
        raise ConfigurationError(f"{what} must not hold a query or a fragment")
    if parts.scheme not in {"http", "https"}:
        raise ConfigurationError(f"{what} must start with https:// (or http://), not {parts.scheme + '://'!r}")
    if port == 0:
        raise ConfigurationError(f"{what} has port 0")
    _check_host(host, what)
    if parts.scheme == "http" and not allow_http and not is_loopback(host):
        raise ConfigurationError(
            f"{what} starts with http:// but {host!r} is another machine: the password and all texts would travel "
            "in clear; use https://, or set the extra allow_http to true inside a private network"
        )
    prefix = parts.path.rstrip("/")
    if not _PATH_PREFIX.fullmatch(prefix) or {".", ".."} & set(prefix.split("/")):
        raise ConfigurationError(f"{what} has a path with characters other than letters, digits and . _ ~ - /")
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}:{port or (443 if parts.scheme == 'https' else 80)}{prefix}"


def _check_proxy(url: str) -> None:
    try:
        parts = urlsplit(url)
        readable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        readable = False  # and not chained: it quotes what stands where a port should, such as half a password
    if not readable or not re.match(r"https?://[^/?#\s]+/?$", url):
        raise ConfigurationError("the proxy of the environment is no http:// or https:// URL with a host and a port")


def _check_host(host: str, what: str) -> None:
    if not host:
        raise ConfigurationError(f"{what} names no host")
    if ":" not in host and not _HOST_NAME.fullmatch(host):
        raise ConfigurationError(f"{what} names no valid host: {host!r}")
    why = forbidden_address(host)
    if why is not None:
        raise ConfigurationError(f"{what} names {host!r}: refused, this is {why}")


def inference_path(task_type: str | None, inference_id: str) -> str:
    """Path of an endpoint, its id percent-encoded; without ``task_type`` Elasticsearch looks the type up.

    Raises :class:`~..errors.ConfigurationError` for what Elasticsearch takes for no task type or no id. That is nothing,
    too: Elasticsearch would take it for all endpoints.
    """
    for name, value in (("task_type", task_type or ""), ("inference_id", inference_id)):
        if not isinstance(value, str):
            raise ConfigurationError(f"{name} must be a text, not {type(value).__name__}")
    return _path(task_type, inference_id)


def listing_path(task_type: str | None) -> str:
    """Path of all endpoints, or of all of a task type."""
    return _path(task_type, None)


@lru_cache(64)
def _path(task_type: str | None, inference_id: str | None) -> str:
    if task_type is not None and not _TASK_TYPE.fullmatch(task_type):
        raise ConfigurationError(f"task_type must be lower-case letters and _, not {task_type[:80]!r}")
    if inference_id is None:
        inference_id = "_all"
    elif not _INFERENCE_ID.fullmatch(inference_id) or len(inference_id) > _LONGEST_ID:
        raise ConfigurationError(
            "inference_id must be lower-case letters, digits, '.', '_' and '-', "
            f"with a letter or digit at both ends, not {inference_id[:80]!r}"
        )
    return "/".join(["/_inference", *([task_type] if task_type else []), quote(inference_id, safe="")])


def secret_shapes(secret: str) -> frozenset[str]:
    """``secret`` in every spelling in which it may turn up in a log."""
    raw = secret.encode("utf-8", "surrogatepass")
    shapes = {
        secret,
        base64.b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode(),
        quote(raw, safe=""),
        quote(raw, safe="").lower(),
        quote_plus(raw),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        json.dumps(secret).replace("/", "\\/")[1:-1],
        repr(secret)[1:-1],
    }
    return frozenset(shapes | {shape.rstrip("=") for shape in shapes if shape.endswith("=")})


def _check_secret(secret: str, what: str) -> None:
    if len(secret) < SHORTEST_SECRET:
        raise ConfigurationError(
            f"{what} is shorter than {SHORTEST_SECRET} characters: it could not be kept out of logs; use a longer one"
        )


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An Elasticsearch API key, in the form that is sent: base64 of ``id:key``."""

    encoded: str = field(repr=False)

    def __post_init__(self) -> None:
        _check_secret(self.encoded, "password (the API key)")
        if not re.fullmatch(r"[A-Za-z0-9+/_.~=-]+", self.encoded):
            raise ConfigurationError(
                "password (the API key) holds characters that no API key has: "
                "give it as Elasticsearch shows it under 'encoded', or as id:key"
            )

    @classmethod
    def from_text(cls, text: str) -> ApiKey:
        """A key as people paste it: encoded, or ``id:key``; white space around it is dropped."""
        text = text.strip()
        if ":" not in text:
            return cls(text)
        _check_secret(text.partition(":")[2], "password (the part of the API key behind the colon)")
        return cls(base64.b64encode(text.encode()).decode())

    @property
    def header(self) -> str:
        """Value of ``Authorization``."""
        return f"ApiKey {self.encoded}"

    @property
    def secrets(self) -> frozenset[str]:
        """All that must not be shown."""
        known = {self.encoded}
        try:
            clear = base64.b64decode(self.encoded, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            clear = ""
        if ":" in clear:
            known |= {clear, clear.partition(":")[2]}
        return frozenset(shape for secret in known for shape in secret_shapes(secret) if len(secret) >= SHORTEST_SECRET)


@dataclass(frozen=True, slots=True)
class BasicAuth:
    """A user of Elasticsearch and the password."""

    login: str
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        _check_secret(self.password, "password")
        if not self.login or ":" in self.login:
            raise ConfigurationError("login must be a user name without a colon")

    @property
    def header(self) -> str:
        """Value of ``Authorization``."""
        return "Basic " + base64.b64encode(f"{self.login}:{self.password}".encode()).decode()

    @property
    def secrets(self) -> frozenset[str]:
        """All that must not be shown."""
        return secret_shapes(self.password) | secret_shapes(f"{self.login}:{self.password}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConfig:
    """All that a connection to Elasticsearch needs to know. Every check is made when it is built.

    Raises :class:`~..errors.ConfigurationError` naming the field.
    """

    url: str
    """``https://host:port/prefix``; ``http`` on this machine, or with ``allow_http``."""
    auth: ApiKey | BasicAuth | None = None
    """``None``: nothing is sent, for a cluster without security."""
    ca_certificate: str | None = None
    """Path of a PEM file, or PEM text, that is trusted instead of the system's authorities."""
    verify_tls: bool = True
    connect_timeout: float = 10.0
    """Seconds for name, connection and TLS."""
    server_timeout: float = 60.0
    """Seconds that Elasticsearch may wait for the model; sent along with each question."""
    round_trip: float = 15.0
    """Seconds that we wait longer than Elasticsearch, so that the layer nearest the bill gives up first."""
    media: Literal["auto", "json", "cbor"] = "auto"
    """Form of the answers; ``auto``: CBOR where a free call shows that the server speaks it."""
    allow_http: bool = False
    """Whether passwords and texts may travel in clear to another machine."""
    proxy: str | None = field(default=None, repr=False)
    """``http://[user:password@]host:port`` through which all calls go, for ``https`` only."""
    hidden: frozenset[str] = field(default=frozenset(), repr=False)
    """Secrets that are not sent to ask, and that the server may repeat all the same, such as the key of an endpoint."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", normal_url(self.url, what="host", allow_http=self.allow_http))
        if not 0 < self.server_timeout <= LONGEST_WAIT_SECONDS:
            raise ConfigurationError(f"request_timeout must be above 0 and at most {LONGEST_WAIT_SECONDS:g} seconds")
        if self.round_trip < 0:
            raise ConfigurationError(f"round_trip must not be negative: {self.round_trip:g} seconds")
        if not 0 < self.connect_timeout <= LONGEST_WAIT_SECONDS:
            raise ConfigurationError(f"connect_timeout must be above 0 and at most {LONGEST_WAIT_SECONDS:g} seconds")
        if self.media not in {"auto", "json", "cbor"}:
            raise ConfigurationError(f"media_type must be auto, json or cbor, not {self.media!r}")
        if self.proxy is not None:
            _check_proxy(self.proxy)
            if not self.url.startswith("https:"):
                raise ConfigurationError("a proxy is only used with https://: it would read passwords and texts")

    @property
    def deadline(self) -> float:
        """Seconds after which a question that was sent is given up, whatever it is waiting for."""
        return self.server_timeout + self.round_trip

    @property
    def host(self) -> str:
        """Name or address, without port and brackets."""
        return urlsplit(self.url).hostname or ""

    @property
    def secrets(self) -> frozenset[str]:
        """All that must not be shown, in all its shapes."""
        hidden = self.hidden | (self.auth.secrets if self.auth else frozenset())
        password = urlsplit(self.proxy).password if self.proxy else None
        return hidden | secret_shapes(password) if password else hidden
