"""Documents ranked for a query: ``rerank``, one row a query with the list of its documents. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from airflow_provider_modelstudio.inference.errors import AnswerError, ConfigurationError, InputError

from . import Decoded, Question, Refused, RequestLimits
from .answers import Misfit, RowReader
from .columns import check_text, column_at, field_at, holds_text, is_list, read_lists, read_texts
from .settings import check_at_least, check_choice, check_columns, check_task_settings
from .texts import KEY_BYTES, OnEmpty
from .tokens import estimate_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from . import Answer, Wider

__all__ = ["NOT_FINITE", "Rerank", "read_scores"]

NOT_FINITE = "a relevance score is not a finite number"


class _Row(msgspec.Struct, gc=False):
    # Examples of the specification print numbers in quotes; servers were only ever seen to send numbers.
    index: int | str
    relevance_score: float | str


_READER = RowReader("rerank", _Row)


class _Candidates(NamedTuple):
    query: str
    documents: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rerank:
    """The documents of each row, ordered by how well they answer its query.

    The result is ``list<struct<index: int32, relevance_score: float32>>``, best first, equal scores in input order;
    ``index`` counts the row's documents from 0.
    One request holds one row.
    """

    query_column: str = "query"
    """Texts, as :class:`~.text_embedding.TextEmbedding` takes them."""
    documents_column: str = "documents"
    """Lists of texts, of any kind of list."""
    output_column: str = "reranked"
    limits: RequestLimits = field(default_factory=lambda: RequestLimits(rows=1))
    """``tokens`` bounds a row: tokens of the query times the number of documents, plus the tokens of the documents, as
    Model Studio counts (https://www.alibabacloud.com/help/id/model-studio/text-rerank-api)."""
    max_documents: int = 500
    """Most documents of a row."""
    max_tokens: int | None = None
    """Longest query or document, estimated. The service cuts what is longer without a word; ``None`` lets it."""
    on_empty: OnEmpty = "null"
    """What a row with a null, empty or blank query or document, or without documents, does; it is never asked."""
    on_too_long: Literal["null", "fail"] = "null"
    """What a row beyond a limit does."""
    top_n: int | None = None
    """Keep the best documents, at most so many; ``None`` keeps all."""
    return_documents: bool = False
    """Add the document's text to each entry, as ``document``."""
    task_settings: Mapping[str, Any] | None = None
    """Sent with each request, where the endpoint knows them."""

    def __post_init__(self) -> None:
        check_columns(
            query_column=self.query_column, documents_column=self.documents_column, output_column=self.output_column
        )
        check_choice("on_empty", self.on_empty, OnEmpty)
        check_choice("on_too_long", self.on_too_long, Literal["null", "fail"])
        check_at_least(1, max_documents=self.max_documents, max_tokens=self.max_tokens, top_n=self.top_n)
        check_task_settings(self.task_settings)
        if self.limits.rows != 1:
            raise ConfigurationError(f"limits.rows is {self.limits.rows!r}; a rerank request holds one row")

    @property
    def task_type(self) -> str:
        """``rerank``."""
        return "rerank"

    @property
    def input_columns(self) -> tuple[str, ...]:
        """The column of queries and the column of documents."""
        return (self.query_column, self.documents_column)

    @property
    def output_columns(self) -> tuple[str, ...]:
        """The column of ranked documents."""
        return (self.output_column,)

    @property
    def error_column(self) -> str:
        """``<output_column>_error``."""
        return f"{self.output_column}_error"

    @property
    def equal_rows_share(self) -> bool:
        """Equal queries with equal documents have equal scores."""
        return True

    @property
    def wider(self) -> Wider | None:
        """Answers have one form."""
        return None

    def check(self, schema: pa.Schema) -> None:
        """Raise :class:`~..errors.InputError` unless the queries are texts and the documents lists of texts."""
        check_text(schema, self.query_column)
        kind = field_at(schema, self.documents_column).type
        if not (is_list(kind) and holds_text(kind.value_type)):
            raise InputError(f"column {self.documents_column!r} is of type {kind}; documents are a list of texts")

    def settings(self) -> Mapping[str, Any]:
        """What decides the answer beside query and documents."""
        return {
            "task_type": self.task_type,
            "task_settings": dict(self.task_settings or {}),
            "top_n": self.top_n,
            "return_documents": self.return_documents,
        }

    def questions(self, batch: pa.RecordBatch) -> list[Question | Refused]:
        """One question a row; a row with anything missing, not UTF-8 or beyond a limit is refused."""
        queries = read_texts(column_at(batch, self.query_column))
        lists = read_lists(column_at(batch, self.documents_column), read_texts)
        return [self._ask(query, documents) for query, documents in zip(queries, lists, strict=True)]

    def encode(self, questions: Sequence[Question]) -> bytes:
        """``{"input": […], "query": …}``; servers before 8.19 know no ``top_n`` and no ``return_documents`` here."""
        (question,) = questions
        candidates: _Candidates = question.value
        body: dict[str, Any] = {"input": candidates.documents, "query": candidates.query}
        if self.task_settings:
            body["task_settings"] = self.task_settings
        return msgspec.json.encode(body)

    def decode(self, answer: Answer, questions: Sequence[Question]) -> Decoded:
        """``{"rerank": [{"index": …, "relevance_score": …}]}``, in JSON or CBOR and in any order.

        A row with a score that is no finite float32 is refused.
        Raises :class:`~..errors.AnswerError` when an index is no whole number, comes twice, belongs to no document, or
        when documents are left out; with ``top_n``, so many entries are enough.
        """
        (question,) = questions
        documents = question.value.documents
        scores = read_scores(answer, len(documents))
        enough = len(documents) if self.top_n is None else min(self.top_n, len(documents))
        if len(scores) < enough:
            raise AnswerError(
                f"the answer ranks {len(scores)} of {len(documents)} documents; if the endpoint itself has a top_n, "
                "set top_n to that or less"
            )
        indexes = np.array(sorted(scores), np.int32)
        with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused as such
            values = np.array([scores[index] for index in indexes.tolist()], np.float32)
        schema = self.output_schema(None)
        if not np.isfinite(values).all():
            return Decoded(pa.RecordBatch.from_arrays([pa.nulls(1, schema.types[0])], schema=schema), {0: NOT_FINITE})
        best = np.argsort(-values, kind="stable")[: self.top_n]
        columns = [pa.array(indexes[best]), pa.array(values[best])]
        if self.return_documents:
            columns.append(pa.array([documents[index] for index in indexes[best].tolist()], pa.string()))
        entries = pa.StructArray.from_arrays(columns, fields=list(schema.types[0].value_type))
        ranked = pa.ListArray.from_arrays(pa.array([0, len(entries)], pa.int32()), entries, type=schema.types[0])
        return Decoded(pa.RecordBatch.from_arrays([ranked], schema=schema))

    def output_schema(self, dimensions: int | None) -> pa.Schema:  # noqa: ARG002  # a ranking has none
        """A list of index, score and, where wanted, document."""
        entry = [pa.field("index", pa.int32()), pa.field("relevance_score", pa.float32())]
        if self.return_documents:
            entry.append(pa.field("document", pa.string()))
        return pa.schema([(self.output_column, pa.list_(pa.field("element", pa.struct(entry))))])

    def _ask(self, query: str | bytes | None, documents: list[str | bytes | None] | None) -> Question | Refused:
        if reason := _missing(query, documents):
            return Refused(reason, self.on_empty == "fail")
        texts = [query, *(documents or ())]
        utf8 = [text.encode() for text in texts if isinstance(text, str)]
        if len(utf8) != len(texts):
            return Refused("query is not valid UTF-8" if isinstance(query, bytes) else "document is not valid UTF-8")
        whole = [text for text in texts if isinstance(text, str)]
        each = [estimate_tokens(len(text), len(raw)) for text, raw in zip(whole, utf8, strict=True)]
        tokens = each[0] * (len(each) - 1) + sum(each[1:])
        size = sum(map(len, utf8)) + 3 * len(utf8)
        if reason := self._beyond(each, tokens, size):
            return Refused(reason, self.on_too_long == "fail")
        key = blake2b(b"rerank\0", digest_size=KEY_BYTES)
        for raw in utf8:
            key.update(len(raw).to_bytes(8, "little") + raw)
        return Question(key.digest(), _Candidates(whole[0], tuple(whole[1:])), tokens, size)

    def _beyond(self, each: list[int], tokens: int, size: int) -> str | None:
        if len(each) - 1 > self.max_documents:
            return f"more than {self.max_documents} documents"
        if self.max_tokens is not None and max(each) > self.max_tokens:
            what = "query" if each[0] > self.max_tokens else "document"
            return f"{what} is longer than {self.max_tokens} tokens"
        if self.limits.tokens is not None and tokens > self.limits.tokens:
            return f"query and documents have more than {self.limits.tokens} tokens"
        if size > self.limits.size:
            return f"query and documents are larger than {self.limits.size} bytes"
        return None


def _missing(query: str | bytes | None, documents: list[str | bytes | None] | None) -> str | None:
    """What a row lacks to be asked."""
    if documents is None:
        return "null documents"
    if not documents:
        return "no documents"
    for what, text in [("query", query), *(("document", document) for document in documents)]:
        if text is None:
            return f"null {what}"
        if not text:
            return f"empty {what}"
        if text.isspace():
            return f"blank {what}"
    return None


def read_scores(answer: Answer, documents: int) -> dict[int, float]:
    """Index → score, NaN where a score is none, of an answer about so many documents.

    Raises :class:`~..errors.AnswerError` when an index is no whole number, comes twice, or belongs to no document.
    """
    scores: dict[int, float] = {}
    for row in _READER.read(answer):
        if isinstance(row, Misfit):
            raw = row.raw if isinstance(row.raw, dict) else {}
            index, score = _index(raw.get("index")), float("nan")
        else:
            index, score = _index(row.index), _score(row.relevance_score)
        if index is None:
            raise AnswerError("an entry of the answer has no whole number as index")
        if not 0 <= index < documents:
            raise AnswerError(f"the answer ranks document {index}, but there are {documents}")
        if index in scores:
            raise AnswerError(f"the answer ranks document {index} twice")
        scores[index] = score
    return scores


def _index(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:  # noqa: PLR2004  # digits of an int32
        return int(value)
    return value if type(value) is int else None


def _score(value: float | str) -> float:
    try:
        return float(value)
    except (ValueError, OverflowError):
        return float("nan")
