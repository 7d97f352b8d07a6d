"""Where a row's texts are: columns by name, dotted paths into structs, every Arrow type that holds text. Pure."""

from __future__ import annotations

from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_modelstudio.inference.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "check_text",
    "column_at",
    "field_at",
    "holds_text",
    "is_binary",
    "is_list",
    "is_string",
    "read_lists",
    "read_texts",
]

_T = TypeVar("_T")


def field_at(schema: pa.Schema, path: str) -> pa.Field:
    """The field a column name or a dotted path leads to.

    A column whose own name holds dots comes before a struct's field.
    Raises :class:`~..errors.InputError` when there is none, or more than one.
    """
    if path in schema.names:
        if schema.names.count(path) > 1:
            raise InputError(f"the source has more than one column {path!r}; rename all but one")
        return schema.field(path)
    name, *rest = path.split(".")
    if rest and schema.names.count(name) == 1:
        field = schema.field(name)
        for step in rest:
            field = _child(field.type, step)
            if field is None:
                break
        else:
            return field
    near = get_close_matches(path, list(_paths(schema)), n=1, cutoff=0.5)
    if near:
        raise InputError(f"the source has no column {path!r}; did you mean {near[0]!r}?")
    raise InputError(f"the source has no column {path!r}; it has {_some(schema.names)}")


def column_at(batch: pa.RecordBatch, path: str) -> pa.Array:
    """The values of a column or of a struct's field, null where the struct is; extension types as what they store."""
    if path in batch.schema.names:
        return _stored(batch.column(path))
    name, *rest = path.split(".")
    array = _stored(batch.column(name))
    for step in rest:
        array = _stored(pc.struct_field(array, step))
    return array


def holds_text(kind: pa.DataType) -> bool:
    """Whether :func:`read_texts` reads the type: UTF-8 as string or binary of any width, a dictionary of it, or nulls."""
    if isinstance(kind, pa.BaseExtensionType):
        return holds_text(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return holds_text(kind.value_type)
    return is_string(kind) or is_binary(kind) or bool(pa.types.is_null(kind))


def is_string(kind: pa.DataType) -> bool:
    """UTF-8 of any width; no dictionary."""
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def is_binary(kind: pa.DataType) -> bool:
    """Bytes of any width; no dictionary, nothing of fixed size."""
    return any(test(kind) for test in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view))


def is_list(kind: pa.DataType) -> bool:
    """Any kind of list that is no map."""
    return isinstance(
        kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType | pa.ListViewType | pa.LargeListViewType
    )


def check_text(schema: pa.Schema, path: str) -> None:
    """Raise :class:`~..errors.InputError` unless the path leads to a column of texts."""
    field = field_at(schema, path)
    if not holds_text(field.type):
        raise InputError(
            f"column {path!r} is of type {field.type}; a text is a string, a dictionary of strings or UTF-8 in binary"
        )


def read_texts(array: pa.Array) -> list[str | bytes | None]:
    """The texts of a column: ``None`` for a null, ``bytes`` where they are not valid UTF-8.

    Arrow does not look whether the bytes of a string column are UTF-8, and files exist where they are not.
    """
    array = _stored(array)
    if pa.types.is_dictionary(array.type):
        # Each entry that is used is read once; the dictionary may be larger than the batch.
        used = array.indices.unique()
        entries = dict(zip(used.to_pylist(), read_texts(array.dictionary.take(used)), strict=True))
        return [entries[index] for index in array.indices.to_pylist()]
    if is_string(array.type):
        try:
            texts: list[str | bytes | None] = array.to_pylist()
        except UnicodeDecodeError:
            array = array.cast(pa.large_binary())
        else:
            return texts
    return [None if raw is None else _decoded(raw) for raw in array.to_pylist()]


def read_lists(array: pa.Array, read: Callable[[pa.Array], list[_T]]) -> Iterator[list[_T] | None]:
    """The lists of a column, ``None`` for a null, their values read all at once."""
    values = iter(read(pc.list_flatten(array)))
    for length in pc.list_value_length(array).to_pylist():
        yield None if length is None else list(islice(values, length))


def _decoded(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _stored(array: pa.Array) -> pa.Array:
    return array.storage if isinstance(array, pa.ExtensionArray) else array


def _child(kind: pa.DataType, name: str) -> pa.Field | None:
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
        return None
    return kind.field(name)


def _paths(schema: pa.Schema) -> Iterator[str]:
    for field in schema:
        yield from _below(field, field.name)


def _below(field: pa.Field, path: str) -> Iterator[str]:
    yield path
    if pa.types.is_struct(field.type):
        for child in field.type:
            yield from _below(child, f"{path}.{child.name}")


def _some(names: list[str]) -> str:
    most = 12
    shown = ", ".join(repr(name) for name in names[:most]) or "none"
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
