"""Answers with weighted tokens."""

from __future__ import annotations

import json
import math

import cbor2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_modelstudio.inference.errors import AnswerError, ConfigurationError
from airflow_provider_modelstudio.inference.tasks import Answer
from airflow_provider_modelstudio.inference.tasks.sparse_embedding import NOT_FINITE, TRUNCATED, SparseEmbedding
from tests.tasks.binding import as_float32, ask, texts
from tests.wire import CBOR, JSON, cbor_answer, json_answer

MAPS = st.dictionaries(st.text(), st.floats(width=32, allow_nan=False, allow_infinity=False))
FORMAT = pytest.mark.parametrize(
    ("write", "content_type"), [(json_answer, JSON), (cbor_answer, CBOR)], ids=["json", "cbor"]
)


def answer_of(*maps, is_truncated=False):
    return {"sparse_embedding": [{"is_truncated": is_truncated, "embedding": tokens} for tokens in maps]}


def decode(body, rows, content_type=JSON, **settings):
    task = SparseEmbedding(**settings)
    decoded = task.decode(Answer(body, content_type), ask(task, texts(*[f"row {i}" for i in range(rows)])))
    decoded.columns.validate(full=True)
    return decoded


@given(st.lists(MAPS, min_size=1, max_size=4))
@FORMAT
def test_any_tokens_come_through_bit_for_bit(write, content_type, maps):
    """Tokens stay strings whatever they look like, weights stay the floats they are, order is kept."""
    decoded = decode(write(answer_of(*maps)), len(maps), content_type)
    assert decoded.refused == {}
    expected = [list(tokens.items()) for tokens in maps]
    assert as_float32(decoded.columns.column(0).to_pylist()) == as_float32(expected)
    assert decoded.columns.schema == SparseEmbedding().output_schema(None)


@pytest.mark.parametrize(
    "body",
    [
        '{"sparse_embedding":[{"is_truncated":false,"embedding":{"1":0.5,"1":0.6}}]}',
        '{"sparse_embedding":[{"is_truncated":false,"embedding":{"1":0.5,"\\u0031":0.6}}]}',
        '{"sparse_embedding":[{"embedding":{"1":0.5},"embedding":{"2":0.5}}]}',
        '{"sparse_embedding":[{"is_truncated":false,"embedding":{"1" : 0.5, "1" : 0.6}}]}',
    ],
)
def test_a_token_that_is_there_twice_is_no_answer_in_either_form(body):
    """Nobody can say which weight is meant; JSON refuses what CBOR refuses."""
    with pytest.raises(AnswerError, match="is not valid JSON"):
        decode(body.encode(), 1)
    twice = b"\xbf" + cbor_answer("1") + cbor_answer(0.5) + cbor_answer("1") + cbor_answer(0.6) + b"\xff"
    row = b"\xbf" + cbor_answer("embedding") + twice + b"\xff"
    answer = b"\xbf" + cbor_answer("sparse_embedding") + b"\x9f" + row + b"\xff\xff"
    with pytest.raises(AnswerError, match="is not valid CBOR"):
        decode(answer, 1, CBOR)


def test_a_token_may_look_like_a_name():
    """Colons and quotes in tokens are text, and both ways of reading give the same."""
    odd = {":": 1.0, 'a":1,"b': 2.0, "is_truncated": 0.5, "http://": 3.0}
    assert decode(json_answer(answer_of(odd)), 1).columns.column(0).to_pylist() == [list(odd.items())]


@given(st.lists(MAPS, min_size=1, max_size=3), st.integers(1, 4), st.floats(-10, 10))
def test_the_heaviest_tokens_are_kept(maps, top_k, min_weight):
    """What is kept is heavy enough, in the order of the answer, and nothing left out is heavier."""
    decoded = decode(json_answer(answer_of(*maps)), len(maps), top_k=top_k, min_weight=min_weight)
    for tokens, kept in zip(maps, decoded.columns.column(0).to_pylist(), strict=True):
        names = [token for token, _ in kept]
        least = float(np.float32(min_weight))
        enough = [weight for weight in tokens.values() if weight >= least]
        assert names == [token for token in tokens if token in set(names)]
        assert len(names) == min(top_k, len(enough))
        left_out = [weight for token, weight in tokens.items() if weight >= least and token not in names]
        assert all(tokens[token] >= weight for token in names for weight in left_out)


@FORMAT
def test_weights_are_compared_as_they_are_written(write, content_type):
    """0.7 is not lighter than 0.7, and what differs beyond a float32 is equal: JSON keeps what CBOR keeps."""
    kept = decode(write(answer_of({"a": 0.7, "b": 0.69, "c": 1.5})), 1, content_type, min_weight=0.7)
    assert [token for token, _ in kept.columns.column(0).to_pylist()[0]] == ["a", "c"]
    nearly = {"first": 0.70000000001, "second": 0.70000000002}
    kept = decode(write(answer_of(nearly)), 1, content_type, top_k=1)
    assert [token for token, _ in kept.columns.column(0).to_pylist()[0]] == ["first"]


def test_of_equal_weights_the_first_is_kept():
    """Ties go to the token that comes first, each time."""
    decoded = decode(json_answer(answer_of({"b": 1.0, "a": 1.0, "c": 1.0})), 1, top_k=2)
    assert decoded.columns.column(0).to_pylist() == [[("b", 1.0), ("a", 1.0)]]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e400", "1e39", '"0.5"', "null", "true", "[]", "{}", "9" * 400])
