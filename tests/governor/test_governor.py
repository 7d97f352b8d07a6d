"""What the governor does about each thing it is told, one at a time."""

from __future__ import annotations

import math
import time
from collections import Counter

import pytest

from airflow_provider_modelstudio.inference.governor import Governor, Limits


def make(**limits):
    """A governor whose dice always fall high."""
    return Governor(Limits(**limits), dice=lambda _low, high: high)


def send(governor, now, tokens=100):
    assert governor.wait(now, tokens) == 0.0
    return governor.sent(now, tokens)


def finish(governor, now, permit, verb="answered", **told):
    getattr(governor, verb)(now, permit, **told)
    governor.released(now, permit)


def warm_up(governor, now, requests=60, latency=0.1):
    """A run that goes well: one answer after the other, then as many at once as may be."""
    for _ in range(requests):
        permits = []
        for _ in range(governor.limit):
            now += governor.wait(now, 100)
            permits.append(send(governor, now))
        assert governor.wait(now, 100) == math.inf
        now += latency
        for permit in permits:
            finish(governor, now, permit)
        if governor.limit == 64:
            break
    return now


def break_it(governor, now):
    permits = [send(governor, now) for _ in range(4)]
    for permit in permits:
        finish(governor, now, permit, "failed")
    finish(governor, now, send(governor, now), "failed")
    assert governor.breaking


def test_a_new_governor_lets_four_go():
    """Four requests go at once; the fifth waits for a permit."""
    governor = make()
    for _ in range(4):
        send(governor, 5.0)
    assert governor.wait(5.0, 1) == math.inf
    assert (governor.in_flight, governor.limit, governor.rate, governor.why) == (4, 4, None, "latency")


def test_a_permit_is_free_only_when_released():
    """An answer alone frees nothing: it has to be durable first."""
    governor = make(max_concurrency=1)
    permit = send(governor, 0.0)
    governor.answered(0.1, permit)
    assert governor.wait(0.1, 1) == math.inf
    assert governor.why == "cap"
    governor.released(0.2, permit)
    assert governor.wait(0.2, 1) == 0.0
    assert governor.why == "idle"


def test_a_permit_is_released_once():
    """Releasing twice is an error of the caller, not a second permit."""
    governor = make()
    permit = send(governor, 0.0)
    finish(governor, 0.1, permit)
    with pytest.raises(ValueError, match="released before"):
        governor.released(0.2, permit)
    assert governor.in_flight == 0


def test_concurrency_grows_with_each_answer():
    """While all places are in use and nothing slows down, each answer adds one, up to the cap."""
    governor = make()
    warm_up(governor, 0.0)
    assert governor.limit == 64


def test_concurrency_does_not_grow_while_unused():
    """One request at a time never earns a higher limit."""
    governor = make()
    for second in range(50):
        finish(governor, second + 0.5, send(governor, float(second)))
    assert governor.limit == 4


def test_places_that_come_free_together_are_taken_in_steps():
    """Once a run has found its pace, sixty-four places are taken eight at once, and all well within a round trip."""
    governor = make()
    now = start = warm_up(governor, 0.0) + 1.0
    sent = Counter()
    assert governor.limit == 64
    for _ in range(64):
        now += governor.wait(now, 100)
        send(governor, now)
        sent[now] += 1
    assert max(sent.values()) <= 10
    assert 0.04 < now - start < 0.07
    assert governor.wait(now, 100) == math.inf
    assert governor.why == "cap"


def test_a_step_is_no_limit():
    """Why requests wait is said where there is no place; what comes in lumps, and has places, waits for nothing."""
    governor = make()
    now = warm_up(governor, 0.0)
    busy = []
    for _ in range(64):
        now += governor.wait(now, 100)
        busy.append(send(governor, now))
    assert governor.wait(now, 100) == math.inf
    for permit in busy:
        finish(governor, now + 0.1, permit)
    for later, why in ((0.1, "cap"), (2.0, "idle")):
        for _ in range(30):
            pause = governor.wait(now + later, 100)
            if pause > 0:
                break
            send(governor, now + later)
        assert 0 < pause < 0.01
        assert governor.why == why


