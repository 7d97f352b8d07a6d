"""The allowance is enforced by the second."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_modelstudio.sandbox.quota import Quota
from tests.sandbox.loopback import EMBED, infer


def test_a_burst_fails_under_the_limit_of_the_minute():
    """600 a minute are 10 a second: the eleventh of a burst is refused, and one comes free every 100 ms."""
    quota = Quota(600)
    assert [quota.take(1, 0.0) for _ in range(11)] == [True] * 10 + [False]
    assert not quota.take(1, 0.099)
    assert quota.take(1, 0.1)


def test_less_than_one_a_second():
    """30 a minute let one through every two seconds."""
    quota = Quota(30)
    assert [quota.take(1, at) for at in (0.0, 1.0, 2.0, 3.9, 4.0)] == [True, False, True, False, True]


def test_a_cost_above_the_share_passes_once_and_is_paid_off():
    """A large request is not locked out for good, and the next one waits for it."""
    quota = Quota(600)
    assert quota.take(40, 0.0)
    assert not quota.take(1, 3.0)
    assert quota.take(1, 3.1)


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(st.floats(0, 10), max_size=300), st.integers(30, 6000))
def test_never_more_than_the_rate_and_one_share(moments, per_minute):
    """Over any stretch of time no more passes than the rate allows, plus one second's share."""
    quota = Quota(per_minute)
    passed = sum(quota.take(1, at) for at in sorted(moments))
    assert passed <= 10 * per_minute / 60 + max(1.0, per_minute / 60) + 1e-6


def test_nothing_a_minute_is_a_mistake():
    """An allowance of zero is refused when it is set."""
    with pytest.raises(ValueError, match="lets nothing through"):
        Quota(0)


def test_requests_above_the_limit_are_answered_as_elasticsearch_wraps_them(start):
    """429 with the model service's status and words inside; refused questions are not billed."""
    server = start(requests_per_minute=60)
    answers = [infer(server, EMBED, "a") for _ in range(2)]
    assert [one.status for one in answers] == [200, 429]
    assert answers[1].error["type"] == "status_exception"
    assert answers[1].error["reason"] == (
        "Received a rate limit status code for request from inference entity id [bailian_embeddings] status [429]. "
        "Error message: [Throttling.RateQuota: Requests rate limit exceeded, please try again later.]"
    )
    assert (server.requests, len(server.bill)) == (2, 1)


def test_tokens_above_the_limit(start):
    """The limit of tokens has words of its own."""
    server = start(tokens_per_minute=60)
    assert infer(server, EMBED, "a" * 300).status == 200
    refused = infer(server, EMBED, "a")
    assert refused.status == 429
    assert "Throttling.AllocationQuota" in refused.error["reason"]
