"""What it takes to read what we wrote: a few rows of one column are a few rows of one column."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_provider_modelstudio.inference.dataset import WINDOW_ROWS
from airflow_provider_modelstudio.inference.dataset.parts import PartWriter

DIMENSIONS = 256
GROUPS = 8


class CountingFile(io.FileIO):
    """A file that counts what is read from it."""

    count = 0

    def read(self, size=-1):
        content = super().read(size)
        self.count += len(content)
        return content

    def readinto(self, buffer):
        size = super().readinto(buffer)
        self.count += size
        return size


def vectors(kind):
    matrix = np.random.default_rng(1).integers(-127, 128, (WINDOW_ROWS, DIMENSIONS)).astype(kind)
    flat = pa.array(matrix.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, type=pa.list_(pa.field("element", flat.type), DIMENSIONS))


@pytest.mark.parametrize(("kind", "size"), [(np.float32, 4), (np.float16, 2), (np.int8, 1)])
def test_a_row_group_of_one_column_is_all_that_is_read(tmp_path, kind, size):
    """Of a file with 8 row groups and other columns, one row group of vectors costs its own bytes and the footer; a value
    takes as many bytes as its type has.
    """
    column = vectors(kind)
    ids = pa.array(range(WINDOW_ROWS))
    text = pa.array([f"{i} " * 200 for i in range(WINDOW_ROWS)])
    batch = pa.record_batch([ids, text, column], names=["id", "text", "embedding"])
    part = PartWriter(tmp_path / "part.parquet", batch.schema, ["embedding"])
    for _ in range(GROUPS):
        part.write(batch)
    _, written = part.close()
    with CountingFile(tmp_path / "part.parquet") as handle:
        table = pq.ParquetFile(handle, page_checksum_verification=True).read_row_group(5, columns=["embedding"])
        count = handle.count
    assert table.column("embedding").combine_chunks().equals(column)
    needed = WINDOW_ROWS * DIMENSIONS * size
    assert needed <= count <= needed * 1.02 + 2 * 64 * 1024  # the footer is looked for in the last 64 KiB
    assert count < written / GROUPS * 1.5
