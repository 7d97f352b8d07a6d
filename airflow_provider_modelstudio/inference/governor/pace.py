"""How fast may one quantity be spent, be it requests or tokens? Pure.

The rate follows CUBIC (RFC 9438), with seconds for round trips and refusals for losses:
a refusal cuts it to 0.85 of what was let in, it climbs back to that peak slower and slower, and leaves it faster and faster.
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["Pace"]

HEADROOM: Final = 0.95  # of a told quota: the server's seconds do not begin with ours
LATE: Final = 0.05  # seconds a send may be late and still catch up: timers oversleep
CUT: Final = 0.85  # a refusal is free but rude: step back as CUBIC does, not half as Reno
LONGEST_GAP: Final = 10.0  # seconds; a learned pace never gets slower than this, so that it can learn better
SHARE_LEFT: Final = 0.95  # of a peak lower than the one before: somebody took a share, leave room and all converge
RISEN: Final = 1.1
EAGER: Final = 2.5  # seconds to climb back to the peak while the ceiling is still rising, as under growth protection
HOPES: Final = 4  # peaks that have not risen, until the ceiling is believed
CLIMB: Final = 7.0  # seconds to climb back to a peak of one request a second; times its cube root, as CUBIC does …
SHORTEST_CLIMB: Final = 12.0  # … within these: slow flows would be refused too often,
LONGEST_CLIMB: Final = 20.0  # … fast ones would miss that a quota was raised
PROBE: Final = 5.0  # seconds beyond the peak until the rate is 15 % above it; in twice the time it has doubled


class Pace:
    """How fast one quantity (requests, or tokens) may be spent."""

    __slots__ = ("_climb", "_cut_at", "_hopes", "_paid_at", "_peak", "cap", "learned", "rate")

    def __init__(self, per_minute: float | None) -> None:
        self.cap = None if per_minute is None else HEADROOM * per_minute / 60.0
        self.rate = self.cap
        """Units a second in force, ``None``: unlimited."""
        self.learned = False
        """Whether a refusal has set the rate."""
        self._paid_at = -math.inf  # when all that was sent is paid for
        self._peak = 0.0
        self._cut_at = 0.0
        self._climb = EAGER
        self._hopes = HOPES

    def ready_at(self, cost: float) -> float:
        """When ``cost`` may go. It is paid before it goes, since a token bucket must hold it by then."""
        return self._paid_at + self._gap(cost)

    def spend(self, now: float, cost: float) -> None:
        """``cost`` went."""
        gap = self._gap(cost)
        late = now - self._paid_at - gap
        self._paid_at = now - min(late, LATE)
        if self.learned:
            if late > max(gap, LATE):
                # A rate nobody uses proves nothing: its clock stands still while there is less to send.
                self._cut_at += late - LATE + gap
            self.rate = self._rate_at(now)

    def cut(self, now: float, admitted: float, tokens_each: float) -> None:
        """One was refused after ``admitted`` units a second had been let in, in requests of ``tokens_each``."""
        peak = admitted
        if self.learned and self.rate is not None:
            peak = min(self.rate, 1.25 * admitted)
            if peak <= RISEN * self._peak:
                self._hopes = 0 if now - self._cut_at > self._climb else self._hopes - 1
            peak = max(peak, 0.5 * self.rate)
            if peak < self._peak:
                peak *= SHARE_LEFT
        self.learned = True
        self._peak = peak
        self._cut_at = now
        self._paid_at = max(self._paid_at, now)
        believed = min(max(SHORTEST_CLIMB, CLIMB * math.cbrt(peak / tokens_each)), LONGEST_CLIMB)
        self._climb = EAGER if self._hopes > 0 else believed
        self.rate = self._rate_at(now)

    def _rate_at(self, now: float) -> float:
        beyond = now - self._cut_at - self._climb
        x = beyond / (self._climb if beyond < 0.0 else PROBE)
        rate = self._peak * (1.0 + (1.0 - CUT) * x * x * x)
        return rate if self.cap is None else min(rate, self.cap)

    def _gap(self, cost: float) -> float:
        if self.rate is None:
            return 0.0
        gap = cost / self.rate
        if gap > LONGEST_GAP and self.learned:
            return LONGEST_GAP if self.cap is None else max(LONGEST_GAP, cost / self.cap)
        return gap
