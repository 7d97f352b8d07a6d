"""When may the next request go? Pure: asked with ``now``, told in past-tense verbs, never sleeping, never sending.

One request::

    wait(now, tokens) == 0.0   →  permit = sent(now, tokens)
                               →  answered | throttled | overloaded | failed  (now, permit, …)
                               →  released(now, permit)     its answer is durable, or there is none to keep

What holds a request back, each learned from what the service does:

* *pace*: requests and tokens a second.
  Unlimited until a refusal; then 0.85 of what was let in of late, back to that peak along a cubic, and on beyond it.
* *concurrency*: from 4, two more for each answer up to 32 (108 where answers are quick), then one, until latency rises or
  a refusal comes; then AIMD.
* *steps*: what is sent together is answered together, and then waits for each other at our end, round after round.
  So of places that come free together only some are taken at once, as TCP paces what a window lets through.
* *pause*: ``Retry-After`` holds the whole task, not one request.
* *breaker*: after five failures in a row, one probe at a time with growing pauses between.
* *budget*: asking again after failures may add a tenth to the requests, and 20.

All times are seconds of one monotonic clock, which is the caller's.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from .pace import CUT, LONGEST_GAP, Pace

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Governor", "Limits", "Permit", "Why"]

Why = Literal["quota", "latency", "cap", "breaker", "retry-after", "idle"]

MOST_CONCURRENT: Final = 512
TRIFLE: Final = 1e-6  # seconds; shorter waits are none

WINDOW: Final = 2.0  # seconds over which the admitted rate is measured …
SHORTEST_WINDOW: Final = 0.75  # … and at least, or the first burst of a run looks like a rate
ONE_BURST: Final = 1.0  # seconds in which many refusals are one signal

FIRST_STEPS: Final = 32  # requests under way up to which concurrency triples each round trip before any refusal
QUICK: Final = 0.25  # seconds of an answer below which too much shows at once: …
QUICK_STEPS: Final = 108  # … up to so many, then
NEAR_CEILING: Final = 0.1  # growth over limit for each answer where concurrency was refused before; elsewhere 1
LATENCY_SPAN: Final = 24  # answers over which latency is averaged
LATENCY_MEMORY: Final = 600.0  # seconds in which the best latency fades by e
LATENCY_FACTOR: Final = 3.0
FIRST_ANSWERS: Final = 6  # before concurrency has grown much
TIMEOUT_SHARE: Final = 0.3  # of the service's own timeout that requests may take …
LONG_CALL: Final = 0.1  # of the service's own timeout
CLOSE_CALL: Final = 0.5  # of it
OWN_QUEUE: Final = 1.5  # … unless they take that long anyway
SPREAD: Final = 1.5  # times the rate of answers at which requests may go; Linux paces TCP at 1.2 to 2
LONGEST_STEP: Final = 0.002  # seconds from one to the next, or less; who has an answer is done with it sooner
TOGETHER: Final = 0.008  # seconds of steps that go at once: a little company saves wake-ups and writes
LATENCY_FLOOR: Final = 0.2  # seconds; below, noise of loops and networks rules

FAILURE_CUT: Final = 0.7
FAILURE_SPAN: Final = 32.0  # requests over which the share of failures is measured
FAILURE_SHARE: Final = 0.2  # above it failures are taken for overload; single ones say nothing about concurrency
BREAK_AFTER: Final = 5
FIRST_BREAK: Final = 0.5
LONGEST_BREAK: Final = 8.0
LONGEST_TURN: Final = 2.0  # seconds between tries where others hold every place
LONGEST_RETRY_AFTER: Final = 300.0
RETRY_SHARE: Final = 0.1
RETRY_RESERVE: Final = 20.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What the user allows and knows: upper bounds, of which the governor finds the rest."""

    max_concurrency: int = 64
    """Requests under way at once, 1 to 512."""
    start_concurrency: int = 4
    """The same before the first answer."""
    requests_per_minute: float | None = None
    """Quota of the account, of which 95 % are used; ``None``: found out."""
    tokens_per_minute: float | None = None
    """Quota of the account, of which 95 % are used; ``None``: found out."""
    patience: float = 900.0
    """Seconds without a good answer after which the run should give up."""
    timeout: float = math.inf
    """Seconds after which the service gives up on a request, which it may bill all the same."""

    def __post_init__(self) -> None:
        for name in ("max_concurrency", "start_concurrency"):
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= MOST_CONCURRENT:
                raise ValueError(f"{name} must be a whole number from 1 to {MOST_CONCURRENT}, not {number!r}")
        for name in ("requests_per_minute", "tokens_per_minute", "patience"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be a number above 0, not {value!r}")
        if not self.timeout > 0:
            raise ValueError(f"timeout must be a number above 0, not {self.timeout!r}")


class Permit:
    """One request under way, from ``sent`` to ``released``."""

    __slots__ = ("is_open", "sent_at", "tokens", "was_refused")

    def __init__(self, sent_at: float, tokens: int) -> None:
        self.sent_at = sent_at
        self.tokens = tokens
        self.is_open = True
        self.was_refused = False


class Governor:
    """When the next request of one task may go.

    ``dice(low, high)`` gives a number between its arguments; it spreads pauses, so that tasks do not march in step.
    """

    def __init__(self, limits: Limits, *, dice: Callable[[float, float], float]) -> None:
        self._limits = limits
        self._dice = dice
        self._requests = Pace(limits.requests_per_minute)
        self._tokens = Pace(limits.tokens_per_minute)
        self._lately: deque[Permit] = deque()  # sends of the last WINDOW
        self._admitted = 0  # those among them that were not refused, …
        self._admitted_tokens = 0  # … and their tokens
        self._admitted_since_cut = 0
        self._pace_cut_at = -math.inf

        self._in_flight = 0
        self._concurrency = float(min(limits.start_concurrency, limits.max_concurrency))
        self._good = self._concurrency  # at the last good answer
        self._threshold = math.inf  # where slow start ends
        self._ceiling = math.inf  # where concurrency was refused
        self._concurrency_cut_at = -math.inf
        self._full_at = -math.inf  # when somebody last found no place
        self._latency = self._best_latency = 0.0  # logarithms
        self._answers = 0
        self._latency_at = 0.0
        self._step = 0.0  # seconds from one request to the next
        self._stepped_at = -math.inf  # when the last one would have gone, step by step

        self._failing = 0.0  # share
        self._failed_in_row = 0
        self._broke_at = -math.inf
        self._breaks = 0
        self._budget = RETRY_RESERVE
        self._paused_until = -math.inf
        self._paused_by: Why = "idle"
        self._good_at: float | None = None
        self._trouble = False
        self._why: Why = "idle"

    def wait(self, now: float, tokens: int) -> float:
        """Seconds until a request of ``tokens`` may go: 0.0 now, ``inf`` not before another one is told of.

        What happens meanwhile may make a wait longer or shorter, so ask again.
        """
        if self._in_flight >= self.limit:
            self._full_at = now
            self._why = self._held_by()
            return math.inf
        at = self._paused_until
        why = self._paused_by
        pace = self._requests
        if pace.rate is not None and (ready := pace.ready_at(1.0)) > at:
            at = ready
            why = "quota" if pace.learned else "cap"
        pace = self._tokens
        if pace.rate is not None and (ready := pace.ready_at(tokens)) > at:
            at = ready
            why = "quota" if pace.learned else "cap"
        if (ready := self._stepped_at + self._step) > max(at, now + TOGETHER):
            at = ready
            why = self._held_by() if self._full_at > now - math.exp(self._latency) else "idle"
        seconds = at - now
        if seconds < TRIFLE:
            self._why = "idle"
            return 0.0
        self._why = why
        return seconds

    def sent(self, now: float, tokens: int) -> Permit:
        """A request went, as ``wait`` had allowed."""
        permit = Permit(now, tokens)
        if self._good_at is None or not (self._in_flight or self._trouble):
            self._good_at = now  # time with nothing to ask does not try anybody's patience
        self._in_flight += 1
        self._stepped_at = max(self._stepped_at + self._step, now)
        if self._requests.rate is not None:
            self._requests.spend(now, 1.0)
        if self._tokens.rate is not None:
            self._tokens.spend(now, tokens)
        lately = self._lately
        lately.append(permit)
        self._admitted += 1
        self._admitted_tokens += tokens
        self._admitted_since_cut += 1
        while lately[0].sent_at < now - WINDOW:
            self._forget(lately.popleft())
        if self._budget < RETRY_RESERVE:
            self._budget += RETRY_SHARE
        return permit

    def answered(self, now: float, permit: Permit) -> None:
        """The service did its work, even where it refused the rows for what they say."""
        self._good_at = now
        self._trouble = False
        self._failing -= self._failing / FAILURE_SPAN
        if self._failed_in_row:
            if self.breaking:
                # The outage is over: half of what was good at once, the rest by slow start.
                self._concurrency = max(1.0, 0.5 * self._good)
                self._threshold = max(2.0, 0.9 * self._good)
                self._failing = 0.0
            self._failed_in_row = 0
        self._breaks = 0
        limit = self._concurrency
        if self._latency_allows(now, now - permit.sent_at) and self._full_at >= permit.sent_at:
            if limit < self._threshold:
                more = self._growth(now - permit.sent_at)
            else:
                more = (NEAR_CEILING if abs(limit - self._ceiling) <= 1.0 else 1.0) / limit
            self._concurrency = min(limit + more, float(self._limits.max_concurrency))
        self._good = self._concurrency
        grows = limit < self._concurrency <= self._threshold
        self._step = 0.0 if grows else min(math.exp(self._latency) / (SPREAD * self.limit), LONGEST_STEP)

    def throttled(
        self,
        now: float,
        permit: Permit,
        *,
        retry_after: float | None = None,
        unit: Literal["requests", "tokens", "concurrency"] | None = None,
    ) -> None:
        """Refused for going too fast. ``retry_after``: seconds asked for; ``unit``: the quota that was named."""
        if unit == "concurrency":
            self.overloaded(now, permit, retry_after=retry_after)
            return
        self._refused(now, permit, retry_after)
        if now < self._pace_cut_at + ONE_BURST:
            return
        if self._admitted_since_cut <= 0:
            # Nothing at all is let in: that says nothing about a rate.
            self._pause(now, LONGEST_BREAK)
        else:
            self._slow_down(now, permit, unit)
        self._pace_cut_at = now
        self._admitted_since_cut = 0

    def overloaded(self, now: float, permit: Permit, *, retry_after: float | None = None) -> None:
        """Refused for having too many requests under way, ours or everybody's."""
        self._refused(now, permit, retry_after)
        if self._in_flight <= 1:
            self._pause(now, LONGEST_TURN)
        elif permit.sent_at >= self._concurrency_cut_at:  # sent since the last cut: one cut a round trip
            self._ceiling = min(self._concurrency, float(self._in_flight))
            self._narrow(now, CUT * (self._ceiling - 1.0))

    def failed(self, now: float, permit: Permit, *, retry_after: float | None = None) -> None:
        """Failed for a reason that may pass: 5xx, timeout, reset, garbage."""
        self._trouble = True
        self._obey(now, retry_after)
        if permit.sent_at < self._broke_at:
            return  # sent before the breaker opened: no news
        self._failing += (1.0 - self._failing) / FAILURE_SPAN
        self._failed_in_row += 1
        if self.breaking:
            self._broke_at = now
            self._pause(now, LONGEST_BREAK)
        elif self._failing > FAILURE_SHARE and permit.sent_at >= self._concurrency_cut_at:
            self._narrow(now, FAILURE_CUT * self._concurrency)

    def released(self, now: float, permit: Permit) -> None:  # noqa: ARG002 - every verb is told when
        """The answer is durable, or there is none to keep: the permit is free. Once for each ``sent``."""
        if not permit.is_open:
            raise ValueError("this permit was released before")
        permit.is_open = False
        self._in_flight -= 1

    def may_retry(self, now: float) -> bool:
        """Whether the retry budget pays for a failed request to go again; it has then paid.

        ``False``: the whole task pauses, the request goes back in line, and ``wait`` says when.
        Throttled and overloaded requests need no budget.
        """
        if self._budget >= 1.0:
            self._budget -= 1.0
            return True
        self._pause(now, LONGEST_BREAK)
        return False

    def backoff(self, attempt: int) -> float:
        """Seconds before a request that failed ``attempt`` times goes again: 0.5 to at most 10, spread."""
        return self._dice(0.5, min(10.0, 0.75 * 2.0 ** min(max(attempt, 1), 8)))

    def patience_left(self, now: float) -> float:
        """Seconds until there was no good answer for ``patience``; zero or less: give up."""
        return self._limits.patience - (0.0 if self._good_at is None else now - self._good_at)

    @property
    def breaking(self) -> bool:
        """Whether only one probe at a time may go."""
        return self._failed_in_row >= BREAK_AFTER

    @property
    def in_flight(self) -> int:
        """Permits that are out."""
        return self._in_flight

    @property
    def limit(self) -> int:
        """Permits that may be out just now."""
        return 1 if self._failed_in_row >= BREAK_AFTER else int(self._concurrency)

    @property
    def unit(self) -> Literal["requests", "tokens"]:
        """What ``rate`` counts: the quantity that was refused, or else told."""
        paces = self._requests, self._tokens
        by_tokens = [pace.learned for pace in paces] if any(p.learned for p in paces) else [p.rate for p in paces]
        return "tokens" if by_tokens[1] and not by_tokens[0] else "requests"

    @property
    def rate(self) -> float | None:
        """Requests or tokens (``unit``) that may go a second just now; ``None``: unlimited."""
        return (self._tokens if self.unit == "tokens" else self._requests).rate

    @property
    def why(self) -> Why:
        """What held back the request last asked for; ``idle``: nothing, there is less to ask than might go."""
        return self._why

    def _slow_down(self, now: float, permit: Permit, unit: str | None) -> None:
        tokens_each = self._admitted_tokens / self._admitted if self._admitted else permit.tokens
        span = max(SHORTEST_WINDOW, now - self._lately[0].sent_at) if self._lately else WINDOW
        if unit == "tokens" or (unit is None and self.unit == "tokens"):
            self._tokens.cut(now, max(self._admitted_tokens / span, permit.tokens / LONGEST_GAP), tokens_each)
        else:
            self._requests.cut(now, max(self._admitted / span, 1.0 / LONGEST_GAP), 1.0)

    def _refused(self, now: float, permit: Permit, retry_after: float | None) -> None:
        self._trouble = True
        self._obey(now, retry_after)
        if self._lately and permit.sent_at >= self._lately[0].sent_at:
            self._forget(permit)
        if permit.sent_at >= self._pace_cut_at:
            self._admitted_since_cut -= 1
        permit.was_refused = True

    def _forget(self, permit: Permit) -> None:
        if not permit.was_refused:
            self._admitted -= 1
            self._admitted_tokens -= permit.tokens

    def _obey(self, now: float, retry_after: float | None) -> None:
        if retry_after is not None and retry_after > 0.0:
            until = now + min(retry_after, LONGEST_RETRY_AFTER) * self._dice(1.0, 1.1)
            if until > self._paused_until:
                self._paused_until = until
                self._paused_by = "retry-after"

    def _pause(self, now: float, longest: float) -> None:
        """One pause for all, longer each time until there is a good answer."""
        if now >= self._paused_until:
            pause = min(longest, FIRST_BREAK * 2.0 ** min(self._breaks, 8))
            self._breaks += 1
            self._paused_until = now + pause * self._dice(0.5, 1.0)
            self._paused_by = "breaker"

    def _growth(self, latency: float) -> float:
        """Growth for one answer in slow start: doubling each round trip, and more before anything is known."""
        if latency >= LONG_CALL * self._limits.timeout:
            return 0.5  # what it does is seen late
        steps = QUICK_STEPS if latency < QUICK else FIRST_STEPS
        return 2.0 if self._concurrency < steps and math.isinf(self._threshold) else 1.0

    def _narrow(self, now: float, concurrency: float) -> None:
        self._concurrency_cut_at = now
        self._concurrency = max(1.0, concurrency)
        self._threshold = max(2.0, concurrency)

    def _latency_allows(self, now: float, latency: float) -> bool:
        """Whether answers come about as fast as they ever did, on a geometric mean that shrugs off long tails."""
        log = math.log(max(latency, TRIFLE))
        self._answers += 1
        self._latency += (log - self._latency) / min(self._answers, LATENCY_SPAN)
        if self._answers <= FIRST_ANSWERS or self._concurrency <= self._limits.start_concurrency:
            self._best_latency = self._latency  # nothing of ours is in the way
        else:
            faded = self._best_latency + (now - self._latency_at) / LATENCY_MEMORY
            self._best_latency = min(self._latency, faded)
        self._latency_at = now
        lately, best = math.exp(self._latency), math.exp(self._best_latency)
        if latency > max(TIMEOUT_SHARE * self._limits.timeout, OWN_QUEUE * best):
            # Requests wait for each other, and soon longer than the service waits: what it then bills, nobody gets.
            if lately > OWN_QUEUE * best and self._concurrency_cut_at <= now - latency:
                self._narrow(now, CUT * self._concurrency)
            return False
        if latency > CLOSE_CALL * self._limits.timeout:  # whatever was best before: this is too close
            if self._concurrency > self._limits.start_concurrency and self._concurrency_cut_at <= now - latency:
                self._narrow(now, max(self._limits.start_concurrency, CUT * self._concurrency))
            return False
        return lately < LATENCY_FACTOR * best + LATENCY_FLOOR

    def _held_by(self) -> Why:
        if self.breaking:
            return "breaker"
        if self._concurrency >= self._limits.max_concurrency:
            return "cap"
        return "latency" if math.isinf(self._ceiling) else "quota"
