"""Candidates scored for their query: ``rerank``, one row a candidate, the candidates of a query side by side. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from airflow_provider_modelstudio.inference.errors import AnswerError

from . import Decoded, Question, Refused, RequestLimits
from .columns import check_text, column_at, read_texts
from .groups import check_group_column, read_ids, spans
from .rerank import NOT_FINITE, read_scores
from .settings import check_at_least, check_choice, check_columns, check_task_settings
from .texts import KEY_BYTES, OnEmpty
from .tokens import estimate_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from . import Answer, Wider

__all__ = ["FlatRerank", "rank"]

_DEFAULT_OUTPUT = "reranked"
_WHY_NOT_SPLIT = "and scores of two requests are not said to be comparable"


class _Pair(NamedTuple):
    query: str
    document: str

    def __str__(self) -> str:
        return f"{self.query}\n{self.document}"


@dataclass(frozen=True, kw_only=True, slots=True)
class FlatRerank:
    """How well each candidate answers its query, and its rank among the candidates of that query.

    Rows with the same query id are neighbours and have the same query.
    A request holds candidates of one query.
    """

    query_id_column: str
    """Texts or whole numbers."""
    query_column: str = "query"
    document_column: str = "document"
    output_column: str = _DEFAULT_OUTPUT
    """Names the columns, see :attr:`output_columns`."""
    max_documents: int = 500
    """Most documents of a request."""
    max_tokens: int | None = None
    """Longest query or document, estimated. The service cuts what is longer without a word; ``None`` lets it."""
    max_request_tokens: int | None = None
    """Most tokens of a request: tokens of the query for each document, plus the tokens of the documents."""
    max_bytes: int = 8 * 1024 * 1024
    """Largest request."""
    scores_comparable: bool = False
    """Scores of two requests with the same query can be compared: then the candidates of a query may be split over
    several requests, and equal pairs of query and document are asked once.
    Else all candidates of a query are asked in one request, and all of them again when one changes."""
    on_empty: OnEmpty = "null"
    """What a candidate without a document, or candidates without a query, do; they are never asked."""
    top_n: int | None = None
    """Rank the best, at most so many; ``None`` ranks all."""
    task_settings: Mapping[str, Any] | None = None
    """Sent with each request, where the endpoint knows them."""

    def __post_init__(self) -> None:
        check_columns(
            query_id_column=self.query_id_column,
            query_column=self.query_column,
            documents_column=self.document_column,  # as the operator calls it
            output_column=self.output_column,
        )
        check_at_least(1, max_documents=self.max_documents, max_bytes=self.max_bytes, top_n=self.top_n)
        check_at_least(1, max_tokens=self.max_tokens, max_request_tokens=self.max_request_tokens)
        check_choice("on_empty", self.on_empty, OnEmpty)
        check_task_settings(self.task_settings)

    @property
    def task_type(self) -> str:
        """``rerank``."""
        return "rerank"

    @property
    def input_columns(self) -> tuple[str, ...]:
        """The columns of query ids, queries and documents."""
        return (self.query_id_column, self.query_column, self.document_column)

    @property
    def output_columns(self) -> tuple[str, ...]:
        """``relevance_score`` and ``rank``; under another name than ``reranked``, with that name in front."""
        front = "" if self.output_column == _DEFAULT_OUTPUT else f"{self.output_column}_"
        return (f"{front}relevance_score", f"{front}rank")

    @property
    def error_column(self) -> str:
        """``<output_column>_error``."""
        return f"{self.output_column}_error"

    @property
    def limits(self) -> RequestLimits:
        """Of one request."""
        return RequestLimits(
            rows=self.max_documents,
            tokens=self.max_request_tokens,
            size=self.max_bytes,
            whole=not self.scores_comparable,
        )

    @property
    def equal_rows_share(self) -> bool:
        """Equal questions have equal scores."""
        return True

    @property
    def wider(self) -> Wider | None:
        """Answers have one form."""
        return None

    def check(self, schema: pa.Schema) -> None:
        """Raise :class:`~..errors.InputError` unless queries and documents are texts, and ids texts or whole numbers."""
        check_group_column(schema, self.query_id_column)
        check_text(schema, self.query_column)
        check_text(schema, self.document_column)

    def settings(self) -> Mapping[str, Any]:
        """What decides a score beside query and documents; ranks follow from scores."""
        return {"task_type": self.task_type, "form": "flat", "task_settings": dict(self.task_settings or {})}

    def questions(self, batch: pa.RecordBatch) -> list[Question | Refused]:
        """One question a candidate; the batch holds all candidates of a query that are to be asked together."""
        ids = read_ids(column_at(batch, self.query_id_column))
        queries = read_texts(column_at(batch, self.query_column))
        documents = read_texts(column_at(batch, self.document_column))
        asked: list[Question | Refused] = []
        for start, end in spans(ids):
            asked += self._ask(queries[start], documents[start:end])
        return asked

    def encode(self, questions: Sequence[Question]) -> bytes:
        """``{"input": […], "query": …}``."""
        body: dict[str, Any] = {
            "input": [question.value.document for question in questions],
            "query": questions[0].value.query,
        }
        if self.task_settings:
            body["task_settings"] = self.task_settings
        return msgspec.json.encode(body)

    def decode(self, answer: Answer, questions: Sequence[Question]) -> Decoded:
        """A score for each candidate, mapped back by ``index``; ranks are null until :meth:`finish`.

        A score that is no finite float32 refuses its row, or the whole query where scores only mean something together.
        Raises :class:`~..errors.AnswerError` as :class:`~.rerank.Rerank` does, and when documents are left out.
        """
        scores = read_scores(answer, len(questions))
        if len(scores) < len(questions):
            raise AnswerError(
                f"the answer ranks {len(scores)} of {len(questions)} documents; "
                "an endpoint for candidates must not have a top_n of its own"
            )
        with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused as such
            values = np.array([scores[index] for index in range(len(questions))], np.float32)
        bad = ~np.isfinite(values)
        if self.limits.whole and bad.any():
            bad[:] = True
        columns = [pa.array(values, mask=bad), pa.nulls(len(values), pa.int32())]
        refused = dict.fromkeys(np.flatnonzero(bad).tolist(), NOT_FINITE)
        return Decoded(pa.RecordBatch.from_arrays(columns, schema=self.output_schema(None)), refused)

    def finish(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Rows with all candidates of each of their queries, ranked."""
        score, name = self.output_columns
        at = rows.schema.get_field_index(name)
        ids = read_ids(column_at(rows, self.query_id_column))
        return rows.set_column(at, rows.schema.field(at), rank(ids, rows.column(score), self.top_n))

    def output_schema(self, dimensions: int | None) -> pa.Schema:  # noqa: ARG002  # a score has none
        """A float32 and an int32."""
        score, place = self.output_columns
        return pa.schema([(score, pa.float32()), (place, pa.int32())])

    def _ask(self, query: str | bytes | None, documents: Sequence[str | bytes | None]) -> list[Question | Refused]:
        if not isinstance(query, str) or _missing("query", query):
            refused = Refused(_missing("query", query), self.on_empty == "fail" and not isinstance(query, bytes))
            return [refused] * len(documents)
        pairs = [self._pair(query, document) for document in documents]
        asked = [pair for pair in pairs if isinstance(pair, Question)]
        if self.scores_comparable:
            return [self._alone(pair) if isinstance(pair, Question) else pair for pair in pairs]
        if reason := self._beyond(asked):
            return [Refused(reason) if isinstance(pair, Question) else pair for pair in pairs]
        together = blake2b(b"".join(pair.key for pair in asked), digest_size=KEY_BYTES).digest()
        place = iter(range(len(asked)))
        return [
            pair._replace(key=_digest(b"together", together, str(next(place)).encode()), group=together)
            if isinstance(pair, Question)
            else pair
            for pair in pairs
        ]

    def _pair(self, query: str, document: str | bytes | None) -> Question | Refused:
        if not isinstance(document, str) or _missing("document", document):
            return Refused(_missing("document", document), self.on_empty == "fail" and not isinstance(document, bytes))
        raw = query.encode(), document.encode()
        tokens = [estimate_tokens(len(text), len(utf8)) for text, utf8 in zip((query, document), raw, strict=True)]
        if self.max_tokens is not None and max(tokens) > self.max_tokens:
            what = "query" if tokens[0] > self.max_tokens else "document"
            return Refused(f"{what} is longer than {self.max_tokens} tokens")
        key = _digest(b"pair", *raw)
        return Question(
            key, _Pair(query, document), sum(tokens), len(raw[0]) + len(raw[1]) + 6, _digest(b"query", raw[0])
        )

    def _alone(self, pair: Question) -> Question | Refused:
        """A pair that must fit into a request, whatever its neighbours do."""
        reason = self._beyond([pair])
        return Refused(reason) if reason else pair

    def _beyond(self, asked: Sequence[Question]) -> str | None:
        """Which limit of a request these questions break together."""
        together = "" if len(asked) == 1 else f", {_WHY_NOT_SPLIT}"
        if len(asked) > self.max_documents:
            return f"more than {self.max_documents} documents{together}"
        if self.max_request_tokens is not None and sum(one.tokens for one in asked) > self.max_request_tokens:
            return f"query and documents have more than {self.max_request_tokens} tokens{together}"
        if sum(one.size for one in asked) > self.max_bytes:
            return f"query and documents are larger than {self.max_bytes} bytes{together}"
        return None