def test_a_run_that_grows_takes_no_steps():
    """What comes free while the limit is looked for is taken at once."""
    governor = make()
    for now in (0.0, 0.1, 0.2):
        permits = [send(governor, now) for _ in range(governor.limit)]
        assert governor.wait(now, 100) == math.inf
        for permit in permits:
            finish(governor, now + 0.1, permit)
    assert governor.limit == 64


def test_retry_after_holds_the_whole_task():
    """A pause the server asks for, and up to a tenth more, holds every request, not only the refused one."""
    governor = make()
    permit = send(governor, 0.0)
    finish(governor, 1.0, permit, "throttled", retry_after=10.0)
    assert governor.wait(1.0, 1) == pytest.approx(11.0)
    assert governor.why == "retry-after"
    assert governor.wait(11.9, 1) == pytest.approx(0.1)
    assert governor.wait(12.0, 1) == 0.0


@pytest.mark.parametrize("verb", ["overloaded", "failed"])
def test_retry_after_is_heard_with_any_refusal(verb):
    """A 503 may ask for a pause as well as a 429."""
    governor = make()
    other = send(governor, 0.0)
    finish(governor, 0.0, send(governor, 0.0), verb, retry_after=20.0)
    finish(governor, 0.0, other)
    assert governor.wait(0.0, 1) == pytest.approx(22.0)


@pytest.mark.parametrize(
    ("asked", "pause"), [(1e9, 330.0), (math.inf, 330.0), (-5.0, 0.0), (math.nan, 0.0), (0.0, 0.0)]
)
def test_an_absurd_retry_after_is_not_believed(asked, pause):
    """Five minutes and a tenth are the most; what is no time is none."""
    governor = make()
    governor.overloaded(0.0, send(governor, 0.0), retry_after=asked)
    other = governor.sent(0.0, 1)  # so that the pause of a lone refused request plays no part
    governor.released(0.0, other)
    assert governor._paused_until == pytest.approx(max(pause, 0.5))


def test_a_refusal_sets_the_pace():
    """After a refusal, requests go at 0.85 of what was let in, evenly, until the old peak is reached again."""
    governor = make()
    for number in range(20):
        finish(governor, number / 10 + 0.05, send(governor, number / 10))
    refused = send(governor, 2.0)
    assert governor.rate is None
    finish(governor, 2.0, refused, "throttled", unit="requests")
    assert governor.rate == pytest.approx(0.85 * 10, rel=0.05)
    assert governor.unit == "requests"
    send(governor, 2.0 + 1 / governor.rate)
    assert governor.wait(2.0 + 1 / governor.rate, 1) == pytest.approx(1 / governor.rate, rel=0.05)
    assert governor.why == "quota"


def test_a_refused_request_was_not_let_in():
    """The pace is learned from what the server took, not from what it was asked."""
    governor = make(start_concurrency=20)
    permits = [send(governor, 0.0) for _ in range(20)]
    finish(governor, 1.0, permits.pop(), "throttled")
    assert governor.rate == pytest.approx(0.85 * 19)


def test_a_burst_of_refusals_is_one_refusal():
    """What comes back within a second of a cut says nothing new."""
    governor = make(start_concurrency=10)
    permits = [send(governor, 0.0) for _ in range(10)]
    finish(governor, 1.0, permits.pop(), "throttled")
    rate = governor.rate
    for permit in permits:
        finish(governor, 1.1, permit, "throttled")
    assert governor.rate == rate


def test_a_refused_token_quota_paces_tokens():
    """Where tokens are what is short, a large request waits longer than a small one."""
    governor = make()
    now = 0.0
    for _ in range(20):
        finish(governor, now + 0.05, send(governor, now, 1000))
        now += 0.1
    finish(governor, now, send(governor, now, 1000), "throttled", unit="tokens")
    assert governor.unit == "tokens"
    assert governor.rate == pytest.approx(8500, rel=0.05)
    assert governor.wait(now, 4000) == pytest.approx(4 * governor.wait(now, 1000), rel=0.01)


