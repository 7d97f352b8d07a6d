"""An answer's bytes as rows, whatever the format: JSON or CBOR, strictly. Pure.

Reading has two speeds.
The fast way is typed and knows only good answers.
Whatever it does not understand is read again by :func:`parse_rows`, value by value, to say what is wrong with it and to
save the rows that are sound.
"""

from __future__ import annotations

import json
from io import BytesIO
from typing import TYPE_CHECKING, Any

import cbor2
import msgspec

from airflow_provider_modelstudio.inference.errors import AnswerError

if TYPE_CHECKING:
    from . import Answer

__all__ = ["is_cbor", "make_decoder", "parse_rows", "typed_rows"]

_JSON = frozenset({"application/json", "application/vnd.elasticsearch+json"})
_CBOR = frozenset({"application/cbor", "application/vnd.elasticsearch+cbor"})
_COMPRESSED = {"_bytes": "bytes", "_bits": "bits"}


def is_cbor(answer: Answer) -> bool:
    """Whether the answer is CBOR rather than JSON; raises :class:`~..errors.AnswerError` when it is neither."""
    media = answer.content_type.partition(";")[0].strip().lower()
    if media in _CBOR:
        return True
    if media in _JSON:
        return False
    raise AnswerError(f"the answer is {media[:80] or 'of no media type'}; JSON or CBOR was expected")


def make_decoder(name: str, row: type) -> msgspec.json.Decoder[Any]:
    """What :func:`typed_rows` reads rows of a kind with; other names beside ``name`` are skipped."""
    return msgspec.json.Decoder(msgspec.defstruct("Rows", [(name, list[row])]))  # type: ignore[valid-type]  # built here


def typed_rows(body: bytes, name: str, decoder: msgspec.json.Decoder[Any]) -> list[Any] | None:
    """The rows of a JSON answer if all are good ones; ``None`` for any other answer."""
    # A name that is there twice would lose its first rows without a word.
    if body.count(b'"%b"' % name.encode()) != 1:
        return None
    try:
        rows: list[Any] = getattr(decoder.decode(body), name)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return rows


def parse_rows(answer: Answer, name: str) -> list[Any]:
    """The decoded rows under ``name``, unchecked; NaN and Infinity are let through for whoever checks the values.

    Raises :class:`~..errors.AnswerError` for damaged bytes, bytes after the end, a name that comes twice in an object,
    nesting too deep to follow, and an answer without ``name``.
    """
    form = "CBOR" if is_cbor(answer) else "JSON"
    try:
        whole = _cbor(answer.body) if form == "CBOR" else json.loads(answer.body.decode(), object_pairs_hook=_object)
    # Decoders meet arbitrary bytes here; each of these was seen to come out of one of them.
    except (cbor2.CBORError, ValueError, TypeError, RecursionError, OverflowError, MemoryError) as error:
        # The decoder's own words may quote the answer.
        raise AnswerError(f"the answer ({len(answer.body)} bytes) is not valid {form}") from error
    if not isinstance(whole, dict):
        raise AnswerError(f"the answer is a {type(whole).__name__}, not an object with {name!r}")
    if name not in whole:
        for ending, words in _COMPRESSED.items():
            if name + ending in whole:
                raise AnswerError(
                    f"the endpoint answers with vectors of {words} ({name + ending!r}); only vectors of floats are read: "
                    "create the endpoint with element_type 'float'"
                )
        raise AnswerError(f"the answer has no {name!r}")
    rows = whole[name]
    if not isinstance(rows, list):
        raise AnswerError(f"{name!r} of the answer is a {type(rows).__name__}, not a list")
    return rows


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
