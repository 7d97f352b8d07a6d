"""Hundreds of histories of crashes, freezes, doubles and lost answers, over the shipped engine, vault and lease.

``SIMULATION_HISTORIES=10000`` runs more of them; each failure names its seed.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.simulation.history import simulate

HISTORIES = int(os.environ.get("SIMULATION_HISTORIES", "500"))
CHUNKS = 10


@pytest.mark.timeout(600 + HISTORIES)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_history_loses_a_row_or_pays_for_a_durable_one(chunk, tmp_path_factory):
    """Whatever happens: each row once with its own vector, no half dataset, nothing durable is paid again."""
    counters = Counter()
    for seed in range(chunk, HISTORIES, CHUNKS):
        world = simulate(seed, tmp_path_factory.mktemp("history"))
        assert not world.violations, f"seed {seed}: {world.violations[:5]}"
        counters += world.counters
    print(f"seeds {chunk} to {HISTORIES} by {CHUNKS}: {dict(counters)}")
    assert counters["looks"] > 0


def test_the_same_seed_gives_the_same_history(tmp_path_factory):
    """A failing seed can be looked at again."""
    first, second = (simulate(7, tmp_path_factory.mktemp("history")) for _ in range(2))
    assert first.bills == second.bills
    assert first.counters == second.counters
