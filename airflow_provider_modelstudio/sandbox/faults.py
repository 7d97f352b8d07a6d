"""What goes wrong, when: rules as values, and the script that plays them. Pure.

A rule is a match and an act. Of all rules that match a request every :class:`Delay` acts, and the first other act.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

from airflow_provider_modelstudio.sandbox.named_refusals import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "ACTS",
    "Act",
    "BadGzip",
    "Delay",
    "Distort",
    "Distortion",
    "Drip",
    "FaultFileError",
    "Garbage",
    "HtmlPage",
    "Huge",
    "Match",
    "NoProductHeader",
    "Occasion",
    "Redirect",
    "Refuse",
    "Reset",
    "Respond",
    "Rule",
    "Script",
    "Truncate",
    "WrongLength",
    "load_rules",
    "read_rules",
]

Distortion = Literal[
    "fewer", "more", "wrong_dimensions", "nan", "infinity", "1e400", "null", "string", "zeros",
    "duplicate_index", "missing_index", "index_out_of_range", "unfinished", "empty_object",
    "bottomless",
]  # fmt: skip
"""How an answer is wrong although its status is 200. ``nan`` to ``zeros`` spoil the first number of the first row;
``unfinished`` and ``empty_object`` are texts: one without its last character, and ``{}``.
``bottomless`` puts a list in a list, and so on, twenty thousand deep, in the place of the rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Delay:
    """Wait before anything else.

    Elasticsearch's own timeout does not count it; a slow model is what the server's ``latency`` makes.
    """

    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Refuse:
    """An error that Elasticsearch answers with, by its name in :mod:`~.named_refusals`.

    ``retry_after``: seconds or a date, as it goes into the header.
    ``message``: instead of the usual text of the model service.
    """

    error: str
    retry_after: str | float | None = None
    message: str | None = None

    def __post_init__(self) -> None:
        if self.error not in NAMES:
            raise ValueError(f"error is {self.error!r}, known errors are {', '.join(sorted(NAMES))}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Respond:
    """Any status and body."""

    status: int
    body: str = ""
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class HtmlPage:
    """The page of a proxy or of a login, without Elasticsearch's header."""

    status: int = 502
    text: str = "Bad Gateway"


@dataclass(frozen=True, kw_only=True, slots=True)
class Redirect:
    """To somewhere else."""

    location: str = "http://127.0.0.1:9/login"
    status: int = 302


@dataclass(frozen=True, kw_only=True, slots=True)
class Reset:
    """The connection is reset before, within, or right after the answer.

    ``billed=False``: before the model was asked, which only ``before`` allows.
    """

    at: Literal["before", "middle", "after"] = "middle"
    billed: bool = True

    def __post_init__(self) -> None:
        if not self.billed and self.at != "before":
            raise ValueError(f"a reset {self.at} the answer cannot be free: the model was asked")


@dataclass(frozen=True, kw_only=True, slots=True)
class Truncate:
    """The connection is closed in good order after a share of the body; the length promised was the whole."""

    share: float = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class WrongLength:
    """``Content-Length`` is off by so many bytes; then the connection is closed."""

    by: int = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Drip:
    """The answer comes in small pieces, with a pause of some seconds before each."""

    piece_bytes: int = 64
    pause: float = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Distort:
    """A well-formed answer that must not be used."""

    how: Distortion


@dataclass(frozen=True, kw_only=True, slots=True)
class NoProductHeader:
    """A sound answer without ``X-Elastic-Product``, as behind a proxy that strips headers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Garbage:
    """A sound answer with bytes after its end, inside the length promised."""

    text: str = "\x00garbage"


@dataclass(frozen=True, kw_only=True, slots=True)
class Huge:
    """A sound answer blown up with blanks to so many bytes, without a length up front."""

    size_bytes: int = 1 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class BadGzip:
    """An answer that claims to be compressed and is not."""


Act = (
    Delay | Refuse | Respond | HtmlPage | Redirect | Reset | Truncate | WrongLength | Drip | Distort | NoProductHeader
    | Garbage | Huge | BadGzip
)  # fmt: skip

ACTS: dict[str, type[Act]] = {
    "delay": Delay,
    "refuse": Refuse,
    "respond": Respond,
    "html_page": HtmlPage,
    "redirect": Redirect,
    "reset": Reset,
    "truncate": Truncate,
    "wrong_length": WrongLength,
    "drip": Drip,
    "distort": Distort,
    "no_product_header": NoProductHeader,
    "garbage": Garbage,
    "huge": Huge,
    "bad_gzip": BadGzip,
}
"""Kind in a JSON file → act."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """Which requests a rule acts on: those that meet everything that is set.

    The first five fields choose candidates. Candidates are counted from 1, for each rule apart; the rest choose
    among them.
    """

    operation: str = "infer"
    """``infer``, ``create``, ``update``, ``get``, ``delete`` or ``root``."""
    task_type: str | None = None
    inference_id: str | None = None
    contains: str | None = None
    """Found in an input or in the query."""
    window: tuple[float, float] | None = None
    """Seconds since the server started: from, up to."""
    nth: tuple[int, ...] = ()
    every: int | None = None
    first: int | None = None
    probability: float = 1.0
    seed: int = 0
    """Decides, with the number of the candidate, what ``probability`` comes to."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "nth", tuple(self.nth))
        if self.window is not None:
            start, end = self.window
            object.__setattr__(self, "window", (start, end))
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability is between 0 and 1, not {self.probability}")
        if self.every is not None and self.every < 1:
            raise ValueError(f"every is at least 1, not {self.every}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """An act and when it happens; without a match, always."""

    act: Act
    match: Match = field(default_factory=Match)


@dataclass(frozen=True, kw_only=True, slots=True)
class Occasion:
    """What a rule looks at."""

    operation: str
    task_type: str
    inference_id: str
    texts: Sequence[str]
    now: float
    """Seconds since the server started."""


class Script:
    """Rules, and how often each was looked at."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._rules = tuple(rules)
        self._candidates = [0] * len(self._rules)

    def acts(self, occasion: Occasion) -> list[Act]:
        """Every delay and at most one other act."""
        chosen: list[Act] = []
        for i, rule in enumerate(self._rules):
            if not _is_candidate(rule.match, occasion):
                continue
            self._candidates[i] += 1
            if not _is_hit(rule.match, self._candidates[i]):
                continue
            if isinstance(rule.act, Delay) or all(isinstance(act, Delay) for act in chosen):
                chosen.append(rule.act)
        return chosen


def _is_candidate(match: Match, occasion: Occasion) -> bool:
    if match.operation != occasion.operation:
        return False
    if match.task_type not in {None, occasion.task_type} or match.inference_id not in {None, occasion.inference_id}:
        return False
    if match.contains is not None and not any(match.contains in text for text in occasion.texts):
        return False
    return match.window is None or match.window[0] <= occasion.now < match.window[1]


def _is_hit(match: Match, number: int) -> bool:
    if match.nth and number not in match.nth:
        return False
    if match.every is not None and number % match.every:
        return False
    if match.first is not None and number > match.first:
        return False
    return match.probability >= 1 or random.Random(f"{match.seed}:{number}").random() < match.probability  # noqa: S311 - a script must play the same each time


class FaultFileError(ValueError):
    """A file of rules that cannot be read; the text says which rule and what is wrong with it."""


def load_rules(path: str | Path) -> tuple[Rule, ...]:
    """The rules in a JSON file: a list of ``{"match": {…}, "act": {"kind": "reset", …}}``."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise FaultFileError(f"{path} is no JSON file: {exc}") from exc
    return read_rules(found)


def read_rules(rules: Any) -> tuple[Rule, ...]:
    """Rules from decoded JSON. Raises :class:`FaultFileError`."""
    if not isinstance(rules, list):
        raise FaultFileError("the rules are a list")
    return tuple(_read_rule(rule, number) for number, rule in enumerate(rules, 1))


def _read_rule(rule: Any, number: int) -> Rule:
    try:
        if not isinstance(rule, dict) or not set(rule) <= {"match", "act"} or not isinstance(rule.get("act"), dict):
            raise FaultFileError("a rule is an object with an act and perhaps a match")
        given = dict(rule["act"])
        kind = given.pop("kind", None)
        if kind not in ACTS:
            raise FaultFileError(f"kind is {kind!r}, known kinds are {', '.join(sorted(ACTS))}")
        return Rule(act=_build(ACTS[kind], given), match=_build(Match, rule.get("match", {})))
    except (TypeError, ValueError) as exc:
        raise FaultFileError(f"rule {number}: {exc}") from exc


def _build(cls: type[Any], given: Any) -> Any:
    if not isinstance(given, dict):
        raise FaultFileError(f"{given!r} is no object")
    known = {one.name for one in fields(cls)}
    if unknown := sorted(set(given) - known):
        raise FaultFileError(
            f"{cls.__name__} has no {', '.join(unknown)}; it has {', '.join(sorted(known)) or 'no fields'}"
        )
    hints = get_type_hints(cls)
    for name, value in given.items():
        choices = [one for one in get_args(hints[name]) if isinstance(one, str)]
        if choices and value not in choices:
            raise FaultFileError(f"{name} is {value!r}, known values are {', '.join(choices)}")
    return cls(**given)
