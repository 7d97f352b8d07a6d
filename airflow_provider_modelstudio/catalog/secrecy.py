"""Which settings of an endpoint would nobody like to read in a log, and how do they look without? Pure.

A secret is known by its name, wherever it stands: as a member, in a header, in a pair, in an address, in a text of JSON.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["HIDDEN", "conceal", "is_named_pair", "is_secret", "secrets_in"]

HIDDEN = "***"
_WORDS = (
    "key|secret|token|password|passwd|pwd|passphrase|authorization|credential|cookie"
    # At the end of a name only: a signature_version is none, and neither is a design. Presigned addresses have these.
    r"|signature(?![\w.-])|(?<![a-z])(?:sig|auth)(?![\w.-])"
)
_SECRET_NAME = re.compile(_WORDS, re.IGNORECASE)
_COUNT = re.compile(r"(?:max|min)_(?:\w+_)?tokens", re.IGNORECASE)
"""Names that only sound like a secret."""
_SHORTEST_IN_TEXT = 8
"""Characters of a secret that is looked for elsewhere; shorter ones would be found everywhere."""
_REFERENCE = re.compile(r"\$\{[^{}]*\}")
_SCHEMES = frozenset({"", "Bearer", "Basic", "ApiKey"})
_IN_TEXT = re.compile(
    rf"""(?P<name>[\w.-]*(?:{_WORDS})[\w.-]*)(?P<between>\\*["']?\s*[=:]\s*)"""
    r"""(?P<value>(?P<quote>\\*["']).*?(?P=quote)|(?:(?:Bearer|Basic|ApiKey)\s+)?(?:\$\{[^{}]*\}|[^\s"'&,}\\])+)""",
    re.IGNORECASE,
)
"""``name=value`` or ``"name": "value"``."""
_LOGIN = re.compile(r"\b(?P<scheme>[Bb]earer|Basic|ApiKey)\s+(?!\$\{)(?P<login>[^\s\"'&,}\\]+)")
_USER = re.compile(r"(?<=://)[^/@\s\"']+(?=@)")


def is_secret(name: object) -> bool:
    """Whether a setting of this name is to be hidden."""
    said = str(name)
    return _SECRET_NAME.search(said) is not None and _COUNT.fullmatch(said) is None


def is_named_pair(value: Any) -> bool:
    """Whether a value is ``[name, value, …]`` or ``{"name": name, "value": value}`` with the name of a secret."""
    if isinstance(value, dict):
        return "value" in value and any(isinstance(v, str) and is_secret(v) for k, v in value.items() if k != "value")
    return isinstance(value, (list, tuple)) and len(value) > 1 and isinstance(value[0], str) and is_secret(value[0])


def conceal(value: Any, *, within: bool = False) -> Any:
    """The value with ``***`` for what is secret; references such as ``${api_key}`` stay.

    ``within``: whether all of it is secret, because of the name it stands under.
    """
    if isinstance(value, dict):
        within = within or is_named_pair(value)
        return {name: conceal(one, within=within or is_secret(name)) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        if is_named_pair(value) and not within:
            return [value[0], *(conceal(one, within=True) for one in value[1:])]
        return [conceal(one, within=within) for one in value]
    if within:
        return value if _is_reference(value) else HIDDEN
    return _without_secrets(value) if isinstance(value, str) else value


def secrets_in(value: Any, *, within: bool = False) -> Iterator[str]:
    """The secret texts of a body, to be kept out of logs and errors.

    What starts with a dollar is none: it is a path into an answer or the name of a variable.
    """
    if isinstance(value, str):
        yield from _itself(value) if within else _in_text(value)
    elif isinstance(value, dict):
        within = within or is_named_pair(value)
        for name, one in value.items():
            yield from secrets_in(one, within=within or is_secret(name))
    elif isinstance(value, (list, tuple)):
        rest = value[1:] if is_named_pair(value) and not within else value
        for one in rest:
            yield from secrets_in(one, within=within or len(rest) < len(value))


def _itself(text: str) -> Iterator[str]:
    if text and not text.startswith("$") and not _is_reference(text):
        yield text
        scheme, _, login = text.partition(" ")
        if scheme in _SCHEMES and login:
            yield login


def _in_text(text: str) -> Iterator[str]:
    named = [_bare(found) for found in _IN_TEXT.finditer(text) if is_secret(found["name"])]
    logins = [found["login"] for found in _LOGIN.finditer(text)]
    users = [part for found in _USER.finditer(text) for part in found[0].split(":")]
    for secret in (*named, *logins, *users):
        if len(secret) >= _SHORTEST_IN_TEXT and not _is_reference(secret):
            yield secret


def _without_secrets(text: str) -> str:
    text = _IN_TEXT.sub(_without_value, text)
    return _USER.sub(HIDDEN, _LOGIN.sub(rf"\g<scheme> {HIDDEN}", text))


def _without_value(found: re.Match[str]) -> str:
    quote = found["quote"] or ""
    if not is_secret(found["name"]) or _is_reference(_bare(found)):
        return found[0]
    return f"{found['name']}{found['between']}{quote}{HIDDEN}{quote}"


def _bare(found: re.Match[str]) -> str:
    quote = found["quote"] or ""
    return found["value"].removeprefix(quote).removesuffix(quote)


def _is_reference(value: Any) -> bool:
    """Whether a value is nothing but a reference to a secret, perhaps after ``Bearer``."""
    return isinstance(value, str) and "${" in value and _REFERENCE.sub("", value).strip() in _SCHEMES
