"""Prompts made from rows, and what a model answers to them."""

from __future__ import annotations

import datetime as dt
import decimal
import json

import cbor2
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_modelstudio.inference.errors import AnswerError, ConfigurationError, InputError
from airflow_provider_modelstudio.inference.tasks import Answer, Question, Refused, RequestLimits
from airflow_provider_modelstudio.inference.tasks.completion import NO_TEXT, Completion
from airflow_provider_modelstudio.inference.tasks.prompts import parse_template
from tests.tasks.binding import ask, texts
from tests.wire import CBOR, JSON, cbor_answer, json_answer

FORMAT = pytest.mark.parametrize(
    ("write", "content_type"), [(json_answer, JSON), (cbor_answer, CBOR)], ids=["json", "cbor"]
)


def prompts_of(prompt, batch, **settings):
    task = Completion(prompt=prompt, **settings)
    task.check(batch.schema)
    return [q.value if isinstance(q, Question) else q.reason for q in task.questions(batch)]


@given(
    st.lists(st.tuples(st.text(), st.sampled_from(["a", "b"])), min_size=1, max_size=5), st.text(), st.text(), st.text()
)
def test_values_are_put_in_once_and_never_looked_at(pieces, end, a, b):
    """Whatever stands in a template or in a value, each place holds its value and everything else is as written."""

    def escaped(text):
        return text.replace("{", "{{").replace("}", "}}")

    prompt = "".join(escaped(literal) + "{" + column + "}" for literal, column in pieces) + escaped(end)
    expected = "".join(literal + {"a": a, "b": b}[column] for literal, column in pieces) + end
    template = parse_template(prompt)
    assert template.fill(tuple({"a": a, "b": b}[column] for column in template.columns)) == expected


@pytest.mark.parametrize(
    "value", ["{{7*7}}", "{0.__class__}", "%(x)s", "$x", "{text}", "{{", "}", "{{{text}}}", "${jndi:ldap://x}"]
)
def test_values_that_look_like_templates_are_sent_as_they_are(value):
    """Nothing in a row is evaluated."""
    assert prompts_of("Say: {text}!", texts(value)) == [f"Say: {value}!"]


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("{", "a '{' without its partner at character 0"),
        ("a {text", "a '{' without its partner at character 2"),
        ("text}", "a '}' without its partner at character 4"),
        ("{{text}", "a '}' without its partner at character 6"),
        ("{{{text}}", "a '}' without its partner at character 8"),
        ("{}", "a placeholder without a name at character 0"),
        ("{ }", "a placeholder without a name at character 0"),
        ("no column", "names no column"),
        ("{{text}}", "names no column"),
        ("", "names no column"),
        ("{text}\ud800", "prompt holds half a surrogate pair"),
        (None, "prompt is a NoneType"),
    ],
)
def test_a_template_that_makes_no_sense_is_refused(prompt, words):
    """What is wrong with a template is said when the task is made, with its place."""
    with pytest.raises(ConfigurationError) as caught:
        Completion(prompt=prompt)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["txet", "text!r", "text:>30", "text.upper", "text[0]", " text", "text.__class__"])
def test_a_placeholder_is_the_name_of_a_column_and_nothing_else(name):
    """No format, no index, no attribute: there is no column of that name, and the nearest one is suggested."""
    with pytest.raises(ConfigurationError) as caught:
        Completion(prompt="{" + name + "}").check(texts("a").schema)
    assert f"the prompt asks for {{{name}}}" in str(caught.value)
    assert "'text'" in str(caught.value)


