"""What do a server's words say, and what of them may be kept? Pure."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BYTES", "bytes_in", "describe", "limit_in", "recorded", "scrub"]

BYTES: Final = r"limit on max bytes to (?:request|buffer)\D{0,20}([1-9]\d{2,11})"
_RANGE = re.compile(r"\[\s*\d+\s*,\s*(\d{1,9})\s*\]")
_BOUND = re.compile(
    r"(?:larger than|greater than|more than|exceed\w*|at most|maximum(?: length)?|limit|up to|equal to|<=|≤)"
    r"\D{0,24}(\d{1,9})",
    re.IGNORECASE,
)
_WRAPPER = re.compile(r"Received an? .{0,200}?Error message: \[(.*?)\]?$", re.DOTALL)
_CHANGING = re.compile(
    r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b|\brequest[ _]?id\W{0,3}[\w-]+"
    r"|\bfor (?:more )?details?,? (?:please )?see:?\s*\S+",
    re.IGNORECASE,
)
_CODE = re.compile(r"\b(InvalidParameter|InvalidURL|BadRequest)\b")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")


def limit_in(words: str) -> int | None:
    """The upper bound that a sentence names, as in ``should be [1, 8192]`` or ``should not be larger than 10``."""
    found = _RANGE.search(words) or _BOUND.search(words)
    return int(found[1]) if found else None


def bytes_in(words: str) -> int | None:
    """The size of a request body that a sentence allows."""
    found = re.search(BYTES, words, re.IGNORECASE)
    return int(found[1]) if found else None


def describe(status: int, kind: str, reason: str) -> str:
    """A refusal in a line: status, code (or Elasticsearch's ``kind``), words.

    What differs from one refusal to the next is left out, so that refusals can be counted.
    """
    code = _CODE.search(reason)
    name = _HUMP.sub("_", code[1]).lower() if code else kind
    wrapped = _WRAPPER.match(reason)
    words = _CHANGING.sub("", wrapped[1] if wrapped else reason).strip()
    return f"refused ({status}{f' {name}' if name else ''}): {words or 'no reason given'}"


RUN: Final = 12
"""Characters in a row that a row and a reason share by echo, not by chance."""
SHORTEST_TEXT: Final = 4
LONGEST_REASON: Final = 200
"""Characters."""
MOST_TURNS: Final = 5
GAP: Final = "***"


def recorded(reason: str, texts: Sequence[str]) -> str:
    """A reason as it is written down: on one line, at most 200 characters, without an echo of ``texts``."""
    return scrub(reason, texts)[:LONGEST_REASON].strip()  # in this order: half of an echo is none any more


def scrub(reason: str, texts: Sequence[str], *, run: int = RUN, shortest: int = SHORTEST_TEXT) -> str:
    """``reason`` without what it echoes of ``texts``, on one line.

    An echo is a run of so many characters, or a whole text that is shorter and not shorter than ``shortest``; blanks count
    as one, and JSON's escapes as what they mean.
    """
    reason = " ".join(reason.split())
    flat = [_flat(text) for text in texts]
    if "\\" in reason:
        flat += [json.dumps(text, ensure_ascii=ascii_only)[1:-1] for text in flat for ascii_only in (True, False)]
    for _ in range(MOST_TURNS):
        before = reason
        for text in flat:
            reason = _without(reason, text, run, shortest)
        if reason == before:
            return reason.strip()
    return GAP  # what a gap joins may be an echo again, and this goes on and on


def _flat(text: str) -> str:
    """``text`` with each run of blanks as one."""
    before, after = (" " if edge.isspace() else "" for edge in (text[:1], text[-1:]))
    return f"{before}{' '.join(text.split())}{after}"


def _without(reason: str, text: str, length: int, shortest: int) -> str:
    bare = text.strip()
    if len(bare) < length:
        return reason.replace(bare, GAP) if len(bare) >= shortest else reason
    # A shared run holds one block of the text from any grid of half its length: that makes a long text cheap.
    half = length // 2
    blocks = {reason[at : at + half] for at in range(len(reason) - half + 1)}
    runs = {reason[at : at + length] for at in range(len(reason) - length + 1)}
    shared = {
        run
        for block in range(0, len(text) - half + 1, half)
        if text[block : block + half] in blocks
        for at in range(max(0, block - half), block + 1)
        if (run := text[at : at + length]) in runs
    }
    if not shared:
        return reason
    kept: list[str] = []
    end = 0
    for at in range(len(reason)):
        if reason[at : at + length] in shared:
            if at >= end:
                kept.append(GAP)
            end = at + length
        elif at >= end:
            kept.append(reason[at])
    return "".join(kept)
