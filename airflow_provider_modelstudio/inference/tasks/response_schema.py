"""A JSON Schema for answers in words: which columns it makes, how it is asked for, what an answer is against it. Pure.

A schema is walked once.
What comes out is a plain one (references replaced, "or null" written into types) and an Arrow type for each property;
whatever has no type in Arrow is refused here, before anything is asked.
"""

from __future__ import annotations

import json
import math
import re
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import jsonschema
import pyarrow as pa

from airflow_provider_modelstudio.inference.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["NOT_JSON", "ResponseSchema", "Unfit", "parse_response_schema"]

NOT_JSON = "the completion is not the JSON object that response_schema describes"
INSTRUCTION = (
    "Answer with one JSON object that is valid against this JSON Schema, and with nothing else: no explanation, "
    "no code fence.\nJSON Schema: "
)

_TYPES = {"string": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}
_CHECKED = frozenset(
    {
        *("type", "enum", "const", "properties", "required", "additionalProperties", "items"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("minLength", "maxLength", "pattern", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties"),
    }
)
_TOLD = frozenset({"title", "description", "default", "examples", "format", "deprecated", "$schema", "$comment"})
"""What a schema tells its reader; nothing is checked by it."""
_DEFINITIONS = ("$defs", "definitions")
_MOST_DEEP = 20
_MOST_PARTS = 2_000
_INT64 = range(-(2**63), 2**63)


class Unfit(NamedTuple):
    """Why an answer does not fit: a place in the schema and a rule of it, never what was answered."""

    reason: str


class ResponseSchema(NamedTuple):
    """A schema that answers can be held against."""

    columns: pa.Schema
    """One nullable column a property, in the order of the schema."""
    instruction: str
    """What is added to a prompt."""
    validator: Any

    def read(self, text: str) -> dict[str, Any] | Unfit:
        """The properties of an answer, ready for :attr:`columns`; those that are left out are missing.

        A code fence around the JSON is taken off.
        """
        try:
            answer = _decode(_unfenced(text))
        except (ValueError, RecursionError):
            return Unfit(NOT_JSON)
        try:
            error = next(iter(self.validator.iter_errors(answer)), None)
        except (OverflowError, RecursionError):  # a number or a nesting beyond what can be compared
            return Unfit(NOT_JSON)
        if error is not None:
            return Unfit(f"the completion does not fit response_schema at {_place(error)}: {error.validator}")
        try:
            return {field.name: _fit(answer[field.name], field.type) for field in self.columns if field.name in answer}
        except OverflowError:
            return Unfit("the completion holds a number beyond 64 bits")


def parse_response_schema(schema: Mapping[str, Any]) -> ResponseSchema:
    """The schema as columns. Raises :class:`~..errors.ConfigurationError` naming the part that makes none."""
    try:
        text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        text.encode()
    except (TypeError, ValueError, RecursionError):
        raise ConfigurationError("response_schema is not an object that JSON can hold") from None
    return _parsed(text)


@lru_cache(maxsize=8)
def _parsed(text: str) -> ResponseSchema:
    schema = json.loads(text)
    if not isinstance(schema, dict):
        raise ConfigurationError("response_schema is not an object that JSON can hold")
    plain = _Walk(schema).plain(schema, "", ())
    if plain.get("type") != "object":
        _refuse("", "the schema of an answer has the type 'object', each property of which becomes a column")
    try:
        jsonschema.Draft202012Validator.check_schema(plain)
    except jsonschema.SchemaError as error:
        where = "".join(f"/{step}" for step in error.absolute_path)
        raise ConfigurationError(f"response_schema at {where or '/'}: this is no valid JSON Schema") from None
    columns = pa.schema(_arrow(plain, "").fields)
    return ResponseSchema(columns, INSTRUCTION + text, _VALIDATOR(plain))


def _multiple_of(_: Any, divisor: float, instance: Any, __: Any) -> Iterator[jsonschema.ValidationError]:
    """``multipleOf`` over the digits that were written: as floats, 19.99 / 0.01 is not whole."""
    if isinstance(instance, bool) or not isinstance(instance, int | float):
        return
    if Fraction(repr(instance)) % Fraction(repr(divisor)):
        yield jsonschema.ValidationError("no multiple")


_VALIDATOR = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"multipleOf": _multiple_of})


