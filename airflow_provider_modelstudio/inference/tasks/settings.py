"""Whether the settings of a task make sense; each check names the setting and its value. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, get_args

from airflow_provider_modelstudio.inference.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["check_at_least", "check_choice", "check_columns", "check_task_settings", "check_text_setting"]


def check_columns(**columns: str) -> None:
    """Each setting is the name of a column."""
    for name, column in columns.items():
        if not isinstance(column, str) or not column.strip():
            raise ConfigurationError(f"{name} is {column!r}; it names a column")


def check_text_setting(**settings: str) -> None:
    """Each setting is text that UTF-8 can hold; texts are not repeated in messages."""
    for name, text in settings.items():
        if not isinstance(text, str):
            raise ConfigurationError(f"{name} is a {type(text).__name__}; it is a text")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ConfigurationError(f"{name} holds half a surrogate pair, which is no text") from None


def check_choice(name: str, value: str, choices: object) -> None:
    """The value is one of the words of a ``Literal``."""
    words = get_args(choices)
    if value not in words:
        raise ConfigurationError(f"{name} is {value!r}; it is one of {', '.join(map(repr, words))}")


def check_at_least(least: float, **settings: float | None) -> None:
    """Each setting that is set is a number not below ``least``; whole where ``least`` is."""
    kinds = int if isinstance(least, int) else (int, float)
    for name, value in settings.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, kinds) or not value >= least):
            raise ConfigurationError(f"{name} is {value!r}; it is {least} or more")


def check_task_settings(task_settings: Mapping[str, Any] | None) -> None:
    """The settings that go into the request are an object that JSON can hold; values are not repeated in messages."""
    if task_settings is None:
        return
    try:
        fits = isinstance(json.loads(json.dumps(task_settings, allow_nan=False)), dict)
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ConfigurationError("task_settings is not an object that JSON can hold")
