"""What will be done, before anything is done: inputs pinned, parts cut, requests packed. Pure.

The same files and settings give the same plan on any worker and any try.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .tasks import Question, RequestLimits

__all__ = ["FORMAT", "InputFile", "Packer", "Part", "Plan", "digest", "make_plan"]

FORMAT = 1
"""Raised when the meaning of stored answers or parts changes; older ones are then not used."""

PART_ROWS = 32_768
"""Rows of an output file: 128 MiB of vectors at 1,024 float32."""

Owner = TypeVar("Owner")


@dataclass(frozen=True, kw_only=True, slots=True)
class InputFile:
    """One Parquet file, as it was when the plan was made."""

    path: str
    size: int
    """Bytes."""
    stamp: str
    """Changes whenever the content does: modification time or ETag."""
    row_groups: tuple[int, ...]
    """Rows of each row group."""
    partition: tuple[tuple[str, str | None], ...] = ()
    """Hive partition keys of the path, outermost first."""

    @property
    def rows(self) -> int:
        """Rows of the file."""
        return sum(self.row_groups)


@dataclass(frozen=True, slots=True)
class Part:
    """A range of input rows that becomes one output file."""

    index: int
    first_row: int
    rows: int
    digest: str = ""
    """Equal for parts that hold the same rows of the same files in the same form; empty where nobody can tell."""

    @property
    def end_row(self) -> int:
        """The row after the last."""
        return self.first_row + self.rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Everything that decides the output."""

    cache_key: str
    """Equal for runs whose answers may be shared: endpoint, its settings, task settings."""
    run_key: str
    """Equal for runs that must write the same dataset."""
    inputs: tuple[InputFile, ...]
    parts: tuple[Part, ...]
    rows: int

    def as_json(self) -> bytes:
        """Canonical bytes; a plan on record must be equal to go on with it."""
        return _canonical(
            {
                "format": FORMAT,
                "cache_key": self.cache_key,
                "run_key": self.run_key,
                "rows": self.rows,
                "parts": len(self.parts),
            }
        )


def digest(value: Any) -> str:
    """A short stable name for a JSON-able value."""
    return hashlib.sha256(_canonical(value)).hexdigest()[:32]


def make_plan(
    inputs: Sequence[InputFile],
    *,
    endpoint: Mapping[str, Any],
    settings: Mapping[str, Any],
    output: Mapping[str, Any],
    single_file: bool,
    again: str | None = None,
    part_rows: int = PART_ROWS,
    part_starts: Sequence[int] | None = None,
) -> Plan:
    """Pin the inputs and cut them into parts.

    :param endpoint: what tells this endpoint from another: id, task type, service and its settings.
    :param settings: the task's own settings that decide an answer.
    :param output: what decides the form of the output: columns, types.
    :param single_file: everything goes into one part.
    :param again: makes this another run than those before, of the same inputs in the same form.
    :param part_starts: ascending first rows of the parts after the first one, where rows belong together; ``None`` cuts
        every ``part_rows``.
    """
    cache_key = digest({"format": FORMAT, "endpoint": endpoint, "settings": settings})
    rows = sum(file.rows for file in inputs)
    if single_file:
        part_rows = max(rows, 1)
    pinned = [(file.path, file.size, file.stamp, file.row_groups, file.partition) for file in inputs]
    form = {"cache_key": cache_key, "output": output}
    run_key = digest({**form, "inputs": pinned, "part_rows": 0 if single_file else part_rows, "again": again})
    # An empty dataset still has one file, so that readers find its schema.
    starts: Sequence[int] = range(0, max(rows, 1), part_rows)
    if part_starts is not None and not single_file:
        starts = (0, *part_starts)
    ends = [*starts[1:], rows]
    digests = _digests(form, inputs, ends)
    parts = tuple(
        Part(i, start, end - start, name)
        for i, (start, end, name) in enumerate(zip(starts, ends, digests, strict=True))
    )
    return Plan(cache_key=cache_key, run_key=run_key, inputs=tuple(inputs), parts=parts, rows=rows)


def _digests(form: Mapping[str, Any], inputs: Sequence[InputFile], ends: Sequence[int]) -> list[str]:
    """The digest of each part; ``ends`` has the row after its last."""
    if not all(file.stamp for file in inputs):
        return [""] * len(ends)
    digests, start, first, files = [], 0, 0, iter(inputs)
    file = next(files, None)
    for end in ends:
        pieces = []
        while file is not None and start < end:
            upto = min(end, first + file.rows)
            if upto > start:
                pieces.append((file.path, file.size, file.stamp, file.partition, start - first, upto - first))
                start = upto
            if start == first + file.rows:
                first += file.rows
                file = next(files, None)
        digests.append(digest({**form, "rows": pieces}))
    return digests


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_plain).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise ConfigurationError(f"a setting of type {type(value).__name__} cannot be written as JSON; use plain values")


class Packer(Generic[Owner]):
    """Fill requests with questions in the order they come, up to the limits of one request.

    Whoever asked travels with the question, so that a request may hold questions of several windows.
    """

    def __init__(self, limits: RequestLimits) -> None:
        self.limits = limits
        self.most_size: int | None = None
        """Bytes to keep to for now, within the limits; ``None``: the limits alone. May rise again."""
        self._open: list[tuple[Owner, Question]] = []
        self._group: bytes | None = None
        """Of the open request."""
        self._tokens = 0
        self._size = 0

    def cap_rows(self, rows: int) -> None:
        """Never pack more than ``rows`` from now on."""
        self.limits = replace(self.limits, rows=max(1, min(rows, self.limits.rows)))

    def cap_size(self, size: int) -> None:
        """Never pack more than ``size`` bytes from now on."""
        self.limits = replace(self.limits, size=max(1, min(size, self.limits.size)))

    def feed(self, owner: Owner, question: Question) -> list[tuple[Owner, Question]] | None:
        """Add a question; returns the request it closed, if it closed one."""
        limits, held = self.limits, self._open
        full = None
        tokens, size = self._tokens + question.tokens, self._size + question.size
        if held and (
            len(held) >= limits.rows
            or size > limits.size
            or (self.most_size is not None and size > self.most_size)
            or (limits.tokens is not None and tokens > limits.tokens)
            or question.group != self._group
        ):
            full, tokens, size = held, question.tokens, question.size
            held = self._open = []
        held.append((owner, question))
        self._tokens, self._size, self._group = tokens, size, question.group
        if full is None and len(held) >= limits.rows:
            return self.flush()
        return full

    def flush(self) -> list[tuple[Owner, Question]] | None:
        """Close the request that is open, if there is one."""
        if not self._open:
            return None
        full, self._open, self._tokens, self._size = self._open, [], 0, 0
        return full