class _Walk:
    """One walk over a schema."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._parts = 0

    def plain(self, schema: Any, path: str, inside: tuple[str, ...]) -> dict[str, Any]:
        """The same without references, ``allOf`` and ``anyOf``.

        :param inside: references and branches that led here.
        """
        self._parts += 1
        if self._parts > _MOST_PARTS or max(path.count("/") / 2, len(inside) / 4) > _MOST_DEEP:
            _refuse(path, f"more than {_MOST_PARTS} parts, or nested deeper than {_MOST_DEEP}")
        if not isinstance(schema, dict):
            _refuse(path, "a schema is an object")
        schema = _checked(schema)
        if "$ref" in schema:
            reference = schema.pop("$ref")
            if reference in inside:
                _refuse(path, f"$ref {reference!r} leads back to itself, and a column has no end then")
            return self.plain(_both(self._target(reference, path), schema, "$ref", path), path, (*inside, reference))
        for keyword in ("allOf", "anyOf"):
            if keyword in schema:
                return self._branch(schema, keyword, path, inside)
        for keyword in schema:
            if keyword not in _CHECKED:
                _refuse(path, f"{keyword!r} cannot be typed")
        return self._below(schema, path, inside)

    def _branch(self, schema: dict[str, Any], keyword: str, path: str, inside: tuple[str, ...]) -> dict[str, Any]:
        branches = schema.pop(keyword)
        if not isinstance(branches, list):
            _refuse(path, f"{keyword!r} is a list of schemas")
        (*others, only) = [branch for branch in branches if branch != {"type": "null"}] or [None]
        if others or not isinstance(only, dict) or (keyword == "allOf" and len(branches) > 1):
            _refuse(path, f"{keyword!r} cannot be typed, unless it is of one schema, or anyOf one and null")
        if len(branches) == 1:
            return self.plain(_both(only, schema, keyword, path), path, (*inside, keyword))
        for beside in ("type", "enum", "const"):
            if beside in schema:  # it has its own say about null
                _refuse(path, f"{beside!r} beside 'anyOf' with null cannot be typed")
        return _or_null(self.plain(_both(only, schema, keyword, path), path, (*inside, keyword)))

    def _below(self, schema: dict[str, Any], path: str, inside: tuple[str, ...]) -> dict[str, Any]:
        if not isinstance(schema.get("additionalProperties", True), bool):
            _refuse(path, "'additionalProperties' cannot be typed, unless it is true or false")
        if "properties" in schema:
            properties = schema["properties"]
            if not isinstance(properties, dict):
                _refuse(path, "'properties' is an object")
            if not all(name.strip() for name in properties):
                _refuse(path, "a property without a name makes no column")
            schema["properties"] = {
                name: self.plain(below, f"{path}/properties/{name}", inside) for name, below in properties.items()
            }
        if "items" in schema:
            schema["items"] = self.plain(schema["items"], f"{path}/items", inside)
        if "pattern" in schema:
            try:
                re.compile(schema["pattern"])
            except (re.error, TypeError, OverflowError, RecursionError):
                _refuse(path, "'pattern' is no regular expression")
        return _listed(schema, path)

    def _target(self, reference: Any, path: str) -> dict[str, Any]:
        target: Any = self._root
        if not isinstance(reference, str) or not reference.startswith("#/"):
            _refuse(path, f"$ref {reference!r} leads out of the schema, or to all of it")
        for step in reference[2:].split("/"):
            target = target.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(target, dict) else None
        if not isinstance(target, dict):
            _refuse(path, f"$ref {reference!r} leads nowhere")
        return target


def _listed(schema: dict[str, Any], path: str) -> dict[str, Any]:
    """The same with ``const`` as an ``enum`` of one."""
    if not isinstance(schema.get("enum", []), list):
        _refuse(path, "'enum' is a list")
    if "const" in schema:
        if "enum" in schema:
            _refuse(path, "'const' beside 'enum' cannot be typed")
        schema["enum"] = [schema.pop("const")]
    return schema


def _checked(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema without what is only told, and without definitions."""
    return {name: value for name, value in schema.items() if name not in (*_DEFINITIONS, *_TOLD)}


