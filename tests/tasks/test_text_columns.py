"""Which rows are asked, and under which key: every Arrow type that holds text, every text that is none."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_modelstudio.inference.errors import ConfigurationError, InputError
from airflow_provider_modelstudio.inference.tasks import Question, Refused, RequestLimits
from airflow_provider_modelstudio.inference.tasks.sparse_embedding import SparseEmbedding
from airflow_provider_modelstudio.inference.tasks.text_embedding import TextEmbedding
from airflow_provider_modelstudio.inference.tasks.tokens import estimate_tokens
from tests.tasks.binding import ask, make_task, texts

VALUES = ["first", "风急天高", None, "", "first", "😀 last"]
EXPECTED = ["first", "风急天高", "null text", "empty text", "first", "😀 last"]


class Note(pa.ExtensionType):
    def __init__(self) -> None:
        super().__init__(pa.string(), "test.note")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type, serialized):
        return cls()


def of_type(kind):
    return pa.array(VALUES, pa.string()).cast(kind)


def in_struct(array, mask=None):
    return pa.StructArray.from_arrays([array], ["b"], mask=mask)


COLUMNS = {
    "string": of_type(pa.string()),
    "large_string": of_type(pa.large_string()),
    "string_view": of_type(pa.string_view()),
    "binary": of_type(pa.binary()),
    "large_binary": of_type(pa.large_binary()),
    "binary_view": of_type(pa.binary()).cast(pa.binary_view()),
    "dictionary": of_type(pa.string()).dictionary_encode(),
    "dictionary of large_string": of_type(pa.large_string()).dictionary_encode(),
    "dictionary of binary": of_type(pa.binary()).dictionary_encode(),
    "dictionary with a null entry": pa.DictionaryArray.from_arrays(
        [0, 1, 2, 3, 0, 4], ["first", "风急天高", None, "", "😀 last"]
    ),
    "dictionary with entries never used": pa.DictionaryArray.from_arrays(
        pa.array([1, 2, None, 4, 1, 5], pa.int8()), ["x", "first", "风急天高", "y", "", "😀 last", "z"]
    ),
    "extension": pa.ExtensionArray.from_storage(Note(), of_type(pa.string())),
    "sliced": pa.concat_arrays([pa.array(["before"]), of_type(pa.string()), pa.array(["after"])]).slice(1, 6),
    "sliced view": pa.concat_arrays([pa.array(["before"]), of_type(pa.string())]).cast(pa.string_view()).slice(1),
    "sliced dictionary": pa.array(["before", *VALUES]).dictionary_encode().slice(1),
}


def seen(questions):
    return [q.value if isinstance(q, Question) else q.reason for q in questions]


@pytest.mark.parametrize("kind", COLUMNS)
def test_every_type_that_holds_text_is_read_alike(kind):
    """A text is the same question under the same key, whatever Arrow type its column has."""
    task = TextEmbedding()
    batch = pa.record_batch({"text": COLUMNS[kind]})
    task.check(batch.schema)
    questions = task.questions(batch)
    assert seen(questions) == EXPECTED
    assert questions == task.questions(texts(*VALUES))


@pytest.mark.parametrize("kind", COLUMNS)
def test_dotted_paths_reach_into_structs(kind):
    """A field of a struct, and of a struct within, is read like a column, slices and all."""
    inner = in_struct(COLUMNS[kind])
    outer = pa.StructArray.from_arrays([inner], ["a"])
    batch = pa.record_batch({"s": pa.concat_arrays([outer, outer]).slice(len(outer))})
    task = TextEmbedding(input_column="s.a.b")
    task.check(batch.schema)
    assert seen(task.questions(batch)) == EXPECTED


def test_a_null_struct_has_a_null_text():
    """Where the struct is null its field is, whatever lies beneath."""
    column = in_struct(pa.array(["a", "b"]), mask=pa.array([False, True]))
    batch = pa.record_batch({"s": column})
    assert seen(TextEmbedding(input_column="s.b").questions(batch)) == ["a", "null text"]


def test_chunks_of_a_table_are_read_alike():
    """The batches of a chunked table give what the whole would."""
    table = pa.table({"text": pa.chunked_array([VALUES[:2], VALUES[2:3], [], VALUES[3:]], pa.string())})
    task = TextEmbedding()
    assert [q for batch in table.to_batches() for q in task.questions(batch)] == task.questions(texts(*VALUES))


def test_a_column_of_nothing_but_nulls_needs_no_type():
    """What a writer that saw only nulls leaves behind is a column of null texts."""
    batch = pa.record_batch({"text": pa.nulls(2)})
    TextEmbedding().check(batch.schema)
    assert seen(TextEmbedding().questions(batch)) == ["null text", "null text"]


def test_a_column_whose_name_has_dots_comes_first():
    """A dotted name is first of all a name."""
    batch = pa.record_batch({"a.b": ["column"], "a": pa.array([{"b": "field"}])})
    task = TextEmbedding(input_column="a.b")
    task.check(batch.schema)
    assert seen(task.questions(batch)) == ["column"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.large_binary()])
def test_bytes_that_are_not_utf8_refuse_their_row_alone(kind):
    """Latin-1, a cut character and half a surrogate pair are refused; their neighbours are asked."""
    raw = [b"good", b"\xe9t\xe9", "é".encode()[:1], b"\xed\xa0\x80", b"good too"]
    width = pa.large_binary() if kind in (pa.large_string(), pa.large_binary()) else pa.binary()
    batch = pa.record_batch({"text": pa.array(raw, width).view(kind)})
    assert seen(TextEmbedding().questions(batch)) == ["good", *["text is not valid UTF-8"] * 3, "good too"]


def test_invalid_entries_of_a_dictionary_refuse_their_rows_alone():
    """The same within a dictionary."""
    entries = pa.array([b"good", b"\xff"], pa.binary()).view(pa.string())
    batch = pa.record_batch({"text": pa.DictionaryArray.from_arrays([0, 1, 0], entries)})
    assert seen(TextEmbedding().questions(batch)) == ["good", "text is not valid UTF-8", "good"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty text"),
        (" ", "blank text"),
        ("\t\r\n\u00a0\u2003\u3000", "blank text"),
        ("\ufeff", None),
        ("\u200b", None),
        ("\x00", None),
        ("0", None),
    ],
)
def test_only_whitespace_is_blank(text, reason):
    """Characters that show nothing are still characters; only white space is no text."""
    (question,) = TextEmbedding().questions(texts(text))
    assert question == Refused(reason) if reason else question.value == text


@pytest.mark.parametrize("task_type", ["text_embedding", "sparse_embedding"])
def test_failing_options_make_the_reason_fatal(task_type):
    """With "fail" the engine is told that the run must end; invalid bytes are the service's business no less."""
    task = make_task(task_type, on_empty="fail", on_too_long="fail", max_tokens=1)
    assert task.questions(texts(None, "", " ", "too long for one token")) == [
        Refused("null text", True),  # compared as it is
        Refused("empty text", True),
        Refused("blank text", True),
        Refused("text is longer than 1 tokens", True),
    ]