COLUMNS = {
    "string": (pa.array(["a", " b "]), ["a", " b "]),
    "dictionary": (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
    "binary": (pa.array([b"a", "é".encode()]), ["a", "é"]),
    "int": (pa.array([-1, 2**40]), ["-1", "1099511627776"]),
    "uint64": (pa.array([0, 2**64 - 1], pa.uint64()), ["0", "18446744073709551615"]),
    "float": (pa.array([0.1, 1.0]), ["0.1", "1"]),
    "float32": (pa.array([0.1, -2.5], pa.float32()), ["0.1", "-2.5"]),
    "bool": (pa.array([True, False]), ["true", "false"]),
    "decimal": (pa.array([decimal.Decimal("1.20"), decimal.Decimal("-3.00")]), ["1.20", "-3.00"]),
    "date": (pa.array([dt.date(2026, 1, 2), dt.date(1969, 12, 31)]), ["2026-01-02", "1969-12-31"]),
    "time": (pa.array([dt.time(1, 2, 3), dt.time(0)], pa.time32("s")), ["01:02:03", "00:00:00"]),
    "timestamp": (
        pa.array([dt.datetime(2026, 1, 2, 3, 4, 5), dt.datetime(2026, 1, 2)], pa.timestamp("s")),  # noqa: DTZ001  # Arrow has such
        ["2026-01-02T03:04:05", "2026-01-02T00:00:00"],
    ),
    "timestamp in UTC": (
        pa.array([dt.datetime(2026, 1, 2, tzinfo=dt.UTC)] * 2, pa.timestamp("s", "UTC")),
        ["2026-01-02T00:00:00Z"] * 2,
    ),
    "nanoseconds": (
        pa.array([1, 0], pa.timestamp("ns")),
        ["1970-01-01T00:00:00.000000001", "1970-01-01T00:00:00.000000000"],
    ),
    "list": (pa.array([["a", '"'], []]), ['["a","\\""]', "[]"]),
    "struct": (
        pa.array([{"a": 1, "b": ["风"], "c": dt.date(2026, 1, 2)}, {"a": None, "b": None, "c": None}]),
        ['{"a":1,"b":["风"],"c":"2026-01-02"}', '{"a":null,"b":null,"c":null}'],
    ),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_columns_of_any_plain_type_can_be_written_into_a_prompt(kind):
    """Texts as they are, numbers as Arrow prints them, times in ISO 8601, lists and structs as JSON."""
    array, expected = COLUMNS[kind]
    assert prompts_of("{x}", pa.record_batch({"x": array})) == expected


@pytest.mark.parametrize(
    "kind",
    [
        pa.binary(3),
        pa.duration("s"),
        pa.map_(pa.string(), pa.string()),
        pa.list_(pa.timestamp("ns")),
        pa.list_(pa.binary()),
        pa.struct([("a", pa.list_(pa.duration("s")))]),
    ],
    ids=str,
)
def test_other_types_are_refused_before_anything_is_asked(kind):
    """What has no plain text is named with its type."""
    with pytest.raises(InputError, match="cannot be written into a prompt"):
        Completion(prompt="{x}").check(pa.schema([("x", kind)]))


def test_structs_and_columns_can_be_used_more_than_once():
    """A dotted path, a column twice, and a system text before all."""
    batch = pa.record_batch({"doc": pa.array([{"title": "T", "body": "B"}])})
    assert prompts_of("{doc.title}: {doc.body} ({doc.title})", batch, system="{x}") == ["{x}\n\nT: B (T)"]
    assert Completion(prompt="{doc.title}: {doc.body} ({doc.title})").input_columns == ("doc.title", "doc.body")


def test_rows_without_anything_to_say_are_refused():
    """A null anywhere, or nothing but blanks everywhere, is not asked; one text among blanks is."""
    batch = pa.record_batch({"a": ["x", None, "", " ", ""], "b": ["y", "y", "y", "", ""]})
    assert prompts_of("{a}|{b}", batch) == ["x|y", "null in column 'a'", "|y", "blank text", "empty text"]


def test_bytes_that_are_not_utf8_refuse_their_row_alone():
    """In a text and in a text within a list."""
    raw = pa.array([b"good", b"\xff"], pa.binary()).view(pa.string())
    nested = pa.ListArray.from_arrays([0, 1, 2], raw)
    for array in (raw, nested):
        good, bad = prompts_of("{x}", pa.record_batch({"x": array}))
        assert "good" in good
        assert bad == "text is not valid UTF-8"


def test_prompts_that_are_too_long_are_refused():
    """By estimated tokens, and by what fits into a request; "fail" makes the reason fatal."""
    task = Completion(
        prompt="{text}", max_tokens=3, limits=RequestLimits(rows=1, size=8), on_too_long="fail", on_empty="fail"
    )
    assert task.questions(texts("short", "x" * 30, "€€€", None))[1:] == [
        Refused("prompt is longer than 3 tokens", fatal=True),
        Refused("prompt is larger than 8 bytes", fatal=True),
        Refused("null in column 'text'", fatal=True),
    ]


def test_equal_prompts_have_equal_keys_and_share_only_when_told():
    """The key is the prompt, however it came about; whether rows share is the task's word."""
    one, two = Completion(prompt="{a}b"), Completion(prompt="a{b}", deterministic=True)
    assert ask(one, pa.record_batch({"a": ["a"]}))[0].key == ask(two, pa.record_batch({"b": ["b"]}))[0].key
    assert not one.equal_rows_share
    assert two.equal_rows_share
    system = Completion(prompt="{a}b", system="s")
    assert ask(system, pa.record_batch({"a": ["a"]}))[0].key != ask(one, pa.record_batch({"a": ["a"]}))[0].key


def decode(body, content_type=JSON):
    task = Completion(prompt="{text}")
    decoded = task.decode(Answer(body, content_type), ask(task, texts("q")))
    decoded.columns.validate(full=True)
    return decoded


@given(st.text())
@FORMAT
def test_any_completion_comes_through(write, content_type, result):
    """What the model said is kept to the letter, an empty text too."""
    decoded = decode(write({"completion": [{"result": result}]}), content_type)
    assert decoded.columns.to_pydict() == {"completion": [result]}
    assert decoded.refused == {}


@pytest.mark.parametrize("result", [None, 7, True, ["a"], {"a": 1}])
@FORMAT
def test_a_result_that_is_no_text_refuses_the_row(write, content_type, result):
    """A model that declined has a reason in its row, not an empty text."""
    decoded = decode(write({"completion": [{"result": result}]}), content_type)
    assert decoded.refused == {0: NO_TEXT}
    assert decoded.columns.to_pydict() == {"completion": [None]}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"completion": []}, "0 completions for 1 prompts"),
        ({"completion": [{"result": "a"}, {"result": "b"}]}, "2 completions for 1 prompts"),
        ({"completion": [{}]}, "no 'result'"),
        ({"completion": ["a"]}, "no 'result'"),
        ({"completion": "a"}, "not a list"),
        ({"chat_completion": []}, "no 'completion'"),
    ],
)
@FORMAT
def test_an_answer_of_another_shape_is_refused_as_a_whole(write, content_type, answer, words):
    """Nothing is guessed about an answer that is not the one asked for."""
    with pytest.raises(AnswerError) as caught:
        decode(write(answer), content_type)
    assert words in str(caught.value)


