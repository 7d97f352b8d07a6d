"""Texts as hashed n-grams: weak for meaning, but made of NumPy alone and the same on every machine. Pure.

Runs of one to four characters are hashed to dimensions, with a sign that lets collisions cancel.
It finds literal overlap and nothing else.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from airflow_provider_modelstudio.sandbox.engines import SparseWeights

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["HashedEngine"]

LONGEST_TEXT = 8192
"""Characters; the rest of a text is left out."""

_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_LONGEST_RUN = 4
_VOTES = 4
_MOST_DIMENSIONS = 4096
_VOCABULARY = 250_002
"""Sparse features are named by numbers below this, like the token ids of a multilingual vocabulary."""


class HashedEngine:
    """An :class:`~airflow_provider_modelstudio.sandbox.engines.Engine` that needs no model."""

    def __init__(self, dimensions: int = 384) -> None:
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            raise ValueError(f"dimensions are between 1 and {_MOST_DIMENSIONS}, not {dimensions}")
        self.dimensions = dimensions
        self.description = f"hashed n-grams, {dimensions} dimensions: literal overlap only, no meaning"

    def embed(self, texts: Sequence[str], *, query: bool) -> npt.NDArray[np.float32]:
        """See ``Engine``; questions and passages are treated alike."""
        del query
        sums = np.zeros(len(texts) * self.dimensions)
        for length in range(1, _LONGEST_RUN + 1):
            hashes, owners = _runs(texts, length)
            # Each hash votes in four places, so that short texts do not leave most of the vector empty.
            votes = hashes.view(np.uint16)
            bins = np.repeat(owners * self.dimensions, _VOTES) + (votes >> 1) % self.dimensions
            sums += np.bincount(bins, weights=1.0 - 2.0 * (votes & 1), minlength=len(sums))
        vectors = (np.sign(sums) * np.sqrt(np.abs(sums))).reshape(len(texts), self.dimensions)
        norms = np.linalg.norm(vectors, axis=1)
        vectors[norms == 0, 0] = 1.0  # everything cancelled, or there was nothing
        norms[norms == 0] = 1.0
        return np.asarray(vectors / norms[:, None], np.float32)

    def weigh(self, texts: Sequence[str], *, top_k: int) -> list[SparseWeights]:
        """See ``Engine``; single characters and pairs are the features."""
        return [self._weights(text, top_k) for text in texts]

    def _weights(self, text: str, top_k: int) -> SparseWeights:
        hashes = np.concatenate([_runs([text], length)[0] for length in (1, 2)])
        features, counts = np.unique(hashes % np.uint64(_VOCABULARY), return_counts=True)
        strongest = sorted(zip(counts.tolist(), features.tolist(), strict=True), key=lambda one: (-one[0], one[1]))
        kept = sorted((feature, count) for count, feature in strongest[:top_k])
        return SparseWeights({str(feature): 1.0 + math.log(count) for feature, count in kept}, len(text) > LONGEST_TEXT)

    def relevance(self, cosine: float) -> float:
        """See ``Engine``."""
        return 1.0 / (1.0 + math.exp(-8.0 * (cosine - 0.3)))


def _runs(texts: Sequence[str], length: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.intp]]:
    """Hashes of all runs of ``length`` characters, blind to case, and the text that each comes from."""
    folded = [text[:LONGEST_TEXT].casefold().encode("utf-32-le") for text in texts]
    owners = np.repeat(np.arange(len(texts)), [len(one) // 4 for one in folded])
    codes = np.frombuffer(b"".join(folded), np.uint32).astype(np.uint64)
    count = max(0, len(codes) - length + 1)
    hashes = np.full(count, length, np.uint64)
    for at in range(length):
        hashes = (hashes ^ codes[at : at + count]) * _SPREAD
    hashes = (hashes ^ (hashes >> np.uint64(30))) * _MIX_1
    hashes = (hashes ^ (hashes >> np.uint64(27))) * _MIX_2
    hashes ^= hashes >> np.uint64(31)
    whole = owners[:count] == owners[len(owners) - count :]
    return hashes[whole], owners[:count][whole]
