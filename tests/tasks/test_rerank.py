"""Queries with their documents, and rankings in whatever order and shape they come."""

from __future__ import annotations

import json
import math

import cbor2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_modelstudio.inference.errors import AnswerError, ConfigurationError, InputError
from airflow_provider_modelstudio.inference.tasks import Answer, Question, Refused, RequestLimits
from airflow_provider_modelstudio.inference.tasks.rerank import NOT_FINITE, Rerank
from airflow_provider_modelstudio.inference.tasks.tokens import estimate_tokens
from tests.tasks.binding import ask
from tests.wire import CBOR, JSON, json_answer


def rows(*pairs, kind=None):
    queries, documents = zip(*pairs, strict=True)
    return pa.record_batch(
        {"query": pa.array(queries, pa.string()), "documents": pa.array(documents, kind or pa.list_(pa.string()))}
    )


def answer_of(*entries):
    return {"rerank": [{"index": index, "relevance_score": score} for index, score in entries]}


def decode(body, documents, content_type=JSON, **settings):
    task = Rerank(**settings)
    decoded = task.decode(Answer(body, content_type), ask(task, rows(("q", documents))))
    decoded.columns.validate(full=True)
    return decoded


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=8), st.data())
def test_any_ranking_is_sorted_by_score_then_by_input(scores, data):
    """In whatever order the service answers, the best comes first, and of equals the one that came first."""
    order = data.draw(st.permutations(range(len(scores))))
    top_n = data.draw(st.none() | st.integers(1, 9))
    body = json_answer(answer_of(*[(index, scores[index]) for index in order]))
    decoded = decode(body, [f"d{i}" for i in range(len(scores))], top_n=top_n, return_documents=True)
    (ranked,) = decoded.columns.column(0).to_pylist()
    exact = np.array(scores, np.float32)
    expected = sorted(range(len(scores)), key=lambda index: (-exact[index], index))[:top_n]
    assert [entry["index"] for entry in ranked] == expected
    assert [entry["relevance_score"] for entry in ranked] == [float(exact[index]) for index in expected]
    assert [entry["document"] for entry in ranked] == [f"d{index}" for index in expected]


def test_scores_that_differ_only_beyond_32_bits_are_equal():
    """The order agrees with the scores that are written, not with digits nobody sees."""
    (ranked,) = decode(json_answer(answer_of((1, 0.1 + 1e-12), (0, 0.1))), ["a", "b"]).columns.column(0).to_pylist()
    assert [entry["index"] for entry in ranked] == [0, 1]


@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", "-Infinity", "1e400", "1e39", '"NaN"', '"high"', '""', "null", "true", "[]", "9" * 400]
)
def test_a_score_that_is_no_finite_number_refuses_the_row(value):
    """A broken score is never taken for 0, or for any other."""
    body = '{"rerank":[{"index":0,"relevance_score":0.5},{"index":1,"relevance_score":' + value + "}]}"
    decoded = decode(body.encode(), ["a", "b"])
    assert decoded.refused == {0: NOT_FINITE}
    assert decoded.columns.column(0).to_pylist() == [None]


def test_a_missing_score_refuses_the_row():
    """Nor is a score that is not there."""
    assert decode(b'{"rerank":[{"index":0}]}', ["a"]).refused == {0: NOT_FINITE}


def test_the_same_in_cbor():
    """CBOR's own NaN is seen."""
    assert decode(cbor2.dumps(answer_of((0, math.nan))), ["a"], CBOR).refused == {0: NOT_FINITE}


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([(0, 0.5), (0, 0.5)], "ranks document 0 twice"),
        ([(0, 0.5), ("0", 0.5)], "ranks document 0 twice"),
        ([(0, 0.5)], "ranks 1 of 2 documents"),
        ([], "ranks 0 of 2 documents"),
        ([(0, 0.5), (2, 0.5)], "ranks document 2, but there are 2"),
        ([(0, 0.5), (-1, 0.5)], "ranks document -1, but there are 2"),
        ([(0, 0.5), (1, 0.5), (2, 0.5)], "ranks document 2, but there are 2"),
        ([(0, 0.5), (1.5, 0.5)], "no whole number as index"),
        ([(0, 0.5), (None, 0.5)], "no whole number as index"),
        ([(0, 0.5), (True, 0.5)], "no whole number as index"),
        ([(0, 0.5), ("one", 0.5)], "no whole number as index"),
        ([(0, 0.5), ("²", 0.5)], "no whole number as index"),
        ([(0, 0.5), ("", 0.5)], "no whole number as index"),
        ([(0, 0.5), ("9" * 5000, 0.5)], "no whole number as index"),
        ([(0, 0.5), (10**400, 0.5)], "ranks document 1"),
    ],
)
def test_an_index_that_cannot_be_right_refuses_the_answer(entries, words):
    """Doubled, missing, out of range or no number: the whole ranking is in doubt."""
    with pytest.raises(AnswerError) as caught:
        decode(json_answer(answer_of(*entries)), ["a", "b"])
    assert words in str(caught.value)