def test_text_that_looks_like_an_answer_stays_text():
    """A completion that quotes an answer does not confuse the reader."""
    quoted = '{"completion":[{"result":"x"}]}'
    for body, content_type in (
        (json_answer({"completion": [{"result": quoted}]}), JSON),
        (json.dumps({"completion": [{"result": quoted}]}, indent=1).encode(), JSON),
        (cbor2.dumps({"completion": [{"result": "completion"}]}), CBOR),
    ):
        assert decode(body, content_type).columns.column(0).to_pylist()[0] in (quoted, "completion")


def test_messages_do_not_quote_the_answer():
    """What a model said does not reach a message."""
    with pytest.raises(AnswerError) as caught:
        decode(b'{"completion":[{"result":"canary"}]}canary')
    assert "canary" not in "".join(map(str, (caught.value, caught.value.__cause__)))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"limits": RequestLimits()}, "limits.rows is 10"),
        ({"on_too_long": "truncate"}, "on_too_long is 'truncate'"),
        ({"system": 7}, "system is a int"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings, words):
    """A wrong setting is told by name and value."""
    with pytest.raises(ConfigurationError) as caught:
        Completion(prompt="{text}", **settings)
    assert words in str(caught.value)


LAMP = {"type": "object", "properties": {"name": {"type": "string"}, "price": {"type": "number"}}, "required": ["name"]}


def read_as_lamp(result):
    task = Completion(prompt="{text}", response_schema=LAMP)
    return task.decode(Answer(json_answer({"completion": [{"result": result}]}), JSON), ask(task, texts("q")))


def test_a_schema_is_part_of_the_prompt_and_its_properties_are_columns():
    """The schema stands at the end of each prompt, decides its key, and names the columns beside the text."""
    task = Completion(prompt="Describe {text}", system="Short.", response_schema=LAMP)
    (question,) = ask(task, texts("a lamp"))
    assert question.value.startswith("Short.\n\nDescribe a lamp\n\nAnswer with one JSON object")
    assert question.value.endswith(json.dumps(LAMP, separators=(",", ":")))
    assert task.output_columns == ("completion", "name", "price")
    other = Completion(prompt="Describe {text}", system="Short.", response_schema={**LAMP, "required": []})
    assert ask(other, texts("a lamp"))[0].key != question.key
    assert other.settings() != task.settings()


def test_an_answer_that_fits_is_text_and_columns():
    """The raw text stays, whatever stands around the JSON in it."""
    raw = '```json\n{"name": "lamp", "price": 7}\n```'
    decoded = read_as_lamp(raw)
    assert decoded.columns.to_pylist() == [{"completion": raw, "name": "lamp", "price": 7.0}]
    assert (dict(decoded.refused), decoded.unfit) == ({}, False)


def test_an_answer_that_does_not_fit_keeps_its_text_and_is_worth_another_question():
    """Typed columns are null, the text is there, and the reason names place and rule."""
    decoded = read_as_lamp('{"price": 7}')
    assert decoded.columns.to_pylist() == [{"completion": '{"price": 7}', "name": None, "price": None}]
    assert decoded.refused == {0: "the completion does not fit response_schema at /name: required"}
    assert decoded.unfit


def test_a_model_that_declined_is_not_asked_again():
    """No text at all is the same reason as without a schema."""
    decoded = read_as_lamp(None)
    assert (decoded.refused, decoded.unfit) == ({0: NO_TEXT}, False)


@pytest.mark.parametrize("name", ["answer", "answer_error"])
def test_a_property_must_not_be_called_like_the_output(name):
    """Two columns of one name would be one column less."""
    schema = {"type": "object", "properties": {name: {"type": "string"}}}
    with pytest.raises(ConfigurationError, match="which is the name of an output column"):
        Completion(prompt="{text}", output_column="answer", response_schema=schema)