def _both(one: Mapping[str, Any], other: Mapping[str, Any], keyword: str, path: str) -> dict[str, Any]:
    """One schema that means what two mean together; refused where laying one over the other would lose a part.

    :param one: what ``keyword`` leads to.
    :param other: what stands beside it.
    """
    one = _checked(one)
    for name in sorted(one.keys() & other.keys()):
        # 1 == True in Python, and not in JSON
        if json.dumps(one[name], sort_keys=True) != json.dumps(other[name], sort_keys=True):
            _refuse(path, f"{name!r} stands beside {keyword!r} and in what that holds; write them as one schema")
    for closed, opened in ((one, other), (other, one)):
        names = "properties" in opened and "properties" not in closed
        if names and closed.get("additionalProperties", True) is not True:
            _refuse(
                path, f"'additionalProperties' and 'properties', one beside {keyword!r} and one in it, cannot be typed"
            )
    return {**one, **other}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    kind = schema.get("type", [])
    kinds = kind if isinstance(kind, list) else [kind]
    nullable = {**schema, "type": kinds if "null" in kinds else [*kinds, "null"]} if kind else dict(schema)
    values = schema.get("enum", [None])
    return nullable if None in values else {**nullable, "enum": [*values, None]}


def _arrow(schema: Mapping[str, Any], path: str) -> pa.DataType:
    """The Arrow type of a plain schema."""
    named = schema.get("type", [])
    kinds = {kind for kind in (named if isinstance(named, list) else [named]) if kind != "null"}
    if "enum" in schema and not kinds:
        kinds = _kinds_of(schema["enum"])
    if kinds == {"integer", "number"}:
        kinds = {"number"}
    if len(kinds) != 1:
        _refuse(path, f"one type is needed, and here are {', '.join(sorted(map(str, kinds))) or 'none'}")
    (kind,) = kinds
    match kind:
        case "array":
            if "items" not in schema:
                _refuse(path, "an array without 'items' cannot be typed")
            return pa.list_(pa.field("element", _arrow(schema["items"], f"{path}/items")))
        case "object":
            properties = schema.get("properties")
            if not properties:
                _refuse(path, "an object without 'properties' cannot be typed")
            return pa.struct([(name, _arrow(below, f"{path}/properties/{name}")) for name, below in properties.items()])
        case _ if kind in _TYPES:
            return _TYPES[kind]
    return _refuse(path, f"type {kind!r} cannot be typed")


def _kinds_of(values: Any) -> set[str]:
    names = {str: "string", bool: "boolean", int: "integer", float: "number"}
    return {
        names.get(type(value), "object") for value in (values if isinstance(values, list) else ()) if value is not None
    }


def _refuse(path: str, why: str) -> NoReturn:
    raise ConfigurationError(f"response_schema at {path or '/'}: {why}")


def _unfenced(text: str) -> str:
    text = text.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text[3:-3].strip()
        if not text.startswith("{"):  # the name of the language
            text = "".join(text.split(None, 1)[1:])
    return text


def _decode(text: str) -> dict[str, Any]:
    answer = json.loads(text, object_pairs_hook=_object, parse_constant=_no_number, parse_float=_finite)
    if not isinstance(answer, dict):
        raise ValueError("no object")  # noqa: TRY004  # of JSON, not of Python
    if "\\ud" in text.lower():  # half of a pair of escapes is no text
        json.dumps(answer, ensure_ascii=False).encode()
    return answer


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    whole = dict(pairs)
    if len(whole) != len(pairs):
        raise ValueError("a name comes twice in an object")
    return whole


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number beyond 64 bits")
    return number


def _place(error: Any) -> str:
    """Where in the schema an answer fails; places of a list are one place."""
    return "/" + "/".join(_steps(error))


def _steps(error: Any) -> Iterator[str]:
    for step in error.absolute_path:
        yield "[]" if isinstance(step, int) else str(step)
    if error.validator == "required":
        yield next(str(name) for name in error.validator_value if name not in error.instance)


def _fit(value: Any, kind: pa.DataType) -> Any:
    """A valid value as Arrow takes it: 5.0 is an integer to JSON Schema; raises ``OverflowError``."""
    if value is None:
        return None
    if pa.types.is_struct(kind):
        return {field.name: _fit(value[field.name], field.type) for field in kind.fields if field.name in value}
    if pa.types.is_list(kind):
        return [_fit(one, kind.value_type) for one in value]
    if pa.types.is_int64(kind):
        if int(value) not in _INT64:
            raise OverflowError
        return int(value)
    return float(value) if pa.types.is_float64(kind) else value
