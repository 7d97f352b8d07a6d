"""An answer as a matrix of float32, and the matrix as an Arrow column. Pure.

No Python float is made on the way where it can be helped: 10 vectors of 1,024 values take about 20 µs from CBOR, 150 µs
from JSON with ``pysimdjson`` installed, and 500 µs without.
"""

from __future__ import annotations

import threading
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa

from airflow_provider_modelstudio.inference.errors import AnswerError

from .answers import Misfit, RowReader, is_cbor

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from . import Answer

__all__ = [
    "NOT_FINITE",
    "Vectors",
    "cbor_matrix",
    "list_column",
    "list_type",
    "msgspec_matrix",
    "read_vectors",
    "simdjson_matrix",
]

NOT_FINITE = "vector holds a value that is not a finite number"

Matrix: TypeAlias = "NDArray[np.float32]"

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_FLOAT32 = 0xFA
"""CBOR's marker before the four bytes of a float."""
_FLOAT32_BYTES = 5
_HEAD = b"\xbf\x69embedding\x9f"
"""CBOR before the values of a row: an object without a length, its name, a list without a length."""
_TAIL = b"\xff\xff"
"""CBOR after them: the end of the list and of the object."""


def _find_simdjson() -> Any:
    try:
        import simdjson  # noqa: PLC0415  # an accelerator and no more: msgspec reads the same
    except ImportError:
        return None
    return simdjson


_simdjson = _find_simdjson()
_threads = threading.local()


class Vectors(NamedTuple):
    """The vectors of one answer."""

    matrix: Matrix
    """One row a vector, contiguous; zeros for a vector that is refused."""
    refused: dict[int, str]
    """Row → why its vector cannot be used."""


class _Row(msgspec.Struct, gc=False):
    embedding: list[float]


@cache
def _reader(name: str) -> RowReader[_Row]:
    return RowReader(name, _Row)


def read_vectors(answer: Answer, name: str, *, rows: int, dimensions: int | None, hint: str = "") -> Vectors:
    """The ``rows`` vectors that an answer has under ``name``, in order.

    A vector with a value that is no finite float32 (a word, a null, a flag, NaN, Infinity, 1e400) is refused alone; a
    vector of zeros is taken.
    Raises :class:`~..errors.AnswerError` when the number of vectors or their dimensions are not what was asked for, or
    the answer is damaged.

    :param dimensions: values of a vector, ``None`` to take what comes, as long as all are alike.
    :param hint: what to do about another number of vectors, for the message.
    """
    if is_cbor(answer):
        matrix = cbor_matrix(answer.body, name, rows)
    else:
        matrix = None if _simdjson is None else simdjson_matrix(answer.body, name)
        if matrix is None:
            matrix = msgspec_matrix(answer.body, name)
    if matrix is None:
        found = _reader(name).parse(answer)
        matrix = _careful_matrix(found) if len(found) == rows else np.empty((len(found), 0), np.float32)
    if len(matrix) != rows:
        raise AnswerError(f"the answer has {len(matrix)} vectors for {rows} questions{hint and '; '}{hint}")
    if dimensions is not None and matrix.shape[1] != dimensions:
        raise AnswerError(f"the vectors have {matrix.shape[1]} values; {dimensions} were expected")
    finite = np.isfinite(matrix)
    if np.count_nonzero(finite) == finite.size:
        return Vectors(matrix, {})
    bad = np.flatnonzero(~finite.all(axis=1))
    matrix[bad] = 0
    return Vectors(matrix, dict.fromkeys(bad.tolist(), NOT_FINITE))


@lru_cache(8)
def list_type(values: pa.DataType, dimensions: int | None) -> pa.DataType:
    """A list of as many values as there are dimensions; of any length while nobody knows."""
    return pa.list_(pa.field("element", values), -1 if dimensions is None else dimensions)


def list_column(matrix: NDArray[Any], refused: Collection[int]) -> pa.Array:
    """The rows of a matrix as lists, without a copy, null where they are refused."""
    mask = None
    if refused:
        marks = np.zeros(len(matrix), bool)
        marks[list(refused)] = True
        mask = pa.array(marks)
    values = pa.Array.from_buffers(pa.from_numpy_dtype(matrix.dtype), matrix.size, [None, pa.py_buffer(matrix)])
    return pa.FixedSizeListArray.from_arrays(values, type=list_type(values.type, matrix.shape[1]), mask=mask)


