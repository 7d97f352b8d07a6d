"""In what form vectors are written: what is rounded, what is refused, and that the way there does not matter."""

from __future__ import annotations

import dataclasses
import struct

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_modelstudio.inference.errors import ConfigurationError
from airflow_provider_modelstudio.inference.tasks import Answer, Question
from airflow_provider_modelstudio.inference.tasks.vector_types import BEYOND_FLOAT16
from tests.tasks.binding import make_task
from tests.wire import CBOR, cbor_answer

DENSE = pytest.mark.parametrize("task_type", ["text_embedding", "multi_modal_embedding"])
SMALLER = pytest.mark.parametrize("vector_type", ["float16", "int8"])
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def matrices(draw, values=FINITE):
    rows, dimensions = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    flat = draw(st.lists(values, min_size=rows * dimensions, max_size=rows * dimensions))
    return np.array(flat, np.float32).reshape(rows, dimensions)


def decode(matrix, task_type="text_embedding", **settings):
    """What a task makes of an answer with these vectors."""
    task = make_task(task_type, **settings)
    body = cbor_answer({task_type: [{"embedding": [float(value) for value in row]} for row in matrix]})
    decoded = task.decode(Answer(body, CBOR), [Question(b"k" * 16, "text", 1, 4)] * len(matrix))
    decoded.columns.validate(full=True)
    assert tuple(decoded.columns.schema.names) == task.output_columns
    assert decoded.columns.schema == task.output_schema(matrix.shape[1])
    return decoded


def values(decoded, kind):
    return decoded.columns.column(0).flatten().to_numpy().view(kind)


@DENSE
def test_a_vector_is_written_as_wide_as_asked(task_type):
    """The column is a fixed-size list of the type that was named; only int8 has a scale beside it."""
    matrix = np.array([[0.5, -1.0, 0.25]], np.float32)
    kinds = {
        vector_type: dict(
            zip(
                (columns := decode(matrix, task_type, vector_type=vector_type).columns).schema.names,
                columns.schema.types,
                strict=True,
            )
        )
        for vector_type in ("float32", "float16", "int8")
    }
    element = {kind: pa.list_(pa.field("element", kind), 3) for kind in (pa.float32(), pa.float16(), pa.int8())}
    assert kinds == {
        "float32": {"embedding": element[pa.float32()]},
        "float16": {"embedding": element[pa.float16()]},
        "int8": {"embedding": element[pa.int8()], "embedding_scale": pa.float32()},
    }


@given(matrix=matrices(st.floats(-65504, 65504, width=32)))
def test_float16_is_the_nearest_there_is(matrix):
    """Each value is rounded as IEEE 754 says, by an implementation that is not numpy's."""
    decoded = decode(matrix, vector_type="float16")
    expected = [struct.unpack("<H", struct.pack("<e", value))[0] for value in matrix.reshape(-1).tolist()]
    assert decoded.refused == {}
    assert values(decoded, np.uint16).tolist() == expected


def test_a_vector_beyond_float16_is_refused_alone():
    """A value that would become infinite refuses its own row in words; its neighbours are written."""
    matrix = np.array([[1, 2], [65536, 0], [-1e30, 1], [65504, -65504]], np.float32)
    decoded = decode(matrix, vector_type="float16", on_too_long="truncate")
    assert decoded.refused == {1: BEYOND_FLOAT16, 2: BEYOND_FLOAT16}
    vectors, cut = (column.to_pylist() for column in decoded.columns.columns)
    assert vectors == [[1, 2], None, None, [65504, -65504]]
    assert cut == [False, None, None, False]


@given(matrix=matrices())
def test_int8_times_scale_is_within_half_a_step(matrix):
    """Whole numbers from -127 to 127; each value is at most half of the row's scale away, whatever its size."""
    decoded = decode(matrix, vector_type="int8")
    whole = values(decoded, np.int8).reshape(matrix.shape).astype(np.float64)
    scale = decoded.columns.column(1).to_numpy().astype(np.float64)[:, None]
    assert decoded.refused == {}
    assert np.abs(whole).max() <= 127
    half_a_step = 0.5 * scale * (1 + 1e-5) + 127 * 2.0**-150  # a scale below the smallest float is 0
    assert (np.abs(whole * scale - matrix) <= half_a_step).all()
    assert (np.abs(whole).max(axis=1) == 127)[scale[:, 0] > 1e-36].all()


def test_a_vector_of_zeros_has_scale_zero():
    """Nothing is divided by zero."""
    decoded = decode(np.zeros((1, 3), np.float32), vector_type="int8")
    assert decoded.columns.to_pylist() == [{"embedding": [0, 0, 0], "embedding_scale": 0.0}]


@SMALLER
def test_what_the_endpoint_spoilt_stays_refused(vector_type):
    """A vector with NaN is refused in every form, and has no scale."""
    decoded = decode(np.array([[1, np.nan], [1, 0.5]], np.float32), vector_type=vector_type)
    assert list(decoded.refused) == [0]
    assert [column[0].as_py() for column in decoded.columns.columns] == [None] * decoded.columns.num_columns


@DENSE
@SMALLER
@given(matrix=matrices())
def test_answers_on_record_become_what_asking_would_have_given(task_type, vector_type, matrix):
    """Float32 columns that are narrowed equal the columns of the same answer decoded anew, refusals included."""
    beside = {"on_too_long": "truncate"} if task_type == "text_embedding" else {}
    if task_type == "multi_modal_embedding":
        beside["independent"] = True
    wide = decode(matrix, task_type, **beside).columns
    task = make_task(task_type, vector_type=vector_type, **beside)
    told = decode(matrix, task_type, vector_type=vector_type, **beside)
    made = task.wider.narrow(wide.take(pa.array(np.arange(len(matrix)))))
    made.columns.validate(full=True)
    assert made.columns == told.columns
    assert made.refused == told.refused


@DENSE
@SMALLER
def test_the_form_tells_answers_apart_and_names_the_wider_ones(task_type, vector_type):
    """Settings differ by form, so that no run takes an answer for one of another form; float32 is the default's name."""
    task, wide = make_task(task_type, vector_type=vector_type), make_task(task_type)
    assert task.settings() != wide.settings()
    assert task.wider.settings == wide.settings()
    assert wide.wider is None
    assert dataclasses.replace(task, vector_type="float32") == wide


def test_another_form_is_refused_by_name():
    """A form that nobody has is named, with those there are."""
    with pytest.raises(ConfigurationError, match="vector_type is 'int4'; it is one of 'float32', 'float16', 'int8'"):
        make_task("text_embedding", vector_type="int4")
