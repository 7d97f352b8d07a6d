"""How an answer is damaged: its values before it is written, its bytes on their way. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_provider_modelstudio.sandbox.faults import (
    Act,
    BadGzip,
    Distort,
    Drip,
    Garbage,
    HtmlPage,
    Huge,
    NoProductHeader,
    Redirect,
    Reset,
    Respond,
    Truncate,
    WrongLength,
)
from airflow_provider_modelstudio.sandbox.http1 import Cut, Pause, Repeat, Reply, Step, head
from airflow_provider_modelstudio.sandbox.wire import Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["PRODUCT_HEADER", "distorted", "instead", "spoiled"]

PRODUCT_HEADER = ("X-elastic-product", "Elasticsearch")

_BLANKS = b" " * 65536
_SPOILED_NUMBERS = {
    "nan": Literal("NaN", b"\xfa\x7f\xc0\x00\x00"),
    "infinity": Literal("Infinity", b"\xfa\x7f\x80\x00\x00"),
    "1e400": Literal("1e400", b"\xfb\x7f\xf0\x00\x00\x00\x00\x00\x00"),
    "null": Literal("null", b"\xf6"),
    "string": Literal('"0.5"', b"\x630.5"),
}
_BOTTOMLESS = Literal("[" * 20_000 + "]" * 20_000, b"\x81" * 20_000 + b"\x80")
_SPOILED_TEXTS: dict[str, Callable[[str], str]] = {"unfinished": lambda text: text[:-1], "empty_object": lambda _: "{}"}


def instead(act: Act) -> Reply | None:
    """The answer of somebody who is not Elasticsearch; ``None`` for other acts."""
    match act:
        case Respond():
            return Reply(
                act.status,
                act.body.encode(),
                (("content-type", act.content_type), *act.headers.items()),
            )
        case HtmlPage():
            page = f"<!DOCTYPE html><html><head><title>{act.text}</title></head><body><h1>{act.text}</h1></body></html>"
            return Reply(act.status, page.encode(), (("content-type", "text/html; charset=utf-8"),))
        case Redirect():
            return Reply(act.status, b"", (("location", act.location),))
        case _:
            return None


def distorted(answer: dict[str, Any], act: Distort) -> dict[str, Any]:
    """The answer with wrong values; unchanged where the distortion does not apply to its shape."""
    ((task_type, rows),) = answer.items()
    return {task_type: _BOTTOMLESS if act.how == "bottomless" else _distorted_rows(list(rows), act.how)}


def _distorted_rows(rows: list[Any], how: str) -> list[Any]:
    match how:
        case "fewer":
            return rows[:-1]
        case "more":
            return [*rows, rows[-1]]
        case "duplicate_index" if "index" in rows[0]:
            return [*rows[:-1], {**rows[-1], "index": rows[0]["index"]}]
        case "missing_index" if "index" in rows[0]:
            return [{name: value for name, value in rows[0].items() if name != "index"}, *rows[1:]]
        case "index_out_of_range" if "index" in rows[0]:
            return [{**rows[0], "index": len(rows)}, *rows[1:]]
        case _:
            return [_distorted_row(rows[0], how), *rows[1:]]


def _distorted_row(row: dict[str, Any], how: str) -> dict[str, Any]:
    value = row.get("embedding")
    spoiled = _SPOILED_NUMBERS.get(how)
    match value:
        case np.ndarray() if how == "wrong_dimensions":
            return {**row, "embedding": value[:-1]}
        case np.ndarray() if how == "zeros":
            return {**row, "embedding": np.zeros_like(value)}
        case np.ndarray() if spoiled:
            rest = [float(number) for number in value[1:]]
            return {**row, "embedding": [spoiled, *rest]}
        case dict() if spoiled:
            return {**row, "embedding": {**value, next(iter(value), "0"): spoiled}}
        case None if spoiled or (how in _SPOILED_TEXTS and "result" in row):
            name = "relevance_score" if "relevance_score" in row else "result"
            return {**row, name: spoiled or _SPOILED_TEXTS[how](row[name])}
        case _:
            return row


def spoiled(reply: Reply, act: Act) -> Reply:
    """The answer as it will be damaged on its way; unchanged for acts that do other things."""
    match act:
        case NoProductHeader():
            return replace(reply, headers=tuple(one for one in reply.headers if one != PRODUCT_HEADER))
        case Garbage():
            return replace(reply, body=reply.body + act.text.encode())
        case BadGzip():
            others = tuple(one for one in reply.headers if one[0] != "content-encoding")
            return replace(reply, headers=(*others, ("content-encoding", "gzip")), body=b"\x1f\x8b" + reply.body)
        case Reset() | Truncate() | WrongLength() | Drip() | Huge():
            return replace(reply, steps=tuple(_steps(reply, act)))
        case _:
            return reply


def _steps(reply: Reply, act: Reset | Truncate | WrongLength | Drip | Huge) -> Iterator[Step]:
    length = len(reply.body)
    match act:
        case Reset(at="before"):
            yield Cut(reset=True)
        case Reset(at="middle"):
            yield _promise(reply, length) + reply.body[: length // 2]
            yield Cut(reset=True)
        case Reset():
            yield _promise(reply, length) + reply.body
            yield Cut(reset=True)
        case Truncate():
            yield _promise(reply, length) + reply.body[: int(length * act.share)]
            yield Cut(reset=False)
        case WrongLength():
            yield _promise(reply, max(0, length + act.by)) + reply.body
            yield Cut(reset=False)
        case Drip():
            whole = _promise(reply, length) + reply.body
            for at in range(0, len(whole), act.piece_bytes):
                yield Pause(act.pause)
                yield whole[at : at + act.piece_bytes]
        case Huge():
            yield head(reply.status, (*reply.headers, ("connection", "close")))
            yield reply.body[:-1]
            yield Repeat(_BLANKS, max(0, act.size_bytes - length) // len(_BLANKS))
            yield reply.body[-1:]
            yield Cut(reset=False)


def _promise(reply: Reply, length: int) -> bytes:
    return head(reply.status, (*reply.headers, ("content-length", str(length))))
