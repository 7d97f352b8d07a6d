"""Prompts made from the rows of a Parquet dataset, answered by a language model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_modelstudio.inference.tasks import RequestLimits
from airflow_provider_modelstudio.inference.tasks.completion import Completion
from airflow_provider_modelstudio.operators.dataset import InferenceOperator
from airflow_provider_modelstudio.operators.rendered import (
    POLICY,
    choice,
    flag,
    mapping,
    whole_or_none,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_provider_modelstudio.inference.tasks import InferenceTask

__all__ = ["CompletionOperator"]


class CompletionOperator(InferenceOperator):
    """What a language model answers to a prompt made from each row (``completion``).

    Row text is data: it is put in where the placeholder stands, and never evaluated.
    Estimates count prompts, since nobody knows before what a model will write; ``max_cost`` counts that as it comes.

    :param prompt: text with ``{column}`` where a row's value belongs; braces are written twice. Not templated, since
        its braces are ours.
    :param system: text before each prompt. (templated)
    :param output_column: column for the answer; ``<output_column>_error`` says why a row has none. (templated)
    :param response_schema: JSON Schema of an object, as such or as JSON: it is added to the prompt, and each property
        becomes a column. An answer that does not fit is asked for once more, which is paid; if that does not fit
        either, the row counts as failed, and keeps the text. (templated)
    :param deterministic: the same prompt gets the same answer, so that equal prompts are asked once. (templated)
    :param on_empty: what rows with a null in the prompt do: ``"null"`` or ``"fail"``. (templated)
    :param on_too_long: what prompts beyond ``max_tokens`` do: ``"null"`` or ``"fail"``. (templated)
    :param max_tokens: longest prompt the model takes, in estimated tokens; ``None``: twice what the catalog has of the
        model, since estimates are rough; any where it has nothing. (templated)
    :param task_settings: sent with each request, for endpoints that know them. (templated)
    """

    template_fields: Sequence[str] = (
        *InferenceOperator.template_fields,
        "system",
        "output_column",
        "response_schema",
        "deterministic",
        "on_empty",
        "on_too_long",
        "max_tokens",
        "task_settings",
    )

    def __init__(
        self,
        *,
        prompt: str,
        system: str | None = None,
        output_column: str = "completion",
        response_schema: dict[str, Any] | str | None = None,
        deterministic: bool | str = False,
        on_empty: str = "null",
        on_too_long: str = "null",
        max_tokens: int | str | None = None,
        task_settings: dict[str, Any] | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.prompt = prompt
        self.system = system
        self.output_column = output_column
        self.response_schema = response_schema
        self.deterministic = deterministic
        self.on_empty = on_empty
        self.on_too_long = on_too_long
        self.max_tokens = max_tokens
        self.task_settings = task_settings

    def make_task(self) -> InferenceTask:
        """``completion`` of ``prompt``."""
        return Completion(
            prompt=self.prompt,
            system=self.system,
            output_column=self.output_column,
            limits=RequestLimits(rows=whole_or_none("batch_size", self.batch_size, 1, 2048) or 1),
            response_schema=mapping("response_schema", self.response_schema),
            deterministic=flag("deterministic", self.deterministic),
            on_empty=choice("on_empty", self.on_empty, POLICY),
            on_too_long=choice("on_too_long", self.on_too_long, POLICY),
            max_tokens=self.longest_text(self.max_tokens, "completion"),
            task_settings=mapping("task_settings", self.task_settings),
        )
