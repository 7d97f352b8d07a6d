"""The benchmarks find their own mistakes, and the harness makes its page. No test here looks at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from canned import Books
from cases import make_cases
from page import write_page
from profile_once import tables
from rows import check_output, make_files, make_input, text

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ROWS, DIMENSIONS = 20, 4


def output(ids, numbers=None, *, error=None, scale=1.0):
    """A folder's only table: the row number first in each vector."""
    numbers = ids if numbers is None else numbers
    matrix = np.full((len(ids), DIMENSIONS), scale, np.float32)
    matrix[:, 0] = numbers
    flat = pa.array(matrix.reshape(-1))
    vectors = pa.FixedSizeListArray.from_arrays(flat, type=pa.list_(pa.float32(), DIMENSIONS))
    errors = pa.array([error] + [None] * (len(ids) - 1), pa.string())
    return pa.table({"id": ids, "embedding": vectors, "embedding_error": errors})


SWAPPED = [1, 0, *range(2, ROWS)]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (output(list(range(ROWS - 1))), "19 rows"),
        (output([*range(ROWS - 1), 0]), "out of order"),
        (output(SWAPPED), "out of order"),
        (output(list(range(ROWS)), SWAPPED), "answers of others"),
        (output(list(range(ROWS)), error="refused"), "without an answer"),
        (output(list(range(ROWS)), scale=float("nan")), "answers of others"),
        (output(list(range(ROWS)), scale=0.0), "answers of others"),
    ],
    ids=["lost", "doubled", "order", "swapped", "failed", "not a number", "zeros"],
)
def test_wrong_output_is_no_number(tmp_path, table, words):
    """Rows lost, doubled, out of order, with the vector of another row or with none: the program ends in words."""
    pq.write_table(table, tmp_path / "part.parquet")
    with pytest.raises(SystemExit, match=words):
        check_output(tmp_path, ROWS)


def test_right_output_passes_in_any_number_of_files(tmp_path):
    """The check goes on from file to file, and can do without order where a peer does not keep it."""
    for number, ids in enumerate(([0, 1, 2], list(range(3, ROWS)))):
        pq.write_table(output(ids), tmp_path / f"{number}.parquet")
    check_output(tmp_path, ROWS)
    pq.write_table(output([2, 0, 1]), tmp_path / "0.parquet")
    check_output(tmp_path, ROWS, in_order=False)


def test_the_input_is_the_same_rows_in_one_file_or_many(tmp_path):
    """Each row number has its text, and a changed row has another one."""
    make_input(tmp_path / "one.parquet", ROWS)
    many = make_files(tmp_path / "many", 5, ROWS)
    assert len(list(many.iterdir())) == 5
    assert pq.read_table(tmp_path / "one.parquet").to_pylist() == pq.read_table(many).to_pylist()
    make_input(tmp_path / "changed.parquet", ROWS, changed=10)
    changed = pq.read_table(tmp_path / "changed.parquet")["text"].to_pylist()
    assert [row for row in range(ROWS) if changed[row] != text(row)] == [0, 10]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_harness_measures_checks_and_writes_its_page(tmp_path):
    """In small counts: our operator, the loop and the floor run against the canned server, each finds its rows, and the
    page has a line for each of them.
    """
    page, results = tmp_path / "benchmarks.md", tmp_path / "results.json"
    flags = ["--scale", "0.0005", "--rounds", "1", "--only", "at_once"]
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "bench.py", *flags, "--page", page, "--results", results],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    measured = json.loads(results.read_text())["results"]
    assert set(measured) == {
        f"at_once/{one}" for one in ("ours/json", "ours/cbor", "floor/json", "floor/cbor", "loop/json")
    }
    assert all(took["rows"] == 50 and took["cpu_seconds_per_1000_rows"] > 0 for took in measured.values())
    assert measured["at_once/ours/json"]["requests"] == 5
    for line in ("EmbedOperator, JSON", "EmbedOperator, CBOR", "elasticsearch-py loop, JSON", "floor, CBOR"):
        assert f"| {line} | " in page.read_text()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("task", "media"),
    [("sparse_embedding", "cbor"), ("rerank", "json"), ("completion", "cbor"), ("multi_modal_embedding", "json")],
)
def test_every_task_type_is_answered_and_checked(task, media):
    """The canned server speaks each task type, and each row has its own answer."""
    program = [sys.executable, BENCHMARKS / "embed_once.py", "--task", task, "--media", media, "--rows", "25"]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1])["asked"] == 25


