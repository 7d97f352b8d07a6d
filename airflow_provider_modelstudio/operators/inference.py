"""Run an inference endpoint over a Parquet dataset: one operator a task type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_modelstudio.inference.tasks import RequestLimits
from airflow_provider_modelstudio.inference.tasks.completion import Completion
from airflow_provider_modelstudio.inference.tasks.multi_modal_embedding import MultiModalEmbedding
from airflow_provider_modelstudio.inference.tasks.rerank import Rerank
from airflow_provider_modelstudio.inference.tasks.sparse_embedding import SparseEmbedding
from airflow_provider_modelstudio.inference.tasks.text_embedding import TextEmbedding
from airflow_provider_modelstudio.operators.dataset import InferenceOperator
from airflow_provider_modelstudio.operators.rendered import choice, flag, mapping, number, whole, whole_or_none

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_provider_modelstudio.inference.tasks import InferenceTask
    from airflow_provider_modelstudio.inference.tasks.vector_types import VectorType

__all__ = [
    "CompletionOperator",
    "EmbedOperator",
    "InferenceOperator",
    "MultiModalEmbedOperator",
    "RerankOperator",
    "SparseEmbedOperator",
]

_POLICY: tuple[Literal["null", "fail"], ...] = ("null", "fail")
_VECTOR_TYPES: tuple[VectorType, ...] = ("float32", "float16", "int8")
_TEXT_POLICY: tuple[Literal["null", "truncate", "fail"], ...] = ("null", "truncate", "fail")


class EmbedOperator(InferenceOperator):
    """Dense vectors for a text column (``text_embedding``).

    Writes ``fixed_size_list<float32>[dimensions]``, or as ``vector_type`` says.

    :param input_column: column with the text; a dotted path reaches into structs. (templated)
    :param output_column: column for the vector; ``<output_column>_error`` says why a row has none. (templated)
    :param on_empty: what null, empty and blank texts do: ``"null"`` or ``"fail"``. They are never sent. (templated)
    :param on_too_long: what texts beyond ``max_tokens`` do: ``"null"``, ``"truncate"`` or ``"fail"``. (templated)
    :param max_tokens: longest text the model takes, in estimated tokens; ``None`` sends any. (templated)
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
            on_empty=choice("on_empty", self.on_empty, _POLICY),
            on_too_long=choice("on_too_long", self.on_too_long, _TEXT_POLICY),
            max_tokens=whole_or_none("max_tokens", self.max_tokens, 1, 10_000_000),
            vector_type=choice("vector_type", self.vector_type, _VECTOR_TYPES),
            task_settings=mapping("task_settings", self.task_settings),
        )


