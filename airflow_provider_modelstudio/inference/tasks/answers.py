"""An answer's bytes as rows, whatever the format: JSON or CBOR, strictly. Pure.

Reading has two speeds.
The fast way is typed and knows only good answers.
Whatever it does not understand is read again with care, value by value, to say what is wrong with it and to save the
rows that are sound.
"""

from __future__ import annotations

import json
from io import BytesIO
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import cbor2
import msgspec

from airflow_provider_modelstudio.inference.errors import AnswerError, BottomlessAnswerError

if TYPE_CHECKING:
    from . import Answer

__all__ = ["Misfit", "RowReader", "is_cbor"]

Row = TypeVar("Row", bound=msgspec.Struct)

_JSON = frozenset({"application/json", "application/vnd.elasticsearch+json"})
_CBOR = frozenset({"application/cbor", "application/vnd.elasticsearch+cbor"})
_DEEPEST = 64
"""Lists and objects within each other; answers have four, and room is for what later versions add."""
_COMPRESSED = {"_bytes": "bytes", "_bits": "bits"}


class Misfit(NamedTuple):
    """A row that is not of the kind expected."""

    raw: Any
    """As decoded; floats may be NaN or infinite."""


class RowReader(Generic[Row]):
    """Reads the rows that answers have under one name.

    :param name: the only name of the answer that is looked at: ``{name: [row, …]}``.
    :param row: what a good row is; numbers may be whole, NaN and Infinity come through.
    """

    __slots__ = ("_decoder", "_row", "name")

    def __init__(self, name: str, row: type[Row]) -> None:
        self.name = name
        self._row = row
        self._decoder = msgspec.json.Decoder(msgspec.defstruct("Rows", [(name, list[row])]))  # type: ignore[valid-type]  # a type made here

    def read(self, answer: Answer) -> list[Row | Misfit]:
        """The rows of an answer, fast if it is a good one; raises as :meth:`parse`."""
        if not is_cbor(answer) and (rows := self.fast(answer.body)) is not None:
            return list(rows)
        return self.parse(answer)

    def fast(self, body: bytes) -> list[Row] | None:
        """The rows of a JSON answer if all are good ones; ``None`` for any other answer."""
        # A name that is there twice would lose its first rows without a word.
        if body.count(b'"%b"' % self.name.encode()) != 1:
            return None
        try:
            rows: list[Row] = getattr(self._decoder.decode(body), self.name)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        return rows

    def parse(self, answer: Answer) -> list[Row | Misfit]:
        """The rows of an answer, one by one.

        Raises :class:`~..errors.AnswerError` for damaged bytes, bytes after the end, a name that comes twice in an
        object, and an answer without rows under ``name``; :class:`~..errors.BottomlessAnswerError` for nesting without end.
        """
        return [self._fit(row) for row in _rows(_parse(answer), self.name)]

    def _fit(self, row: Any) -> Row | Misfit:
        try:
            return msgspec.convert(row, self._row)
        except (msgspec.ValidationError, RecursionError):
            return Misfit(row)


def is_cbor(answer: Answer) -> bool:
    """Whether the answer is CBOR rather than JSON; raises :class:`~..errors.AnswerError` when it is neither."""
    media = answer.content_type.partition(";")[0].strip().lower()
    if media in _CBOR:
        return True
    if media in _JSON:
        return False
    raise AnswerError(f"the answer is {media[:80] or 'of no media type'}; JSON or CBOR was expected")


def _parse(answer: Answer) -> Any:
    form, decode = ("CBOR", _cbor) if is_cbor(answer) else ("JSON", _json)
    try:
        whole = decode(answer.body)
    except RecursionError:
        raise _bottomless(answer, form) from None
    # Decoders meet arbitrary bytes here, and this is what comes out of them.
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, MemoryError) as error:
        if "nesting depth" in str(error):  # cbor2 counts for itself
            raise _bottomless(answer, form) from None
        # Without the cause: a decoder's own words may quote the answer.
        raise AnswerError(f"the answer ({len(answer.body)} bytes) is not valid {form}") from None
    if not _has_bottom(whole):
        raise _bottomless(answer, form)
    return whole


def _bottomless(answer: Answer, form: str) -> BottomlessAnswerError:
    return BottomlessAnswerError(
        f"the answer ({len(answer.body)} bytes of {form}) has more than {_DEEPEST} levels of lists and objects"
    )


def _has_bottom(whole: Any) -> bool:
    """Whether the lists and objects of an answer end within the levels that an answer may have; without recursion."""
    level = [whole]
    for _ in range(_DEEPEST + 1):
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return True
    return False


def _json(body: bytes) -> Any:
    whole = json.loads(body.decode(), object_pairs_hook=_object)
    if b"\\ud" in body.lower():  # half of a pair of escapes is no text: nothing could be written with it
        json.dumps(whole, ensure_ascii=False).encode()
    return whole


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    whole = dict(pairs)
    if len(whole) != len(pairs):
        raise ValueError("a name comes twice in an object")
    return whole


def _cbor(body: bytes) -> Any:
    stream = BytesIO(body)
    whole = cbor2.CBORDecoder(stream, allow_duplicate_keys=False).decode()
    if stream.tell() != len(body):
        raise ValueError("bytes after the end")
    return whole


def _rows(whole: Any, name: str) -> list[Any]:
    if not isinstance(whole, dict):
        raise AnswerError(f"the answer is a {type(whole).__name__}, not an object with {name!r}")
    if name not in whole:
        for ending, words in _COMPRESSED.items():
            if name + ending in whole:
                raise AnswerError(
                    f"the endpoint answers with vectors of {words} ({name + ending!r}); only vectors of floats are "
                    "read: create the endpoint with element_type 'float'"
                )
        raise AnswerError(f"the answer has no {name!r}")
    rows = whole[name]
    if not isinstance(rows, list):
        raise AnswerError(f"{name!r} of the answer is a {type(rows).__name__}, not a list")
    return rows