def test_the_page_tells_ratios(tmp_path):
    """Ratios are those of the numbers beside them; what was not measured is a dash, not a zero."""

    def took(cpu, rate):
        return {"cpu_seconds_per_1000_rows": cpu, "rows_per_second": rate, "peak_memory_mib": 100.0}

    results = {
        "at_once/ours/json": took(0.05, 18_000),
        "at_once/floor/json": took(0.02, 40_000),
        "at_once/loop/json": took(0.2, 5_000),
        "latency/ours/json-32": took(0.05, 3_000) | {"middle_rows_per_second": 3_150.0, "rows": 100_000},
    }
    page = write_page(
        {"about": {"machine": "2 cores"}, "scale": 1.0, "note": "Told.", "results": results},
        tmp_path / "page.md",
        plots=False,
    )
    assert "| EmbedOperator, JSON | 0.0500 | 1.0 | 2.5 | 18,000 | 100 |" in page
    assert "| elasticsearch-py loop, JSON | 0.2000 | 4.0 | 10.0 | 5,000 | 100 |" in page
    assert "| EmbedOperator, JSON | 100 ms | 32 | 100,000 | 3,000 | 3,200 | 94% | 98% | 0.0500 |" in page
    assert "allow, JSON / CBOR | 93 % | 94% / –; 98% / – between |" in page
    assert "| the same with a heavy tail, JSON / CBOR | 90 % | – / –; – / – between |" in page
    assert "\nTold.\n" in page
    assert ".svg" not in page
    assert page == (tmp_path / "page.md").read_text()


def test_cases_have_names_of_their_own():
    """No result overwrites another one; large cases come on top and leave the others as they are."""
    usual, large = (make_cases(scale=1.0, rounds=3, large=large) for large in (False, True))
    assert len({case.key for case in large}) == len(large)
    assert large[: len(usual)] == usual
    assert {case.flags["rows"] for case in large if case.group == "rows"} == {10**4, 10**5, 10**6, 10**7}


def test_a_profile_counts_running_threads_of_the_operator():
    """What waits, and what happens before the operator is executed, is left out; what is ours is told by module."""
    lines = [
        "thread (1): MainThread;main (embed_once.py:1);import_it (embed_once.py:2) 50",
        "thread (1): MainThread;main (embed_once.py:1);execute (a/airflow_provider_modelstudio/operators/dataset.py:9) 10",
        "thread (2): engine_0;run (asyncio/runners.py:1);decode (a/airflow_provider_modelstudio/inference/tasks/vectors.py:3) 30",
        "thread (2): engine_0;run (asyncio/runners.py:1);select (selectors.py:468) 99",
        "thread (3): writer_0;loop (threading.py:1);write (x/site-packages/pyarrow/parquet.py:3) 60",
    ]
    told = tables(lines, 5)
    assert "share of 100 samples" in told
    assert "| `writer` | 60.0% |" in told
    assert "| `inference/tasks/vectors.py` | 30.0% |" in told
    assert "| `pyarrow` | 60.0% |" in told
    assert "| `execute operators/dataset.py` | 10.0% |" in told


def test_the_server_tells_its_pace_between_start_and_end():
    """Twenty questions of two rows, the first and the last long before and after the others, which come four a second."""
    clock = iter([0.0, *(10.0 + i / 4 for i in range(18)), 100.0])
    books = Books(lambda: next(clock))
    assert books.middle_rows_per_second is None
    for _ in range(20):
        books.ask(2)
    told = json.loads(books.bill())
    assert (told["requests"], told["rows"], told["first_at"]) == (20, 40, 0.0)
    assert told["middle_rows_per_second"] == pytest.approx(8.0)
