"""Candidates, one a row: what is asked together, under which keys, and where each candidate ends up."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_modelstudio.inference.errors import AnswerError, ConfigurationError, InputError
from airflow_provider_modelstudio.inference.plan import Packer
from airflow_provider_modelstudio.inference.tasks import Answer, Question, Refused
from airflow_provider_modelstudio.inference.tasks.flat_rerank import FlatRerank, rank
from airflow_provider_modelstudio.inference.tasks.rerank import NOT_FINITE
from tests.wire import CBOR, JSON, cbor_answer, json_answer

FORMAT = pytest.mark.parametrize(
    ("write", "content_type"), [(json_answer, JSON), (cbor_answer, CBOR)], ids=["json", "cbor"]
)


def flat(**settings):
    return FlatRerank(**{"query_id_column": "id", **settings})


def candidates(*rows):
    """Rows of id, query and document."""
    ids, queries, documents = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.record_batch(
        {"id": list(ids), "query": pa.array(queries, pa.string()), "document": pa.array(documents, pa.string())}
    )


TWO = candidates((1, "q", "a"), (1, "q", "b"), (1, "q", "c"), (2, "r", "a"))


def reasons(task, batch):
    return [None if isinstance(q, Question) else q.reason for q in task.questions(batch)]


def keys(task, batch):
    return [q.key for q in task.questions(batch)]


def packed(task, batch):
    """The documents of each request."""
    packer = Packer(task.limits)
    asked = [question for question in task.questions(batch) if isinstance(question, Question)]
    requests = [*[packer.feed(None, question) for question in asked], packer.flush()]
    return [[question.value.document for _, question in request] for request in requests if request]


def test_a_request_holds_the_candidates_of_one_query():
    """Query and documents as the list form sends them; another query is another request."""
    task = flat(task_settings={"a": 1})
    assert packed(task, TWO) == [["a", "b", "c"], ["a"]]
    body = json.loads(task.encode(task.questions(TWO)[:3]))
    assert body == {"input": ["a", "b", "c"], "query": "q", "task_settings": {"a": 1}}


def test_where_scores_compare_a_pair_is_the_question():
    """The key is query and document, whatever stands beside them; candidates are split as the limits say."""
    task = flat(scores_comparable=True, max_documents=2)
    assert packed(task, TWO) == [["a", "b"], ["c"], ["a"]]
    other = candidates((7, "q", "c"), (7, "q", "a"))
    assert keys(task, other) == [keys(task, TWO)[2], keys(task, TWO)[0]]
    assert len(set(keys(task, TWO))) == 4
    assert not task.limits.whole


def test_where_they_do_not_all_candidates_are_the_question():
    """The key of each is that of all in their order: with one changed, all are asked again; equal groups are equal."""
    task = flat()
    first, more = TWO.slice(0, 3), candidates((1, "q", "a"), (1, "q", "b"), (1, "q", "c"), (1, "q", "d"))
    assert not set(keys(task, first)) & set(keys(task, more))
    assert keys(task, candidates((9, "q", "a"), (9, "q", "b"), (9, "q", "c"))) == keys(task, first)
    assert not set(keys(task, candidates((1, "q", "b"), (1, "q", "a"), (1, "q", "c")))) & set(keys(task, first))
    assert task.limits.whole


def test_equal_documents_of_a_query_are_asked_once_where_scores_compare():
    """Twice the same pair is the same question; together they have their places."""
    twice = candidates((1, "q", "a"), (1, "q", "a"))
    assert len(set(keys(flat(scores_comparable=True), twice))) == 1
    assert len(set(keys(flat(), twice))) == 2


def test_a_candidate_that_cannot_be_asked_stands_alone():
    """A bad document spoils its own row, a bad query all of its rows; the rest is asked as if it were not there."""
    batch = candidates(
        *((1, "q", document) for document in ("a", None, "", " ", "b")), (2, None, "a"), (2, None, "b"), (3, " ", "a")
    )
    told = [None, "null document", "empty document", "blank document", None, "null query", "null query", "blank query"]
    for task in (flat(), flat(scores_comparable=True)):
        assert reasons(task, batch) == told
    assert keys(flat(), batch.take(pa.array([0, 4]))) == [
        q.key for q in flat().questions(batch) if isinstance(q, Question)
    ]
    fatal = [q.fatal for q in flat(on_empty="fail").questions(batch) if isinstance(q, Refused)]
    assert fatal == [True] * 6


def test_bytes_that_are_not_utf8_are_told_apart():
    """In the document one row is refused, in the query all; never fatal."""
    raw = pa.array([b"a", b"\xff"], pa.binary())
    good = pa.array([b"q", b"q"], pa.binary())
    batch = pa.record_batch({"id": [1, 1], "query": good, "document": raw})
    assert reasons(flat(on_empty="fail"), batch) == [None, "document is not valid UTF-8"]
    batch = pa.record_batch({"id": [1, 2], "query": raw, "document": good})
    assert flat(on_empty="fail").questions(batch)[1] == Refused("query is not valid UTF-8")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_documents": 2}, "more than 2 documents, and scores of two requests are not said to be comparable"),
        ({"max_request_tokens": 5}, "query and documents have more than 5 tokens, and scores"),
        ({"max_bytes": 20}, "query and documents are larger than 20 bytes, and scores"),
    ],
)
def test_a_query_that_does_not_fit_a_request_is_refused_or_split(settings, words):
    """Refused with the reason where scores do not compare, never cut; split where they do."""
    told = reasons(flat(**settings), TWO)
    assert [reason is None or reason.startswith(words) for reason in told] == [True] * 4
    assert [reason is None for reason in told] == [False, False, False, True]
    assert len(packed(flat(scores_comparable=True, **settings), TWO)) == 3


@pytest.mark.parametrize("comparable", [False, True])
def test_a_text_beyond_the_longest_is_refused(comparable):
    """A long document refuses its row, a long query all of its rows; neighbours and other queries are asked."""
    batch = candidates((1, "q", "a"), (1, "q", "a" * 100), (2, "q" * 100, "a"), (2, "q" * 100, "b"), (3, "q", None))
    assert reasons(flat(max_tokens=20, scores_comparable=comparable), batch) == [
        None,
        "document is longer than 20 tokens",
        "query is longer than 20 tokens",
        "query is longer than 20 tokens",
        "null document",
    ]


def test_a_pair_that_fits_no_request_is_refused_where_scores_compare():
    """It could never be asked; its neighbours are."""
    batch = candidates((1, "q", "a"), (1, "q", "a" * 100))
    assert reasons(flat(scores_comparable=True, max_bytes=50), batch) == [
        None,
        "query and documents are larger than 50 bytes",
    ]


def decode(task, rows, *, write=json_answer, content_type=JSON, batch=TWO):
    questions = [q for q in task.questions(batch.slice(0, 3)) if isinstance(q, Question)]
    decoded = task.decode(Answer(write({"rerank": rows}), content_type), questions)
    decoded.columns.validate(full=True)
    return decoded


@FORMAT
def test_scores_are_mapped_back_by_index(write, content_type):
    """The order of the answer does not matter; ranks come later."""
    rows = [{"index": i, "relevance_score": s} for i, s in [(2, 0.5), (0, 0.25), (1, 0.125)]]
    decoded = decode(flat(), rows, write=write, content_type=content_type)
    assert decoded.columns.to_pydict() == {"relevance_score": [0.25, 0.125, 0.5], "rank": [None] * 3}
    assert [str(kind) for kind in decoded.columns.schema.types] == ["float", "int32"]


def test_a_score_that_is_no_number_refuses_its_row_or_its_query():
    """Alone where scores compare; else the others would be ranked without it."""
    rows = [
        {"index": 0, "relevance_score": 0.5},
        {"index": 1, "relevance_score": None},
        {"index": 2, "relevance_score": 0.25},
    ]
    assert decode(flat(scores_comparable=True), rows).refused == {1: NOT_FINITE}
    decoded = decode(flat(), rows)
    assert decoded.refused == dict.fromkeys(range(3), NOT_FINITE)
    assert decoded.columns.column(0).null_count == 3


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [{"index": 0, "relevance_score": 1}],
            "ranks 1 of 3 documents; an endpoint for candidates must not have a top_n",
        ),
        ([{"index": 0, "relevance_score": 1}] * 3, "ranks document 0 twice"),
        ([{"index": 3, "relevance_score": 1}], "ranks document 3, but there are 3"),
        ([{"relevance_score": 1}], "no whole number as index"),
    ],
)
def test_an_answer_about_other_documents_is_refused(rows, words):
    """A score that is missing, doubled or nobody's is never guessed."""
    with pytest.raises(AnswerError) as caught:
        decode(flat(), rows)
    assert words in str(caught.value)


ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.none() | st.sampled_from([0.0, -0.0, 0.25, 0.5, 1.0])), max_size=30
).map(lambda rows: sorted(rows, key=lambda row: row[0]))


