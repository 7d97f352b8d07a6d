"""Keys sorted into buckets on local disk, so that equal ones meet without all of them being in memory."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

import numpy as np

from .recall import KEY

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

__all__ = ["ENTRY", "MOST_BUCKETS", "Buckets"]

ENTRY = np.dtype([("key", KEY), ("at", "<i8"), ("tokens", "<i4")])
"""A key, its position among all that were added, and the tokens of its question."""
MOST_BUCKETS = 400
"""Files open at a time; beyond 100 million keys buckets grow instead."""
HELD_ROWS = 65_536
"""Keys sorted at a time."""


class Buckets:
    """Keys in the order they were added, each in the bucket that all its equals are in.

    Add everything within ``with``; take afterwards.
    A key of zeros stands for a row that asks nothing: it has a position and is in no bucket.
    """

    def __init__(self, folder: Path, name: str, number: int) -> None:
        self._paths = [folder / f"{name}-bucket-{i}" for i in range(number)]
        self._held: list[np.ndarray] = []
        self._held_rows = 0
        self._added = 0
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._files = [self._open.enter_context(path.open("wb")) for path in self._paths]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._sort()
        self._open.close()

    def add(self, keys: np.ndarray, tokens: np.ndarray | None = None) -> None:
        """The next keys, and the tokens of their questions where somebody wants to know."""
        there = np.flatnonzero((keys["high"] != 0) | (keys["low"] != 0))
        entries = np.zeros(len(there), ENTRY)
        entries["key"] = keys[there]
        entries["at"] = there + self._added
        if tokens is not None:
            entries["tokens"] = tokens[there]
        self._added += len(keys)
        self._held.append(entries)
        self._held_rows += len(entries)
        if self._held_rows >= HELD_ROWS:
            self._sort()

    def read(self, path: Path) -> None:
        """All keys of a file."""
        start = 0
        while len(keys := np.fromfile(path, KEY, HELD_ROWS, offset=start * KEY.itemsize)):
            self.add(keys)
            start += len(keys)

    def take(self, bucket: int) -> np.ndarray:
        """The entries of one bucket, in the order they were added."""
        return np.fromfile(self._paths[bucket], ENTRY)

    def _sort(self) -> None:
        if not self._held_rows:
            return
        entries = np.concatenate(self._held)
        self._held, self._held_rows = [], 0
        number = len(self._files)
        which = entries["key"]["high"] % np.uint64(number)
        order = np.argsort(which, kind="stable")
        ends = np.searchsorted(which[order], np.arange(number), side="right")
        for file, chunk in zip(self._files, np.split(entries[order], ends[:-1]), strict=True):
            if len(chunk):
                file.write(chunk.data)
