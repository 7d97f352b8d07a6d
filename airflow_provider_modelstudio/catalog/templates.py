"""How is an endpoint for a model described to Elasticsearch? The bodies are in ``templates.toml`` and nowhere else.

A body keeps its references to the connection until it is sent: what is compared, logged or shown holds no key.
"""

from __future__ import annotations

import datetime as dt  # noqa: TC003  # read at run time, to check dates
import re
import tomllib
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from airflow_provider_modelstudio.inference.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["API_HOST", "API_KEY", "SERVICES", "Template", "asks_for_host", "fill", "find_template"]

SERVICES = ("alibaba-cloud-custom-model", "custom")
"""In the order in which a server is asked for them."""

API_KEY = "${model_studio_api_key}"
API_HOST = "${api_host}"

_DIMENSIONS = {"<dimensions>": int, "<dimensions as text>": str}
_IF_DIMENSIONS = re.compile(r"<if dimensions>(.*?)<end>")
_MODEL = re.compile(r"[A-Za-z0-9][\w.:/-]{0,199}", re.ASCII)
_SECRET_PLACES = ("secret_parameters", "api_key")
"""Settings of a service that Elasticsearch keeps and never shows."""
_ADDRESSES = ("url", "host")


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """One body, and how far it can be trusted. ``templates.toml`` says what each field means."""

    status: Literal["documented", "unverified"]
    source: Annotated[str, msgspec.Meta(pattern="^https://[^/]+/.+$")]
    date: dt.date
    body: dict[str, Any]
    note: str = ""

    def make_body(self, model: str, dimensions: int | None) -> dict[str, Any]:
        """The body for a model, its references to the connection left as they are.

        ``dimensions``: length of the vectors; ``None`` leaves it to the model.
        Raises :class:`~..inference.errors.ConfigurationError` for what can be no name of a model.
        """
        if not _MODEL.fullmatch(model):
            raise ConfigurationError(f"model must be a name like 'text-embedding-…', not {model[:80]!r}")
        made: dict[str, Any] = _made(self.body, model, dimensions)
        return made


def find_template(service: str, task_type: str) -> Template | None:
    """The template of a service for a task type; ``None`` when there is none."""
    return _read().get((service, task_type))


def fill(body: Mapping[str, Any], api_key: str | None, api_host: str) -> dict[str, Any]:
    """The body with the connection's key and host in the places that are meant for them.

    ``${model_studio_api_key}`` is filled in below ``secret_parameters`` and as ``api_key``, ``${api_host}`` in ``url``
    and ``host``; anywhere else ``${…}`` is Elasticsearch's own and stays.
    Raises :class:`~..inference.errors.ConfigurationError` when the body asks for a key that is not there.
    """
    filled: dict[str, Any] = deepcopy(dict(body))
    settings = filled.get("service_settings")
    if not isinstance(settings, dict):
        return filled
    for name in _SECRET_PLACES:
        if name in settings:
            settings[name] = _with_key(settings[name], api_key)
    for name in _ADDRESSES:
        if isinstance(settings.get(name), str):
            settings[name] = settings[name].replace(API_HOST, api_host)
    return filled


def asks_for_host(body: Mapping[str, Any]) -> bool:
    """Whether :func:`fill` would put the connection's API host into the body."""
    settings = body.get("service_settings")
    return isinstance(settings, dict) and any(
        isinstance(settings.get(name), str) and API_HOST in settings[name] for name in _ADDRESSES
    )


@cache
def _read() -> dict[tuple[str, str], Template]:
    told = tomllib.loads((files(__package__) / "templates.toml").read_text("utf-8"))
    return {
        (service, task_type): msgspec.convert(entry, Template)
        for service, by_task in told.items()
        for task_type, entry in by_task.items()
    }


def _made(value: Any, model: str, dimensions: int | None) -> Any:
    if isinstance(value, dict):
        made = {
            name: _made(one, model, dimensions)
            for name, one in value.items()
            if dimensions is not None or not (isinstance(one, str) and one in _DIMENSIONS)
        }
        return {name: one for name, one in made.items() if one != {}}
    if not isinstance(value, str):
        return value
    if value in _DIMENSIONS and dimensions is not None:
        return _DIMENSIONS[value](dimensions)
    return _IF_DIMENSIONS.sub("" if dimensions is None else r"\1", value).replace("<model>", model)


def _with_key(value: Any, api_key: str | None) -> Any:
    if isinstance(value, dict):
        return {name: _with_key(one, api_key) for name, one in value.items()}
    if not isinstance(value, str) or API_KEY not in value:
        return value
    if not api_key:
        raise ConfigurationError("extra model_studio_api_key of the connection is empty: the endpoint needs that key")
    return value.replace(API_KEY, api_key)
