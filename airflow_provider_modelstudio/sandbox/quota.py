"""How much may be asked: requests and tokens a minute, enforced by the second, as the model service does. Pure.

Whoever sends a minute's allowance in one burst is refused although the minute is not used up.
"""

from __future__ import annotations

__all__ = ["Quota"]


class Quota:
    """An allowance of ``per_minute``, of which one second's share can be used at once.

    A cost above one second's share is let through when the share is untouched, and is paid off afterwards.
    """

    def __init__(self, per_minute: float) -> None:
        if per_minute <= 0:
            raise ValueError(f"an allowance of {per_minute} a minute lets nothing through")
        self._per_second = per_minute / 60.0
        self._share = max(1.0, self._per_second)
        self._left = self._share
        self._seen: float | None = None

    def take(self, cost: float, now: float) -> bool:
        """Whether ``cost`` may pass at ``now`` (seconds, any origin); takes it if so."""
        if self._seen is not None:
            self._left = min(self._share, self._left + max(0.0, now - self._seen) * self._per_second)
        self._seen = now if self._seen is None else max(now, self._seen)
        # Rounding must not refuse the one who waited exactly long enough.
        if self._left + 1e-9 < min(cost, self._share):
            return False
        self._left -= cost
        return True
