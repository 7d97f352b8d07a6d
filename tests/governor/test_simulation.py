"""How much of a hidden limit the governor finds, in virtual time. Run with ``-s`` to see the table.

Goodput is a share of what the service allows; three seeds, the worst counts.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from airflow_provider_modelstudio.inference.governor import Limits
from tests.governor.simulator import Service, play

SEEDS = (100, 101, 102)
SECONDS = 300.0
RPS = 20.0
MEAN = 1.032  # of the log-normal factor on latency, sigma 0.25
HEAVY = 0.98  # sigma whose 99th percentile is six times its mean of 1.616 medians


def wild(rng):
    """Tokens of a request, 50 to 8,000."""
    return min(8000, int(rng.lognormvariate(7.2, 0.9)) + 50)


# what it is, the service, sizes of requests, what it allows a second, counted in tokens?
SERVICES = {
    "A 1200 RPM, enforced per second": ({"rps": RPS}, None, RPS),
    "B 1200 RPM, by the minute, Retry-After": ({"rps": RPS, "window": 60.0, "tells_when": True}, None, RPS),
    "C as A, and refusals cost quota": ({"rps": RPS, "refusals_cost": True}, None, RPS),
    "D 2.4 M TPM, 50 to 8000 tokens": ({"tps": 40000.0, "latency": 0.2, "per_token": 1e-4}, wild, 40000.0),
    "E 12 places, 0.6 s": ({"places": 12, "latency": 0.6}, None, 12 / 0.6 / MEAN),
    "F as A, quota halved, then an outage": (
        {"rps": RPS, "quota_changes": ((100, 200, 0.5),), "outages": ((220, 250),)},
        None,
        RPS * 220 / 300,
    ),
    "G as A, with growth protection": ({"rps": RPS, "growth": 1.5}, None, RPS),
    "H 120 RPM, 8 s": ({"rps": 2.0, "burst": 2.0, "latency": 8.0}, None, 2.0),
    "I 6000 RPM, 0.15 s": ({"rps": 100.0, "latency": 0.15}, None, 100.0),
}


@pytest.mark.parametrize("name", SERVICES)
def test_the_hidden_limit_is_found(name):
    """At least 90 % of what the service allows, at most 6 % refused, and no dry spell comes near anybody's patience."""
    settings, sizes, allowed = SERVICES[name]
    good, refused, dry = [], [], []
    for seed in SEEDS:
        service, (task,) = play(lambda rng: Service(rng, **settings), seed, SECONDS, sizes=sizes)
        done = service.tokens if sizes else len(service.ok_at)
        good.append(done / (allowed * SECONDS))
        refused.append(service.refused / service.requests)
        dry.append(task.limits.patience - task.least_patience)
    print(
        f"\n{name:40} goodput {min(good):.3f}  refused {max(refused):6.2%}  longest without an answer {max(dry):4.1f} s",
        end="",
    )
    assert min(good) >= 0.90
    assert max(refused) <= 0.06
    assert max(dry) < 60


@pytest.mark.parametrize(
    ("name", "settings", "allowed", "fair"),
    [
        ("a quota", {"rps": RPS}, RPS, 0.95),
        ("places", {"places": 12, "latency": 0.6}, 12 / 0.6 / MEAN, 0.90),
    ],
)
def test_tasks_share_without_talking(name, settings, allowed, fair):
    """Four tasks on one account use all of it, and each gets about as much as the others."""
    for seed in SEEDS:
        service, tasks = play(lambda rng: Service(rng, **settings), seed, SECONDS, tasks=4)
        got = [task.answers for task in tasks]
        jain = sum(got) ** 2 / (len(got) * sum(one * one for one in got))
        good = len(service.ok_at) / (allowed * SECONDS)
        refused = service.refused / service.requests
        print(f"\nfour tasks, {name}: goodput {good:.3f}  refused {refused:.2%}  Jain {jain:.3f}", end="")
        assert good >= 0.95
        assert refused <= 0.06
        assert jain >= fair


@pytest.mark.parametrize(("settings", "rate"), [({"rps": RPS}, RPS), ({"latency": 0.3}, 64 / 0.3 / MEAN)])
def test_an_outage_is_over_soon(settings, rate):
    """Fifteen seconds after an outage of thirty, nine tenths of the rate are back."""
    for seed in SEEDS:
        service, (task,) = play(lambda rng: Service(rng, outages=((100, 130),), **settings), seed, 180.0)
        back = sum(145 <= at < 155 for at in service.ok_at) / 10
        print(f"\nafter an outage: {back / rate:.3f} of the rate, {service.errors} requests failed in it", end="")
        assert back >= 0.9 * rate
        assert task.limits.patience - task.least_patience < 45


FLAPS = tuple((60.0 * minute + 40, 60.0 * minute + 60) for minute in range(60))


@dataclass
class Flapping(Service):
    """Up for 40 seconds and down for 20, for an hour, and writes down when it was asked."""

    outages: tuple = FLAPS
    asked_at: list = field(default_factory=list)

    def ask(self, now, tokens):
        self.asked_at.append(now)
        return super().ask(now, tokens)


