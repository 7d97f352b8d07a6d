"""Answers with dense vectors: bit for bit when they are sound, and what happens when they are not."""

from __future__ import annotations

import json
import math
import struct

import cbor2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_modelstudio.inference.errors import AnswerError, BottomlessAnswerError
from airflow_provider_modelstudio.inference.tasks import Answer
from airflow_provider_modelstudio.inference.tasks.text_embedding import TextEmbedding
from airflow_provider_modelstudio.inference.tasks.vectors import cbor_matrix, msgspec_matrix, simdjson_matrix
from tests.tasks.binding import ask, make_task, texts
from tests.wire import CBOR, JSON, cbor_answer, json_answer

DENSE = pytest.mark.parametrize("task_type", ["text_embedding", "multi_modal_embedding"])
NOT_FINITE = "vector holds a value that is not a finite number"
FLOAT32 = st.integers(0, 2**32 - 1).map(lambda bits: struct.unpack("<f", struct.pack("<I", bits))[0])


def answer_of(task_type, *vectors):
    return {task_type: [{"embedding": list(vector)} for vector in vectors]}


def decode(body, rows, content_type=JSON, task_type="text_embedding", **settings):
    if task_type == "multi_modal_embedding" and rows > 1:
        settings |= {"independent": True}
    task = make_task(task_type, **settings)
    decoded = task.decode(Answer(body, content_type), ask(task, texts(*[f"row {i}" for i in range(rows)])))
    decoded.columns.validate(full=True)
    return decoded


def bits(column):
    return column.flatten().to_numpy().view(np.uint32).tolist()


@st.composite
def matrices(draw, values=FLOAT32, kind=np.float32):
    rows, dimensions = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    flat = draw(st.lists(values, min_size=rows * dimensions, max_size=rows * dimensions))
    return np.array(flat, kind).reshape(rows, dimensions)


def shortest(value):
    """The digits a server prints for a float of 32 bits, and the names Python has for what is no number."""
    return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value) or ("NaN" if value != value else str(value))  # noqa: PLR0124  # NaN alone


def json_matrix(matrix):
    rows = ['{"embedding":[' + ",".join(shortest(value) for value in row) + "]}" for row in matrix]
    return b'{"text_embedding":[' + ",".join(rows).encode() + b"]}"


@given(matrices())
@pytest.mark.parametrize("content_type", [JSON, CBOR])
def test_any_float_comes_through_bit_for_bit(content_type, matrix):
    """Each finite vector is the one that was sent, in bits; each other one is refused and null, alone."""
    body = json_matrix(matrix) if content_type == JSON else cbor_answer(answer_of("text_embedding", *matrix.tolist()))
    decoded = decode(body, len(matrix), content_type)
    column = decoded.columns.column(0)
    finite = np.isfinite(matrix).all(axis=1)
    assert decoded.refused == dict.fromkeys(np.flatnonzero(~finite).tolist(), NOT_FINITE)
    assert column.is_valid().to_pylist() == finite.tolist()
    assert bits(column) == matrix[finite].view(np.uint32).reshape(-1).tolist()
    assert column.type == pa.list_(pa.field("element", pa.float32()), matrix.shape[1])


@given(matrices(st.floats(-1e38, 1e38), np.float64))
def test_numbers_of_64_bits_are_rounded_to_the_nearest(matrix):
    """What is sent with more digits than a float32 holds is rounded as IEEE 754 says, in any reader."""
    body = json_answer(answer_of("text_embedding", *matrix.tolist()))
    expected = matrix.astype(np.float32).view(np.uint32).reshape(-1).tolist()
    assert bits(decode(body, len(matrix)).columns.column(0)) == expected
    assert bits(decode(cbor2.dumps(json.loads(body)), len(matrix), CBOR).columns.column(0)) == expected


@given(matrices(), st.data())
def test_the_readers_of_json_agree(matrix, data):
    """Whatever the accelerator reads, the reader without it reads the same; damage included."""
    pytest.importorskip("simdjson")
    body = json_answer(answer_of("text_embedding", *np.nan_to_num(matrix).tolist()))
    at, byte = data.draw(st.integers(0, len(body) - 1)), data.draw(st.sampled_from(b'0.e-,[]{}" \x00\xff'))
    for text in (body, body[:at] + bytes([byte]) + body[at + 1 :]):
        fast, slow = simdjson_matrix(text, "text_embedding"), msgspec_matrix(text, "text_embedding")
        if fast is not None:
            assert slow is not None
            assert fast.tobytes() == slow.tobytes()


