"""How large may a request be, where the service says of some that they are too large, and never what is not? Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["Cut", "Size"]

CLOSE = 16
"""Nearer than one part in so many to what was refused, nobody looks for the limit any more."""


@dataclass(frozen=True, slots=True)
class Size:
    """What is known: the limit lies from ``accepted`` on, below ``refused``."""

    accepted: int = 0
    """Bytes of the largest request that was answered."""
    refused: int | None = None
    """Bytes of the smallest one that was refused for its size; ``None`` as long as none was."""

    @property
    def most(self) -> int | None:
        """Bytes to try for: half-way between the two, until they are close; ``None``: anything."""
        if self.refused is None:
            return None
        gap = self.refused - self.accepted
        return self.accepted + gap // 2 if gap > self.refused // CLOSE else self.accepted

    def took(self, size: int) -> Size:
        """A request of that size was answered. One that is larger than a refused one says nothing of many rows."""
        larger = size > self.accepted and (self.refused is None or size < self.refused)
        return replace(self, accepted=size) if larger else self

    def gave_up(self, cut: Cut) -> Size:
        """A request was refused as too large, and all its pieces were answered: its size was to blame, and no row."""
        if self.refused is not None and cut.size >= self.refused:
            return self
        # A service that measures something else may have taken a larger one before: what its pieces had is sure.
        accepted = self.accepted if self.accepted < cut.size else cut.largest
        return Size(accepted, cut.size)


@dataclass(slots=True)
class Cut:
    """A request that was refused as too large, and its pieces. As long as not all are answered, one row may be to blame."""

    size: int
    left: int
    """Pieces that are not answered."""
    largest: int = 0
    """Bytes of the largest piece that is."""

    def answered(self, size: int) -> bool:
        """A piece of that size was answered; whether that was the last one."""
        self.left -= 1
        self.largest = max(self.largest, size)
        return self.left == 0
