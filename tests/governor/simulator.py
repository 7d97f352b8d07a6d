"""Virtual time: model services with limits nobody is told of, and tasks that ask a governor when to send."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from dataclasses import dataclass, field

from airflow_provider_modelstudio.inference.governor import Governor, Limits


class World:
    """Events in the order of their time."""

    def __init__(self):
        self.now = 0.0
        self._events = []
        self._ties = itertools.count()

    def at(self, time, act, *args):
        heapq.heappush(self._events, (time, next(self._ties), act, args))

    def run(self, until):
        events = self._events
        while events and events[0][0] <= until:
            self.now, _, act, args = heapq.heappop(events)
            act(*args)
        self.now = until


@dataclass
class Service:
    """One account's limits, as Model Studio and Elasticsearch describe theirs."""

    rng: random.Random
    rps: float | None = None
    burst: float | None = None
    window: float | None = None  # seconds of a fixed window for ``rps`` instead of a bucket
    tps: float | None = None
    places: int | None = None  # requests under way at once
    growth: float | None = None  # at most so many times the average of the last ten seconds
    refusals_cost: bool = False
    tells_when: bool = False  # sends Retry-After
    tells_unit: bool = True
    quota_changes: tuple = ()  # (from, to, factor)
    outages: tuple = ()  # (from, to)
    error_share: float = 0.0
    latency: float = 0.3
    per_token: float = 0.0
    spread: float = 0.25  # sigma of the log-normal latency; 0: constant
    workers: int | None = None  # a queue behind so many servers, without refusals
    refusal_latency: float = 0.03
    in_flight: int = 0
    ok_at: list = field(default_factory=list)  # when each good answer came
    requests: int = 0
    refused: int = 0
    errors: int = 0
    tokens: int = 0

    def __post_init__(self):
        self.burst = self.rps if self.burst is None else self.burst
        self._bucket, self._token_bucket, self._at = self.burst, self.tps, 0.0
        self._window = (-1, 0)
        self._recent, self._average = deque(), 0.0
        self._free_at = [0.0] * (self.workers or 0)

    def _factor(self, now):
        return next((f for a, b, f in self.quota_changes if a <= now < b), 1.0)

    def ask(self, now, tokens):
        """(seconds until the outcome, outcome, Retry-After, unit)"""
        self.requests += 1
        if any(a <= now < b for a, b in self.outages):
            self.errors += 1
            return 0.2, "failed", None, None
        if self.error_share and self.rng.random() < self.error_share:
            self.errors += 1
            return self.latency * 0.5, "failed", None, None
        refusal = self._refusal(now, tokens)
        if refusal:
            kind, after, unit = refusal
            self.refused += 1
            if self.refusals_cost and self.rps:
                self._bucket = max(-self.burst, self._bucket - 0.5)
            return (
                self.refusal_latency,
                kind,
                after if self.tells_when else None,
                unit if self.tells_unit else None,
            )
        self._bucket = None if self._bucket is None else self._bucket - 1
        self._window = (self._window[0], self._window[1] + 1)
        self._token_bucket = None if self._token_bucket is None else self._token_bucket - tokens
        self._recent.append(now)
        self.in_flight += 1
        took = (self.latency + self.per_token * tokens) * (
            self.rng.lognormvariate(0, self.spread) if self.spread else 1.0
        )
        if self.workers:
            start = max(now, heapq.heappop(self._free_at))
            heapq.heappush(self._free_at, start + took)
            took += start - now
        return took, "ok", None, None

    def _refusal(self, now, tokens):
        """(outcome, Retry-After, unit) of a refusal, or nothing."""
        factor = self._factor(now)
        passed, self._at = now - self._at, now
        found = self._over_requests(now, passed, factor)
        if self.tps:
            rate = self.tps * factor
            self._token_bucket = min(rate, self._token_bucket + passed * rate)
            if self._token_bucket < tokens and self._token_bucket < rate * 0.999:
                found = "throttled", (tokens - self._token_bucket) / rate, "tokens"
        if self.growth:
            while self._recent and self._recent[0] < now - 1:
                self._recent.popleft()
            self._average += (len(self._recent) - self._average) * min(1, passed / 10)
            if len(self._recent) > self.growth * self._average + 3:
                found = "throttled", None, "requests"
        if self.places and self.in_flight >= self.places:
            found = "overloaded", None, None
        return found

    def _over_requests(self, now, passed, factor):
        if self.rps and self.window:
            number = int(now // self.window)
            if self._window[0] != number:
                self._window = (number, 0)
            if self._window[1] >= self.rps * self.window * factor:
                return "throttled", (number + 1) * self.window - now, "requests"
        elif self.rps:
            rate = self.rps * factor
            self._bucket = min(self.burst * factor, self._bucket + passed * rate)
            if self._bucket < 1:
                return "throttled", (1 - self._bucket) / rate, "requests"
        return None

    def done(self, now, tokens):
        self.in_flight -= 1
        self.ok_at.append(now)
        self.tokens += tokens


class Task:
    """What the engine does, without rows: ask, send, tell, ask again."""

    def __init__(self, world, service, seed, *, limits=None, sizes=None, commit=0.0, lag=0.001):
        self.world, self.service = world, service
        self.rng = random.Random(seed)  # noqa: S311 - a seed makes a run repeatable
        self.limits = limits or Limits()
        self.governor = Governor(self.limits, dice=self.rng.uniform)
        self.sizes = sizes or (lambda _: 2000)
        self.commit, self.lag = commit, lag
        self.answers = 0
        self.least_patience = math.inf
        self._again = deque()
        self._wake_at = math.inf
        world.at(world.now, self._pump)

    def _pump(self):
        now, governor = self.world.now, self.governor
        if now >= self._wake_at:
            self._wake_at = math.inf
        while True:
            if not self._again:
                self._again.append((self.sizes(self.rng), 1))
            tokens, attempt = self._again[0]
            wait = governor.wait(now, tokens)
            if wait > 0:
                break
            self._again.popleft()
            permit = governor.sent(now, tokens)
            took, *outcome = self.service.ask(now, tokens)
            self.world.at(now + took, self._settle, permit, tokens, attempt, *outcome)
        wake_at = now + wait + self.rng.random() * self.lag
        if wake_at < self._wake_at and wait < math.inf:
            self._wake_at = wake_at
            self.world.at(wake_at, self._pump)

    def _settle(self, permit, tokens, attempt, kind, after, unit):
        now, governor = self.world.now, self.governor
        self.least_patience = min(self.least_patience, governor.patience_left(now))
        if kind == "ok":
            self.service.done(now, tokens)
            governor.answered(now, permit)
            self.answers += 1
            if self.commit:
                self.world.at(now + self.commit, self._release, permit)
                return
        elif kind == "throttled":
            governor.throttled(now, permit, retry_after=after, unit=unit)
            self._again.appendleft((tokens, attempt))
        elif kind == "overloaded":
            governor.overloaded(now, permit)
            self._again.appendleft((tokens, attempt))
        else:
            governor.failed(now, permit)
            if not governor.breaking and governor.may_retry(now):
                self.world.at(now + governor.backoff(attempt), self._retry, tokens, attempt + 1)
            else:
                self._again.appendleft((tokens, attempt + 1))
        self._release(permit)

    def _retry(self, tokens, attempt):
        self._again.appendleft((tokens, attempt))
        self._pump()

    def _release(self, permit):
        self.governor.released(self.world.now, permit)
        self._pump()


def play(make_service, seed, seconds, *, tasks=1, **task):
    """The service and its tasks after so many virtual seconds."""
    world = World()
    service = make_service(random.Random(seed + 1))  # noqa: S311 - see ``Task``
    running = [Task(world, service, seed + 10 * i, **task) for i in range(tasks)]
    world.run(seconds)
    return service, running