@pytest.mark.parametrize(
    ("settings", "rate", "least", "seeds"),
    [({"rps": RPS}, RPS, 0.90, SEEDS), ({"latency": 0.3}, 64 / 0.3 / MEAN, 0.80, SEEDS[:1])],
)
def test_an_hour_of_ups_and_downs_is_outlived(settings, rate, least, seeds):
    """While it is down one probe at a time, at most 10 s apart, and nobody gives up.

    Of what is possible in the 40 good seconds of a minute nine tenths are used where a quota limits, and eight tenths
    where only places do: up to eight seconds go by before the end of an outage is seen.
    """
    for seed in seeds:
        service, (task,) = play(lambda rng: Flapping(rng, **settings), seed, 3600.0)
        probes, asked = [], service.asked_at
        for down, up in FLAPS[:-1]:
            # A failure takes 0.2 s; what was on its way as the service went down is told of by then.
            probes.append(asked[bisect_left(asked, down + 1.5) : bisect_right(asked, up) + 1])
        gaps = [later - earlier for some in probes for earlier, later in pairwise(some[:-1])]
        last = [some[-1] - some[-2] for some in probes]
        good = len(service.ok_at) / (rate * 40 * 60)
        dry = task.limits.patience - task.least_patience
        print(
            f"\nups and downs: goodput {good:.3f}  gaps {min(gaps):.2f} to {max(gaps + last):.2f} s  dry {dry:.1f} s",
            end="",
        )
        assert min(gaps) >= 0.2
        assert max(gaps + last) <= 10.2
        assert dry < 60
        assert good >= least
        assert service.errors <= 2 * 64 * 60


@pytest.mark.parametrize("concurrency", [32, 128])
def test_nothing_is_lost_where_nothing_limits(concurrency):
    """With 100 ms a call and no limit, all places are in use at once and stay so."""
    service, _ = play(
        lambda rng: Service(rng, latency=0.1, spread=0.0), 1, 60.0, limits=Limits(max_concurrency=concurrency)
    )
    share = len(service.ok_at) / (concurrency * 10 * 60)
    print(f"\n100 ms, {concurrency} places: {share:.3f} of what they can do", end="")
    assert share >= 0.93


def test_noise_of_a_fast_loop_is_no_overload():
    """On loopback, where answers take 0.2 to 5 ms as it happens, concurrency goes to its cap and stays there."""
    service, (task,) = play(lambda rng: Service(rng, latency=0.001, spread=0.7), 1, 2.0)
    assert task.governor.limit == 64
    assert len(service.ok_at) >= 0.9 * 64 / (0.001 * 1.28) * 2


@pytest.mark.parametrize("median", [1.0, 5.0])
def test_a_heavy_tail_is_no_overload(median):
    """Latencies whose 99th percentile is six times the mean keep nine tenths of what 64 places can do."""
    for seed in SEEDS:
        service, _ = play(lambda rng: Service(rng, latency=median, spread=HEAVY), seed, SECONDS)
        share = len(service.ok_at) / (64 / (1.616 * median) * SECONDS)
        print(f"\nheavy tail, median {median} s: {share:.3f}", end="")
        assert share >= 0.90


def test_a_queue_is_not_flooded():
    """Where more requests only wait longer, growth stops well below the cap, and nothing is lost by that."""
    service, (task,) = play(
        lambda rng: Service(rng, latency=0.1, workers=10), 1, 120.0, limits=Limits(max_concurrency=512)
    )
    assert 10 <= task.governor.limit <= 160
    assert len(service.ok_at) >= 0.95 * 10 / (0.1 * MEAN) * 120


@pytest.mark.parametrize("share", [0.02, 0.05])
def test_single_errors_are_no_overload(share):
    """A few failures at random cost little more than themselves."""
    for seed in SEEDS:
        service, _ = play(lambda rng: Service(rng, error_share=share), seed, 120.0)
        good = len(service.ok_at) / (64 / (0.3 * MEAN) * (1 - share) * 120)
        print(f"\n{share:.0%} errors: {good:.3f}", end="")
        assert good >= 0.90


def test_a_quota_that_vanishes_for_a_minute_is_not_forgotten():
    """When nothing is let in for a while, the rate found before is taken up again afterwards."""
    for seed in SEEDS:
        service, _ = play(lambda rng: Service(rng, rps=RPS, quota_changes=((100, 160, 1e-5),)), seed, SECONDS)
        assert len(service.ok_at) >= 0.90 * RPS * 240
        assert service.refused <= 0.06 * service.requests


def test_a_told_quota_is_kept():
    """With the quota told, hardly anything is refused, and nine tenths of it are used."""
    service, _ = play(lambda rng: Service(rng, rps=RPS), 1, SECONDS, limits=Limits(requests_per_minute=1200))
    assert service.refused == 0
    assert len(service.ok_at) >= 0.94 * RPS * SECONDS
    service, _ = play(
        lambda rng: Service(rng, tps=40000.0, latency=0.2),
        1,
        SECONDS,
        limits=Limits(tokens_per_minute=2_400_000),
        sizes=wild,
    )
    assert service.refused == 0
    assert service.tokens >= 0.94 * 40000 * SECONDS


def test_permits_held_for_a_slow_disk_do_not_slow_the_rest():
    """A permit held 200 ms until its answer is durable costs places, not the rate that was found."""
    service, _ = play(lambda rng: Service(rng, rps=RPS), 1, SECONDS, commit=0.2)
    assert len(service.ok_at) >= 0.95 * RPS * SECONDS
    assert service.refused <= 0.03 * service.requests