@pytest.mark.parametrize("entry", [7, None, [], "x"])
def test_an_entry_that_is_no_object_refuses_the_answer(entry):
    """There is nothing to match with a document."""
    with pytest.raises(AnswerError, match="no whole number as index"):
        decode(json_answer({"rerank": [entry]}), ["a"])


def test_the_best_are_enough_when_only_the_best_are_wanted():
    """An endpoint with a top_n of its own may leave out the rest, as long as what is wanted is there."""
    body = json_answer(answer_of((2, 0.9), (0, 0.5)))
    (ranked,) = decode(body, ["a", "b", "c"], top_n=2).columns.column(0).to_pylist()
    assert [entry["index"] for entry in ranked] == [2, 0]
    with pytest.raises(AnswerError, match="ranks 2 of 4 documents; if the endpoint itself has a top_n"):
        decode(body, ["a", "b", "c", "d"], top_n=3)


@pytest.mark.parametrize(
    ("query", "documents", "reason"),
    [
        (None, ["a"], "null query"),
        ("", ["a"], "empty query"),
        (" ", ["a"], "blank query"),
        ("q", None, "null documents"),
        ("q", [], "no documents"),
        ("q", ["a", None], "null document"),
        ("q", ["a", ""], "empty document"),
        ("q", ["\n", "a"], "blank document"),
        ("q", ["a"] * 4, "more than 3 documents"),
        ("q" * 100, ["a"], "query is longer than 20 tokens"),
        ("q", ["a", "b" * 100], "document is longer than 20 tokens"),
        ("q" * 35, ["b" * 35] * 3, "query and documents have more than 65 tokens"),
        ("q", ["\u0000" * 60] * 3, "query and documents are larger than 100 bytes"),
    ],
)
def test_a_row_that_cannot_be_ranked_is_refused(query, documents, reason):
    """Anything missing or beyond a limit refuses the row before it costs anything, and only it."""
    task = Rerank(max_documents=3, max_tokens=20, limits=RequestLimits(rows=1, tokens=65, size=100))
    before, question, after = task.questions(rows(("q", ["a"]), (query, documents), ("q", ["a"])))
    assert question == Refused(reason)
    assert isinstance(before, Question)
    assert before == after


def test_failing_options_make_the_reason_fatal():
    """With "fail" the engine is told that the run must end."""
    task = Rerank(on_empty="fail", on_too_long="fail", max_documents=1)
    assert [question.fatal for question in task.questions(rows(("q", None), ("q", ["a", "b"])))] == [True, True]


def test_texts_that_are_not_utf8_refuse_their_row():
    """A query or a document that is no text is told apart."""
    raw = pa.array([b"q", b"\xff", b"q"], pa.binary()).view(pa.string())
    documents = pa.ListArray.from_arrays([0, 1, 2, 3], pa.array([b"a", b"a", b"\xff"], pa.binary()).view(pa.string()))
    questions = Rerank().questions(pa.record_batch({"query": raw, "documents": documents}))
    assert isinstance(questions[0], Question)
    assert questions[1:] == [Refused("query is not valid UTF-8"), Refused("document is not valid UTF-8")]


LISTS = [
    pa.list_(pa.string()),
    pa.large_list(pa.large_string()),
    pa.list_view(pa.string()),
    pa.large_list_view(pa.string()),
    pa.list_(pa.binary()),
    pa.list_(pa.string_view()),
]


