"""What is strange about answers that are taken all the same. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CUT", "ZEROS", "oddities"]

ZEROS = "rows have a vector of nothing but zeros"
CUT = "rows have an answer to the beginning of their text alone"


def oddities(answers: pa.RecordBatch) -> Mapping[str, int]:
    """Words → rows that they are true of; what is true of no row is left out.

    :param answers: output columns of any task; vectors are known by their type, and cut texts by ``is_truncated``.
    """
    found: dict[str, int] = {}
    for field, column in zip(answers.schema, answers.columns, strict=True):
        rows = 0
        if pa.types.is_fixed_size_list(field.type):
            words, rows = ZEROS, _zeros(column)
        elif pa.types.is_boolean(field.type) and field.name.endswith("is_truncated"):
            words, rows = CUT, pc.sum(column).as_py() or 0
        if rows:
            found[words] = found.get(words, 0) + rows
    return found


def _zeros(column: pa.FixedSizeListArray) -> int:
    """Rows with a vector of zeros."""
    size = column.type.list_size
    values = column.values.slice(column.offset * size, len(column) * size)
    values = values.to_numpy(zero_copy_only=False).reshape(-1, size)  # a missing vector may have no values
    there = np.flatnonzero(values[:, 0] == 0)  # most rows are ruled out by their first value
    zeros = there[~values[there].any(axis=1)]
    return int(column.take(pa.array(zeros)).is_valid().sum().as_py() or 0) if len(zeros) else 0
