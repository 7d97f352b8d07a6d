"""Texts of a Parquet dataset to weights by token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_modelstudio.inference.tasks import RequestLimits
from airflow_provider_modelstudio.inference.tasks.sparse_embedding import SparseEmbedding
from airflow_provider_modelstudio.operators.dataset import InferenceOperator
from airflow_provider_modelstudio.operators.rendered import (
    POLICY,
    TEXT_POLICY,
    choice,
    mapping,
    number,
    whole_or_none,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_provider_modelstudio.inference.tasks import InferenceTask

__all__ = ["SparseEmbedOperator"]


class SparseEmbedOperator(InferenceOperator):
    """Weighted tokens for a text column (``sparse_embedding``).

    Writes ``map<string, float32>``, and a bool column that says whether the end of a text was left out.

    :param input_column: column with the text; a dotted path reaches into structs. (templated)
    :param output_column: column for the tokens; ``<output_column>_error`` says why a row has none. (templated)
    :param top_k: keep the heaviest tokens of a text, at most so many; ``None`` keeps all. (templated)
    :param min_weight: drop lighter tokens; ``None`` keeps all. (templated)
    :param on_empty: what null, empty and blank texts do: ``"null"`` or ``"fail"``. They are never sent. (templated)
    :param on_too_long: what texts beyond ``max_tokens`` do: ``"null"``, ``"truncate"`` or ``"fail"``. (templated)
    :param on_truncation: what texts do of which the model says that it left out the end: ``"keep"`` keeps the weights,
        ``"null"`` gives the row a reason instead, with which ``on_row_error`` does as with any other. (templated)
    :param max_tokens: longest text the model takes, in estimated tokens; ``None``: twice what the catalog has of the
        model, since estimates are rough, and just that with ``on_too_long="truncate"``; any where it has nothing.
        (templated)
    :param task_settings: sent with each request, for endpoints that know them. (templated)
    """

    template_fields: Sequence[str] = (
        *InferenceOperator.template_fields,
        "input_column",
        "output_column",
        "top_k",
        "min_weight",
        "on_empty",
        "on_too_long",
        "on_truncation",
        "max_tokens",
        "task_settings",
    )

    def __init__(
        self,
        *,
        input_column: str = "text",
        output_column: str = "sparse_embedding",
        top_k: int | str | None = None,
        min_weight: float | str | None = None,
        on_empty: str = "null",
        on_too_long: str = "null",
        on_truncation: str = "keep",
        max_tokens: int | str | None = None,
        task_settings: dict[str, Any] | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.input_column = input_column
        self.output_column = output_column
        self.top_k = top_k
        self.min_weight = min_weight
        self.on_empty = on_empty
        self.on_too_long = on_too_long
        self.on_truncation = on_truncation
        self.max_tokens = max_tokens
        self.task_settings = task_settings

    def make_task(self) -> InferenceTask:
        """``sparse_embedding`` over ``input_column``."""
        return SparseEmbedding(
            input_column=self.input_column,
            output_column=self.output_column,
            limits=RequestLimits(rows=self.rows_per_request(10)),
            top_k=whole_or_none("top_k", self.top_k, 1, 1_000_000),
            min_weight=number("min_weight", self.min_weight, least=float("-inf")),
            on_empty=choice("on_empty", self.on_empty, POLICY),
            on_too_long=choice("on_too_long", self.on_too_long, TEXT_POLICY),
            on_truncation=choice("on_truncation", self.on_truncation, ("keep", "null")),
            max_tokens=self.longest_text(self.max_tokens, "sparse_embedding", cut=self.on_too_long == "truncate"),
            task_settings=mapping("task_settings", self.task_settings),
        )
