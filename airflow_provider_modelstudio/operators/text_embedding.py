"""Texts of a Parquet dataset to dense vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_modelstudio.inference.tasks import RequestLimits
from airflow_provider_modelstudio.inference.tasks.text_embedding import TextEmbedding
from airflow_provider_modelstudio.operators.dataset import InferenceOperator
from airflow_provider_modelstudio.operators.rendered import (
    POLICY,
    TEXT_POLICY,
    VECTOR_TYPES,
    choice,
    mapping,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_provider_modelstudio.inference.tasks import InferenceTask

__all__ = ["EmbedOperator"]


class EmbedOperator(InferenceOperator):
    """Dense vectors for a text column (``text_embedding``).

    Writes ``fixed_size_list<float32>[dimensions]``, or as ``vector_type`` says.

    :param input_column: column with the text; a dotted path reaches into structs. (templated)
    :param output_column: column for the vector; ``<output_column>_error`` says why a row has none. (templated)
    :param on_empty: what null, empty and blank texts do: ``"null"`` or ``"fail"``. They are never sent. (templated)
    :param on_too_long: what texts beyond ``max_tokens`` do: ``"null"``, ``"truncate"`` or ``"fail"``. (templated)
    :param max_tokens: longest text the model takes, in estimated tokens; ``None``: twice what the catalog has of the
        model, since estimates are rough, and just that with ``on_too_long="truncate"``; any where it has nothing.
        (templated)
    :param vector_type: ``"float32"``, or smaller: ``"float16"``, or ``"int8"`` with a column ``<output_column>_scale`` beside
        it; answers on record as float32 are converted, not asked again. (templated)
    :param task_settings: sent with each request, for endpoints that know them. (templated)
    """

    template_fields: Sequence[str] = (
        *InferenceOperator.template_fields,
        "input_column",
        "output_column",
        "on_empty",
        "on_too_long",
        "max_tokens",
        "vector_type",
        "task_settings",
    )

    def __init__(
        self,
        *,
        input_column: str = "text",
        output_column: str = "embedding",
        on_empty: str = "null",
        on_too_long: str = "null",
        max_tokens: int | str | None = None,
        vector_type: str = "float32",
        task_settings: dict[str, Any] | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.input_column = input_column
        self.output_column = output_column
        self.on_empty = on_empty
        self.on_too_long = on_too_long
        self.max_tokens = max_tokens
        self.vector_type = vector_type
        self.task_settings = task_settings

    def make_task(self) -> InferenceTask:
        """``text_embedding`` over ``input_column``."""
        return TextEmbedding(
            input_column=self.input_column,
            output_column=self.output_column,
            limits=RequestLimits(rows=self.rows_per_request(10)),
            on_empty=choice("on_empty", self.on_empty, POLICY),
            on_too_long=choice("on_too_long", self.on_too_long, TEXT_POLICY),
            max_tokens=self.longest_text(self.max_tokens, "text_embedding", cut=self.on_too_long == "truncate"),
            vector_type=choice("vector_type", self.vector_type, VECTOR_TYPES),
            task_settings=mapping("task_settings", self.task_settings),
        )