def test_a_text_too_large_for_a_request_is_refused():
    """A text that would not fit alone is not asked, though nobody named a limit of tokens."""
    task = TextEmbedding(limits=RequestLimits(size=10))
    assert seen(task.questions(texts("0123456789", "01234567890", "风急天高"))) == [
        "0123456789",
        "text is larger than 10 bytes",
        "text is larger than 10 bytes",
    ]


@given(st.text(min_size=1).filter(lambda text: text.strip()), st.integers(1, 30))
def test_a_cut_text_is_the_longest_that_fits(text, limit):
    """Cutting keeps a beginning that fits, and one more character would not."""
    task = TextEmbedding(max_tokens=limit, on_too_long="truncate")
    (question,) = task.questions(texts(text))
    if not isinstance(question, Question):
        assert question == Refused("blank text")
        return
    assert text.startswith(question.value)
    assert estimate_tokens(len(question.value), len(question.value.encode())) <= limit
    if question.value != text:
        longer = text[: len(question.value) + 1]
        assert estimate_tokens(len(longer), len(longer.encode())) > limit


def test_a_cut_text_is_another_question_than_a_short_one():
    """A text cut to "this o" is marked, so it does not share the answer of the text "this o"."""
    task = TextEmbedding(max_tokens=2, on_too_long="truncate")
    cut, short = ask(task, texts("this one is too long", "this o"))
    assert cut.value == short.value
    assert cut.key != short.key


def test_keys_tell_texts_and_task_types_apart():
    """Equal texts have equal keys, other texts and other task types have others; 16 bytes, never all zero."""
    values = ["a", "b", "a ", "A", "e\u0301", "é", "a\x00", "\ufeffa"]
    dense, sparse = (ask(task, texts(*values)) for task in (TextEmbedding(), SparseEmbedding()))
    keys = [question.key for question in dense + sparse]
    assert len(set(keys)) == len(keys)
    assert {len(key) for key in keys} == {16}
    assert [q.key for q in ask(TextEmbedding(max_tokens=9, output_column="v"), texts(*values))] == [
        q.key for q in dense
    ]


