"""A window becomes rows in input order, whatever the order of the answers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_modelstudio.inference.engine.window import Window
from airflow_provider_modelstudio.inference.plan import Part
from airflow_provider_modelstudio.inference.survey.recall import KEY

ANSWERS = pa.schema([("embedding", pa.list_(pa.field("element", pa.float32()), 2))])


@given(st.data(), st.integers(1, 40))
def test_rows_come_out_once_in_order_with_an_answer_or_a_reason(data, rows):
    """Answers given in any order and any grouping end up beside their row; failed rows have a reason and no key."""
    order = data.draw(st.permutations(range(rows)))
    failed = data.draw(st.sets(st.integers(0, rows - 1)))
    keys = np.frombuffer(b"\x01" * 16 * rows, KEY).copy()
    window = Window(Part(0, 100, rows), 100, pa.record_batch({"id": list(range(rows))}), keys)
    todo = [i for i in order if i not in failed]
    while todo:
        size = data.draw(st.integers(1, len(todo)))
        some, todo = todo[:size], todo[size:]
        columns = pa.RecordBatch.from_pylist([{"embedding": [i, -i]} for i in some], ANSWERS)
        window.give(np.array(some), columns)
        window.counts.embedded += len(some)
    for i in failed:
        assert not window.finished
        window.fail(i, f"reason {i}")
    assert window.finished
    assert window.counts.rows == rows
    built = window.build(ANSWERS, "embedding_error").to_pylist()
    for i, row in enumerate(built):
        expected = (None, f"reason {i}") if i in failed else ([i, -i], None)
        assert (row["id"], row["embedding"], row["embedding_error"]) == (i, *expected)
        assert (window.keys[i].tobytes() == bytes(16)) == (i in failed)
