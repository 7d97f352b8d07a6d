"""A JSON object that fits a JSON Schema, made of what a text says: words, numbers, and which of some words it names. Pure.

No language model: strings are sentences of the text, numbers stand in it, and what it does not say is as small as the
schema allows.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["extract", "wanted_schema"]

_MARK = "JSON Schema: "
_INSTRUCTION = "Answer with one JSON object"
_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?!\w)")
_SENTENCE_END = re.compile(r"(?<=[。!?\uff01\uff1f])|(?<=\.)\s|\n")
_DEEPEST = 12


def wanted_schema(prompt: str) -> tuple[str, dict[str, Any]] | None:
    """The text of a prompt and the schema at its end; ``None`` for a prompt that asks for no JSON object."""
    told, mark, schema = prompt.rpartition(_MARK)
    text, instruction, _ = told.rpartition(_INSTRUCTION)
    if not (mark and instruction):
        return None
    try:
        found = json.loads(schema)
    except ValueError:
        return None
    return (text.strip(), found) if isinstance(found, dict) else None


def extract(text: str, schema: Mapping[str, Any]) -> Any:
    """A value that fits the schema, as far as it is of strings, numbers, choices, lists and objects."""
    return _Extractor(text, schema).value(schema, "", 0)


class _Extractor:
    def __init__(self, text: str, root: Mapping[str, Any]) -> None:
        self._text = text
        self._root = root
        self._sentences = [one.strip() for one in _SENTENCE_END.split(text) if one.strip()]

    def value(self, schema: Mapping[str, Any], name: str, depth: int) -> Any:
        """:param name: of the property, with what is said about it."""
        schema = self._plain(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return max(schema["enum"], key=lambda one: len(_words(str(one)) & _words(self._text)))
        kinds = schema.get("type", "object" if "properties" in schema else "string")
        kind = next((one for one in kinds if one != "null"), "null") if isinstance(kinds, list) else kinds
        return self._of_kind(kind, schema, name, depth) if depth < _DEEPEST else None

    def _of_kind(self, kind: str, schema: Mapping[str, Any], name: str, depth: int) -> Any:
        about = f"{name} {schema.get('description', '')}"
        found: Any = None
        match kind:
            case "object":
                properties = schema.get("properties", {})
                found = {one: self.value(below, one, depth + 1) for one, below in properties.items()}
            case "array":
                found = self._array(schema, name, depth)
            case "integer" | "number":
                found = self._number(schema, about, whole=kind == "integer")
            case "boolean":
                found = bool(_words(about) & _words(self._text))
            case "string":
                said = max(self._sentences, key=lambda one: len(_words(one) & _words(about)), default="")
                found = said[: schema.get("maxLength")].ljust(schema.get("minLength", 0), ".")
        return found

    def _array(self, schema: Mapping[str, Any], name: str, depth: int) -> list[Any]:
        items = self._plain(schema.get("items", {}))
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if "enum" in items:
            named = [one for one in items["enum"] if _words(str(one)) & _words(self._text)]
            return (named or items["enum"][:least])[:most]
        return [self.value(items, name, depth + 1) for _ in range(max(1, least))][:most]

    def _number(self, schema: Mapping[str, Any], about: str, *, whole: bool) -> float | int:
        """The number that stands nearest behind a word of the property's, of those that the schema allows."""
        least, most = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
        places = [found.end() for found in _WORD.finditer(self._text) if _words(found[0]) & _words(about)]
        fits = [
            (min((found.start() - place for place in places if place <= found.start()), default=math.inf), number)
            for found in _NUMBER.finditer(self._text)
            if least <= (number := float(found[0])) <= most and (number.is_integer() or not whole)
        ]
        number = min(fits, key=lambda one: one[0])[1] if fits else min(max(0.0, least), most)
        return math.ceil(number) if whole else number

    def _plain(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """Behind references and choices."""
        for _ in range(_DEEPEST):
            if "$ref" in schema:
                target: Any = self._root
                for step in str(schema["$ref"]).removeprefix("#/").split("/"):
                    target = target.get(step, {})
                schema = target
            elif branches := schema.get("anyOf") or schema.get("allOf"):
                schema = next((one for one in branches if one.get("type") != "null"), {})
            else:
                break
        return schema


def _words(text: str) -> frozenset[str]:
    parts: Iterable[str] = _WORD.findall(text.casefold().replace("_", " "))
    return frozenset(part.removesuffix("s") for part in parts)
