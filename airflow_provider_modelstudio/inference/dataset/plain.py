"""Vectors as they lie in a part: plain numbers, taken page by page without decoding that each of them is there.

Parquet notes of every number whether it is there and which list it is in. Where each vector of a row group is there, a
page says so in a few bytes, and its numbers are taken as they are: a third of the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

import pyarrow as pa

if TYPE_CHECKING:
    import pyarrow.parquet as pq

__all__ = ["is_plain", "read_plain"]

_PLAIN, _RLE = 0, 3
"""Encodings."""
_WHOLE, _STRUCT = frozenset({4, 5, 6}), 12
"""Types of Thrift: numbers of 16, 32 and 64 bits, and structs."""
_HEADER_BYTES = 128
"""At most, of a page without statistics."""
_THERE = 3
"""Definition level of a number that is there, in a list that is there: both might be missing."""


class _Page(NamedTuple):
    """What the header of a page says."""

    header: int
    """Bytes of the header."""
    size: int
    crc: int
    numbers: int


def is_plain(kind: pa.DataType) -> bool:
    """Whether a column of the type may be read with :func:`read_plain`: vectors of float16 or float32."""
    return bool(pa.types.is_fixed_size_list(kind) and kind.value_type in {pa.float16(), pa.float32()})


def read_plain(
    file: pa.NativeFile, chunk: pq.ColumnChunkMetaData, kind: pa.DataType, rows: int
) -> pa.FixedSizeListArray | None:
    """The vectors of a row group, or ``None`` where it takes a decoder to read them, or to say what is wrong with them.

    Each page must have the checksum of its content, and each of ``rows`` vectors must be there.

    :param kind: a type that :func:`is_plain`.
    """
    width, numbers = kind.value_type.bit_width // 8, rows * kind.list_size
    if chunk.compression != "UNCOMPRESSED" or chunk.has_dictionary_page or chunk.num_values != numbers:
        return None
    file.seek(chunk.data_page_offset)
    content = memoryview(file.read_buffer(chunk.total_compressed_size))
    room = pa.allocate_buffer(numbers * width)
    target, at, filled = memoryview(room), 0, 0
    while at < len(content):
        page = _page(content[at : at + _HEADER_BYTES])
        if page is None:
            return None
        body = content[at + page.header : at + page.header + page.size]
        values = body[page.size - page.numbers * width :]
        if len(body) != page.size or len(values) != page.numbers * width or filled + len(values) > len(target):
            return None
        if crc32(body) != page.crc or not _all_there(body[: -len(values)], page.numbers):
            return None
        target[filled : filled + len(values)] = values
        at, filled = at + page.header + page.size, filled + len(values)
    if filled != len(target):
        return None
    return pa.FixedSizeListArray.from_arrays(pa.Array.from_buffers(kind.value_type, numbers, [None, room]), type=kind)


def _all_there(levels: memoryview, numbers: int) -> bool:
    """Whether a page says of all its numbers, in one run, that they are there.

    Before that it says with which of them a list begins, which follows from the length of the lists.
    """
    lists = 4 + int.from_bytes(levels[:4], "little")
    run = levels[lists + 4 :]
    told = int.from_bytes(levels[lists : lists + 4], "little")
    try:
        count, end = _varint(run, 0)
    except IndexError:
        return False
    return told == len(run) == end + 1 and count == numbers << 1 and run[end] == _THERE


def _page(header: memoryview) -> _Page | None:
    """The header of a data page that has a checksum and plain numbers; else ``None``."""
    try:
        fields, end = _struct(header, 0)
        kind, size, compressed, crc, data = (fields[i] for i in (1, 2, 3, 4, 5))
        numbers, *encodings = (data[i] for i in (1, 2, 3, 4))
    except (IndexError, KeyError, TypeError, ValueError):
        return None
    if kind != 0 or size != compressed or size < 0 or encodings != [_PLAIN, _RLE, _RLE]:
        return None
    return _Page(end, size, crc & 0xFFFFFFFF, numbers)


def _struct(content: memoryview, at: int) -> tuple[dict[int, Any], int]:
    """Whole numbers and structs by their field, in Thrift's compact protocol, and where the struct ends."""
    fields: dict[int, Any] = {}
    number = 0
    while content[at]:
        number, kind = number + (content[at] >> 4), content[at] & 15
        if kind in _WHOLE:
            value, at = _varint(content, at + 1)
            fields[number] = (value >> 1) ^ -(value & 1)
        elif kind == _STRUCT:
            fields[number], at = _struct(content, at + 1)
        else:
            raise ValueError(kind)
    return fields, at + 1


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    """A number of any length, seven bits a byte, and where it ends."""
    value = shift = 0
    while content[at] & 128:
        value |= (content[at] & 127) << shift
        at, shift = at + 1, shift + 7
    return value | content[at] << shift, at + 1
