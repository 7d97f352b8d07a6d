"""Real processes that are asked to stop, killed, frozen, doubled, and fed with bombs."""

from __future__ import annotations

import signal

import numpy as np
import pyarrow as pa
import pytest

from airflow_provider_modelstudio.sandbox.faults import Delay, Rule
from tests.faults.processes import start_task

TEXTS = [f"text number {i}" for i in range(300)]


@pytest.fixture
def slow(bench):
    """A server that takes 50 ms, and 300 rows."""
    bench.write(TEXTS)
    bench.server.play([Rule(act=Delay(seconds=0.05))])
    return bench


def test_asked_to_stop_a_task_keeps_the_answers_in_flight(slow):
    """SIGTERM: no new calls, what is in flight is kept, the task leaves within 4 s, and no row is paid twice."""
    task = start_task(slow, batch_size=2)
    task.when(lambda: slow.server.requests >= 20)
    task.signal(signal.SIGTERM)
    outcome = task.outcome()
    assert outcome.kind == "InterruptedRunError"
    sent = slow.server.requests
    assert sent < 150
    assert len(slow.paid()) == sum(paid.count for paid in slow.server.bill)
    assert outcome.seconds < 4
    slow.run(batch_size=2)
    slow.check(TEXTS)
    assert set(slow.paid_for(TEXTS)) == {1}


def test_asked_twice_to_stop_a_task_still_leaves_in_order(slow):
    """Impatience changes nothing: the second SIGTERM finds the first one under way."""
    task = start_task(slow, batch_size=2)
    task.when(lambda: slow.server.requests >= 10)
    for _ in range(5):
        task.signal(signal.SIGTERM)
    assert task.outcome().kind == "InterruptedRunError"
    slow.run(batch_size=2)
    slow.check(TEXTS)
    assert set(slow.paid_for(TEXTS)) == {1}


def test_a_timeout_within_execute_pays_again_for_no_more_than_was_in_flight(slow):
    """``execution_timeout`` raises wherever the task is: the next try goes on from what was durable."""
    outcome = start_task(slow, {"timeout": 1.0}, batch_size=2, concurrency=2).outcome()
    assert outcome.kind == "TaskTimeout"
    assert 0 < slow.server.requests < 150
    slow.run(batch_size=2)
    slow.check(TEXTS)
    assert sum(slow.paid_for(TEXTS)) - len(TEXTS) <= 2 * 2


def test_a_timeout_within_execute_keeps_the_answers_in_flight(slow):
    """``execution_timeout`` is like SIGTERM: what is in flight is kept, and no row is paid twice."""
    assert start_task(slow, {"timeout": 1.0}, batch_size=2, concurrency=8).outcome().kind == "TaskTimeout"
    slow.run(batch_size=2)
    assert set(slow.paid_for(TEXTS)) == {1}


def test_asked_to_stop_before_it_began_a_task_does_not_trip(bench):
    """SIGTERM may come between the making of an operator and its execution."""
    bench.operator().on_kill()


def test_killed_a_task_pays_again_for_no_more_than_was_in_flight(slow):
    """SIGKILL: the retry starts at once, and pays again at most for concurrency × batch rows."""
    task = start_task(slow, batch_size=2, concurrency=8)
    task.when(lambda: slow.server.requests >= 40)
    task.signal(signal.SIGKILL)
    assert task.outcome().exit_code == -signal.SIGKILL
    assert not slow.destination.exists()
    slow.run(batch_size=2, concurrency=8)
    slow.check(TEXTS)
    assert sum(slow.paid_for(TEXTS)) - len(TEXTS) <= 8 * 2


def test_the_same_task_twice_pays_once(slow):
    """Two processes run one task instance at the same time: one writes the dataset, the other leaves or agrees."""
    both = [start_task(slow, batch_size=2) for _ in range(2)]
    outcomes = [task.outcome() for task in both]
    slow.check(TEXTS)
    assert set(slow.paid_for(TEXTS)) == {1}
    assert "" in {outcome.kind for outcome in outcomes} <= {"", "SupersededError"}
    assert all(outcome.summary["embedded"] == 300 for outcome in outcomes if outcome.summary)


def test_a_frozen_task_finds_that_it_was_replaced(slow):
    """SIGSTOP, a second try, SIGCONT: the first one leaves without a call, and the dataset is whole."""
    first = start_task(slow, batch_size=2, concurrency=4)
    first.when(lambda: slow.server.requests >= 10)
    first.signal(signal.SIGSTOP)
    second = start_task(slow, batch_size=2, concurrency=4)
    first.when(lambda: len(list(slow.state.glob("epoch/*"))) == 2)
    first.signal(signal.SIGCONT)
    outcomes = [task.outcome() for task in (first, second)]
    assert outcomes[1].kind == ""
    slow.check(TEXTS)
    assert sum(slow.paid_for(TEXTS)) - len(TEXTS) <= 8


def test_a_small_file_that_decodes_to_much_stays_small(bench):
    """A file of a kilobyte with cells of 1 MB, half a gigabyte in all, takes no more memory than any other file."""
    rows, cell = 500, 1_000_000
    one = pa.array(["ab " * (cell // 3)])
    cells = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), one)
    bomb = pa.table({"text": [f"t {i}" for i in range(rows)], "x": cells})
    bench.write(bomb, compression="zstd", store_schema=False, row_group_size=rows)
    assert bench.source.stat().st_size < 10_000
    before = start_task(bench, dry_run=True).outcome()
    outcome = start_task(bench, concurrency=4).outcome()
    assert outcome.kind == ""
    print(f"peak {outcome.peak_bytes / 1e6:.0f} MB, {before.peak_bytes / 1e6:.0f} MB without the cells")
    assert outcome.peak_bytes - before.peak_bytes < 512 << 20
    assert bench.table()["x"].chunk(0)[0].as_py() == "ab " * (cell // 3)