def cbor_matrix(body: bytes, name: str, rows: int) -> Matrix | None:
    """The matrix of a CBOR answer laid out as Elasticsearch lays it out; ``None`` for any other answer.

    Elasticsearch writes objects and lists without their length and every value as a float32, so each row takes the
    same number of bytes: ``bf 69 "embedding" 9f (fa b3 b2 b1 b0)… ff ff``.
    All bytes that are not a value are compared.
    """
    opening = b"\xbf" + _text(name) + b"\x9f"
    if not rows or not body.startswith(opening) or not body.endswith(b"\xff\xff"):
        return None
    stride, left_over = divmod(len(body) - len(opening) - 2, rows)
    dimensions, odd = divmod(stride - len(_HEAD) - len(_TAIL), _FLOAT32_BYTES)
    if left_over or odd or dimensions < 1:
        return None
    table = np.frombuffer(body, _layout(dimensions), rows, len(opening))
    if table["head"].tobytes() != _HEAD * rows or table["tail"].tobytes() != _TAIL * rows:
        return None
    values = table["values"]
    if np.count_nonzero(values["marker"] == _FLOAT32) != rows * dimensions:
        return None
    matrix = _new_matrix(rows, dimensions)
    matrix[:] = values["value"]
    return matrix


@lru_cache(8)
def _layout(dimensions: int) -> np.dtype[Any]:
    """One row of a CBOR answer."""
    return np.dtype(
        [
            ("head", f"V{len(_HEAD)}"),
            ("values", [("marker", np.uint8), ("value", ">f4")], (dimensions,)),
            ("tail", f"V{len(_TAIL)}"),
        ]
    )


def simdjson_matrix(body: bytes, name: str) -> Matrix | None:
    """The matrix of a JSON answer that is nothing but good rows under ``name``; ``None`` for any other answer.

    A parser of its own for each thread: it owns what is read from it, until it reads the next.
    """
    if body.startswith(_BYTE_ORDER_MARK):
        return None
    whole = rows = row = values = None
    try:
        parser = getattr(_threads, "parser", None)
        if parser is None:
            parser = _threads.parser = _simdjson.Parser()
        whole = parser.parse(body)
        rows = whole[name]
        # The buffers below flatten lists in lists; then there are more brackets than rows.
        if len(whole) != 1 or np.count_nonzero(np.frombuffer(body, np.uint8) == ord("[")) != len(rows) + 1:
            return None
        matrix: Matrix | None = None
        with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused as such
            for at, row in enumerate(rows):
                values = np.frombuffer(row["embedding"].as_buffer(of_type="d"))
                if matrix is None:
                    matrix = _new_matrix(len(rows), len(values))
                if len(row) != 1 or len(values) != matrix.shape[1]:
                    return None
                matrix[at] = values
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError):
        return None
    finally:
        del whole, rows, row, values  # a parser refuses to read on while something holds what it read before
    return matrix if matrix is not None and matrix.shape[1] else None


def _new_matrix(rows: int, dimensions: int) -> Matrix:
    """Room for vectors in Arrow's memory pool, which gives back what was used; the C library's keeps holes of it."""
    room = pa.allocate_buffer(4 * rows * dimensions)
    return np.frombuffer(room, np.float32).reshape(rows, dimensions)


def msgspec_matrix(body: bytes, name: str) -> Matrix | None:
    """The matrix of a JSON answer whose rows are good ones; ``None`` for any other answer."""
    rows = _reader(name).fast(body)
    if not rows or not rows[0].embedding or body.count(b'"embedding"') != len(rows):
        return None
    dimensions = len(rows[0].embedding)
    if any(len(row.embedding) != dimensions for row in rows):
        return None
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused as such
        return np.array([row.embedding for row in rows], np.float32)


def _careful_matrix(found: list[_Row | Misfit]) -> Matrix:
    """Any rows, at least one; NaN for each value that is not a number."""
    vectors = [_values(row.raw) if isinstance(row, Misfit) else row.embedding for row in found]
    dimensions = sorted({len(vector) for vector in vectors})
    if len(dimensions) > 1:
        raise AnswerError(f"vectors of one answer have from {dimensions[0]} to {dimensions[-1]} values")
    if dimensions == [0]:
        raise AnswerError("the vectors are empty")
    with np.errstate(over="ignore"):
        return np.array(vectors, np.float32)


def _values(raw: Any) -> list[float]:
    vector = raw.get("embedding") if isinstance(raw, dict) else None
    if not isinstance(vector, list):
        raise AnswerError("a row of the answer has no list 'embedding'")
    return [_number(value) for value in vector]


def _number(value: Any) -> float:
    if type(value) is float or type(value) is int:
        try:
            return float(value)
        except OverflowError:
            pass
    return float("nan")


def _text(word: str) -> bytes:
    """A short text in CBOR."""
    return bytes([0x60 + len(word)]) + word.encode()
