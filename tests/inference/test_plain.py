"""Vectors of a part are taken as they lie, or decoded where that is not the same."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_provider_modelstudio.inference.dataset.parts import PartReader, PartWriter
from airflow_provider_modelstudio.inference.dataset.plain import read_plain
from airflow_provider_modelstudio.inference.errors import StorageError


def vectors(rows, size, kind=np.float32, missing=()):
    """A column of different vectors, some of which are missing."""
    matrix = np.random.default_rng(rows).standard_normal((rows, size)).astype(kind)
    mask = pa.array(np.isin(np.arange(rows), missing))
    numbers = pa.array(matrix.ravel())
    return pa.FixedSizeListArray.from_arrays(
        numbers, type=pa.list_(pa.field("element", numbers.type), size), mask=mask if len(missing) else None
    )


def write(path, column):
    """A part of row groups of 300 rows with an id and a vector."""
    batch = pa.record_batch({"id": np.arange(len(column)), "vector": column})
    writer = PartWriter(path, batch.schema, ["vector"])
    for start in range(0, len(column), 1000):
        writer.write(batch.slice(start, 1000))
    writer.close()
    return batch


@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize("size", [1, 3, 8, 1000, 5000])
def test_rows_are_those_that_were_written(tmp_path, kind, size):
    """Of any length, over one page or many."""
    batch = write(tmp_path / "part.parquet", vectors(1500, size, kind))
    reader = PartReader(pa.OSFile(str(tmp_path / "part.parquet")), ["vector"])
    groups = [reader.group(i) for i in range(len(reader.group_ends))]
    assert pa.Table.from_batches(groups).equals(pa.table(batch).select(["vector"]))


def chunk(path, group=0):
    """The file and the vectors of a row group, as the footer tells of them."""
    return pa.OSFile(str(path)), pq.ParquetFile(path).metadata.row_group(group).column(1)


def test_vectors_that_are_there_need_no_decoder(tmp_path):
    """Those of a row group in which one is missing do."""
    column = vectors(2000, 700, missing=[1500])
    path = tmp_path / "part.parquet"
    write(path, column)
    assert read_plain(*chunk(path), column.type, 1000).equals(column[:1000])
    assert read_plain(*chunk(path, 1), column.type, 1000) is None
    groups = [PartReader(pa.OSFile(str(path)), ["vector"]).group(i).column(0) for i in (0, 1)]
    assert pa.chunked_array(groups).equals(pa.chunked_array([column]))


@pytest.mark.parametrize(
    "options",
    [
        {"write_page_checksum": False},
        {"write_page_checksum": True, "compression": "zstd"},
        {"write_page_checksum": True, "use_dictionary": True},
        {"write_page_checksum": True, "write_statistics": True},
        {"write_page_checksum": True, "data_page_version": "2.0"},
        {"write_page_checksum": True, "use_byte_stream_split": True},
    ],
    ids=str,
)
def test_pages_of_another_form_are_left_to_the_decoder(tmp_path, options):
    """Whatever a file says of its pages, its rows are right."""
    column = vectors(500, 40)
    table = pa.table({"id": np.arange(500), "vector": column})
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(table, tmp_path / "part.parquet", **{**plain, **options})
    assert read_plain(*chunk(tmp_path / "part.parquet"), column.type, 500) is None
    assert PartReader(pa.OSFile(str(tmp_path / "part.parquet")), ["vector"]).group(0).column(0).equals(column)


def test_no_damage_goes_unnoticed(tmp_path):
    """Any byte of a chunk of vectors may be another one: it is an error, or no vector is another one."""
    column = vectors(40, 9)
    path = tmp_path / "part.parquet"
    write(path, column)
    told = chunk(path)[1]
    content, start = path.read_bytes(), told.data_page_offset
    for at in range(start, start + told.total_compressed_size):
        damaged = content[:at] + bytes([content[at] ^ 0x11]) + content[at + 1 :]
        assert read_plain(pa.BufferReader(damaged), told, column.type, 40) in (None, column)
        try:
            found = PartReader(pa.BufferReader(damaged), ["vector"]).group(0).column(0)
        except StorageError:
            continue
        assert found.equals(column)
