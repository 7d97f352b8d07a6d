"""What was acknowledged survives a power cut, and nothing half is ever seen: on a model of a disk that forgets.

``POWER_CUT_HISTORIES=2000`` runs more of them; each failure names its seed.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from airflow_provider_modelstudio.inference.storage.local import LocalStorage
from tests.powercut.world import InPlace, simulate

HISTORIES = int(os.environ.get("POWER_CUT_HISTORIES", "200"))
CHUNKS = 8


@pytest.mark.timeout(600 + 2 * HISTORIES)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_power_cut_loses_what_was_acknowledged(chunk, tmp_path_factory):
    """Cut or killed between any two calls: datasets and paid answers are there, readers see whole versions."""
    counters = Counter()
    for seed in range(chunk, HISTORIES, CHUNKS):
        world = simulate(seed, tmp_path_factory.mktemp("history"))
        assert not world.violations, f"seed {seed}: {world.violations[:5]}"
        counters += world.counters
    print(f"seeds {chunk} to {HISTORIES} by {CHUNKS}: {dict(counters)}")
    assert counters["cuts"] > counters["kills"] > 0


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("storage_class", "lies"),
    [
        pytest.param(LocalStorage, {"files": False}, id="files are not synced"),
        pytest.param(LocalStorage, {"folders": False}, id="folders are not synced"),
        pytest.param(InPlace, {}, id="objects are written in place"),
    ],
)
def test_without_a_protection_it_is_noticed(storage_class, lies, tmp_path_factory):
    """The model notices each protection that is missing, within a hundred histories."""
    for seed in range(100):
        if simulate(seed, tmp_path_factory.mktemp("history"), storage_class, **lies).violations:
            return
    pytest.fail("a hundred histories, and nothing was noticed")


def test_the_same_seed_gives_the_same_history(tmp_path_factory):
    """A failing seed can be looked at again."""
    first, second = (simulate(11, tmp_path_factory.mktemp("history")) for _ in range(2))
    assert first.counters == second.counters
    assert first.paid == second.paid
