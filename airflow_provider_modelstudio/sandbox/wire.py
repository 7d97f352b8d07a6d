"""How answers are written and questions are read: JSON, and CBOR in the layout of Elasticsearch. Pure.

Elasticsearch writes vectors as 32-bit floats: the shortest digits that name the float in JSON, ``fa`` and four bytes
in CBOR, where maps and arrays have no length up front (``bf`` … ``ff``, ``9f`` … ``ff``).
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

import cbor2
import numpy as np
import numpy.typing as npt

__all__ = ["Float32", "Literal", "UnreadableError", "Vector", "read_cbor", "read_json", "to_cbor", "to_json"]

Vector = npt.NDArray[np.float32]

_MARKED_FLOAT = np.dtype([("marker", "u1"), ("value", ">f4")])
_TEXT, _UNSIGNED, _NEGATIVE = 0x60, 0x00, 0x20
_WIDTHS = ((0x18, ">B", 1 << 8), (0x19, ">H", 1 << 16), (0x1A, ">I", 1 << 32), (0x1B, ">Q", 1 << 64))
_POWERS_OFFSET = 40
_POWERS = 10.0 ** np.arange(-_POWERS_OFFSET, 61, dtype=np.float64)
_FEWEST_DIGITS, _MOST_DIGITS = 6, 9
"""Every 32-bit float is told from its neighbours by at most nine significant digits."""


class UnreadableError(ValueError):
    """A body that is not in the format it claims."""


@dataclass(frozen=True, slots=True)
class Float32:
    """A 32-bit float; a plain ``float`` is written as 64 bits."""

    value: float


@dataclass(frozen=True, slots=True)
class Literal:
    """Something no healthy server writes, token by token."""

    json: str
    cbor: bytes


def to_json(value: Any) -> bytes:
    """``value`` as compact JSON.

    ``value``: ``dict``, ``list``, ``str``, ``int``, ``float``, ``bool``, ``None``, :class:`Float32`, :class:`Literal`
    and one-dimensional float32 arrays.
    """
    document = _JsonDocument()
    document.add(value)
    return document.written()


class _JsonDocument:
    """A document whose floats are worked out all at once, since NumPy's cost is by the call."""

    def __init__(self) -> None:
        self._parts: list[str | slice | int] = []
        """Text, or where among the floats to find an array or a single one."""
        self._floats: list[Vector] = []
        self._count = 0

    def add(self, value: Any) -> None:
        match value:
            case dict():
                for i, (name, one) in enumerate(value.items()):
                    self._parts.append(f"{',' if i else '{'}{json.dumps(name, ensure_ascii=False)}:")
                    self.add(one)
                self._parts.append("}" if value else "{}")
            case list():
                for i, one in enumerate(value):
                    self._parts.append("," if i else "[")
                    self.add(one)
                self._parts.append("]" if value else "[]")
            case np.ndarray():
                self._parts.append(slice(self._count, self._count + value.size))
                self._floats.append(value)
                self._count += value.size
            case Float32():
                self._parts.append(self._count)
                self._floats.append(np.array([value.value], np.float32))
                self._count += 1
            case Literal():
                self._parts.append(value.json)
            case _:
                self._parts.append(json.dumps(value, ensure_ascii=False))

    def written(self) -> bytes:
        floats = _shortest(np.concatenate(self._floats)).tolist() if self._floats else []
        texts: list[str] = []
        for part in self._parts:
            match part:
                case str():
                    texts.append(part)
                case slice():
                    texts.append(json.dumps(floats[part], separators=(",", ":")))
                case _:
                    texts.append(repr(floats[part]))
        return "".join(texts).encode()


