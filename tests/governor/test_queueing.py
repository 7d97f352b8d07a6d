"""A service that refuses nothing and only gets slower: requests must not wait for each other until they are given up."""

from __future__ import annotations

import heapq
import random

import pytest

from airflow_provider_modelstudio.inference.governor import Governor, Limits


class Slow:
    """So many workers, each with one request at a time, first come first served; waiting is limited."""

    def __init__(self, workers, seconds, timeout):
        self.free_at = [0.0] * workers
        self.seconds = seconds
        self.timeout = timeout

    def ends(self, now, dice):
        """When the answer comes, and whether it is one."""
        start = max(now, heapq.heappop(self.free_at))
        end = start + self.seconds(now) * dice.uniform(0.8, 1.2)
        heapq.heappush(self.free_at, end)
        return (end, True) if end - now <= self.timeout else (now + self.timeout, False)


def play(service, *, until, seed):
    """Ask as fast as the governor lets; returns answers, timeouts and the most requests under way."""
    dice = random.Random(seed)  # noqa: S311  # a simulation
    governor = Governor(Limits(max_concurrency=64, timeout=service.timeout), dice=dice.uniform)
    now, events, answers, timeouts, most = 0.0, [], 0, 0, 0
    while now < until:
        while (pause := governor.wait(now, 100)) == 0.0:
            permit = governor.sent(now, 100)
            end, good = service.ends(now, dice)
            heapq.heappush(events, (end, id(permit), permit, good))
            most = max(most, governor.in_flight)
        following = min(now + pause, events[0][0] if events else now + pause)
        if events and events[0][0] <= following:
            now, _, permit, good = heapq.heappop(events)
            (governor.answered if good else governor.failed)(now, permit)
            governor.released(now, permit)
            answers, timeouts = answers + good, timeouts + (not good)
        else:
            now = following
    return answers, timeouts, most


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("workers", "seconds"),
    [(2, lambda now: 0.35), (2, lambda now: 0.3 if now < 60 else 1.2), (1, lambda now: 2.0), (8, lambda now: 8.0)],
    ids=["steady", "slows down", "one at a time", "long calls"],
)
def test_nothing_is_given_up_by_a_service_that_only_gets_slower(workers, seconds, seed):
    """No request waits until it is given up, and the workers are kept busy."""
    until = 600.0
    answers, timeouts, most = play(Slow(workers, seconds, 30.0), until=until, seed=seed)
    possible = sum(workers / seconds(second) for second in range(int(until)))
    assert timeouts == 0, f"{timeouts} given up with up to {most} under way"
    assert answers >= 0.95 * possible, f"{answers} of {possible:.0f} with up to {most} under way"
