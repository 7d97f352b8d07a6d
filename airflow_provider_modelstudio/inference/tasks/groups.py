"""Rows that belong together: neighbours with the same value in one column. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from airflow_provider_modelstudio.inference.errors import InputError

from .columns import field_at, holds_text, read_texts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["GroupId", "check_group_column", "read_ids", "spans"]

GroupId = str | bytes | int | None


def check_group_column(schema: pa.Schema, path: str) -> None:
    """Raise :class:`~..errors.InputError` unless the path leads to a column of texts or whole numbers."""
    kind = field_at(schema, path).type
    if not (holds_text(kind) or pa.types.is_integer(kind)):
        raise InputError(f"column {path!r} is of type {kind}; an id is a text or a whole number")


def read_ids(array: pa.Array) -> list[GroupId]:
    """The values of a column that :func:`check_group_column` takes."""
    return array.to_pylist() if pa.types.is_integer(array.type) else list(read_texts(array))


def spans(ids: Sequence[GroupId]) -> Iterator[tuple[int, int]]:
    """Start and end of each run of equal ids."""
    start = 0
    for at in range(1, len(ids) + 1):
        if at == len(ids) or ids[at] != ids[start]:
            yield start, at
            start = at
