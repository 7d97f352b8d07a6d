"""``@task.modelstudio_embed`` and ``@task.modelstudio_completion``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from airflow.sdk.bases.decorator import DecoratedOperator, task_decorator_factory
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_modelstudio.decorators.rows import half_character, lend, make_table
from airflow_provider_modelstudio.inference.errors import ConfigurationError
from airflow_provider_modelstudio.operators.completion import CompletionOperator
from airflow_provider_modelstudio.operators.rendered import choice
from airflow_provider_modelstudio.operators.text_embedding import EmbedOperator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from airflow.sdk import Context
    from airflow.sdk.bases.decorator import TaskDecorator

__all__ = ["completion_task", "embed_task"]

MOST_PROMPTS = 100
"""More belong into a dataset, with :class:`~..operators.completion.CompletionOperator`."""
MOST_RESULT_BYTES = 1024 * 1024
"""Of all results together, since they go into XCom."""
_SET_WHEN_RUN = "set when the task runs"


def _call(operator: DecoratedOperator, context: Context) -> Any:
    """What the decorated function returns."""
    merged: Mapping[str, Any] = {**context, **operator.op_kwargs}
    return operator.python_callable(*operator.op_args, **operator.determine_kwargs(merged))


class _EmbedDecoratedOperator(DecoratedOperator, EmbedOperator):
    """Vectors for the texts that a function returns, written to a dataset.

    The function returns a list of texts, a dictionary of columns, or a ``pyarrow.Table``.
    Texts and vectors stay out of XCom: the task returns the counts of :class:`~..operators.text_embedding.EmbedOperator`,
    whose parameters it takes, but for ``source``.
    """

    template_fields: Sequence[str] = (*DecoratedOperator.template_fields, *EmbedOperator.template_fields)
    custom_operator_name = "@task.modelstudio_embed"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(source=_SET_WHEN_RUN, **kwargs)

    def execute(self, context: Context) -> Any:
        """Call the function, embed what it returned."""
        try:
            table = make_table(_call(self, context), self.input_column)
        except ConfigurationError as error:
            raise AirflowFailException(str(error)) from error
        with lend(table) as self.source:
            return super().execute(context)


class _CompletionDecoratedOperator(DecoratedOperator, CompletionOperator):
    """What a language model answers to the prompts that a function returns.

    The function returns a prompt, or a list of at most 100; the task returns the answer, or the list of them, through
    XCom: not for what must not be seen there.
    Takes the parameters of :class:`~..operators.completion.CompletionOperator`, but for ``prompt``, ``source`` and
    ``destination``. Nothing is kept between tries: a retry asks again.

    :param on_row_error: ``"fail"``, or ``"null"`` to get ``None`` for a prompt that is refused. (templated)
    :param on_empty: ``"fail"``, or ``"null"`` to get ``None`` for an empty prompt. (templated)
    :param on_too_long: ``"fail"``, or ``"null"`` to get ``None`` for a prompt beyond ``max_tokens``. (templated)
    """

    template_fields: Sequence[str] = (*DecoratedOperator.template_fields, *CompletionOperator.template_fields)
    custom_operator_name = "@task.modelstudio_completion"

    def __init__(
        self, *, on_row_error: str = "fail", on_empty: str = "fail", on_too_long: str = "fail", **kwargs: Any
    ) -> None:
        super().__init__(
            source=_SET_WHEN_RUN,
            destination=_SET_WHEN_RUN,
            prompt="{prompt}",
            output_column="completion",
            on_row_error=on_row_error,
            on_empty=on_empty,
            on_too_long=on_too_long,
            **kwargs,
        )

    def execute(self, context: Context) -> Any:
        """Call the function, ask what it returned."""
        returned = _call(self, context)
        try:
            prompts = _prompts(returned)
            results = self._ask_all(context, prompts)
        except ConfigurationError as error:
            raise AirflowFailException(str(error)) from error
        return results[0] if isinstance(returned, str) and isinstance(results, list) else results

    def _ask_all(self, context: Context, prompts: Sequence[str]) -> Any:
        choice("on_row_error", self.on_row_error, ("null", "fail"))  # each prompt has its place in the list of answers
        if not prompts:
            return []
        table = pa.table({"prompt": pa.array(prompts, pa.string())})
        with tempfile.TemporaryDirectory(prefix="modelstudio-") as folder, lend(table) as self.source:
            answers = Path(folder, "answers.parquet")
            self.destination = str(answers)
            summary = super().execute(context)
            if not answers.exists():  # of a dry run
                return summary
            results = pq.read_table(answers, columns=["completion"])["completion"].to_pylist()
        size = sum(len(result.encode()) for result in results if result is not None)
        if size > MOST_RESULT_BYTES:
            raise ConfigurationError(
                f"the results have {size} bytes, and {MOST_RESULT_BYTES} at most go into XCom: "
                "ask for less, or write them to a dataset with CompletionOperator"
            )
        return results


def _prompts(returned: Any) -> list[str]:
    prompts = [returned] if isinstance(returned, str) else returned
    if not isinstance(prompts, (list, tuple)):
        kind = type(returned).__name__
        raise ConfigurationError(f"the function returned {kind}; a prompt or a list of prompts was expected")
    for number, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise ConfigurationError(f"prompt {number} is of type {type(prompt).__name__}; text was expected")
    if (at := half_character(prompts)) is not None:
        raise ConfigurationError(f"prompt {at} holds half a surrogate pair, which is no text")
    if len(prompts) > MOST_PROMPTS:
        raise ConfigurationError(
            f"the function returned {len(prompts)} prompts, {MOST_PROMPTS} at most fit into XCom: "
            "write them to a dataset, and use CompletionOperator"
        )
    return list(prompts)


def embed_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> TaskDecorator:
    """``@task.modelstudio_embed(inference_id=…, destination=…)``: write vectors for the texts a function returns."""
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=_EmbedDecoratedOperator, **kwargs
    )


def completion_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> TaskDecorator:
    """``@task.modelstudio_completion(inference_id=…)``: return what a model answers to the prompts a function returns."""
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=_CompletionDecoratedOperator, **kwargs
    )
