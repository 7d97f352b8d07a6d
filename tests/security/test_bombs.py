"""A file of a few hundred bytes that decodes to gigabytes: what a task needs of memory at most, in a process of its own."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from tests.faults.processes import start_task

CELL = "ab " * 349_525
MOST = 512 << 20


def write_bomb(bench, rows):
    """One text of a megabyte, in so many rows of one row group; returns the size of the file."""
    cells = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([CELL]))
    path = bench.write(
        pa.table({"text": cells}), compression="zstd", store_schema=False, row_group_size=rows, write_statistics=False
    )
    return path.stat().st_size


def test_a_bomb_is_told_in_memory_that_is_bounded(bench):
    """21 GB in 400 bytes: a clear error, and no more than 512 MiB in all."""
    assert write_bomb(bench, 20_480) < 500
    outcome = start_task(bench, max_tokens=1000, on_too_long="fail").outcome()
    assert "row 0 of the source cannot be asked: text is longer than 1000 tokens" in outcome.message
    assert 0 < outcome.peak_bytes <= MOST
    assert bench.server.bill == []


@pytest.mark.slow
def test_a_bomb_that_is_read_to_its_end_stays_within_memory(bench):
    """2 GB, each row of it looked at: no more memory than for one that is given up at its first row."""
    assert write_bomb(bench, 2_048) < 500
    outcome = start_task(bench, max_tokens=1000, max_error_rate=0.1).outcome()
    assert "2048 of 2048 rows cannot be asked" in outcome.message
    assert 0 < outcome.peak_bytes <= MOST
    assert bench.server.bill == []