def rank(ids: Sequence[Any], scores: pa.Array, top_n: int | None) -> pa.Array:
    """The place of each row among its neighbours with the same id, 1 for the best; equal scores in their order.

    Null for a row without a score, and beyond ``top_n``.
    """
    group = np.empty(len(ids), np.int64)
    first = np.empty(len(ids), np.int64)
    for number, (start, end) in enumerate(spans(ids)):
        group[start:end], first[start:end] = number, start
    missing = np.array(scores.is_null())
    values = np.array(scores.fill_null(0.0), np.float64)
    order = np.lexsort((-values, missing, group))
    places = np.empty(len(ids), np.int64)
    places[order] = np.arange(1, len(ids) + 1)
    places -= first
    return pa.array(places.astype(np.int32), mask=missing if top_n is None else missing | (places > top_n))


def _missing(what: str, text: str | bytes | None) -> str:
    """Why a text is not asked; empty for one that is."""
    if text is None:
        return f"null {what}"
    if isinstance(text, bytes):
        return f"{what} is not valid UTF-8"
    return f"empty {what}" if not text else f"blank {what}" if text.isspace() else ""


def _digest(what: bytes, *texts: bytes) -> bytes:
    digest = blake2b(b"rerank " + what, digest_size=KEY_BYTES)
    for text in texts:
        digest.update(len(text).to_bytes(8, "little") + text)
    return digest.digest()
