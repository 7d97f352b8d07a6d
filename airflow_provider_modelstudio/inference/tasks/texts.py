"""A column of texts as questions: which rows are asked, under which key. Pure.

Texts are sent byte for byte: nothing is stripped, normalised or replaced, be it a NUL, a byte order mark, a character
beyond the basic plane or a mark that turns the writing direction.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from . import Question, Refused
from .columns import read_texts
from .tokens import estimate_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

__all__ = [
    "BLANK_TEXT",
    "EMPTY_TEXT",
    "KEY_BYTES",
    "NOT_UTF8",
    "NULL_TEXT",
    "CutText",
    "OnEmpty",
    "OnTooLong",
    "ask_texts",
    "cut_text",
    "encode_texts",
]

NULL_TEXT = "null text"
EMPTY_TEXT = "empty text"
BLANK_TEXT = "blank text"
NOT_UTF8 = "text is not valid UTF-8"
KEY_BYTES = 16

OnEmpty = Literal["null", "fail"]
"""What a row without a text does: keep its place with a reason, or fail the run before anything is asked."""
OnTooLong = Literal["null", "truncate", "fail"]
"""What a text beyond the model's limit does: keep its place with a reason, be cut (and marked), or fail the run."""


class CutText(str):
    """A text that was cut to the limit, so that its answer can be marked."""

    __slots__ = ()


def ask_texts(
    array: pa.Array,
    *,
    domain: str,
    max_tokens: int | None,
    max_bytes: int,
    on_empty: OnEmpty,
    on_too_long: OnTooLong,
) -> list[Question | Refused]:
    """One question a text, or why it is not asked.

    :param domain: what is asked of the text; the same text has another key in another domain.
    :param max_tokens: longest text, in estimated tokens; ``None`` for no bound.
    :param max_bytes: longest text, in bytes of UTF-8; a text beyond it is refused whatever ``on_too_long`` says, since it
        would not get through as a request of its own.
    """
    empty_is_fatal = on_empty == "fail"
    null, empty, blank = (Refused(reason, empty_is_fatal) for reason in (NULL_TEXT, EMPTY_TEXT, BLANK_TEXT))
    not_utf8 = Refused(NOT_UTF8)
    too_large = Refused(f"text is larger than {max_bytes} bytes", on_too_long == "fail")
    too_long = Refused(f"text is longer than {max_tokens} tokens", on_too_long == "fail")
    start = blake2b(f"{domain}\0".encode(), digest_size=KEY_BYTES)
    asked: list[Question | Refused] = []
    add = asked.append
    for text in read_texts(array):
        if text is None:
            add(null)
            continue
        if isinstance(text, bytes):
            add(not_utf8)
            continue
        if not text or text.isspace():
            add(blank if text else empty)
            continue
        utf8 = text.encode()
        size = len(utf8)
        if size > max_bytes:
            add(too_large)
            continue
        tokens = estimate_tokens(len(text), size)
        key = start.copy()
        key.update(utf8)
        if max_tokens is not None and tokens > max_tokens:
            if on_too_long != "truncate":
                add(too_long)
                continue
            text = cut_text(text, max_tokens)  # noqa: PLW2901  # from here on it is the text
            utf8 = text.encode()
            size, tokens = len(utf8), max_tokens
            # A cut text's answer is marked, so it is not the answer of a text that was this short to begin with.
            key = blake2b(f"{domain}\0cut\0".encode() + utf8, digest_size=KEY_BYTES)
            if text.isspace():
                add(blank)
                continue
        add(Question(key.digest(), text, tokens, size + 3))
    return asked


def cut_text(text: str, max_tokens: int) -> CutText:
    """The longest beginning of at most ``max_tokens`` estimated tokens, cut between code points; at least one of them."""
    fits, too_many = 1, len(text)
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if estimate_tokens(middle, len(text[:middle].encode())) <= max_tokens:
            fits = middle
        else:
            too_many = middle
    return CutText(text[:fits])


def encode_texts(questions: Sequence[Question], task_settings: Mapping[str, Any] | None) -> bytes:
    """The request body of a task that takes a list of texts."""
    body: dict[str, Any] = {"input": [question.value for question in questions]}
    if task_settings:
        body["task_settings"] = task_settings
    return msgspec.json.encode(body, enc_hook=str)  # the hook sees cut texts
