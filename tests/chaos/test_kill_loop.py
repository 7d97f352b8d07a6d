"""``make chaos`` in small: see ``python -m tests.chaos --help``."""

from __future__ import annotations

import os
import sys

import psutil
import pytest

from demo.private_airflow import port_is_free
from tests.chaos.loop import run_loop
from tests.chaos.world import open_world

KILLS = int(os.environ.get("CHAOS_KILLS", "20"))
SEED = int(os.environ.get("CHAOS_SEED", "1"))


@pytest.mark.scheduler
@pytest.mark.skipif(sys.platform != "linux", reason="processes are held by descriptors that only Linux has")
@pytest.mark.timeout(300 + 20 * KILLS)
# A whole Airflow and an S3 emulator load dozens of packages, which warn about one another. Ours still must not.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.filterwarnings("error:::airflow_provider_modelstudio")
def test_killed_anywhere_nothing_is_lost_and_only_what_was_in_flight_is_paid_again(tmp_path):
    """Killed on disk and on S3, asked to stop, frozen, run and tried twice at once: each dataset is whole, and the bill is as promised."""
    with open_world(tmp_path) as world:
        report = run_loop(world, kills=KILLS, terms=2, pairs=1, orphans=1, frozen=1, seed=SEED)
        processes = world.sessions.members()
    print(f"\n{report.table()}")
    assert report.faults == []
    assert report.total("SIGKILL") == KILLS
    assert report.total("SIGTERM") == 2
    assert report.total("zombie") == report.total("double") == 1
    assert report.total("orphan") == report.total("frozen") == 1
    assert report.looks["whole"] > 0
    assert len(processes) >= 4
    assert not [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert port_is_free(world.airflow.port)