def test_each_fast_reader_reads_a_sound_answer():
    """None of the fast ways is left unused by an answer as servers write it."""
    answer = answer_of("text_embedding", [0.5, -1.25], [1e-7, 3.0])
    expected = np.array([[0.5, -1.25], [1e-7, 3.0]], np.float32).tobytes()
    pytest.importorskip("simdjson")
    for matrix in (
        simdjson_matrix(json_answer(answer), "text_embedding"),
        msgspec_matrix(json_answer(answer), "text_embedding"),
        cbor_matrix(cbor_answer(answer), "text_embedding", 2),
    ):
        assert matrix is not None
        assert matrix.tobytes() == expected


def test_the_column_is_made_without_a_copy():
    """Arrow allocates masks and no values, for an answer with and without a vector refused."""
    for last in (0.5, math.nan):
        body = cbor_answer(answer_of("text_embedding", [0.5] * 4096, [0.5] * 4095 + [last]))
        before = pa.total_allocated_bytes()
        column = decode(body, 2, CBOR).columns.column(0)
        assert column.values.buffers()[1].size == 2 * 4096 * 4
        assert pa.total_allocated_bytes() - before <= 2 * 4096 * 4 + 256  # the matrix itself, once


@DENSE
@pytest.mark.parametrize(
    "value",
    [
        "NaN",
        "Infinity",
        "-Infinity",
        "1e400",
        "-1e400",
        "1e39",
        '"0.5"',
        "null",
        "true",
        "{}",
        "[0.5]",
        "[]",
        "9" * 400,
    ],
)
def test_a_value_that_is_no_finite_number_refuses_its_row_alone(task_type, value):
    """Everything a broken model may put among its numbers refuses that vector, and leaves the others."""
    body = f'{{"{task_type}":[{{"embedding":[0.5,1]}},{{"embedding":[{value},0.25]}},{{"embedding":[-1,2]}}]}}'
    decoded = decode(body.encode(), 3, task_type=task_type)
    assert decoded.refused == {1: NOT_FINITE}
    assert decoded.columns.column(0).to_pylist() == [[0.5, 1.0], None, [-1.0, 2.0]]


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, None, True, "0.5", b"\x00", [0.5], {}, 1e39, 10**400, cbor2.undefined]
)
def test_the_same_in_cbor(value):
    """CBOR can hold more that is no finite number, and none of it gets through."""
    decoded = decode(cbor2.dumps(answer_of("text_embedding", [0.5, 1], [value, 0.25], [-1, 2])), 3, CBOR)
    assert decoded.refused == {1: NOT_FINITE}
    assert decoded.columns.column(0).to_pylist() == [[0.5, 1.0], None, [-1.0, 2.0]]


def test_vectors_of_zeros_are_taken():
    """A model may find nothing in a text; that is an answer."""
    decoded = decode(cbor_answer(answer_of("text_embedding", [0.0, -0.0])), 1, CBOR)
    assert decoded.refused == {}
    assert bits(decoded.columns.column(0)) == [0, 0x80000000]


def test_every_row_may_be_refused():
    """An answer without one sound vector has the right shape nevertheless."""
    decoded = decode(b'{"text_embedding":[{"embedding":[NaN,1]},{"embedding":[null,1]}]}', 2)
    assert decoded.refused == dict.fromkeys((0, 1), NOT_FINITE)
    assert decoded.columns.column(0).to_pylist() == [None, None]
    assert decoded.columns.schema == TextEmbedding().output_schema(2)


