"""Real processes that are asked to stop, killed, frozen, doubled, and fed with bombs."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_provider_modelstudio.inference.errors import InterruptedRunError
from airflow_provider_modelstudio.inference.vault.journal import read_segments
from airflow_provider_modelstudio.sandbox.faults import Delay, Match, Rule
from tests.faults.bench import Bench, context_of
from tests.faults.processes import SupervisedTask, Tapped, Watchful, start_task

TEXTS = [f"text number {i}" for i in range(300)]


@pytest.fixture
def slow(tmp_path, start, monkeypatch):
    """A server that takes 50 ms after the model was paid, and 300 rows."""
    bench = Bench(tmp_path, start(latency=0.05), monkeypatch)
    bench.write(TEXTS)
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


def test_asked_to_stop_a_task_does_not_wait_for_answers_that_take_long(tmp_path, start, monkeypatch):
    """SIGTERM while every answer takes half a minute: what comes in 3 s would be kept, then the task leaves, since it is
    killed after 5 s. Whoever comes next does not wait for its lease.
    """
    bench = Bench(tmp_path, start(latency=30.0), monkeypatch)
    bench.write(TEXTS)
    task = start_task(bench, batch_size=2, concurrency=4)
    task.when(lambda: bench.server.requests >= 1)
    task.signal(signal.SIGTERM)
    outcome = task.outcome()
    assert outcome.kind == "InterruptedRunError"
    assert 2.5 < outcome.seconds < 4
    assert lease(bench, 1)["state"] == "released"


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


def test_signals_in_the_middle_of_everything_change_nothing(slow):
    """Every thread is interrupted each millisecond or so, those that write segments and parts among them."""
    outcome = start_task(slow, operator_class=Tapped, batch_size=2).outcome()
    assert outcome.kind == ""
    assert outcome.summary["taps"] > 100
    slow.check(TEXTS)
    assert set(slow.paid_for(TEXTS)) == {1}


def test_a_task_in_a_thread_of_its_own_is_stopped_and_goes_on(slow):
    """A runner that executes in threads: asked to stop from another one, the task leaves in order; the next does the rest."""
    operator = slow.operator(batch_size=2)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(operator.execute, context_of())
        while slow.server.requests < 20 and not running.done():
            time.sleep(0.002)
        operator.on_kill()
        with pytest.raises(InterruptedRunError):
            running.result(timeout=30)
        assert slow.server.requests < 150
        summary = pool.submit(slow.run, batch_size=2).result(timeout=60)
    assert summary["failed"] == 0
    slow.check(TEXTS)
    assert set(slow.paid_for(TEXTS)) == {1}


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


def epochs(bench):
    return len(list(bench.state.glob("epoch/*")))


def lease(bench, epoch):
    """What an attempt has last said of its lease; empty when it has none."""
    for path in bench.state.glob(f"lease/{epoch:08d}-*"):
        with contextlib.suppress(FileNotFoundError):
            return json.loads(path.read_bytes())
    return {}


def journalled(bench, epoch):
    """Rows whose answers an attempt has made durable."""
    objects = [
        read_segments(path.name, path.read_bytes()) for path in bench.state.glob(f"*/journal/e{epoch:08d}-*.seg")
    ]
    return sum(len(segment.keys) for reading in objects for _, segment in reading.segments)


def manifests(bench):
    return list(bench.state.glob("*/runs/*/manifest.json"))


def check_that_the_first_leaves(bench, first, second, at_most):
    """The first sees the newer epoch at its next beat, stops to spend, keeps what it was answered and leaves; until then
    the second asks nothing. Whoever is asked then is asked by the second, which makes the one dataset.

    :param at_most: requests that the first may begin while it looks.
    """
    first.when(lambda: epochs(bench) == 2)
    beat = lease(bench, 1)["beat"]
    second.when(lambda: lease(bench, 1)["beat"] > beat)
    sent = bench.server.requests
    assert sent < len(TEXTS) // 2 - 10  # it is in the middle
    second.when(lambda: lease(bench, 1)["state"] == "released")
    assert bench.server.requests - sent <= at_most
    paid = sum(one.count for one in bench.server.bill)
    assert journalled(bench, 1) == paid
    outcomes = [task.outcome() for task in (first, second)]
    assert [outcome.kind for outcome in outcomes] == ["SupersededError", ""]
    assert "another attempt of this run has taken over" in outcomes[0].message
    bench.check(TEXTS)
    assert len(manifests(bench)) == 1
    assert set(bench.paid_for(TEXTS)) == {1}


@pytest.fixture
def slower(tmp_path, start, monkeypatch):
    """A server that takes 100 ms after the model was paid, so that a task is in its middle for seconds, and sometimes
    longer before, so that requests do not end together and some are always in flight.
    """
    bench = Bench(tmp_path, start(latency=0.1), monkeypatch)
    bench.server.play([Rule(act=Delay(seconds=0.04), match=Match(every=3))])
    bench.write(TEXTS)
    return bench


def test_a_frozen_task_finds_that_it_was_replaced(slower):
    """SIGSTOP, a second try, SIGCONT while the lease is good: the first one leaves, and no row is paid twice."""
    first = start_task(slower, operator_class=Watchful, batch_size=2, concurrency=4)
    first.when(lambda: slower.server.requests >= 10)
    first.signal(signal.SIGSTOP)
    second = start_task(slower, {"try_number": 2}, operator_class=Watchful, batch_size=2, concurrency=4)
    second.when(lambda: epochs(slower) == 2)
    first.signal(signal.SIGCONT)
    check_that_the_first_leaves(slower, first, second, at_most=4)


@pytest.mark.parametrize("when", ["while the second works", "when the second is done"])
def test_a_task_that_was_frozen_for_long_sends_nothing_more(slow, when):
    """The lease has run out, the second try went on: whenever the first wakes, it sends nothing but what it had taken in
    hand, and changes nothing.
    """
    first = start_task(slow, operator_class=Watchful, batch_size=2, concurrency=4)
    first.when(lambda: slow.server.requests >= 10)
    first.signal(signal.SIGSTOP)
    second = start_task(slow, {"try_number": 2}, operator_class=Watchful, batch_size=2, concurrency=4)
    second.when(lambda: journalled(slow, 2) >= 20)
    outcomes = {}
    if when == "when the second is done":
        outcomes["second"] = second.outcome()
        sent, manifest = slow.server.requests, manifests(slow)[0].read_bytes()
    first.signal(signal.SIGCONT)
    outcomes["first"] = first.outcome()
    outcomes.setdefault("second", second.outcome())
    assert outcomes["first"].kind == "SupersededError"
    assert outcomes["second"].kind == ""
    if when == "when the second is done":
        assert slow.server.requests - sent <= 4
        assert manifests(slow)[0].read_bytes() == manifest
    slow.check(TEXTS)
    assert len(manifests(slow)) == 1
    assert sum(slow.paid_for(TEXTS)) - len(TEXTS) <= 4 * 2
    assert slow.server.requests <= len(TEXTS) // 2 + 4


def test_an_orphan_leaves_to_the_next_try(slower):
    """The supervisor is killed and the task goes on: the next try waits until it has left, and no row is paid twice."""
    first = start_task(slower, kind=SupervisedTask, operator_class=Watchful, batch_size=2, concurrency=4)
    first.when(lambda: slower.server.requests >= 10)
    first.orphan()
    alone = slower.server.requests
    first.when(lambda: slower.server.requests >= alone + 10)
    second = start_task(slower, {"try_number": 2}, operator_class=Watchful, batch_size=2, concurrency=4)
    second.when(lambda: epochs(slower) == 2)
    check_that_the_first_leaves(slower, first, second, at_most=4)


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


@pytest.mark.parametrize(("rows", "cell"), [(230, 10_000_000), (22, 100_000_000)])
def test_cells_of_more_than_two_gigabytes_are_carried_in_little_memory(bench, rows, cell):
    """Rows that one after another hold more than the 2 GiB that offsets of a string column can count: all are carried,
    in row groups that every reader can take, and few of them are in memory at a time.
    """
    many = rows * cell
    assert many > 2**31
    long = "ab " * (cell // 3)
    cells = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([long]))
    bench.write(pa.table({"text": [f"t {i}" for i in range(rows)], "x": cells}), compression="zstd", store_schema=False)
    assert pq.ParquetFile(bench.source).metadata.num_row_groups == 1
    before = start_task(bench, dry_run=True).outcome()
    outcome = start_task(bench, concurrency=4).outcome()
    assert outcome.kind == "", outcome.message
    print(f"peak {outcome.peak_bytes / 1e6:.0f} MB, {before.peak_bytes / 1e6:.0f} MB without the cells")
    assert (
        outcome.peak_bytes - before.peak_bytes < (512 << 20) + 18 * cell
    )  # whatever the rows: Parquet copies a cell often
    (path,) = bench.destination.iterdir()
    written = pq.ParquetFile(path)
    assert written.schema_arrow.field("x").type == pa.string()
    texts, expected = [], pa.py_buffer(long.encode())
    for i in range(written.num_row_groups):
        group = written.read_row_group(i, columns=["text", "x"])
        texts += group["text"].to_pylist()
        assert all(one.as_buffer().equals(expected) for chunk in group["x"].chunks for one in chunk)
    assert texts == [f"t {i}" for i in range(rows)]
