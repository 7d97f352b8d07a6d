"""Dense vectors of texts: ``text_embedding``. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from . import Decoded, Question, Refused, RequestLimits, Wider
from .columns import check_text, column_at
from .settings import check_at_least, check_choice, check_columns, check_task_settings
from .texts import CutText, OnEmpty, OnTooLong, ask_texts, encode_texts
from .vector_types import VectorType, narrowed, vector_columns, vector_schema
from .vectors import read_vectors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from . import Answer

__all__ = ["TextEmbedding"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TextEmbedding:
    """One vector for each text of a column.

    The vectors are ``fixed_size_list<element: float32>``, or smaller by ``vector_type``; int8 vectors have a float32 column
    ``<output_column>_scale`` beside them.
    With ``on_too_long="truncate"`` a bool column ``<output_column>_is_truncated`` stands beside them.

    ``"null"`` keeps a row without a vector, with a reason, and the run goes on; how many such rows a run may have is the
    engine's business.
    ``"fail"`` marks the reason as fatal, and the engine fails the run before it asks anything.
    """

    input_column: str = "text"
    """String, large_string, string_view, a dictionary of them, or UTF-8 in binary; a dotted path reaches into structs."""
    output_column: str = "embedding"
    limits: RequestLimits = field(default_factory=RequestLimits)
    on_empty: OnEmpty = "null"
    """What a null, empty or blank text does; it is never asked."""
    on_too_long: OnTooLong = "null"
    """What a text beyond ``max_tokens`` does."""
    max_tokens: int | None = None
    """Longest text the model takes, compared with an estimate (:func:`.tokens.estimate_tokens`); ``None``: any goes."""
    dimensions: int | None = None
    """Values of a vector; another number is an error. ``None`` takes what the endpoint gives."""
    vector_type: VectorType = "float32"
    """In what form vectors are written; see :mod:`.vector_types`."""
    task_settings: Mapping[str, Any] | None = None
    """Sent with each request, where the endpoint knows them."""

    def __post_init__(self) -> None:
        check_columns(input_column=self.input_column, output_column=self.output_column)
        check_choice("on_empty", self.on_empty, OnEmpty)
        check_choice("on_too_long", self.on_too_long, OnTooLong)
        check_choice("vector_type", self.vector_type, VectorType)
        check_at_least(1, max_tokens=self.max_tokens, dimensions=self.dimensions)
        check_task_settings(self.task_settings)

    @property
    def task_type(self) -> str:
        """``text_embedding``."""
        return "text_embedding"

    @property
    def input_columns(self) -> tuple[str, ...]:
        """The column of texts."""
        return (self.input_column,)

    @property
    def output_columns(self) -> tuple[str, ...]:
        """The column of vectors, that of their scales if they have some, and whether texts were cut if they may be."""
        return tuple(self.output_schema(None).names)

    @property
    def error_column(self) -> str:
        """``<output_column>_error``."""
        return f"{self.output_column}_error"

    @property
    def equal_rows_share(self) -> bool:
        """Equal texts have equal vectors."""
        return True

    @property
    def wider(self) -> Wider | None:
        """Float32 vectors of the same questions, where this task writes smaller ones."""
        if self.vector_type == "float32":
            return None
        return Wider(replace(self, vector_type="float32").settings(), self._narrow)

    def check(self, schema: pa.Schema) -> None:
        """Raise :class:`~..errors.InputError` unless the input column holds texts."""
        check_text(schema, self.input_column)

    def settings(self) -> Mapping[str, Any]:
        """What decides the answer beside the text, and the columns it has."""
        form = {} if self.vector_type == "float32" else {"vector_type": self.vector_type}
        return {
            "task_type": self.task_type,
            "task_settings": dict(self.task_settings or {}),
            "is_truncated": self.on_too_long == "truncate",
            **form,
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
        """``{"text_embedding": [{"embedding": […]}]}``, in JSON or CBOR; see :func:`.vectors.read_vectors`."""
        vectors = read_vectors(answer, self.task_type, rows=len(questions), dimensions=self.dimensions)
        columns, refused = vector_columns(vectors, self.vector_type)
        if self.on_too_long == "truncate":
            cut = [None if i in refused else isinstance(q.value, CutText) for i, q in enumerate(questions)]
            columns.append(pa.array(cut, pa.bool_()))
        schema = self.output_schema(vectors.matrix.shape[1])
        return Decoded(pa.RecordBatch.from_arrays(columns, schema=schema), refused)

    def output_schema(self, dimensions: int | None) -> pa.Schema:
        """Vectors of the dimensions known, here or from this task; of any length otherwise."""
        schema = vector_schema(self.output_column, self.vector_type, dimensions or self.dimensions)
        if self.on_too_long == "truncate":
            return schema.append(pa.field(f"{self.output_column}_is_truncated", pa.bool_()))
        return schema

    def _narrow(self, columns: pa.RecordBatch) -> Decoded:
        return narrowed(columns, self.output_schema(columns.column(0).type.list_size), self.vector_type)
