"""Two runs at once on one account: its quota is used up, and neither starves, although they never talk."""

from __future__ import annotations

import asyncio
import random

import pytest

from airflow_provider_modelstudio.inference.governor import Limits
from airflow_provider_modelstudio.sandbox.quota import Quota
from tests.inference.conftest import Place
from tests.inference.fakes import Scripted, http
from tests.inference.virtual_time import run_in_virtual_time

RPS = 20.0
REQUESTS = 900
"""Of each run."""


@pytest.mark.parametrize("later", [0.0, 10.0])
@pytest.mark.parametrize("seed", range(2))
def test_two_runs_on_one_quota_use_it_up_and_neither_starves(tmp_path, monkeypatch, seed, later):
    """Both end; together they get nine tenths of the quota once both are there. Of that each has had three tenths in the
    end, and no less than a sixth or so at any time after the first quarter: who begins luckily gives way slowly.

    The same holds where one of them begins when the other has had the quota for itself.
    """
    dice = random.Random(seed)  # noqa: S311  # a seed makes a run repeatable
    monkeypatch.setattr(random, "uniform", dice.uniform)
    quota, answered = Quota(60 * RPS), []

    def account(name):
        async def ask():
            loop = asyncio.get_running_loop()
            if not quota.take(1, loop.time()):
                await asyncio.sleep(0.03)
                return http(429, "Requests rate limit exceeded, please try again later.", upstream=429)
            await asyncio.sleep(0.3 * dice.lognormvariate(0, 0.25))
            answered.append((loop.time(), name))
            return None

        return Scripted(lambda number, texts: ask())

    places, texts = {}, {}
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        places[name] = Place(tmp_path / name)
        texts[name] = [f"row {i} of the {name}" for i in range(10 * REQUESTS)]
        places[name].write(texts[name])

    async def one(name, begins):
        await asyncio.sleep(begins)
        return await places[name].start(account(name), part_rows=100_000, limits=Limits(max_concurrency=64))

    async def both():
        return await asyncio.gather(one("first", 0.0), one("second", later))

    summaries = run_in_virtual_time(both())
    for name, summary in zip(places, summaries, strict=True):
        places[name].check(texts[name])
        assert (summary.embedded, summary.failed) == (len(texts[name]), 0)

    last = {name: max(at for at, who in answered if who == name) for name in places}
    began = min(at for at, who in answered if who == "second") + 5
    shared = [(at, who) for at, who in answered if began <= at <= min(last.values())]
    seconds = min(last.values()) - began
    good = len(shared) / (RPS * seconds)
    quarter = began + seconds / 4
    shares, had = [], dict.fromkeys(places, 0)
    for at, who in shared:
        had[who] += 1
        if at >= quarter:
            shares.append(min(had.values()) / sum(had.values()))
    print(
        f"seed {seed}, {later:.0f} s later: {good:.3f} of the quota over {seconds:.0f} s, least share {min(shares):.2f}, {shares[-1]:.2f} in the end"
    )
    assert seconds > 20
    assert good >= 0.9
    assert min(shares) >= 0.15
    assert shares[-1] >= 0.3
