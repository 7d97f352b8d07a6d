"""Files of one dataset, each with a schema of its own: what they have in common, and their rows in that form. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

import pyarrow as pa

from airflow_provider_modelstudio.inference.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from airflow_provider_modelstudio.inference.plan import InputFile

__all__ = ["conform", "first_line", "read_partition", "unify"]

_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"


def read_partition(below: str) -> tuple[tuple[str, str | None], ...]:
    """Hive partition keys in a path; values stay text, decoded once."""
    keys = []
    for step in below.split("/")[:-1]:
        name, equals, value = step.partition("=")
        if equals and name:
            keys.append((_decoded(name), None if value == _NULL_PARTITION else _decoded(value)))
    return tuple(keys)


def _decoded(text: str) -> str:
    """Without percent signs, where they stand for UTF-8."""
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        return text


def unify(footers: Iterable[tuple[InputFile, pa.Schema]]) -> pa.Schema:
    """One schema for all files, by name: wider types, nulls where a file lacks a column.

    Raises :class:`~..errors.InputError` naming file, column and both types where a type does not widen safely.
    """
    rest = iter(footers)
    unified = next(rest)[1]
    for file, schema in rest:
        if schema.equals(unified):
            continue
        here = {field.name: field for field in schema}
        differing = [field for field in unified if field.name in here and field.type != here[field.name].type]
        try:
            wider = pa.unify_schemas([unified, schema], promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise _misfit(file, differing, here, first_line(error)) from error
        for field in differing:
            kind = wider.field(field.name).type
            if not (_widens(field.type, kind) and _widens(here[field.name].type, kind)):
                raise _misfit(file, [field], here, "")
        # A column that a file lacks is null there, whatever the other files promise.
        everywhere = set(unified.names) & set(here)
        unified = pa.schema(
            [field if field.name in everywhere else field.with_nullable(True) for field in wider],
            metadata=wider.metadata,
        )
    return unified


def _misfit(file: InputFile, columns: Sequence[pa.Field], here: Mapping[str, pa.Field], why: str) -> InputError:
    told = "; ".join(f"{one.name}: {one.type} elsewhere, {here[one.name].type} here" for one in columns)
    return InputError(f"{file.path}: columns do not fit the other files ({told or why})")


def _widens(kind: pa.DataType, wider: pa.DataType) -> bool:
    """Whether each whole number of ``kind`` has its place in ``wider``; of other types only casting tells."""
    if not pa.types.is_integer(kind):
        return True
    if pa.types.is_floating(wider):
        return bool(kind.bit_width <= {16: 11, 32: 24, 64: 53}[wider.bit_width])
    return not (pa.types.is_unsigned_integer(kind) and pa.types.is_signed_integer(wider)) or bool(
        kind.bit_width < wider.bit_width
    )


def conform(batch: pa.RecordBatch, schema: pa.Schema, file: InputFile) -> pa.RecordBatch:
    """Give a batch of one file the schema of the dataset."""
    if batch.schema.equals(schema):
        return batch
    partition = dict(file.partition)
    columns = []
    for field in schema:
        if field.name in batch.schema.names:
            columns.append(_cast(batch.column(field.name), field, file))
        elif field.name in partition:
            columns.append(pa.repeat(pa.scalar(partition[field.name], field.type), batch.num_rows))
        else:
            columns.append(pa.nulls(batch.num_rows, field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _cast(column: pa.Array, field: pa.Field, file: InputFile) -> pa.Array:
    if column.type == field.type:
        return column
    try:
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass
    # Outside the handler: Arrow's message quotes the value.
    raise InputError(f"{file.path}: column {field.name!r} is {column.type} here and has values beyond {field.type}")


def first_line(error: BaseException) -> str:
    """What an error of the Parquet library says, in a line."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
