"""A prompt with the values of a row in its places. Pure.

A template is cut into pieces once; values are put between them and never looked at again, so that a value with braces,
percent signs or code in it is text like any other.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pyarrow as pa

from airflow_provider_modelstudio.inference.errors import ConfigurationError, InputError

from .columns import column_at, field_at, holds_text, is_list, is_string, read_texts
from .settings import check_text_setting

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Template", "parse_template"]

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_SCALARS = (
    pa.types.is_boolean,
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_decimal,
    pa.types.is_date,
    pa.types.is_time,
    pa.types.is_timestamp,
)


class Template(NamedTuple):
    """A prompt cut at its placeholders."""

    literals: tuple[str, ...]
    """One more than there are placeholders."""
    columns: tuple[str, ...]
    """The column of each placeholder; a column may come more than once."""

    def check(self, schema: pa.Schema) -> None:
        """Raise unless each placeholder names a column that can be written into a prompt.

        :class:`~..errors.ConfigurationError` for a column that is not there, :class:`~..errors.InputError` for its type.
        """
        for column in self.columns:
            try:
                kind = field_at(schema, column).type
            except InputError as error:
                raise ConfigurationError(f"the prompt asks for {{{column}}}: {error}") from error
            if not (holds_text(kind) or _fits(kind)):
                raise InputError(f"column {column!r} is of type {kind}, which cannot be written into a prompt")

    def values(self, batch: pa.RecordBatch) -> Iterator[tuple[str | bytes | None, ...]]:
        """For each row, the text of each placeholder; ``None`` for a null, ``bytes`` for what is not UTF-8."""
        texts = {column: _render(column_at(batch, column)) for column in set(self.columns)}
        return zip(*(texts[column] for column in self.columns), strict=True)

    def fill(self, values: tuple[str, ...]) -> str:
        """The prompt with a row's values."""
        pieces = [self.literals[0]]
        for value, literal in zip(values, self.literals[1:], strict=True):
            pieces += (value, literal)
        return "".join(pieces)


def parse_template(prompt: str) -> Template:
    """A prompt with ``{column}`` in it; ``{{`` and ``}}`` stand for a brace.

    Between braces is the name of a column or a dotted path into a struct, nothing else: no format, no index, no call.
    Raises :class:`~..errors.ConfigurationError` for a brace without its partner, a placeholder without a name, and a
    prompt without a placeholder, which would ask the same for each row.
    """
    check_text_setting(prompt=prompt)
    literals, columns, at = [""], [], 0
    for token in _TOKEN.finditer(prompt):
        literals[-1] += prompt[at : token.start()]
        at = token.end()
        name = token[1]
        if name is not None:
            if not name.strip():
                raise ConfigurationError(f"the prompt has a placeholder without a name at character {token.start()}")
            columns.append(name)
            literals.append("")
        elif len(token[0]) > 1:
            literals[-1] += token[0][0]
        else:
            raise ConfigurationError(
                f"the prompt has a {token[0]!r} without its partner at character {token.start()}; "
                "a brace of its own is written twice"
            )
    literals[-1] += prompt[at:]
    if not columns:
        raise ConfigurationError("the prompt names no column; write {text} where the value of column 'text' belongs")
    return Template(tuple(literals), tuple(columns))


def _fits(kind: pa.DataType, *, nested: bool = False) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return _fits(kind.storage_type, nested=nested)
    if pa.types.is_dictionary(kind):
        return _fits(kind.value_type, nested=nested)
    if pa.types.is_struct(kind):
        return all(_fits(child.type, nested=True) for child in kind)
    if is_list(kind):
        return _fits(kind.value_type, nested=True)
    if nested:
        # Python's datetime, which JSON is made from, does not hold nanoseconds.
        return is_string(kind) or (_is_scalar(kind) and not (pa.types.is_timestamp(kind) and kind.unit == "ns"))
    return _is_scalar(kind)


def _is_scalar(kind: pa.DataType) -> bool:
    return any(test(kind) for test in _SCALARS)


def _render(array: pa.Array) -> list[str | bytes | None]:
    """Texts as they are, numbers as Arrow prints them, times in ISO 8601, lists and structs as JSON."""
    kind = array.type
    if holds_text(kind):
        return read_texts(array)
    if pa.types.is_struct(kind) or is_list(kind):
        return [_json(scalar) for scalar in array]
    texts: list[str | bytes | None] = array.cast(pa.string()).to_pylist()
    if pa.types.is_timestamp(kind):
        return [text.replace(" ", "T", 1) if isinstance(text, str) else text for text in texts]
    return texts


def _json(scalar: pa.Scalar) -> str | bytes | None:
    if not scalar.is_valid:
        return None
    try:
        return msgspec.json.encode(scalar.as_py()).decode()
    except UnicodeDecodeError:
        return b""
