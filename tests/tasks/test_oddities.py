"""What is strange about answers that are taken all the same."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_modelstudio.inference.tasks.oddities import CUT, ZEROS, oddities

VECTORS = st.lists(st.none() | st.lists(st.sampled_from([0.0, -0.0, 1.5]), min_size=3, max_size=3), max_size=30)


@pytest.mark.parametrize("values", [pa.float32(), pa.float16(), pa.int8()])
@given(vectors=VECTORS, cut=st.integers(0, 5))
def test_vectors_of_zeros_are_counted(values, vectors, cut):
    """Each vector of nothing but zeros counts, a missing one does not, wherever the column begins."""
    rows = [None if v is None else [values.to_pandas_dtype()(x) for x in v] for v in vectors]
    columns = pa.record_batch({"v": pa.array(rows, pa.list_(values, 3))}).slice(cut)
    zeros = sum(v is not None and not np.any(v) for v in vectors[cut:])
    assert oddities(columns) == ({ZEROS: zeros} if zeros else {})


def test_texts_that_were_cut_are_counted():
    """By the column that says so, whatever its prefix; columns of other types and names say nothing."""
    flags = pa.array([True, None, False, True])
    batch = pa.record_batch({"a_is_truncated": flags, "is_truncated": flags, "other": flags, "score": [0.0] * 4})
    assert oddities(batch) == {CUT: 4}
    assert oddities(batch.slice(1, 2)) == {}