@pytest.mark.parametrize("kind", LISTS, ids=str)
def test_every_kind_of_list_is_read_alike(kind):
    """Lists of any kind, sliced and with nulls, give the same questions."""
    pairs = [("x", ["x"]), ("q", ["a", "风急"]), ("q", None), ("q", []), ("r", ["b"])]
    batch = rows(*pairs, kind=kind).slice(1)
    task = Rerank()
    task.check(batch.schema)
    assert task.questions(batch) == task.questions(rows(*pairs[1:]))


def test_lists_of_fixed_size_and_of_dictionaries_are_read_alike():
    """The same for lists whose length is in the type, and for documents that come again and again."""
    plain = rows(("q", ["a", "b"]), ("q", None), ("q", ["b", "b"]))
    fixed = rows(("q", ["a", "b"]), ("q", None), ("q", ["b", "b"]), kind=pa.list_(pa.string(), 2))
    entries = pa.array(["a", "b", "b", "b"]).dictionary_encode()
    offsets, mask = pa.array([0, 2, 2, 4], pa.int32()), pa.array([False, True, False])
    coded = plain.set_column(1, "documents", pa.ListArray.from_arrays(offsets, entries, mask=mask))
    task = Rerank()
    for batch in (fixed, coded):
        task.check(batch.schema)
        assert task.questions(batch) == task.questions(plain)


def test_keys_tell_rows_apart():
    """Text moved from one document to the next, or from the query to a document, is another question."""
    pairs = [
        ("q", ["ab", "c"]),
        ("q", ["a", "bc"]),
        ("qa", ["b", "c"]),
        ("q", ["abc"]),
        ("q", ["c", "ab"]),
        ("q", ["ab", "c"]),
    ]
    keys = [question.key for question in ask(Rerank(), rows(*pairs))]
    assert len(set(keys)) == 5
    assert keys[0] == keys[-1]


def test_tokens_are_counted_as_the_service_counts():
    """The query is read once for each document."""
    (question,) = ask(Rerank(), rows(("what?" * 4, ["first document", "second", "风急天高"])))
    query, *documents = (
        estimate_tokens(len(t), len(t.encode())) for t in ("what?" * 4, "first document", "second", "风急天高")
    )
    assert question.tokens == 3 * query + sum(documents)


def test_the_body_has_only_what_every_server_knows():
    """``top_n`` and ``return_documents`` are done here: servers before 8.19 refuse them."""
    task = Rerank(top_n=1, return_documents=True, task_settings={"a": 1})
    body = json.loads(task.encode(ask(task, rows(("q", ["a"])))))
    assert body == {"input": ["a"], "query": "q", "task_settings": {"a": 1}}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (pa.schema([("query", pa.string()), ("docs", pa.list_(pa.string()))]), "no column 'documents'"),
        (pa.schema([("query", pa.string()), ("documents", pa.string())]), "a list of texts"),
        (pa.schema([("query", pa.string()), ("documents", pa.list_(pa.int8()))]), "a list of texts"),
        (pa.schema([("query", pa.int8()), ("documents", pa.list_(pa.string()))]), "column 'query' is of type int8"),
    ],
)
def test_a_source_that_cannot_be_asked_is_refused_in_words(schema, words):
    """Missing and wrongly typed columns are named."""
    with pytest.raises(InputError) as caught:
        Rerank().check(schema)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"limits": RequestLimits(rows=2)}, "limits.rows is 2"),
        ({"top_n": 0}, "top_n is 0"),
        ({"max_documents": 0}, "max_documents is 0"),
        ({"on_too_long": "truncate"}, "on_too_long is 'truncate'"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings, words):
    """A wrong setting is told by name and value."""
    with pytest.raises(ConfigurationError) as caught:
        Rerank(**settings)
    assert words in str(caught.value)


def test_what_is_kept_is_part_of_what_decides_the_answer():
    """Tasks that keep other entries do not share answers."""
    kinds = [Rerank(), Rerank(top_n=1), Rerank(return_documents=True), Rerank(task_settings={"a": 1})]
    assert len({json.dumps(dict(task.settings())) for task in kinds}) == 4
