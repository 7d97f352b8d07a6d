"""Nearest neighbours over what the operator wrote."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_modelstudio.sandbox.server import Sandbox
from demo.__main__ import QUESTIONS
from demo.questions import main, read_vectors


def write(folder, vectors, texts):
    embedding = pa.array(vectors, pa.list_(pa.float32(), 2))
    pq.write_table(pa.table({"text": texts, "embedding": embedding}), folder / "part.parquet")
    return read_vectors(folder)


def test_nearest_first_equal_texts_once(tmp_path):
    """The direction counts, not the length; rows without a vector and repeated texts do not appear."""
    vectors = write(
        tmp_path,
        [[0, 1], None, [5, 5], [9, 0.1], [3, 0], [3, 0]],
        ["up", "no vector", "slope", "nearly", "right", "right"],
    )
    found = vectors.nearest(np.array([0.5, 0], np.float32), 3)
    assert [row["text"] for _, row in found] == ["right", "nearly", "slope"]
    assert np.allclose([cosine for cosine, _ in found], [1, 0.99994, 0.70711], atol=1e-4)


@given(st.lists(st.tuples(*[st.floats(-1, 1, width=16)] * 2), min_size=1, max_size=20), st.integers(1, 25))
def test_never_more_than_there_are(tmp_path_factory, vectors, count):
    """However many are asked for, at most that many different texts come back, in falling order."""
    texts = [str(vector) for vector in vectors]
    found = write(tmp_path_factory.mktemp("vectors"), vectors, texts).nearest(np.array([1, 0], np.float32), count)
    assert len(found) == min(count, len(set(texts)))
    assert [cosine for cosine, _ in found] == sorted((cosine for cosine, _ in found), reverse=True)


def test_the_text_that_was_asked_for_is_the_first_answer(tmp_path, monkeypatch, capsys):
    """Each question is embedded by the endpoint and answered with the nearest text, Chinese ones as well."""
    with Sandbox(engine="hashed") as sandbox:
        connection = {"conn_type": "modelstudio", "host": sandbox.url}
        monkeypatch.setenv("AIRFLOW_CONN_MODELSTUDIO_DEFAULT", json.dumps(connection))
        texts = ["something else", *QUESTIONS]
        vectors = pa.array(
            sandbox.engine.embed(texts, query=False).tolist(), pa.list_(pa.float32(), sandbox.engine.dimensions)
        )
        names = [f"name{number}" for number in range(len(texts))]
        columns = {"package": names, "module": names, "object": names, "text": texts, "embedding": vectors}
        pq.write_table(pa.table(columns), tmp_path / "part.parquet")
        assert main([str(tmp_path), *QUESTIONS]) == 0
    shown = capsys.readouterr().out
    for number, question in enumerate(QUESTIONS, 1):
        assert f"\n  {question}\n    1. name{number}: name{number}.name{number}\n       {question}\n" in shown


def test_questions_of_the_demo():
    """There are three, and one of them is in Chinese."""
    assert len(QUESTIONS) == 3
    assert sum(any("\u4e00" <= letter <= "\u9fff" for letter in question) for question in QUESTIONS) == 1
