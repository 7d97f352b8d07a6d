"""In what form vectors are written: as they come, or smaller. Pure.

====================  ===========  =====================================================================
``vector_type``       bytes        how
====================  ===========  =====================================================================
``"float32"``         4 a value    bit for bit what the endpoint gave
``"float16"``         2 a value    rounded to the nearest
``"int8"``            1 a value    ``round(value / scale)``, from -127 to 127; the row's scale is its largest
                                   magnitude by 127 and stands beside the vector, so ``value ≈ int8 * scale``
====================  ===========  =====================================================================

A row's scale does not change a cosine, so the scale is only needed for lengths and distances.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from . import Decoded
from .vectors import Vectors, list_column, list_type

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BEYOND_FLOAT16", "VectorType", "narrowed", "vector_columns", "vector_schema"]

VectorType = Literal["float32", "float16", "int8"]

BEYOND_FLOAT16 = "vector holds a value beyond the range of float16"

_VALUES = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8()}
_MOST = np.float32(127)


@lru_cache(16)
def vector_schema(name: str, vector_type: VectorType, dimensions: int | None) -> pa.Schema:
    """The column of vectors, and that of their scales where they have some."""
    fields = [pa.field(name, list_type(_VALUES[vector_type], dimensions))]
    if vector_type == "int8":
        fields.append(pa.field(f"{name}_scale", pa.float32()))
    return pa.schema(fields)


def vector_columns(vectors: Vectors, vector_type: VectorType) -> tuple[list[pa.Array], dict[int, str]]:
    """The columns of :func:`vector_schema`, and why vectors cannot be used: as read, or because they do not fit."""
    matrix, refused = vectors
    if vector_type == "float32":
        return [list_column(matrix, refused)], refused
    if vector_type == "int8":
        whole, scales = _whole(matrix)
        mask = np.isin(np.arange(len(matrix)), list(refused)) if refused else None
        return [list_column(whole, refused), pa.array(scales, mask=mask)], refused
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused
        half = matrix.astype(np.float16)
    beyond = np.flatnonzero(np.isinf(half).any(axis=1)).tolist()
    if beyond:
        half[beyond] = 0
        refused = {**dict.fromkeys(beyond, BEYOND_FLOAT16), **refused}
    return [list_column(half, refused)], refused


def narrowed(columns: pa.RecordBatch, schema: pa.Schema, vector_type: VectorType) -> Decoded:
    """Columns whose first one holds float32 vectors, none of them null, as the columns of another vector type.

    :param schema: form of the columns that come out; a list of any length takes that of the vectors.
    """
    vectors = columns.column(0)
    dimensions = vectors.type.list_size
    matrix = vectors.flatten().to_numpy().reshape(-1, dimensions)
    arrays, refused = vector_columns(Vectors(matrix, {}), vector_type)
    beside = columns.columns[1:]
    if refused:  # where there is no vector there is nothing beside it
        there = pa.array([at not in refused for at in range(len(matrix))])
        beside = [pc.if_else(there, array, pa.scalar(None, array.type)) for array in beside]
    return Decoded(pa.RecordBatch.from_arrays([*arrays, *beside], schema=schema), refused)


def _whole(matrix: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Whole numbers from -127 to 127, and for each row what one of them is worth; 0 where all values are (almost) 0."""
    scales = np.abs(matrix).max(axis=1) / _MOST
    divisors = np.where(scales > 0, scales, np.float32(1))[:, None]
    return np.rint(np.clip(matrix / divisors, -_MOST, _MOST)).astype(np.int8), scales