def _shortest(vector: Vector) -> npt.NDArray[np.float64]:
    """The doubles whose digits are the shortest that name the floats of ``vector``.

    A decimal with few digits is an integer over a power of ten, and that division rounds correctly; so its double
    prints as these very digits, and NumPy's slow float printer is not needed.
    """
    exact = vector.astype(np.float64)
    magnitude = np.floor(np.log10(np.abs(np.where(exact == 0, 1.0, exact)))).astype(np.intp)
    found = _rounded(exact, magnitude, _MOST_DIGITS)
    left = np.arange(len(vector))
    for digits in range(_MOST_DIGITS - 1, _FEWEST_DIGITS - 1, -1):
        # What needs nine digits is not told by eight, and so on: each round looks at fewer.
        shorter = _rounded(exact[left], magnitude[left], digits)
        names = shorter.astype(np.float32) == vector[left]
        left = left[names]
        found[left] = shorter[names]
    return found


def _rounded(exact: npt.NDArray[np.float64], magnitude: npt.NDArray[np.intp], digits: int) -> npt.NDArray[np.float64]:
    scale = _POWERS[digits - 1 - magnitude + _POWERS_OFFSET]
    return np.asarray(np.rint(exact * scale) / scale)


def to_cbor(value: Any) -> bytes:
    """``value`` as CBOR; takes what :func:`to_json` takes."""
    out = bytearray()
    _write_cbor(value, out)
    return bytes(out)


def _write_cbor(value: Any, out: bytearray) -> None:  # noqa: C901 - one branch a type reads best in a row
    match value:
        case dict():
            out.append(0xBF)
            for name, one in value.items():
                _write_cbor(name, out)
                _write_cbor(one, out)
            out.append(0xFF)
        case list():
            out.append(0x9F)
            for one in value:
                _write_cbor(one, out)
            out.append(0xFF)
        case np.ndarray():
            floats = np.empty(value.size, _MARKED_FLOAT)
            floats["marker"] = 0xFA
            floats["value"] = value
            out.append(0x9F)
            out += floats.tobytes()
            out.append(0xFF)
        case str():
            text = value.encode()
            _write_head(_TEXT, len(text), out)
            out += text
        case bool() | None:
            out.append({False: 0xF4, True: 0xF5, None: 0xF6}[value])
        case int():
            _write_head(_UNSIGNED if value >= 0 else _NEGATIVE, value if value >= 0 else -1 - value, out)
        case float():
            out += b"\xfb" + struct.pack(">d", value)
        case Float32():
            out += b"\xfa" + struct.pack(">f", value.value)
        case Literal():
            out += value.cbor
        case _:
            raise TypeError(f"no CBOR for {type(value).__name__}")


def _write_head(kind: int, number: int, out: bytearray) -> None:
    if number < 0x18:  # noqa: PLR2004 - CBOR: smaller numbers fit into the first byte
        out.append(kind | number)
        return
    marker, layout = next((marker, layout) for marker, layout, limit in _WIDTHS if number < limit)
    out.append(kind | marker)
    out += struct.pack(layout, number)


def read_json(body: bytes) -> Any:
    """What a JSON body says, with the literals that JSON does not have refused.

    Raises :class:`UnreadableError`, whose text holds nothing of the body.
    """
    try:
        return json.loads(body, parse_constant=_refuse)
    except json.JSONDecodeError as exc:
        raise UnreadableError(f"[{exc.lineno}:{exc.colno}] Unexpected character or end-of-input") from None
    except UnicodeDecodeError:
        raise UnreadableError("[1:1] Invalid UTF-8") from None
    except RecursionError:
        raise UnreadableError("[1:1] Document nesting depth exceeds the maximum allowed") from None


def _refuse(literal: str) -> Any:
    raise UnreadableError(f"[1:1] Non-standard token '{literal}'")


def read_cbor(body: bytes) -> Any:
    """What a CBOR body says. Raises :class:`UnreadableError`."""
    try:
        return cbor2.loads(body)
    except (cbor2.CBORError, EOFError, UnicodeDecodeError, ValueError, RecursionError):
        raise UnreadableError("[-1:0] Unexpected byte or end-of-input") from None
