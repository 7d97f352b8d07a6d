"""What the log says at the end of a run."""

from __future__ import annotations

import logging

import pyarrow as pa
import pytest

from airflow_provider_modelstudio.operators.text_embedding import EmbedOperator


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["a", "b"], "all 2 rows of {} were answered before"),
        (["a", None], "1 of 2 rows of {} were answered before, 1 have a reason instead"),
        ([None, ""], "0 of 2 rows of {} were answered before, 2 have a reason instead"),
        ([], "the source has no rows"),
    ],
)
def test_a_run_with_nothing_to_ask_says_why(sandbox, run, tmp_path, caplog, texts, words):
    """Rows that were answered, rows that never will be, or no rows at all."""
    table = pa.table({"text": pa.array(texts, pa.string())})
    run(EmbedOperator, table, inference_id="bailian_embeddings", run_id="one")
    with caplog.at_level(logging.INFO):
        caplog.clear()
        summary, _ = run(EmbedOperator, None, inference_id="bailian_embeddings", run_id="two")
    assert summary["up_to_date"] is True
    (said,) = [record.getMessage() for record in caplog.records if "nothing to ask" in record.getMessage()]
    assert said == "nothing to ask: " + words.format(tmp_path / "out")