@given(ROWS, st.none() | st.integers(1, 4))
def test_ranks_are_those_of_each_query_alone(rows, top_n):
    """1 for the best, equal scores in input order, null without a score and beyond top_n."""
    ids, scores = [row[0] for row in rows], [row[1] for row in rows]
    expected = []
    for at, (group, score) in enumerate(rows):
        better = sum(
            other is not None and (other > score or (other == score and place < at))
            for place, (same, other) in enumerate(rows)
            if same == group and score is not None
        )
        expected.append(None if score is None or (top_n is not None and better >= top_n) else better + 1)
    assert rank(ids, pa.array(scores, pa.float32()), top_n).to_pylist() == expected


def test_finished_rows_keep_their_columns():
    """Ranks take the place of the nulls; everything else is as it was."""
    rows = pa.record_batch(
        {
            "id": ["x", "x", "y"],
            "relevance_score": pa.array([0.5, 1.0, 0.0], pa.float32()),
            "rank": pa.nulls(3, pa.int32()),
        }
    )
    assert flat().finish(rows).to_pydict() == {**rows.to_pydict(), "rank": [2, 1, 1]}


def test_columns_are_named_as_elasticsearch_names_them():
    """Plainly for the usual output, with its name in front for another; scores do not depend on how many are ranked."""
    assert flat().output_columns == ("relevance_score", "rank")
    named = flat(output_column="second", top_n=3)
    assert named.output_columns == ("second_relevance_score", "second_rank")
    assert named.error_column == "second_error"
    assert named.output_schema(None).names == list(named.output_columns)
    assert named.settings() == flat().settings()


@pytest.mark.parametrize(
    ("column", "kind"), [("id", pa.float64()), ("query", pa.int64()), ("document", pa.list_(pa.string()))]
)
def test_columns_of_other_types_are_refused(column, kind):
    """Ids are texts or whole numbers, queries and documents texts."""
    fields = {"id": pa.int64(), "query": pa.string(), "document": pa.string(), column: kind}
    with pytest.raises(InputError, match=f"column '{column}' is of type"):
        flat().check(pa.schema(list(fields.items())))


@pytest.mark.parametrize("settings", [{"top_n": 0}, {"max_documents": 0}, {"on_empty": "skip"}, {"query_column": ""}])
def test_settings_that_make_no_sense_are_named(settings):
    """A wrong setting is told by name."""
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        flat(**settings)
