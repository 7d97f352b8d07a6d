"""What the fields of an Airflow connection mean.

Every field is known by name; a field that nobody knows is refused, so that a typing error cannot pass for a default.
``None`` and the empty string mean "not set": the form stores them for fields left empty.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from airflow_provider_modelstudio.inference.errors import ConfigurationError
from airflow_provider_modelstudio.inference.transport.address import (
    ApiKey,
    BasicAuth,
    ClusterConfig,
    normal_url,
    secret_shapes,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow.sdk import Connection

__all__ = ["ConnectionFields", "ModelStudioAccount", "read_fields"]

_ELASTICSEARCH_PORT = 9200
_SHORTEST_SECRET = 8
_REGION = re.compile(r"[a-z]{2,}(?:-[a-z0-9]+)+")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelStudioAccount:
    """What Elasticsearch needs to reach Model Studio; only for creating endpoints."""

    api_key: str | None = field(default=None, repr=False)
    api_host: str | None = None
    """``https://host:port``, belongs to the region of the key."""
    region: str | None = None
    """For example ``cn-shanghai``; chooses among prices."""

    @property
    def secrets(self) -> frozenset[str]:
        """All that must not be shown, in all its shapes."""
        return secret_shapes(self.api_key) if self.api_key else frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class ConnectionFields:
    """A connection, understood and checked."""

    cluster: ClusterConfig
    account: ModelStudioAccount
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What the catalog of models does not know, or knows otherwise; see ``Catalog.read``."""

    @property
    def secrets(self) -> frozenset[str]:
        """All that must not be shown, in all its shapes."""
        return self.cluster.secrets


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigurationError(f"extra {name} must be text, not {type(value).__name__}")
    return value.strip()


def _flag(name: str, value: Any) -> bool:
    # A connection given as a URI has text only.
    known = {"true": True, "false": False}
    if isinstance(value, str) and value.strip().lower() in known:
        return known[value.strip().lower()]
    if not isinstance(value, bool):
        raise ConfigurationError(f"extra {name} must be true or false")
    return value


def _seconds(name: str, value: Any) -> float:
    if not isinstance(value, bool) and isinstance(value, int | float | str):
        try:
            return float(value)
        except ValueError:
            pass
    raise ConfigurationError(f"extra {name} must be a number of seconds")


def _models(name: str, value: Any) -> dict[str, Any]:
    # The form and a connection given as a URI have text only.
    models = _object(value) if isinstance(value, str) else value
    if not isinstance(models, dict):
        raise ConfigurationError(f'extra {name} must be a JSON object such as {{"model": {{"rows_per_request": 10}}}}')
    return models


_EXTRAS: Mapping[str, Callable[[str, Any], Any]] = {
    "allow_http": _flag,
    "api_host": _text,
    "ca_certificate": _text,
    "connect_timeout": _seconds,
    "media_type": _text,
    "model_studio_api_key": _text,
    "models": _models,
    "region": _text,
    "request_timeout": _seconds,
    "trust_env": _flag,
    "verify_tls": _flag,
}


def read_fields(connection: Connection) -> ConnectionFields:
    """What ``connection`` says.

    Raises :class:`~..inference.errors.ConfigurationError` naming the field, never quoting a secret.
    """
    extras = _read_extras(connection)
    allow_http = extras.pop("allow_http", False)
    account = ModelStudioAccount(
        api_key=_model_studio_api_key(extras.pop("model_studio_api_key", None)),
        api_host=_api_host(extras.pop("api_host", None), allow_http=allow_http),
        region=_region(extras.pop("region", None)),
    )
    models = extras.pop("models", {})
    url = normal_url(_url(connection), what="host", allow_http=allow_http)
    proxy = _proxy(url) if extras.pop("trust_env", False) else None
    renamed = {"media_type": "media", "request_timeout": "server_timeout"}
    cluster = ClusterConfig(
        url=url,
        auth=_auth(connection),
        allow_http=allow_http,
        proxy=proxy,
        hidden=account.secrets,
        **{renamed.get(name, name): value for name, value in extras.items()},
    )
    return ConnectionFields(cluster=cluster, account=account, models=models)


def _read_extras(connection: Connection) -> dict[str, Any]:
    # Airflow 3.2 keeps the extras of a connection given as a URI as an object, not as text.
    extra: str | dict[str, Any] | None = connection.extra
    given = extra if isinstance(extra, dict) else _object(extra or "{}")
    if given is None:
        raise ConfigurationError("extra is no JSON object")
    for name in given:
        if name not in _EXTRAS:
            close = difflib.get_close_matches(name, _EXTRAS, n=1)
            meant = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(_EXTRAS))}"
            raise ConfigurationError(f"extra {name[:40]!r} is not known: {meant}")
    return {name: _EXTRAS[name](name, value) for name, value in given.items() if value is not None and value != ""}


def _object(text: str) -> dict[str, Any] | None:
    # Airflow's extra_dejson reads damaged JSON as "no extras", which would drop a key or a flag in silence.
    try:
        value = json.loads(text)
    except ValueError:
        # Returned, not raised: the exception holds the text, and with it the secrets.
        return None
    return value if isinstance(value, dict) else None


def _url(connection: Connection) -> str:
    host = (connection.host or "").strip()
    if not host:
        raise ConfigurationError("host is empty: it is the endpoint of Elasticsearch, https://…")
    scheme = connection.schema or None
    if scheme not in {None, "http", "https"}:
        raise ConfigurationError("schema must be empty, http or https; a path belongs into host, as part of the URL")
    # Airflow's form posts port 0 for an empty one.
    port = connection.port or None
    if "://" not in host:
        bare_ipv6 = host.count(":") > 1 and not host.startswith("[")
        url = f"{scheme or 'https'}://{f'[{host}]' if bare_ipv6 else host}"
        return _with_port(url, port, default=_ELASTICSEARCH_PORT)
    if scheme is not None and not host.lower().startswith(f"{scheme}://"):
        raise ConfigurationError(f"schema says {scheme}, but host starts with something else: leave schema empty")
    return _with_port(host, port, default=None)


def _with_port(url: str, port: int | None, *, default: int | None) -> str:
    """``url`` with the port of the field; they may say the same, but not two things."""
    try:
        parts = urlsplit(url)
        told = parts.port
    except ValueError as exc:
        raise ConfigurationError("host is no valid URL: host or port cannot be read") from exc
    if port is not None and told is not None and port != told:
        raise ConfigurationError(f"port says {port}, but host says {told}: leave port empty")
    wanted = told or port or default
    return url if wanted == told else parts._replace(netloc=f"{parts.netloc.rstrip(':')}:{wanted}").geturl()


def _auth(connection: Connection) -> ApiKey | BasicAuth | None:
    login, password = connection.login or None, connection.password or None
    if login is not None and password is None:
        raise ConfigurationError("login is set, but password is empty")
    if password is None:
        return None
    return ApiKey.from_text(password) if login is None else BasicAuth(login, password)


def _model_studio_api_key(key: str | None) -> str | None:
    if key is not None and len(key) < _SHORTEST_SECRET:
        raise ConfigurationError(
            f"extra model_studio_api_key is shorter than {_SHORTEST_SECRET} characters: "
            "it could not be kept out of logs, and is no key of Model Studio"
        )
    return key


def _api_host(host: str | None, *, allow_http: bool) -> str | None:
    if host is None:
        return None
    return normal_url(host if "://" in host else f"https://{host}", what="extra api_host", allow_http=allow_http)


def _region(region: str | None) -> str | None:
    if region is not None and not _REGION.fullmatch(region):
        raise ConfigurationError(f"extra region must look like cn-shanghai, not {region[:40]!r}")
    return region


def _proxy(url: str) -> str | None:
    parts = urlsplit(url)
    if parts.scheme != "https" or proxy_bypass(parts.hostname or ""):
        return None
    return getproxies().get("https")
