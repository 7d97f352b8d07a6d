"""What the operators write, read by programs of others: each row that failed is a null there, and no other row is."""

from __future__ import annotations

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from airflow_provider_modelstudio.operators.sparse_embedding import SparseEmbedOperator
from airflow_provider_modelstudio.operators.text_embedding import EmbedOperator

TEXTS = ["one", None, "two", "", *(f"text {number}" for number in range(2_000))]
"""More than a row group, with two texts that are not sent."""
FAILED = [1, 3]


def by_pyarrow(folder, column):
    return ds.dataset(folder, format="parquet").to_table().to_pylist()


def by_duckdb(folder, column):
    columns = f"id, {column}, {column}_error"
    found = duckdb.connect().execute(f"SELECT {columns} FROM '{folder}/*.parquet' ORDER BY id").fetchall()  # noqa: S608 - ours
    return [dict(zip(columns.split(", "), row, strict=True)) for row in found]


def by_polars(folder, column):
    return pl.read_parquet(f"{folder}/*.parquet").to_dicts()


READERS = [by_pyarrow, by_duckdb, by_polars]


@pytest.mark.parametrize("read", READERS)
def test_vectors(sandbox, run, tmp_path, read):
    """Vectors come out with their length, failed rows as null with a reason."""
    table = pa.table({"id": range(len(TEXTS)), "text": TEXTS})
    _, written = run(EmbedOperator, table, inference_id="bailian_embeddings")
    rows = read(tmp_path / "out", "embedding")
    assert [row["id"] for row in rows] == list(range(len(TEXTS)))
    assert [row["id"] for row in rows if row["embedding"] is None] == FAILED
    assert [row["id"] for row in rows if row["embedding_error"] is not None] == FAILED
    good = [row["embedding"] for row in rows if row["embedding"] is not None]
    assert {len(vector) for vector in good} == {sandbox.engine.dimensions}
    assert [list(vector) for vector in good] == [row["embedding"] for row in written if row["embedding"] is not None]


@pytest.mark.parametrize("read", READERS)
def test_sparse_vectors(sandbox, run, tmp_path, read):
    """A map is a map, or a list of keys and values, with as many entries; failed rows are null."""
    table = pa.table({"id": range(4), "text": TEXTS[:4]})
    _, written = run(SparseEmbedOperator, table, inference_id="bailian_sparse_emb")
    rows = read(tmp_path / "out", "sparse_embedding")
    assert [row["id"] for row in rows if row["sparse_embedding"] is None] == FAILED
    sizes = [len(row["sparse_embedding"] or ()) for row in rows]
    assert sizes == [len(row["sparse_embedding"] or ()) for row in written]
    assert max(sizes) > 0


def test_vectors_are_compared_in_duckdb(sandbox, run, tmp_path):
    """With the cast that the documentation gives, DuckDB computes with them."""
    run(EmbedOperator, pa.table({"id": range(4), "text": TEXTS[:4]}), inference_id="bailian_embeddings")
    kind = f"FLOAT[{sandbox.engine.dimensions}]"
    nearest = f"""
        SELECT b.id FROM '{tmp_path}/out/*.parquet' a, '{tmp_path}/out/*.parquet' b
        WHERE a.id = 0 AND b.embedding_error IS NULL
        ORDER BY array_cosine_similarity(a.embedding::{kind}, b.embedding::{kind}) DESC
    """  # noqa: S608 - ours
    assert duckdb.connect().execute(nearest).fetchall()[0] == (0,)
