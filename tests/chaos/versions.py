"""Rows made for the loop: each text tells which lane and dataset it belongs to, so that the bill can be told apart."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

__all__ = ["SHAPES", "Shape", "Version", "make_dice", "make_version"]

WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "inlet", "juniper", "kelp", "lagoon")


def make_dice(*seed: object) -> random.Random:
    """Chance that is the same each time."""
    return random.Random(" ".join(map(str, seed)))  # noqa: S311  # a loop has to be repeatable


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """How many rows, and how many of them differ."""

    rows: int
    texts: int
    single_file: bool = False


SHAPES = {
    "folder": Shape(rows=2_400, texts=2_000),
    "file": Shape(rows=2_000, texts=1_800, single_file=True),
    # Two parts: what is sealed must serve later parts, and a kill may fall between two seals.
    "parts": Shape(rows=33_500, texts=1_800),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """What a source holds at one time."""

    name: str
    """Of the dataset; all its versions go to one destination."""
    number: int
    texts: tuple[str, ...]
    """The texts that differ."""
    numbers: np.ndarray
    """For each row, which of ``texts`` it has."""
    new: frozenset[str]
    """Texts that no earlier version has: the ones to pay for."""

    @property
    def rows(self) -> int:
        return len(self.numbers)

    @property
    def table(self) -> pa.Table:
        texts = pa.array(self.texts).take(pa.array(self.numbers))
        columns = {"row": np.arange(self.rows), "version": np.full(self.rows, self.number, np.int32), "text": texts}
        return pa.table(columns)


def make_version(dice: random.Random, name: str, shape: Shape, before: Version | None = None) -> Version:
    """Rows of a new dataset, or the next version of one: half of its texts stay."""
    number = 1 if before is None else before.number + 1
    kept = [] if before is None else dice.sample(before.texts, shape.texts // 2)
    made = [
        f"{name} v{number} text {i}: {' '.join(dice.choices(WORDS, k=dice.randint(2, 12)))}"
        for i in range(shape.texts - len(kept))
    ]
    texts = kept + made
    dice.shuffle(texts)
    # New texts come up from the first row to the last, and each may come again anywhere later.
    rows = np.arange(shape.rows)
    fresh = rows * shape.texts // shape.rows
    again = np.array([dice.random() for _ in rows])
    is_first = np.diff(fresh, prepend=-1) > 0
    numbers = np.where(is_first, fresh, (again * (fresh + 1)).astype(int))
    return Version(name=name, number=number, texts=tuple(texts), numbers=numbers, new=frozenset(made))