def test_a_weight_that_is_no_finite_number_refuses_its_row_alone(value):
    """A broken weight refuses its text, whose flag is null too; the others stay."""
    rows = ",".join('{"is_truncated":true,"embedding":{"1":0.5,"2":' + weight + "}}" for weight in ("1", value, "2"))
    decoded = decode(b'{"sparse_embedding":[' + rows.encode() + b"]}", 3)
    assert decoded.refused == {1: NOT_FINITE}
    assert decoded.columns.to_pydict() == {
        "sparse_embedding": [[("1", 0.5), ("2", 1.0)], None, [("1", 0.5), ("2", 2.0)]],
        "is_truncated": [True, None, True],
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, None, True, "0.5", b"", [], 1e39, cbor2.undefined])
def test_the_same_in_cbor(value):
    """The same where the format can hold more that is no number."""
    decoded = decode(cbor2.dumps(answer_of({"1": 0.5}, {"1": value})), 2, CBOR)
    assert decoded.refused == {1: NOT_FINITE}
    assert decoded.columns.column(0).to_pylist() == [[("1", 0.5)], None]


def test_a_text_that_the_model_cut_is_refused_on_demand():
    """on_truncation='null': its row alone has a reason and no weights; one that the model does not tell about is kept."""
    answer = {
        "sparse_embedding": [
            {"is_truncated": True, "embedding": {"1": 0.5}},
            {"is_truncated": False, "embedding": {"2": 0.5}},
            {"embedding": {"3": 0.5}},
        ]
    }
    decoded = decode(json_answer(answer), 3, on_truncation="null")
    assert decoded.refused == {0: TRUNCATED}
    assert decoded.columns.to_pylist()[0] == {"sparse_embedding": None, "is_truncated": None}
    assert [row["sparse_embedding"] for row in decoded.columns.to_pylist()[1:]] == [[("2", 0.5)], [("3", 0.5)]]
    assert SparseEmbedding(on_truncation="null").settings() != SparseEmbedding().settings()
    with pytest.raises(ConfigurationError, match="on_truncation"):
        SparseEmbedding(on_truncation="fail")


@FORMAT
def test_the_flag_is_null_where_the_model_does_not_tell(write, content_type):
    """A missing or null ``is_truncated`` is not read as false."""
    answer = {"sparse_embedding": [{"embedding": {"1": 0.5}}, {"is_truncated": None, "embedding": {"1": 0.5}}]}
    assert decode(write(answer), 2, content_type).columns.column(1).to_pylist() == [None, None]


def test_a_text_that_we_cut_is_marked():
    """A text cut before it was sent is truncated, whatever the model says."""
    task = SparseEmbedding(max_tokens=2, on_too_long="truncate")
    questions = ask(task, texts("this one is too long", "short"))
    decoded = task.decode(Answer(json_answer(answer_of({}, {})), JSON), questions)
    assert decoded.columns.column("is_truncated").to_pylist() == [True, False]


BROKEN = {
    "too few": (answer_of({}), "1 rows for 2 questions"),
    "too many": (answer_of({}, {}, {}), "3 rows for 2 questions"),
    "no tokens": ({"sparse_embedding": [{"is_truncated": False}] * 2}, "no object 'embedding'"),
    "a vector": (answer_of([0.5], [0.5]), "no object 'embedding'"),
    "null": (answer_of(None, None), "no object 'embedding'"),
    "bare": ({"sparse_embedding": [{"1": 0.5}] * 2}, "no object 'embedding'"),
    "flag as text": (answer_of({}, {}, is_truncated="no"), "not true or false"),
    "flag as number": (answer_of({}, {}, is_truncated=0), "not true or false"),
    "another task": ({"text_embedding": []}, "the answer has no 'sparse_embedding'"),
}


@pytest.mark.parametrize("fault", BROKEN)
@FORMAT
def test_an_answer_of_another_shape_is_refused_as_a_whole(fault, write, content_type):
    """Nothing is guessed about an answer that is not the one asked for."""
    answer, words = BROKEN[fault]
    with pytest.raises(AnswerError) as caught:
        decode(write(answer), 2, content_type)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        b'{"sparse_embedding":[{"embedding":{}}],"sparse_embedding":[{"embedding":{}}]}',
        b'{"sparse_embedding":[{"embedding":{"\\ud800":0.5}}]}',
        b'{"sparse_embedding":[{"embedding":{"a":1}}]}}',
    ],
)
def test_json_that_is_damaged_is_refused(body):
    """Rows given twice, tokens that are no text and bytes after the end are no answer."""
    with pytest.raises(AnswerError, match="not valid JSON"):
        decode(body, 1)


def test_tokens_of_cbor_that_are_no_text_are_refused():
    """A number as key is not turned into a token."""
    with pytest.raises(AnswerError, match="no object 'embedding'"):
        decode(cbor2.dumps(answer_of({35727: 0.5})), 1, CBOR)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"top_k": 0}, "top_k is 0"),
        ({"min_weight": math.nan}, "min_weight is nan"),
        ({"min_weight": "1"}, "min_weight is '1'"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings, words):
    """A wrong setting is told by name and value."""
    with pytest.raises(ConfigurationError) as caught:
        SparseEmbedding(**settings)
    assert words in str(caught.value)


def test_thinning_is_part_of_what_decides_the_answer():
    """Tasks that keep other tokens do not share answers."""
    kinds = [SparseEmbedding(), SparseEmbedding(top_k=1), SparseEmbedding(min_weight=0.5)]
    assert len({json.dumps(dict(task.settings())) for task in kinds}) == 3


def test_weights_are_not_widened():
    """The type is what it says: 32 bits a weight."""
    column = decode(json_answer(answer_of({"a": 0.1})), 1).columns.column(0)
    assert column.type == pa.map_(pa.string(), pa.float32())
    assert column.items.to_numpy().dtype == np.float32