def test_a_pace_that_is_not_used_does_not_grow():
    """An hour without a request proves nothing about the quota."""
    governor = make()
    now = 0.0
    for _ in range(20):
        finish(governor, now + 0.05, send(governor, now))
        now += 0.1
    finish(governor, now, send(governor, now), "throttled")
    before = governor.rate
    finish(governor, now + 3600.1, send(governor, now + 3600.0))
    assert governor.rate == pytest.approx(before, rel=0.1)


def test_a_pace_beyond_demand_does_not_run_away():
    """An hour at half the pace leaves it where it was, so that one cut is enough when the quota shrinks."""
    governor = make()
    now = 0.0
    for _ in range(20):
        finish(governor, now + 0.005, send(governor, now))
        now += 0.01
    finish(governor, now, send(governor, now), "throttled")
    for _ in range(36_000):
        now += 0.1
        finish(governor, now + 0.005, send(governor, now))
    assert governor.rate <= 30


def test_nothing_let_in_is_a_pause_and_no_pace():
    """When every single request is refused, the rate found before is kept, and the pauses grow."""
    governor = make()
    now = 0.0
    for _ in range(20):
        finish(governor, now + 0.05, send(governor, now))
        now += 0.1
    finish(governor, now, send(governor, now), "throttled")
    rate, pauses = governor.rate, []
    for _ in range(6):
        now += 2.0 + governor.wait(now + 2.0, 100)
        finish(governor, now, send(governor, now), "throttled")
        pauses.append(governor.wait(now, 100))
    assert governor.rate >= 0.99 * rate
    assert pauses == pytest.approx([0.5, 1.0, 2.0, 4.0, 8.0, 8.0])


def test_told_quotas_are_kept_from_the_first_request():
    """Requests go at 95 % of the quota told, and so do their tokens."""
    governor = make(requests_per_minute=600.0)
    send(governor, 0.0)
    assert governor.wait(0.0, 1) == pytest.approx(1 / 9.5, abs=0.06)
    assert governor.why == "cap"
    assert governor.rate == pytest.approx(9.5)
    governor = make(tokens_per_minute=60_000.0)
    send(governor, 0.0, 9500)
    assert governor.unit == "tokens"
    assert governor.rate == pytest.approx(950.0)
    assert governor.wait(0.0, 9500) == pytest.approx(10.0, abs=0.06)


def test_a_late_timer_loses_nothing():
    """A send that comes 20 ms late does not put off those after it."""
    governor = make(requests_per_minute=600.0)
    now, gap = 0.0, 1 / 9.5
    for _ in range(100):
        now += governor.wait(now, 1) + 0.02
        finish(governor, now, governor.sent(now, 1))
    assert now <= 100 * gap + 0.1


def test_too_many_at_once_narrows():
    """A refused place takes 15 % of the places that were good; a second refusal of that round takes nothing more."""
    governor = make(start_concurrency=21)
    permits = [send(governor, 0.0) for _ in range(21)]
    finish(governor, 0.1, permits.pop(), "overloaded")
    assert governor.limit == 17
    finish(governor, 0.1, permits.pop(), "throttled", unit="concurrency")
    assert governor.limit == 17
    assert governor.rate is None
    assert governor.wait(0.1, 1) == math.inf
    assert governor.why == "quota"


def test_a_single_refused_place_takes_turns():
    """When others hold every place, one tries again now and then, without hammering."""
    governor = make()
    now = 0.0
    for pause in (0.5, 1.0, 2.0, 2.0):
        finish(governor, now, send(governor, now), "overloaded")
        assert governor.wait(now, 1) == pytest.approx(pause)
        now += pause


def test_five_failures_in_a_row_open_the_breaker():
    """Then one probe at a time goes, after pauses that grow to eight seconds."""
    governor = make()
    break_it(governor, 0.0)
    pauses = []
    now = 0.0
    for _ in range(6):
        pauses.append(governor.wait(now, 1))
        assert governor.why == "breaker"
        now += pauses[-1]
        probe = send(governor, now)
        assert governor.wait(now, 1) == math.inf
        assert governor.limit == 1
        finish(governor, now, probe, "failed")
    assert pauses == pytest.approx([0.5, 1.0, 2.0, 4.0, 8.0, 8.0])


