"""Rendered parameters as the values they stand for. A template renders to text, whatever it means."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from airflow_provider_modelstudio.inference.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow_provider_modelstudio.inference.tasks.vector_types import VectorType

__all__ = [
    "POLICY",
    "TEXT_POLICY",
    "VECTOR_TYPES",
    "choice",
    "flag",
    "mapping",
    "number",
    "text",
    "text_or_none",
    "whole",
    "whole_or_none",
]

POLICY: tuple[Literal["null", "fail"], ...] = ("null", "fail")
"""What a row does that cannot be asked."""
TEXT_POLICY: tuple[Literal["null", "truncate", "fail"], ...] = ("null", "truncate", "fail")
"""What a row does whose text is too long."""
VECTOR_TYPES: tuple[VectorType, ...] = ("float32", "float16", "int8")

Choice = TypeVar("Choice", bound=str)
_NOTHING = frozenset({"", "None", "none", "null"})
_YES = frozenset({"true", "1", "yes", "on"})
_NO = frozenset({"false", "0", "no", "off"})


def whole(name: str, value: Any, least: int, most: int) -> int:
    """A whole number from ``least`` to ``most``."""
    try:
        found = int(str(value).strip())
    except ValueError:
        raise ConfigurationError(f"{name} must be a whole number, not {value!r}") from None
    if not least <= found <= most:
        raise ConfigurationError(f"{name} must be {least} to {most}, not {found}")
    return found


def whole_or_none(name: str, value: Any, least: int, most: int) -> int | None:
    """A whole number, or ``None``."""
    return None if value is None or str(value).strip() in _NOTHING else whole(name, value, least, most)


def number(name: str, value: Any, *, least: float = 0.0, most: float = float("inf")) -> float | None:
    """A finite number from ``least`` to ``most``, or ``None``."""
    if value is None or str(value).strip() in _NOTHING:
        return None
    try:
        found = float(str(value).strip())
    except ValueError:
        raise ConfigurationError(f"{name} must be a number, not {value!r}") from None
    if not least <= found <= most or abs(found) == float("inf"):
        bounds = f"at least {least:g}" + ("" if most == float("inf") else f" and at most {most:g}")
        raise ConfigurationError(f"{name} must be {bounds}, not {value}")
    return found


def text_or_none(name: str, value: Any) -> str | None:
    """A text with something in it, or ``None``."""
    if value is None or isinstance(value, str):
        return value or None
    raise ConfigurationError(f"{name} must be a text, not {type(value).__name__}")


def text(name: str, value: Any) -> str:
    """A text with something in it."""
    if isinstance(value, str) and value:
        return value
    raise ConfigurationError(f"{name} must be a text, not {'an empty one' if value == '' else type(value).__name__}")


def choice(name: str, value: Any, choices: tuple[Choice, ...]) -> Choice:
    """One of the choices."""
    for one in choices:
        if value == one:
            return one
    raise ConfigurationError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")


def flag(name: str, value: Any) -> bool:
    """True or false."""
    text = str(value).strip().lower()
    if text in _YES:
        return True
    if text in _NO:
        return False
    raise ConfigurationError(f"{name} must be true or false, not {value!r}")


def mapping(name: str, value: Any) -> dict[str, Any] | None:
    """An object, given as one or as JSON, or ``None``."""
    if isinstance(value, str):
        if value.strip() in _NOTHING:
            return None
        try:
            value = json.loads(value)
        except ValueError:
            raise ConfigurationError(f"{name} is not JSON") from None
    if value is None or isinstance(value, dict):
        return value
    raise ConfigurationError(f"{name} must be an object, not {type(value).__name__}")
