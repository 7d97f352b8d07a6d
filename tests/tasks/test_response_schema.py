"""Which schemas make columns, and what answers are against them."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_modelstudio.inference.errors import ConfigurationError
from airflow_provider_modelstudio.inference.tasks.response_schema import NOT_JSON, Unfit, parse_response_schema

PRODUCT = {
    "$defs": {"Colour": {"enum": ["red", "blue"], "title": "Colour", "type": "string"}},
    "title": "Product",
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "description": "as on the label"},
        "pieces": {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}], "default": None},
        "price": {"type": ["number", "null"]},
        "sold": {"type": "boolean"},
        "colour": {"$ref": "#/$defs/Colour"},
        "second": {"anyOf": [{"$ref": "#/$defs/Colour"}, {"type": "null"}]},
        "sizes": {
            "type": "array",
            "items": {"type": "object", "properties": {"cm": {"type": "number"}}, "required": ["cm"]},
        },
        "kind": {"const": "product"},
    },
    "required": ["name", "colour"],
    "additionalProperties": False,
}
"""As pydantic writes it."""


def object_of(**properties):
    return {"type": "object", "properties": properties}


def test_each_property_is_a_column():
    """Whole numbers, numbers, truths, choices, lists and objects, all nullable, in the order of the schema."""
    columns = parse_response_schema(PRODUCT).columns
    assert {field.name: str(field.type) for field in columns} == {
        "name": "string",
        "pieces": "int64",
        "price": "double",
        "sold": "bool",
        "colour": "string",
        "second": "string",
        "sizes": "list<element: struct<cm: double>>",
        "kind": "string",
    }
    assert all(field.nullable for field in columns)


def test_the_prompt_gets_the_schema_as_it_was_written():
    """The instruction ends with the schema itself, descriptions and all, the same each time."""
    instruction = parse_response_schema(PRODUCT).instruction
    assert json.loads(instruction.rpartition("JSON Schema: ")[2]) == PRODUCT
    assert instruction == parse_response_schema(json.loads(json.dumps(PRODUCT))).instruction


@pytest.mark.parametrize(
    ("answer", "place"),
    [
        ({"colour": "red"}, "/name: required"),
        ({"name": "", "colour": "red"}, "/name: minLength"),
        ({"name": 7, "colour": "red"}, "/name: type"),
        ({"name": "a", "colour": "canary"}, "/colour: enum"),
        ({"name": "a", "colour": None}, "/colour: enum"),
        ({"name": "a", "colour": "red", "pieces": -1}, "/pieces: minimum"),
        ({"name": "a", "colour": "red", "pieces": 1.5}, "/pieces: type"),
        ({"name": "a", "colour": "red", "pieces": True}, "/pieces: type"),
        ({"name": "a", "colour": "red", "second": "canary"}, "/second: enum"),
        ({"name": "a", "colour": "red", "canary": 1}, "/: additionalProperties"),
        ({"name": "a", "colour": "red", "sizes": [{"cm": 1}, {}]}, "/sizes/[]/cm: required"),
        ({"name": "a", "colour": "red", "sizes": [{"cm": "canary"}]}, "/sizes/[]/cm: type"),
    ],
)
def test_an_answer_that_does_not_fit_names_place_and_rule(answer, place):
    """The reason has the path in the schema and the rule that is broken, and nothing of what was answered."""
    assert parse_response_schema(PRODUCT).read(json.dumps(answer)) == Unfit(
        f"the completion does not fit response_schema at {place}"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "canary",
        "[]",
        "7",
        "null",
        '{"name": "a"',
        '{"name": "a"} canary',
        '{"a": NaN}',
        '{"a": 1e400}',
        "[" * 100_000,
        '{"a": 1, "a": 2}',
        '{"a": "\\ud800"}',
        '{"a": ' + "9" * 5_000 + "}",
        "```json\ncanary\n```",
        "```",
        "``````",
    ],
)
def test_what_is_no_json_object_is_told_in_the_same_words(text):
    """Words, damage, numbers that JSON has not, a name that comes twice, half a character, nesting without end."""
    assert parse_response_schema(object_of(a={"type": "number"})).read(text) == Unfit(NOT_JSON)


@pytest.mark.parametrize("fence", ["{}", "```json\n{}\n```", "```\n{}\n```", " ```JSON {}``` ", "```{}```", "\n{}\n"])
def test_a_code_fence_is_taken_off(fence):
    """Models wrap JSON in Markdown although they are told not to."""
    assert parse_response_schema(object_of(a={"type": "string"})).read(fence.format('{"a": "```"}')) == {"a": "```"}


def test_numbers_that_arrow_cannot_hold_refuse_the_answer():
    """An integer beyond 64 bits, and a number beyond a float; 5.0 is an integer."""
    schema = parse_response_schema(object_of(a={"type": "integer"}, b={"type": "number"}))
    assert schema.read('{"a": 5.0, "b": 1}') == {"a": 5, "b": 1.0}
    assert schema.read('{"a": -9223372036854775808}') == {"a": -(2**63)}
    for text in ('{"a": 9223372036854775808}', '{"a": 1e30}', f'{{"b": 1{"0" * 400}}}'):
        assert schema.read(text) == Unfit("the completion holds a number beyond 64 bits")


@pytest.mark.parametrize("number", ["19.99", "0.29", "0.07", "1e300", "-4.35", "3", "0"])
def test_a_multiple_is_one_of_the_digits_that_were_written(number):
    """Prices are multiples of 0.01, although their floats are not."""
    schema = parse_response_schema(object_of(price={"type": "number", "multipleOf": 0.01}))
    assert schema.read(f'{{"price": {number}}}') == {"price": float(number)}


def test_what_is_no_multiple_does_not_fit():
    """A tenth of a cent is no price, 7 no multiple of 2; null is not a number."""
    schema = parse_response_schema(
        object_of(price={"type": ["number", "null"], "multipleOf": 0.01}, n={"type": "integer", "multipleOf": 2})
    )
    assert schema.read('{"price": 19.991}') == Unfit(
        "the completion does not fit response_schema at /price: multipleOf"
    )
    assert schema.read('{"n": 7}') == Unfit("the completion does not fit response_schema at /n: multipleOf")
    assert schema.read('{"price": null, "n": 8.0}') == {"price": None, "n": 8}


def test_parts_that_stand_beside_a_reference_hold_as_well():
    """What a reference, allOf of one and anyOf with null lead to holds together with what stands beside them."""
    schema = parse_response_schema(
        {
            "$defs": {"Name": {"type": "string", "minLength": 2, "title": "Name"}, "Other": {"type": "string"}},
            "properties": {
                "a": {"$ref": "#/$defs/Name", "maxLength": 3, "title": "a", "minLength": 2},
                "b": {"allOf": [{"$ref": "#/$defs/Name"}], "maxLength": 3},
                "c": {"anyOf": [{"$ref": "#/$defs/Name"}, {"type": "null"}], "maxLength": 3},
                "d": {"anyOf": [{"anyOf": [{"enum": ["x"]}, {"type": "null"}]}, {"type": "null"}]},
                "e": {"anyOf": [{"type": ["string", "null"]}, {"type": "null"}]},
            },
            "allOf": [{"type": "object", "required": ["a"]}],
        }
    )
    assert schema.columns.names == ["a", "b", "c", "d", "e"]
    fits = {"a": "abc", "b": "ab", "c": None, "d": None, "e": None}
    assert schema.read(json.dumps(fits)) == fits
    assert schema.read("{}") == Unfit("the completion does not fit response_schema at /a: required")
    for name in "abc":
        for text, rule in (("a", "minLength"), ("abcd", "maxLength")):
            reason = f"the completion does not fit response_schema at /{name}: {rule}"
            assert schema.read(json.dumps({**fits, name: text})) == Unfit(reason)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "array", "items": {"type": "string"}}, "at /: the schema of an answer has the type 'object'"),
        ({}, "at /: the schema of an answer has the type 'object'"),
        ({"type": ["object", "null"], "properties": {"a": {"type": "string"}}}, "the type 'object'"),
        ({"type": "object"}, "at /: an object without 'properties'"),
        (object_of(a={}), "at /properties/a: one type is needed, and here are none"),
        (object_of(a=True), "at /properties/a: a schema is an object"),
        (object_of(a={"type": ["string", "integer"]}), "one type is needed, and here are integer, string"),
        (object_of(a={"enum": ["a", 1]}), "one type is needed, and here are integer, string"),
        (object_of(a={"type": "null"}), "here are none"),
        (object_of(a={"type": "date"}), "at /properties/a/type: this is no valid JSON Schema"),
        (object_of(a={"oneOf": [{"type": "string"}]}), "at /properties/a: 'oneOf' cannot be typed"),
        (object_of(a={"anyOf": [{"type": "string"}, {"type": "integer"}]}), "'anyOf' cannot be typed"),
        (object_of(a={"allOf": [{"type": "string"}, {"minLength": 1}]}), "'allOf' cannot be typed"),
        (object_of(a={"type": "array"}), "an array without 'items'"),
        (object_of(a={"type": "array", "prefixItems": []}), "'prefixItems' cannot be typed"),
        (object_of(a={"type": "object", "patternProperties": {}}), "'patternProperties' cannot be typed"),
        (object_of(a={"type": "object", "additionalProperties": {"type": "string"}}), "'additionalProperties' cannot"),
        (object_of(a={"$ref": "https://example.com/x.json"}), "leads out of the schema"),
        (object_of(a={"$ref": "#"}), "leads out of the schema"),
        (object_of(a={"$ref": "#/$defs/A"}), "leads nowhere"),
        (
            {**object_of(a={"$ref": "#/$defs/A"}), "$defs": {"A": object_of(b={"$ref": "#/$defs/A"})}},
            "leads back to itself",
        ),
        (object_of(**{" ": {"type": "string"}}), "a property without a name"),
        (object_of(a={"type": "string", "pattern": "("}), "'pattern' is no regular expression"),
        (object_of(a={"type": "string", "minLength": -1}), "at /properties/a/minLength: this is no valid JSON Schema"),
        ({"type": "object", "properties": []}, "'properties' is an object"),
        (object_of(a={"anyOf": 5}), "at /properties/a: 'anyOf' is a list of schemas"),
        (object_of(a={"allOf": {"type": "string"}}), "at /properties/a: 'allOf' is a list of schemas"),
        (object_of(a={"anyOf": []}), "at /properties/a: 'anyOf' cannot be typed"),
        (object_of(a={"anyOf": [{"enum": 5}, {"type": "null"}]}), "at /properties/a: 'enum' is a list"),
        (object_of(a={"type": "string", "pattern": "a{99999999999999}"}), "'pattern' is no regular expression"),
        (object_of(a={"type": "number", "multipleOf": 0}), "at /properties/a/multipleOf: this is no valid JSON Schema"),
        (
            {**object_of(a={"type": "string"}), "allOf": [object_of(b={"type": "string"})]},
            "at /: 'properties' stands beside 'allOf' and in what that holds",
        ),
        (
            {**object_of(a={"type": "string"}), "allOf": [{"additionalProperties": False}]},
            "at /: 'additionalProperties' and 'properties', one beside 'allOf' and one in it",
        ),
        (
            {"additionalProperties": False, "allOf": [object_of(a={"type": "string"})]},
            "at /: 'additionalProperties' and 'properties', one beside 'allOf' and one in it",
        ),
        (
            {**object_of(a={"$ref": "#/$defs/A", "minLength": 1}), "$defs": {"A": {"type": "string", "minLength": 5}}},
            "at /properties/a: 'minLength' stands beside '$ref'",
        ),
        (
            {**object_of(a={"$ref": "#/$defs/A", "minimum": True}), "$defs": {"A": {"type": "number", "minimum": 1}}},
            "at /properties/a: 'minimum' stands beside '$ref'",
        ),
        (
            object_of(a={"anyOf": [{"minLength": 1}, {"type": "null"}], "type": "string"}),
            "'type' beside 'anyOf' with null",
        ),
        (
            object_of(a={"anyOf": [{"type": "string"}, {"type": "null"}], "enum": ["x"]}),
            "at /properties/a: 'enum' beside 'anyOf' with null",
        ),
        (object_of(a={"enum": ["a"], "const": "b"}), "at /properties/a: 'const' beside 'enum'"),
        ({"a": {1}}, "not an object that JSON can hold"),
        ([], "not an object that JSON can hold"),
    ],
)
def test_a_schema_that_makes_no_columns_is_refused_by_name(schema, words):
    """What has no type in Arrow is named with its place, before anything is asked."""
    with pytest.raises(ConfigurationError) as caught:
        parse_response_schema(schema)
    assert words in str(caught.value)


def test_a_small_schema_that_means_a_huge_one_is_refused():
    """References that double at each step end in words, not in memory."""
    definitions = {
        f"D{i}": object_of(a={"$ref": f"#/$defs/D{i + 1}"}, b={"$ref": f"#/$defs/D{i + 1}"}) for i in range(19)
    }
    with pytest.raises(ConfigurationError, match="more than 2000 parts"):
        parse_response_schema({**definitions["D0"], "$defs": {**definitions, "D19": {"type": "string"}}})


def test_branches_and_references_without_end_are_refused():
    """A choice of one in a choice of one, or a reference to a reference, a hundred deep, ends in words."""
    deep = {"type": "string"}
    for _ in range(100):
        deep = {"allOf": [deep]}
    chain = {f"D{i}": {"$ref": f"#/$defs/D{i + 1}"} for i in range(100)}
    chained = {**object_of(a={"$ref": "#/$defs/D0"}), "$defs": {**chain, "D100": {"type": "string"}}}
    for schema in (object_of(a=deep), chained):
        with pytest.raises(ConfigurationError, match=r"at /properties/a: .*nested deeper than 20"):
            parse_response_schema(schema)


def test_twenty_objects_in_each_other_may_each_be_a_choice_by_reference():
    """As pydantic writes an optional object in an object."""
    below = {f"D{i}": object_of(a={"anyOf": [{"$ref": f"#/$defs/D{i + 1}"}, {"type": "null"}]}) for i in range(18)}
    schema = parse_response_schema({**below["D0"], "$defs": {**below, "D18": {"type": "string"}}})
    assert str(schema.columns.types[0]).count("struct") == 17


KEYWORDS = (
    *("$ref", "$defs", "allOf", "anyOf", "type", "enum", "const", "properties", "items", "required", "pattern"),
    *("additionalProperties", "minimum", "multipleOf", "minLength", "uniqueItems"),
)
ANYTHING = st.recursive(
    st.sampled_from([None, True, 0, 5, -1.5, "string", "object", "null", "#/$defs", "#/$defs/enum", "#/anyOf", "("]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYWORDS), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(KEYWORDS), ANYTHING, max_size=5))
def test_a_schema_that_is_none_ends_in_words(below):
    """Whatever stands where: columns, or a refusal that names a place."""
    schema = {**object_of(a=below), "$defs": below}
    try:
        told = str(parse_response_schema(schema).columns)
    except ConfigurationError as error:
        told = str(error)
    assert told.startswith(("a: ", "response_schema at /"))


SCALARS = st.one_of(
    st.tuples(st.just({"type": "string"}), st.text(max_size=5)),
    st.tuples(st.just({"type": "integer"}), st.integers(-(2**63), 2**63 - 1)),
    st.tuples(st.just({"type": "number"}), st.floats(allow_nan=False, allow_infinity=False)),
    st.tuples(st.just({"type": "boolean"}), st.booleans()),
    st.tuples(st.just({"type": ["string", "null"]}), st.none()),
)


def _lists(inner):
    return inner.flatmap(
        lambda pair: st.integers(0, 3).map(lambda n: ({"type": "array", "items": pair[0]}, [pair[1]] * n))
    )


def _objects(inner):
    return st.dictionaries(st.text(min_size=1, max_size=3).filter(str.strip), inner, min_size=1, max_size=3).map(
        lambda pairs: (
            object_of(**{name: schema for name, (schema, _) in pairs.items()}),
            {name: value for name, (_, value) in pairs.items()},
        )
    )


@given(_objects(st.recursive(SCALARS, lambda inner: _lists(inner) | _objects(inner), max_leaves=6)))
def test_an_answer_that_fits_comes_out_of_its_columns_as_it_went_in(pair):
    """Whatever the nesting: what the model said is what the columns hold."""
    wanted, answer = pair
    schema = parse_response_schema(wanted)
    read = schema.read(json.dumps(answer))
    assert isinstance(read, dict)
    assert pa.RecordBatch.from_pylist([read], schema.columns).to_pylist() == [answer]