def test_a_good_probe_closes_the_breaker():
    """After an outage half of the places are back at once, the rest a round trip later."""
    governor = make()
    now = warm_up(governor, 0.0)
    permits = []
    for _ in range(64):
        now += governor.wait(now, 100)
        permits.append(send(governor, now))
    for permit in permits:
        finish(governor, now + 0.2, permit, "failed")
    now += 0.2 + governor.wait(now + 0.2, 1)
    finish(governor, now + 0.1, send(governor, now))
    assert not governor.breaking
    assert governor.limit >= 32
    warm_up(governor, now + 0.1, requests=2)
    assert governor.limit >= 57


def test_failures_from_before_the_breaker_are_no_news():
    """Sixty requests that were under way when the outage began count once, not twelve times."""
    governor = make(start_concurrency=64)
    permits = [send(governor, 0.0) for _ in range(64)]
    for permit in permits:
        finish(governor, 1.0, permit, "failed")
    assert governor.wait(1.0, 1) == pytest.approx(0.5)


def test_the_retry_budget_is_twenty_and_a_tenth():
    """Twenty failed requests may go again, and one more for each ten sent; then the task pauses."""
    governor = make()
    assert sum(governor.may_retry(0.0) for _ in range(30)) == 20
    assert governor.wait(0.0, 1) == pytest.approx(0.5)
    now = 10.0
    for _ in range(21):
        finish(governor, now, send(governor, now))
    assert [governor.may_retry(now) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(("attempt", "longest"), [(0, 1.5), (1, 1.5), (2, 3.0), (3, 6.0), (4, 10.0), (10**6, 10.0)])
def test_backoff_grows_to_ten_seconds(attempt, longest):
    """The more often it failed, the longer the most it waits; the least is always half a second."""
    drawn = []
    governor = Governor(Limits(), dice=lambda low, high: drawn.append((low, high)) or high)
    governor.backoff(attempt)
    assert drawn == [(0.5, longest)]


def test_patience_counts_from_the_first_request_and_from_each_answer():
    """Fifteen minutes without a good answer are enough, however many refusals came."""
    governor = make()
    assert governor.patience_left(1e6) == 900.0
    permit = send(governor, 100.0)
    assert governor.patience_left(400.0) == 600.0
    finish(governor, 400.0, permit, "throttled")
    finish(governor, 500.0, send(governor, 500.0), "failed")
    assert governor.patience_left(1000.0) == 0.0
    finish(governor, 1000.0, send(governor, 1000.0))
    assert governor.patience_left(1000.0) == 900.0


def test_patience_does_not_count_time_with_nothing_to_ask():
    """A source that is slow to read is not an outage."""
    governor = make(patience=60.0)
    finish(governor, 0.1, send(governor, 0.0))
    send(governor, 500.0)
    assert governor.patience_left(500.0) == 60.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_concurrency", 0),
        ("max_concurrency", 513),
        ("max_concurrency", 2.5),
        ("max_concurrency", True),
        ("start_concurrency", 0),
        ("requests_per_minute", 0),
        ("requests_per_minute", math.nan),
        ("tokens_per_minute", -1.0),
        ("tokens_per_minute", math.inf),
        ("patience", 0.0),
    ],
)
def test_limits_that_make_no_sense_are_refused_by_name(field, value):
    """The message names the field and the value."""
    with pytest.raises(ValueError, match=f"{field} must be .* not {value!r}"):
        Limits(**{field: value})


def test_a_request_costs_microseconds():
    """All bookkeeping of a request takes about 3 µs; the bound leaves room for slow machines."""
    governor = make(max_concurrency=128, requests_per_minute=60_000.0, tokens_per_minute=6e8)
    rounds, now = 20_000, 0.0
    began = time.process_time()
    for _ in range(rounds):
        now += 1 / 900
        governor.wait(now, 2000)
        permit = governor.sent(now, 2000)
        governor.answered(now, permit)
        governor.released(now, permit)
    each = (time.process_time() - began) / rounds
    print(f"wait + sent + answered + released: {1e6 * each:.1f} µs")
    assert each < 30e-6
