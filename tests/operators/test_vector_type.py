"""Smaller vectors through the real operators: what is in the files, and that a change of form is not paid for."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_modelstudio.operators.multi_modal_embedding import MultiModalEmbedOperator
from airflow_provider_modelstudio.operators.text_embedding import EmbedOperator
from airflow_provider_modelstudio.sandbox.faults import Match, Refuse, Rule

POEM = ["风急天高猿啸哀", "渚清沙白鸟飞回", "无边落木萧萧下", "不尽长江滚滚来"]
DIMENSIONS = 384
SMALLER = pytest.mark.parametrize("vector_type", ["float16", "int8"])


@pytest.fixture(autouse=True)
def _quiet(recwarn):
    """Outside of a task runner Airflow says so."""


def paid(sandbox):
    return sum(one.count for one in sandbox.bill)


def written(tmp_path):
    table = pq.read_table(tmp_path / "out").combine_chunks()
    return table, np.stack(table["embedding"].to_numpy(zero_copy_only=False))


def embed(run, *texts, **parameters):
    return run(EmbedOperator, pa.table({"text": list(texts)}), inference_id="bailian_embeddings", **parameters)[0]


@SMALLER
def test_a_change_of_form_takes_the_float32_answers_on_record(sandbox, run, tmp_path, vector_type):
    """The vectors of a finished float32 run are converted and not asked again; only a new text is paid for.
    The way back finds the float32 answers, too.
    """
    embed(run, *POEM, run_id="monday")
    _, wide = written(tmp_path)
    before = paid(sandbox)
    summary = embed(run, *POEM, "a new line", run_id="tuesday", vector_type=vector_type)
    assert paid(sandbox) == before + 1
    assert (summary["embedded"], summary["reused"], summary["removed"]) == (1, 4, 0)
    table, small = written(tmp_path)
    kind = pa.float16() if vector_type == "float16" else pa.int8()
    assert table.schema.field("embedding").type == pa.list_(pa.field("element", kind), DIMENSIONS)
    if vector_type == "float16":
        assert (small[:4] == wide.astype(np.float16)).all()
    else:
        scales = table["embedding_scale"].to_numpy()[:, None]
        assert np.abs(small[:4] * scales[:4] - wide).max() <= scales.max() / 2 * 1.001
    summary = embed(run, *POEM, run_id="wednesday")
    assert paid(sandbox) == before + 1
    assert summary["requests"] == 0
    assert (written(tmp_path)[1] == wide).all()


def test_int8_answers_do_not_pass_for_float32(sandbox, run, tmp_path):
    """What was rounded cannot be made whole: a float32 run after an int8 run asks anew."""
    embed(run, *POEM, run_id="monday", vector_type="int8")
    before = paid(sandbox)
    summary = embed(run, *POEM, run_id="tuesday")
    assert paid(sandbox) == before + len(POEM)
    assert (summary["embedded"], summary["reused"]) == (4, 0)
    assert written(tmp_path)[0].column_names == ["text", "embedding", "embedding_error"]


@SMALLER
def test_a_second_run_of_the_same_form_asks_for_the_difference_alone(sandbox, run, tmp_path, vector_type):
    """Smaller vectors are recalled from parts and journal as they are, bit for bit."""
    embed(run, *POEM, run_id="monday", vector_type=vector_type)
    table, first = written(tmp_path)
    summary = embed(run, "a new line", *POEM, run_id="tuesday", vector_type=vector_type)
    assert (summary["embedded"], summary["reused"]) == (1, 4)
    again, second = written(tmp_path)
    assert (second[1:] == first).all()
    if vector_type == "int8":
        assert again["embedding_scale"][1:].to_pylist() == table["embedding_scale"].to_pylist()


def test_answers_of_a_float32_run_that_did_not_finish_are_converted(sandbox, run):
    """A run that failed has its answers in the journal: another form pays only for the rest."""
    sandbox.play([Rule(act=Refuse(error="data_inspection"), match=Match(contains=POEM[3]))])
    with pytest.raises(AirflowFailException, match="row 3 of the source was refused"):
        embed(run, *POEM, batch_size=2, on_row_error="fail")
    assert paid(sandbox) == 3
    sandbox.play([])
    summary = embed(run, *POEM, run_id="tuesday", vector_type="int8", batch_size=2)
    assert paid(sandbox) == len(POEM)
    assert (summary["embedded"], summary["reused"]) == (1, 3)


def test_reuse_from_takes_float32_answers_of_another_destination(sandbox, run, tmp_path):
    """The other destination may have the wider form."""
    embed(run, *POEM)
    before = paid(sandbox)
    summary = embed(
        run,
        *POEM,
        destination=str(tmp_path / "other"),
        reuse_from=str(tmp_path / "out"),
        vector_type="float16",
    )
    assert paid(sandbox) == before
    assert summary["reused"] == len(POEM)


def test_a_dry_run_counts_what_is_on_record_as_float32(sandbox, run):
    """The estimate says that a change of form costs nothing."""
    embed(run, *POEM)
    estimate = embed(run, *POEM, vector_type="int8", dry_run=True)
    assert (estimate["rows_to_ask"], estimate["requests_estimated"]) == (0, 0)


def test_overwrite_asks_anew_in_any_form(sandbox, run):
    """Whoever says that nothing on record counts is taken at their word."""
    embed(run, *POEM)
    before = paid(sandbox)
    embed(run, *POEM, run_id="again", vector_type="float16", if_exists="overwrite")
    assert paid(sandbox) == before + len(POEM)


def test_multi_modal_vectors_come_in_each_form(sandbox, run, tmp_path):
    """The other operator with dense vectors has the same parameter, which is a template."""
    table = pa.table({"image": ["https://example.com/a.jpg", "https://example.com/b.jpg"]})
    parameters = {"inference_id": "bailian_mm", "image_column": "image", "independent": True}
    run(MultiModalEmbedOperator, table, **parameters)
    before = paid(sandbox)
    _, rows = run(MultiModalEmbedOperator, table, **parameters, vector_type="int8")
    assert paid(sandbox) == before
    assert all(row["embedding_scale"] > 0 for row in rows)
    assert "vector_type" in MultiModalEmbedOperator.template_fields
