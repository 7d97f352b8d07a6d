"""Cells of megabytes in files of kilobytes: how many rows are decoded at a time."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from airflow_provider_modelstudio.inference.dataset import WINDOW_BYTES, open_source


def test_cells_that_turn_out_large_are_decoded_few_at_a_time(tmp_path):
    """Small rows, then large ones, in one row group: each row comes once, in order, no window is much too large, and after
    the first surprise little is decoded at a time.
    """
    large, small, rows = 8_000_000, 10 * 32, 400
    cells = pa.array([0] * small + [1] * (rows - small), pa.int32())
    texts = pa.DictionaryArray.from_arrays(cells, pa.array(["small", "x" * large]))
    pq.write_table(pa.table({"n": range(rows), "x": texts}), tmp_path / "in.parquet", store_schema=False)
    source = open_source(LocalFileSystem(), str(tmp_path / "in.parquet"))
    before, numbers = pa.total_allocated_bytes(), []
    for first, window in source.windows([(0, 330), (335, rows)]):
        here = window["n"].to_pylist()
        assert here[0] == first
        assert pc.binary_length(window["x"]).to_pylist() == [5 if n < small else large for n in here]
        assert window.nbytes <= 2 * WINDOW_BYTES
        if first >= small + 64:
            assert pa.total_allocated_bytes() - before < 5 * WINDOW_BYTES
        numbers += here
    assert numbers == [*range(330), *range(335, rows)]


def test_a_large_dictionary_makes_no_small_windows(tmp_path):
    """A dictionary is there once for all rows, so that it is no reason to read few of them."""
    words = pa.array([f"{i} " + "x" * 100_000 for i in range(400)])
    column = pa.DictionaryArray.from_arrays(pa.array([i % 400 for i in range(1100)], pa.int32()), words)
    pq.write_table(pa.table({"n": range(1100), "x": column}), tmp_path / "in.parquet")
    source = open_source(LocalFileSystem(), str(tmp_path / "in.parquet"))
    assert pa.types.is_dictionary(source.schema.field("x").type)
    windows = [window.num_rows for _, window in source.windows([(0, 1100)])]
    assert sum(windows) == 1100
    assert max(windows) == 1024


@pytest.mark.parametrize("kind", [pa.list_(pa.uint8(), 150_528), pa.binary(150_528)])
def test_cells_that_a_file_lacks_weigh_what_they_will(tmp_path, kind):
    """Nulls of fixed size share their bytes until a window is made of them."""
    there = pa.array([b"x" * 150_528], pa.binary(150_528)) if kind == pa.binary(150_528) else pa.nulls(1, kind)
    pq.write_table(pa.table({"n": range(1024)}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"n": [1024], "image": there}), tmp_path / "2.parquet")
    source = open_source(LocalFileSystem(), str(tmp_path))
    assert source.schema.field("image").type == kind
    numbers = []
    for _, window in source.windows([(0, 1025)]):
        assert window.nbytes <= 2 * WINDOW_BYTES
        numbers += window["n"].to_pylist()
    assert numbers == list(range(1025))
