"""What turns text into vectors and weights: one interface, a real model behind it and a makeshift one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

__all__ = ["Engine", "SparseWeights"]


@dataclass(frozen=True, slots=True)
class SparseWeights:
    """The features of one text."""

    tokens: Mapping[str, float]
    """Feature → positive weight, at most ``top_k``."""
    is_truncated: bool
    """Whether the end of the text was left out."""


class Engine(Protocol):
    """A model, small enough to run here. Safe to call from several threads at once."""

    @property
    def description(self) -> str:
        """What every endpoint says of it."""

    @property
    def dimensions(self) -> int:
        """Length of a dense vector."""

    def embed(self, texts: Sequence[str], *, query: bool) -> npt.NDArray[np.float32]:
        """One unit vector a text, as rows. ``query``: the texts are what is searched with, not what is searched in."""

    def weigh(self, texts: Sequence[str], *, top_k: int) -> list[SparseWeights]:
        """The strongest features of each text."""

    def relevance(self, cosine: float) -> float:
        """A rerank score between 0 and 1; grows with ``cosine``."""
