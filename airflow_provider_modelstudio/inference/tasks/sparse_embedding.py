"""Weights of tokens for texts: ``sparse_embedding``. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
import pyarrow as pa

from airflow_provider_modelstudio.inference.errors import AnswerError

from . import Decoded, Question, Refused, RequestLimits
from .answers import Misfit, RowReader, is_cbor
from .columns import check_text, column_at
from .settings import check_at_least, check_choice, check_columns, check_task_settings
from .texts import CutText, OnEmpty, OnTooLong, ask_texts, encode_texts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from . import Answer, Wider

__all__ = ["NOT_FINITE", "SparseEmbedding"]

NOT_FINITE = "a token's weight is not a finite number"
TRUNCATED = "the model left out the end of the text"

_DEFAULT_OUTPUT = "sparse_embedding"
_MAP = pa.map_(pa.string(), pa.float32())


class _Row(msgspec.Struct, gc=False):
    embedding: dict[str, float]
    is_truncated: bool | None = None


_READER = RowReader("sparse_embedding", _Row)


@dataclass(frozen=True, kw_only=True, slots=True)
class SparseEmbedding:
    """Weighted tokens for each text of a column.

    The weights are ``map<string, float32>``: tokens are words with some models and numbers with others, and stay
    strings.
    A bool column says whether the model, or ``on_too_long="truncate"``, left out the end of a text; it is null where the
    model does not tell.
    ``"null"`` and ``"fail"`` mean the same as for :class:`~.text_embedding.TextEmbedding`.
    """

    input_column: str = "text"
    """String, large_string, string_view, a dictionary of them, or UTF-8 in binary; a dotted path reaches into structs."""
    output_column: str = _DEFAULT_OUTPUT
    limits: RequestLimits = field(default_factory=RequestLimits)
    on_empty: OnEmpty = "null"
    """What a null, empty or blank text does; it is never asked."""
    on_too_long: OnTooLong = "null"
    """What a text beyond ``max_tokens`` does."""
    max_tokens: int | None = None
    """Longest text the model takes, compared with an estimate (:func:`.tokens.estimate_tokens`); ``None``: any goes."""
    on_truncation: Literal["keep", "null"] = "keep"
    """What a text does of which the model left out the end: ``"null"`` refuses it."""
    top_k: int | None = None
    """Keep the heaviest tokens of a text, at most so many; of equal weights the first. ``None`` keeps all."""
    min_weight: float | None = None
    """Drop lighter tokens, compared as float32. ``None`` keeps all."""
    task_settings: Mapping[str, Any] | None = None
    """Sent with each request, where the endpoint knows them."""

    def __post_init__(self) -> None:
        check_columns(input_column=self.input_column, output_column=self.output_column)
        check_choice("on_empty", self.on_empty, OnEmpty)
        check_choice("on_too_long", self.on_too_long, OnTooLong)
        check_choice("on_truncation", self.on_truncation, Literal["keep", "null"])
        check_at_least(1, max_tokens=self.max_tokens, top_k=self.top_k)
        check_at_least(float("-inf"), min_weight=self.min_weight)
        check_task_settings(self.task_settings)

    @property
    def task_type(self) -> str:
        """``sparse_embedding``."""
        return "sparse_embedding"

    @property
    def input_columns(self) -> tuple[str, ...]:
        """The column of texts."""
        return (self.input_column,)

    @property
    def output_columns(self) -> tuple[str, ...]:
        """The column of weights, and ``is_truncated``, with the weights' name before it unless that is the default."""
        if self.output_column == _DEFAULT_OUTPUT:
            return (self.output_column, "is_truncated")
        return (self.output_column, f"{self.output_column}_is_truncated")

    @property
    def error_column(self) -> str:
        """``<output_column>_error``."""
        return f"{self.output_column}_error"

    @property
    def equal_rows_share(self) -> bool:
        """Equal texts have equal weights."""
        return True

    @property
    def wider(self) -> Wider | None:
        """Answers have one form."""
        return None

    def check(self, schema: pa.Schema) -> None:
        """Raise :class:`~..errors.InputError` unless the input column holds texts."""
        check_text(schema, self.input_column)

    def settings(self) -> Mapping[str, Any]:
        """What decides the answer beside the text."""
        return {
            "task_type": self.task_type,
            "task_settings": dict(self.task_settings or {}),
            "top_k": self.top_k,
            "min_weight": self.min_weight,
            "on_truncation": self.on_truncation,
        }

    def questions(self, batch: pa.RecordBatch) -> list[Question | Refused]:
        """One question a text; a text without a character to embed, not UTF-8 or too long is refused."""
        return ask_texts(
            column_at(batch, self.input_column),
            domain=self.task_type,
            max_tokens=self.max_tokens,
            max_bytes=self.limits.size,
            on_empty=self.on_empty,
            on_too_long=self.on_too_long,
        )

    def encode(self, questions: Sequence[Question]) -> bytes:
        """``{"input": […]}``, with ``task_settings`` where there are any."""
        return encode_texts(questions, self.task_settings)

    def decode(self, answer: Answer, questions: Sequence[Question]) -> Decoded:
        """``{"sparse_embedding": [{"is_truncated": …, "embedding": {token: weight}}]}``, in JSON or CBOR.

        A text with a weight that is no finite float32 is refused alone.
        Raises :class:`~..errors.AnswerError` for another number of rows than questions, and for other rows than these.
        """
        rows = _read(answer)
        if len(rows) != len(questions):
            raise AnswerError(f"the answer has {len(rows)} rows for {len(questions)} questions")
        refused: dict[int, str] = {}
        maps: list[dict[str, float]] = []
        truncated: list[bool | None] = []
        for at, (row, question) in enumerate(zip(rows, questions, strict=True)):
            if isinstance(row, Misfit):
                _check_shape(row.raw)
                refused[at] = NOT_FINITE
                maps.append({})
                truncated.append(None)
            elif row.is_truncated and self.on_truncation == "null":
                refused[at] = TRUNCATED
                maps.append({})
                truncated.append(None)
            else:
                maps.append(row.embedding)
                truncated.append(True if isinstance(question.value, CutText) else row.is_truncated)
        weights = _flat(maps)
        if not np.isfinite(weights).all():
            for at, tokens in enumerate(maps):
                if not np.isfinite(_flat([tokens])).all():
                    refused[at] = NOT_FINITE
                    maps[at], truncated[at] = {}, None
            weights = _flat(maps)
        if self.top_k is not None or self.min_weight is not None:
            maps = [self._kept(tokens) for tokens in maps]
            weights = _flat(maps)
        mask = pa.array([at in refused for at in range(len(maps))]) if refused else None
        # Flat columns: twice as fast as handing over the maps one by one.
        column = pa.MapArray.from_arrays(
            pa.array(list(accumulate(map(len, maps), initial=0)), pa.int32()),
            pa.array([token for tokens in maps for token in tokens], pa.string()),
            pa.array(weights),
            mask=mask,
        )
        columns = [column, pa.array(truncated, pa.bool_())]
        return Decoded(pa.RecordBatch.from_arrays(columns, schema=self.output_schema(None)), refused)

    def output_schema(self, dimensions: int | None) -> pa.Schema:  # noqa: ARG002  # sparse weights have none
        """``map<string, float32>`` and bool."""
        return pa.schema(zip(self.output_columns, (_MAP, pa.bool_()), strict=True))

    def _kept(self, tokens: dict[str, float]) -> dict[str, float]:
        """The tokens that are heavy enough, in the order of the answer.

        Weights are compared as they are written: as text they have digits that a float32 has not, and CBOR has not
        either.
        """
        tokens = dict(zip(tokens, _flat([tokens]).tolist(), strict=True))
        if self.min_weight is not None:
            (least,) = _flat([{"": self.min_weight}]).tolist()
            tokens = {token: weight for token, weight in tokens.items() if weight >= least}
        if self.top_k is not None and len(tokens) > self.top_k:
            heaviest = set(sorted(tokens, key=tokens.__getitem__, reverse=True)[: self.top_k])
            tokens = {token: weight for token, weight in tokens.items() if token in heaviest}
        return tokens


def _read(answer: Answer) -> list[_Row | Misfit]:
    """The rows, fast if each token is there once: the fast reader keeps the last of two, where the others refuse both.

    Each name has a colon behind it, so that there are more of them than names where a name is there twice, or where a
    token holds one.
    """
    rows = None if is_cbor(answer) else _READER.fast(answer.body)
    if rows is None:
        return _READER.parse(answer)
    names = 1 + sum(len(row.embedding) + 1 + (row.is_truncated is not None) for row in rows)
    return list(rows) if answer.body.count(b":") == names else _READER.parse(answer)


def _flat(maps: Sequence[dict[str, float]]) -> np.ndarray:
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused as such
        return np.array([weight for tokens in maps for weight in tokens.values()], np.float32)


def _check_shape(raw: Any) -> None:
    """Whether it is but a weight that is wrong with a row."""
    tokens = raw.get("embedding") if isinstance(raw, dict) else None
    if not isinstance(tokens, dict) or not all(isinstance(token, str) for token in tokens):
        raise AnswerError("a row of the answer has no object 'embedding' of tokens and weights")
    if not isinstance(raw.get("is_truncated"), bool | None):
        raise AnswerError("a row of the answer has an 'is_truncated' that is not true or false")