def test_keys_stay_the_same_between_versions():
    """A key written down with an answer is found again by a later version."""
    (question,) = ask(TextEmbedding(), texts("风急天高猿啸哀"))
    assert question.key.hex() == "b3e679fb4bdd4b5b58ddaaaeda603230"


@given(st.lists(st.text()))
def test_any_text_is_sent_byte_for_byte(values):
    """Whatever is in a text, the service reads exactly that."""
    task = TextEmbedding()
    asked = [question for question in task.questions(texts(*values)) if isinstance(question, Question)]
    assert json.loads(task.encode(asked)) == {"input": [value for value in values if value.strip()]}


@given(st.lists(st.text(st.characters(exclude_categories=()))))
def test_half_surrogates_refuse_their_row_alone(values):
    """Text that never was Unicode, smuggled into a string column, refuses its row and no other."""
    raw = [value.encode("utf-8", "surrogatepass") for value in values]
    batch = pa.record_batch({"text": pa.array(raw, pa.binary()).view(pa.string())})
    for value, question in zip(values, TextEmbedding().questions(batch), strict=True):
        if any("\ud800" <= character <= "\udfff" for character in value):
            assert question == Refused("text is not valid UTF-8")
        elif value.strip():
            assert question.value == value


@given(st.text(min_size=1))
def test_a_text_has_at_least_one_token_and_at_most_one_a_byte(text):
    """The estimate stays between what is possible at all."""
    utf8 = text.encode()
    assert 1 <= estimate_tokens(len(text), len(utf8)) <= len(utf8)


def test_the_size_of_questions_is_about_the_size_of_the_body():
    """Texts without escapes add to the body what their questions say."""
    task = TextEmbedding()
    asked = ask(task, texts("plain", "风急天高", "x" * 1000))
    assert len(task.encode(asked)) == sum(question.size for question in asked) - 1 + len('{"input":[]}')


@pytest.mark.parametrize(
    ("schema", "column", "words"),
    [
        (pa.schema([("texts", pa.string()), ("id", pa.int64())]), "text", "did you mean 'texts'?"),
        (pa.schema([("doc", pa.struct([("body", pa.string())]))]), "doc.bdy", "did you mean 'doc.body'?"),
        (pa.schema([("doc", pa.string())]), "doc.body", "no column 'doc.body'; did you mean 'doc'?"),
        (pa.schema([]), "text", "it has none"),
        (pa.schema([(f"column_{i}", pa.string()) for i in range(40)]), "text", "'column_11' and 28 more"),
        (pa.schema([("text", pa.string()), ("text", pa.string())]), "text", "more than one column 'text'"),
        (pa.schema([("text", pa.int64())]), "text", "of type int64"),
        (pa.schema([("text", pa.list_(pa.string()))]), "text", "of type list"),
        (pa.schema([("text", pa.binary(4))]), "text", "of type fixed_size_binary"),
        (pa.schema([("text", pa.struct([("a", pa.string())]))]), "text", "of type struct"),
        (pa.schema([("text", pa.dictionary(pa.int8(), pa.int64()))]), "text", "of type dictionary"),
    ],
)
@pytest.mark.parametrize("task_type", ["text_embedding", "sparse_embedding"])
def test_a_source_that_cannot_be_asked_is_refused_in_words(task_type, schema, column, words):
    """A missing, doubled or wrongly typed column is named before anything is asked, with a suggestion."""
    with pytest.raises(InputError, match=r".") as caught:
        make_task(task_type, input_column=column).check(schema)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"input_column": ""}, "input_column is ''"),
        ({"input_column": None}, "input_column is None"),
        ({"output_column": " "}, "output_column is ' '"),
        ({"on_empty": "skip"}, "on_empty is 'skip'; it is one of 'null', 'fail'"),
        ({"on_too_long": "cut"}, "on_too_long is 'cut'; it is one of 'null', 'truncate', 'fail'"),
        ({"max_tokens": 0}, "max_tokens is 0; it is 1 or more"),
        ({"max_tokens": True}, "max_tokens is True"),
        ({"max_tokens": 1.5}, "max_tokens is 1.5"),
        ({"task_settings": {"secret": float("nan")}}, "task_settings is not an object that JSON can hold"),
        ({"task_settings": {"a": object()}}, "task_settings is not an object that JSON can hold"),
        ({"task_settings": ["a"]}, "task_settings is not an object that JSON can hold"),
    ],
)
@pytest.mark.parametrize("task_type", ["text_embedding", "sparse_embedding"])
def test_settings_that_make_no_sense_are_named(task_type, settings, words):
    """A wrong setting is told by name and value, and what would be right."""
    with pytest.raises(ConfigurationError) as caught:
        make_task(task_type, **settings)
    assert words in str(caught.value)