class SparseEmbedOperator(InferenceOperator):
    """Weighted tokens for a text column (``sparse_embedding``).

    Writes ``map<string, float32>``, and a bool column that says whether the end of a text was left out.

    :param input_column: column with the text; a dotted path reaches into structs. (templated)
    :param output_column: column for the tokens; ``<output_column>_error`` says why a row has none. (templated)
    :param top_k: keep the heaviest tokens of a text, at most so many; ``None`` keeps all. (templated)
    :param min_weight: drop lighter tokens; ``None`` keeps all. (templated)
    :param on_empty: what null, empty and blank texts do: ``"null"`` or ``"fail"``. They are never sent. (templated)
    :param on_too_long: what texts beyond ``max_tokens`` do: ``"null"``, ``"truncate"`` or ``"fail"``. (templated)
    :param max_tokens: longest text the model takes, in estimated tokens; ``None`` sends any. (templated)
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
            on_empty=choice("on_empty", self.on_empty, _POLICY),
            on_too_long=choice("on_too_long", self.on_too_long, _TEXT_POLICY),
            max_tokens=whole_or_none("max_tokens", self.max_tokens, 1, 10_000_000),
            task_settings=mapping("task_settings", self.task_settings),
        )


class RerankOperator(InferenceOperator):
    """The documents of each row, ordered by how well they answer its query (``rerank``).

    Writes ``list<struct<index, relevance_score>>``, best first; ``index`` counts the row's documents from 0.

    :param query_column: column with the query. (templated)
    :param documents_column: column with the list of documents. (templated)
    :param output_column: column for the ranking; ``<output_column>_error`` says why a row has none. (templated)
    :param top_n: keep the best documents, at most so many; ``None`` keeps all. (templated)
    :param return_documents: add the document's text to each entry. (templated)
    :param max_documents: most documents of a row that the model takes. (templated)
    :param on_empty: what rows without a query or a document do: ``"null"`` or ``"fail"``. (templated)
    :param task_settings: sent with each request, for endpoints that know them. (templated)
    """

    template_fields: Sequence[str] = (
        *InferenceOperator.template_fields,
        "query_column",
        "documents_column",
        "output_column",
        "top_n",
        "return_documents",
        "max_documents",
        "on_empty",
        "task_settings",
    )

    def __init__(
        self,
        *,
        query_column: str = "query",
        documents_column: str = "documents",
        output_column: str = "reranked",
        top_n: int | str | None = None,
        return_documents: bool | str = False,
        max_documents: int | str = 500,
        on_empty: str = "null",
        task_settings: dict[str, Any] | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.query_column = query_column
        self.documents_column = documents_column
        self.output_column = output_column
        self.top_n = top_n
        self.return_documents = return_documents
        self.max_documents = max_documents
        self.on_empty = on_empty
        self.task_settings = task_settings

    def make_task(self) -> InferenceTask:
        """``rerank`` of ``documents_column`` for ``query_column``."""
        return Rerank(
            query_column=self.query_column,
            documents_column=self.documents_column,
            output_column=self.output_column,
            limits=RequestLimits(rows=self.rows_per_request(1)),
            top_n=whole_or_none("top_n", self.top_n, 1, 1_000_000),
            return_documents=flag("return_documents", self.return_documents),
            max_documents=whole("max_documents", self.max_documents, 1, 100_000),
            on_empty=choice("on_empty", self.on_empty, _POLICY),
            task_settings=mapping("task_settings", self.task_settings),
        )


class CompletionOperator(InferenceOperator):
    """What a language model answers to a prompt made from each row (``completion``).

    Row text is data: it is put in where the placeholder stands, and never evaluated.

    :param prompt: text with ``{column}`` where a row's value belongs; braces are written twice. Not templated, since
        its braces are ours.
    :param system: text before each prompt. (templated)
    :param output_column: column for the answer; ``<output_column>_error`` says why a row has none. (templated)
    :param deterministic: the same prompt gets the same answer, so that equal prompts are asked once. (templated)
    :param on_empty: what rows with a null in the prompt do: ``"null"`` or ``"fail"``. (templated)
    :param on_too_long: what prompts beyond ``max_tokens`` do: ``"null"`` or ``"fail"``. (templated)
    :param max_tokens: longest prompt the model takes, in estimated tokens; ``None`` sends any. (templated)
    :param task_settings: sent with each request, for endpoints that know them. (templated)
    """

    template_fields: Sequence[str] = (
        *InferenceOperator.template_fields,
        "system",
        "output_column",
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
            limits=RequestLimits(rows=self.rows_per_request(1)),
            deterministic=flag("deterministic", self.deterministic),
            on_empty=choice("on_empty", self.on_empty, _POLICY),
            on_too_long=choice("on_too_long", self.on_too_long, _POLICY),
            max_tokens=whole_or_none("max_tokens", self.max_tokens, 1, 10_000_000),
            task_settings=mapping("task_settings", self.task_settings),
        )


class MultiModalEmbedOperator(InferenceOperator):
    """One vector for each row's text, image, video or list of images (``multi_modal_embedding``).

    Addresses are handed on, not fetched: the service must be able to reach them.
    Images may also be bytes, which are sent themselves.

    :param text_column: column with texts. (templated)
    :param image_column: column with addresses or bytes of images. (templated)
    :param video_column: column with addresses of videos. (templated)
    :param multi_images_column: column with lists of images, several views of one thing. (templated)
    :param output_column: column for the vector; ``<output_column>_error`` says why a row has none. (templated)
    :param independent: the model gives a vector for each element instead of one for all; then name one column.
        (templated)
    :param max_image_bytes: largest image that is sent itself. (templated)
    :param on_empty: what rows with nothing to embed do: ``"null"`` or ``"fail"``. (templated)
    :param vector_type: ``"float32"``, or smaller: ``"float16"``, or ``"int8"`` with a column ``<output_column>_scale`` beside
        it; answers on record as float32 are converted, not asked again. (templated)
    :param task_settings: sent with each request, for endpoints that know them. (templated)
    """

    template_fields: Sequence[str] = (
        *InferenceOperator.template_fields,
        "text_column",
        "image_column",
        "video_column",
        "multi_images_column",
        "output_column",
        "independent",
        "max_image_bytes",
        "on_empty",
        "vector_type",
        "task_settings",
    )

    def __init__(
        self,
        *,
        text_column: str | None = None,
        image_column: str | None = None,
        video_column: str | None = None,
        multi_images_column: str | None = None,
        output_column: str = "embedding",
        independent: bool | str = False,
        max_image_bytes: int | str = 10 * 1024 * 1024,
        on_empty: str = "null",
        vector_type: str = "float32",
        task_settings: dict[str, Any] | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.text_column = text_column
        self.image_column = image_column
        self.video_column = video_column
        self.multi_images_column = multi_images_column
        self.output_column = output_column
        self.independent = independent
        self.max_image_bytes = max_image_bytes
        self.on_empty = on_empty
        self.vector_type = vector_type
        self.task_settings = task_settings

    def make_task(self) -> InferenceTask:
        """``multi_modal_embedding`` of the columns that are named."""
        return MultiModalEmbedding(
            text_column=self.text_column,
            image_column=self.image_column,
            video_column=self.video_column,
            multi_images_column=self.multi_images_column,
            output_column=self.output_column,
            independent=flag("independent", self.independent),
            limits=RequestLimits(rows=self.rows_per_request(1), size=64 * 1024 * 1024),
            max_image_bytes=whole("max_image_bytes", self.max_image_bytes, 1, 20 * 1024 * 1024),
            on_empty=choice("on_empty", self.on_empty, _POLICY),
            vector_type=choice("vector_type", self.vector_type, _VECTOR_TYPES),
            task_settings=mapping("task_settings", self.task_settings),
        )