BROKEN = {
    "too few": (answer_of("text_embedding", [0.5, 1.0]), "1 vectors for 2 questions"),
    "too many": (answer_of("text_embedding", *[[0.5, 1.0]] * 3), "3 vectors for 2 questions"),
    "none": (answer_of("text_embedding"), "0 vectors for 2 questions"),
    "ragged": (answer_of("text_embedding", [0.5, 1.0], [0.5]), "from 1 to 2 values"),
    "one empty": (answer_of("text_embedding", [0.5, 1.0], []), "from 0 to 2 values"),
    "all empty": (answer_of("text_embedding", [], []), "the vectors are empty"),
    "no vector": ({"text_embedding": [{"embedding": [0.5]}, {}]}, "no list 'embedding'"),
    "null vector": ({"text_embedding": [{"embedding": [0.5]}, {"embedding": None}]}, "no list 'embedding'"),
    "vector as text": ({"text_embedding": [{"embedding": "AACAPw=="}] * 2}, "no list 'embedding'"),
    "bare lists": ({"text_embedding": [[0.5], [0.5]]}, "no list 'embedding'"),
    "null rows": ({"text_embedding": None}, "is a NoneType, not a list"),
    "rows as object": ({"text_embedding": {"0": {"embedding": [0.5]}}}, "is a dict, not a list"),
    "bytes": ({"text_embedding_bytes": [{"embedding": [1, 2]}] * 2}, "vectors of bytes ('text_embedding_bytes')"),
    "bits": ({"text_embedding_bits": [{"embedding": [1, 2]}] * 2}, "vectors of bits ('text_embedding_bits')"),
    "another task": ({"sparse_embedding": []}, "the answer has no 'text_embedding'"),
    "an error": ({"error": {"reason": "no"}, "status": 500}, "the answer has no 'text_embedding'"),
    "a list": ([{"embedding": [0.5]}] * 2, "is a list, not an object"),
    "a number": (7, "is a int, not an object"),
}


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize(("write", "content_type"), [(json_answer, JSON), (cbor_answer, CBOR)], ids=["json", "cbor"])
def test_an_answer_of_another_shape_is_refused_as_a_whole(fault, write, content_type):
    """Nothing is guessed: a short list is not zipped, ragged vectors are not padded."""
    answer, words = BROKEN[fault]
    with pytest.raises(AnswerError) as caught:
        decode(write(answer), 2, content_type)
    assert words in str(caught.value)


def test_other_dimensions_than_expected_are_refused():
    """The dimensions that were asked for are compared with those that came."""
    body = json_answer(answer_of("text_embedding", [0.5, 1.0, 2.0]))
    assert decode(body, 1, dimensions=3).columns.num_rows == 1
    with pytest.raises(AnswerError, match="the vectors have 3 values; 2 were expected"):
        decode(body, 1, dimensions=2)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"text_embedding":[{"embedding":[0.5]}]',
        b'{"text_embedding":[{"embedding":[0.5]}]}x',
        b'{"text_embedding":[{"embedding":[0.5]}]}{"text_embedding":[{"embedding":[0.5]}]}',
        b'{"text_embedding":[{"embedding":[0.5,]}]}',
        b'{"text_embedding":[{"embedding":[.5]}]}',
        b'{"text_embedding":[{"embedding":[0x5]}]}',
        b"{'text_embedding':[{'embedding':[0.5]}]}",
        b'\xef\xbb\xbf{"text_embedding":[{"embedding":[0.5]}]}',
        '{"text_embedding":[{"embedding":[0.5]}]}'.encode("utf-16"),
        b'{"text_embedding":[{"embedding":[0.25]}],"text_embedding":[{"embedding":[0.5]}]}',
        b'{"text_embedding":[{"embedding":[0.25],"embedding":[0.5]}]}',
        b'{"text_embedding":[{"embedding":[0.5]}],"text_embedding":7}',
        b'{"text_embedding":[{"embedding":[0.5],"embedding":7}]}',
        b'{"text_embedding":[{"embedding":[0.5]}],"x":{"a":1,"a":2}, "text_embedding_":NaN}',
        b'{"text_embedding":[{"embedding":[0.5]}],"x":"\\ud800"}',
        b"<html><title>Login</title></html>",
        cbor_answer(answer_of("text_embedding", [0.5])),
    ],
    ids=lambda body: repr(body[:60]),
)
def test_json_that_is_damaged_is_refused(body):
    """Cut, doubled or misspelt bytes are told from an answer, without quoting them."""
    with pytest.raises(AnswerError) as caught:
        decode(body, 1)
    assert str(caught.value) == f"the answer ({len(body)} bytes) is not valid JSON"
    assert caught.value.__cause__ is None


