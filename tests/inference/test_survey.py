"""Matching keys: the survey against a plain Python oracle, and on disk in buckets."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_modelstudio.inference import survey as survey_module
from airflow_provider_modelstudio.inference.dataset import open_source
from airflow_provider_modelstudio.inference.plan import make_plan
from airflow_provider_modelstudio.inference.survey import survey
from airflow_provider_modelstudio.inference.survey.recall import KEY
from airflow_provider_modelstudio.inference.tasks import Question
from airflow_provider_modelstudio.inference.tasks.text_embedding import TextEmbedding


class Alike(TextEmbedding):
    """Keys of which one half is always the same."""

    def questions(self, batch):
        questions = TextEmbedding.questions(self, batch)
        return [q._replace(key=bytes([1] * 8) + q.key[8:]) if isinstance(q, Question) else q for q in questions]


texts = st.lists(st.one_of(st.none(), st.sampled_from([f"text {i}" for i in range(8)])), max_size=60)


def _plan(source, part_rows):
    return make_plan(source.files, endpoint={}, settings={}, output={}, single_file=False, part_rows=part_rows)


def _keys(task, rows):
    questions = task.questions(pa.record_batch({"text": pa.array(rows, pa.string())}))
    return [getattr(q, "key", bytes(16)) for q in questions]


def _oracle(rows, known, sealed_parts, part_rows, *, share):
    """For each row that is left: where its answer comes from, by the definition."""
    on_record = {}
    for number, text in enumerate(known):
        on_record.setdefault(text, []).append(-2 - number)
    first, origins = {}, {}
    for row, text in enumerate(rows):
        if row // part_rows in sealed_parts:
            if not share and on_record.get(text):
                on_record[text].pop(0)
            continue
        if text is None:
            origins[row] = -1
        elif share:
            origins[row] = on_record[text][0] if text in on_record else first.setdefault(text, row)
        else:
            origins[row] = on_record[text].pop(0) if on_record.get(text) else row
    return origins


@pytest.mark.parametrize("task", [TextEmbedding(), Alike()], ids=lambda task: type(task).__name__)
@pytest.mark.parametrize("share", [True, False])
@given(
    rows=texts,
    known=texts,
    part_rows=st.integers(1, 20),
    sealed=st.sets(st.integers(0, 5)),
    bucket=st.integers(1, 40),
    block=st.integers(1, 9),
    window=st.integers(1, 9),
)
def test_origins_are_those_of_the_definition(
    tmp_path_factory, task, share, rows, known, part_rows, sealed, bucket, block, window
):
    """Whatever the buckets, blocks, windows and parts, each row gets the origin that the definition gives it."""
    folder = tmp_path_factory.mktemp("survey")
    pq.write_table(pa.table({"text": pa.array(rows, pa.string())}), folder / "in.parquet", row_group_size=7)
    source = open_source(LocalFileSystem(), str(folder / "in.parquet"))
    plan = _plan(source, part_rows)
    sealed = set(range(len(plan.parts))) & set(range(len(sealed)))  # parts are finished in order
    left = [part for part in plan.parts if part.index not in sealed]
    done = [text for row, text in enumerate(rows) if row // part_rows in sealed]
    (folder / "known").write_bytes(b"".join(_keys(task, known)))
    (folder / "sealed").write_bytes(b"".join(_keys(task, done)))
    before = survey_module.BUCKET_KEYS, survey_module.BLOCK_ROWS
    survey_module.BUCKET_KEYS, survey_module.BLOCK_ROWS = bucket, block
    try:
        found = survey(
            source,
            task,
            left,
            folder / "known",
            folder / "sealed",
            folder,
            share=share,
            previous=range(0),
            journal=range(0),
            built=len(done),
        )
        origins, keys, held = {}, [], {}
        for part in left:
            for first in range(part.first_row, part.end_row, window):
                at = found.read(held, part, first, min(window, part.end_row - first))
                assert len(held) <= 2 + -(-window // block)
                origins |= {first + i: int(origin) for i, origin in enumerate(at.origins)}
                keys.append(at.keys.tobytes())
    finally:
        survey_module.BUCKET_KEYS, survey_module.BLOCK_ROWS = before
    expected = _oracle(rows, known, sealed, part_rows, share=share)
    assert origins == expected
    assert b"".join(keys) == b"".join(_keys(task, [text for row, text in enumerate(rows) if row in expected]))
    assert found.asked == sum(1 for row, origin in expected.items() if origin == row)
    wanted = {origin for row, origin in expected.items() if origin >= 0 and origin != row}
    assert found.shared.tolist() == sorted(wanted)


@pytest.mark.parametrize("task", [TextEmbedding(), Alike()], ids=lambda task: type(task).__name__)
def test_rows_that_left_are_counted(tmp_path, task):
    """Removed rows are those of the previous version whose text is nowhere in this one."""
    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "in.parquet")
    source = open_source(LocalFileSystem(), str(tmp_path / "in.parquet"))
    (tmp_path / "known").write_bytes(b"".join(_keys(task, ["x", "a", "c", "c", "d", None])))
    (tmp_path / "sealed").write_bytes(b"".join(_keys(task, ["d"])))
    found = survey(
        source,
        task,
        _plan(source, 10).parts,
        tmp_path / "known",
        tmp_path / "sealed",
        tmp_path,
        share=True,
        previous=range(1, 6),
        journal=range(0),
        built=0,
    )
    assert found.removed == 2


def test_a_key_is_sixteen_bytes_of_two_numbers():
    """Keys on disk are read back as they were written."""
    key = bytes(range(16))
    (pair,) = np.frombuffer(key, KEY)
    assert pair.tobytes() == key
