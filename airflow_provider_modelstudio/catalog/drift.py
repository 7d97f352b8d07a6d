"""How does an endpoint differ from the body it should have been made of? Pure.

Only what the server shows can be compared: secrets never are, and neither is what it leaves out or conceals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_modelstudio.catalog.secrecy import HIDDEN, conceal, is_named_pair, is_secret

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Change", "drift"]

_LONGEST_SHOWN = 160
"""Characters of a value in a difference."""


@dataclass(frozen=True, slots=True)
class Change:
    """One setting that is not as it should be."""

    path: str
    """Names with dots between them."""
    now: Any
    """``None`` when the endpoint lacks it."""
    wanted: Any
    secret: bool = False
    """Whether neither side is for the eyes of a reader."""

    @property
    def updatable(self) -> bool:
        """Whether Elasticsearch can change it without making the endpoint anew."""
        return self.path.startswith("task_settings.")

    def show(self, secrets: frozenset[str]) -> str:
        """``path: now → wanted`` for a log; no value of a setting that looks secret, and none of ``secrets``."""
        return f"{self.path}: {self._shown(self.now, secrets)} → {self._shown(self.wanted, secrets)}"

    def _shown(self, value: Any, secrets: frozenset[str]) -> str:
        if value is None:
            return "nothing"
        text = repr(conceal(value, within=self.secret))
        for secret in secrets:
            text = text.replace(secret, HIDDEN)
        return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"


def drift(body: Mapping[str, Any], endpoint: Mapping[str, Any], task_type: str) -> tuple[Change, ...]:
    """What is visibly different, in the order of the body; empty when the endpoint is as wanted.

    ``endpoint``: as Elasticsearch describes it. Settings it has beyond the body are its own business.
    """
    if endpoint.get("task_type") != task_type:
        return (Change("task_type", endpoint.get("task_type"), task_type),)
    changes = []
    if body.get("service") != endpoint.get("service"):
        changes.append(Change("service", endpoint.get("service"), body.get("service")))
    for part in ("service_settings", "chunking_settings"):
        shown = _object(endpoint.get(part))
        for name, wanted in _object(body.get(part)).items():
            # A server may keep a setting to itself, and always keeps secrets.
            if name in shown and name != "secret_parameters":
                changes += _compare(f"{part}.{name}", shown[name], wanted, secret=is_secret(name))
    changes += _compare("task_settings", _object(endpoint.get("task_settings")), _object(body.get("task_settings")))
    return tuple(changes)


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _compare(path: str, now: Any, wanted: Any, *, secret: bool = False) -> Iterator[Change]:
    if isinstance(wanted, dict) and isinstance(now, dict):
        secret = secret or is_named_pair(now) or is_named_pair(wanted)
        for name, one in wanted.items():
            if name in now or not is_secret(name):
                yield from _compare(f"{path}.{name}", now.get(name), one, secret=secret or is_secret(name))
    elif not _same(now, wanted):
        yield Change(path, now, wanted, secret)


def _same(now: Any, wanted: Any) -> bool:
    if isinstance(now, str) and HIDDEN in now:
        return True
    if isinstance(now, list) and isinstance(wanted, list):
        return len(now) == len(wanted) and all(map(_same, now, wanted))
    if isinstance(now, dict) or isinstance(wanted, dict) or now is None or wanted is None:
        return bool(now == wanted)
    # Servers give numbers back as text, or the other way round.
    return _plain(now) == _plain(wanted)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