GOOD = cbor_answer(answer_of("text_embedding", [0.5]))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        GOOD[:-1],
        GOOD[:-3],
        GOOD + b"\x00",
        GOOD + GOOD,
        b"\xff",
        bytes.fromhex("bf6e746578745f656d62656464696e679bffffffffffffffff"),
        bytes.fromhex("bf 6e746578745f656d62656464696e67 80 6e746578745f656d62656464696e67 80 ff"),
        bytes.fromhex("bf 61 ff 00 ff"),
        json_answer(answer_of("text_embedding", [0.5])),
    ],
    ids=lambda body: body[:20].hex(),
)
def test_cbor_that_is_damaged_is_refused(body):
    """The same for CBOR: cut, doubled, or claiming lengths beyond its end."""
    with pytest.raises(AnswerError) as caught:
        decode(body, 1, CBOR)
    assert str(caught.value) == f"the answer ({len(body)} bytes) is not valid CBOR"


NESTS = [
    *(
        (media, opening * depth + inner + closing * depth)
        for depth in (66, 390, 900, 100_000)
        for media, opening, inner, closing in (
            (JSON, b"[", b"", b"]"),
            (JSON, b'{"text_embedding":', b"7", b"}"),
            (JSON, b'{"text_embedding":[{"embedding":[', b"0.5", b"]}]}"),
            (CBOR, b"\x81", b"\x00", b""),
            (CBOR, b"\x9f", b"", b"\xff"),
            (CBOR, b"\xa1\x6etext_embedding", b"\x00", b""),
        )
    ),
    (JSON, b"[" * 100_000),
    (JSON, b'{"text_embedding":' * 100_000),
    (CBOR, b"\x9f" * 100_000),
    (CBOR, b"\x81" * 100_000),
]


@pytest.mark.parametrize(("media", "body"), NESTS, ids=[f"{len(body)} {body[:20]!r}" for _, body in NESTS])
def test_an_answer_without_a_bottom_has_a_fault_of_its_own(media, body):
    """Lists and objects within each other, deeper than an answer can be, whether or not they end: nobody need ask again."""
    with pytest.raises(BottomlessAnswerError, match="more than 64 levels of lists and objects"):
        decode(body, 1, media)


@pytest.mark.parametrize("media", [JSON, CBOR])
def test_levels_that_an_answer_may_come_to_have_are_followed(media):
    """A name that nobody knows yet may hold something with some levels."""
    answer = {**answer_of("text_embedding", [0.5]), "usage": 7}
    for _ in range(60):
        answer["usage"] = [answer["usage"]]
    body = json_answer(answer) if media == JSON else cbor_answer(answer)
    assert decode(body, 1, media).columns.column(0).to_pylist() == [[0.5]]


@pytest.mark.parametrize(
    "media", ["", "text/html", "application/smile", "application/yaml", "application/vnd.elasticsearch+x"]
)
def test_a_format_that_was_not_asked_for_is_refused(media):
    """The type of the answer decides how it is read, and one that is neither is not tried."""
    with pytest.raises(AnswerError, match="JSON or CBOR was expected"):
        decode(json_answer(answer_of("text_embedding", [0.5])), 1, media)


def test_each_byte_of_the_fast_layout_counts():
    """Any byte of a CBOR answer that is not part of a value, changed, is noticed by the fast reader."""
    body = cbor_answer(answer_of("text_embedding", [0.5, 1.5], [2.5, 3.5]))
    values = {body.index(struct.pack(">f", value)) + i for value in (0.5, 1.5, 2.5, 3.5) for i in range(4)}
    for at in range(len(body)):
        damaged = body[:at] + bytes([body[at] ^ 0x01]) + body[at + 1 :]
        assert (cbor_matrix(damaged, "text_embedding", 2) is None) == (at not in values)


@pytest.mark.parametrize("rows", [1, 2])
def test_a_model_that_answers_otherwise_than_told_is_explained(rows):
    """Four vectors for one row of several elements: the message has the counts and says what to do."""
    body = json_answer(answer_of("multi_modal_embedding", *[[0.5]] * 4))
    with pytest.raises(AnswerError, match=rf"4 vectors for {rows} questions; .*independent=True"):
        decode(body, rows, task_type="multi_modal_embedding")
