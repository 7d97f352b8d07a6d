"""What holds for the governor whatever it is told, and in whatever order."""

from __future__ import annotations

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from airflow_provider_modelstudio.inference.governor import Governor, Limits

LONGEST_PAUSE = 330.0
"""Five minutes of Retry-After and a tenth."""
LONGEST_GAP = 10.0


class AnyOrder(RuleBasedStateMachine):
    """A caller that keeps to the order of calls for each request, and a service that does as it likes."""

    @initialize(
        most=st.integers(1, 20),
        start=st.integers(1, 20),
        rpm=st.none() | st.floats(6.0, 1e6),
        tpm=st.none() | st.floats(6e3, 1e9),
        fall=st.floats(0, 1),
    )
    def begin(self, most, start, rpm, tpm, fall):
        self.limits = Limits(
            max_concurrency=most, start_concurrency=start, requests_per_minute=rpm, tokens_per_minute=tpm
        )
        self.governor = Governor(self.limits, dice=lambda low, high: low + fall * (high - low))
        self.now = 1000.0
        self.held_until = -math.inf
        self.asked, self.told = [], []
        self.good_at = None

    @rule(seconds=st.floats(0, 30) | st.floats(0, 0.01))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(tokens=st.integers(1, 100_000), how_many=st.integers(1, 30))
    def ask(self, tokens, how_many):
        for _ in range(how_many):
            if self.governor.wait(self.now, tokens) > 0:
                break
            assert self.now >= self.held_until - 1e-6
            self.asked.append(self.governor.sent(self.now, tokens))

    @precondition(lambda self: self.asked)
    @rule(which=st.randoms(use_true_random=False))
    def answer(self, which):
        self.governor.answered(self.now, self._take(which))
        assert self.governor.patience_left(self.now) == self.limits.patience
        assert not self.governor.breaking

    @precondition(lambda self: self.asked)
    @rule(
        which=st.randoms(use_true_random=False),
        after=st.none() | st.floats(0, 1e4),
        unit=st.sampled_from([None, "requests", "tokens", "concurrency"]),
    )
    def throttle(self, which, after, unit):
        self.governor.throttled(self.now, self._take(which), retry_after=after, unit=unit)
        self._hold(after)

    @precondition(lambda self: self.asked)
    @rule(which=st.randoms(use_true_random=False), after=st.none() | st.floats(0, 1e4))
    def overload(self, which, after):
        self.governor.overloaded(self.now, self._take(which), retry_after=after)
        self._hold(after)

    @precondition(lambda self: self.asked)
    @rule(which=st.randoms(use_true_random=False), after=st.none() | st.floats(0, 1e4), attempt=st.integers(1, 9))
    def fail(self, which, after, attempt):
        self.governor.failed(self.now, self._take(which), retry_after=after)
        self._hold(after)
        self.governor.may_retry(self.now)
        assert 0.5 <= self.governor.backoff(attempt) <= 10.0

    @precondition(lambda self: self.asked)
    @rule(which=st.randoms(use_true_random=False))
    def cancel(self, which):
        self._take(which)

    @precondition(lambda self: self.told)
    @rule(which=st.randoms(use_true_random=False))
    def release(self, which):
        which.shuffle(self.told)
        self.governor.released(self.now, self.told.pop())

    @rule(tokens=st.integers(1, 100_000))
    def all_is_quiet_and_one_may_go(self, tokens):
        """From any state, once the permits are back, a request may go within a time known beforehand."""
        for permit in self.asked + self.told:
            self.governor.released(self.now, permit)
        self.asked, self.told = [], []
        wait = self.governor.wait(self.now, tokens)
        by_quota = max(
            (1 if self.limits.requests_per_minute else 0) / (self.limits.requests_per_minute or 1),
            (tokens if self.limits.tokens_per_minute else 0) / (self.limits.tokens_per_minute or 1),
        )
        assert wait <= max(LONGEST_PAUSE, LONGEST_GAP, 60 / 0.95 * by_quota) + 1e-6
        self.now += wait
        assert self.governor.wait(self.now, tokens) == 0.0

    @invariant()
    def the_books_balance(self):
        governor = self.governor
        assert governor.in_flight == len(self.asked) + len(self.told)
        assert 0 <= governor.in_flight <= self.limits.max_concurrency
        assert 1 <= governor.limit <= self.limits.max_concurrency
        assert governor._admitted >= 0
        assert governor._admitted_tokens >= 0

    @invariant()
    def a_wait_is_a_time(self):
        wait = self.governor.wait(self.now, 100)
        assert wait >= 0
        assert math.isfinite(wait) or self.governor.in_flight >= self.governor.limit
        assert self.governor.why in {"quota", "latency", "cap", "breaker", "retry-after", "idle"}

    @invariant()
    def a_rate_is_no_more_than_told(self):
        governor, limits = self.governor, self.limits
        told = limits.tokens_per_minute if governor.unit == "tokens" else limits.requests_per_minute
        assert governor.rate is None or 0 < governor.rate <= (told or math.inf) / 60

    @invariant()
    def patience_is_no_more_than_given(self):
        assert self.governor.patience_left(self.now) <= self.limits.patience

    def _take(self, which):
        which.shuffle(self.asked)
        permit = self.asked.pop()
        self.told.append(permit)
        return permit

    def _hold(self, after):
        if after:
            self.held_until = max(self.held_until, self.now + min(after, 300.0))


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
test_any_order_of_events = AnyOrder.TestCase
