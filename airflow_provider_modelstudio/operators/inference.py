"""Run an inference endpoint over a Parquet dataset: one operator a task type."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_modelstudio.inference.dataset.groups import group_rows
from airflow_provider_modelstudio.inference.dataset.images import SourceWithImages
from airflow_provider_modelstudio.inference.errors import ConfigurationError
from airflow_provider_modelstudio.inference.tasks import RequestLimits
from airflow_provider_modelstudio.inference.tasks.completion import Completion
from airflow_provider_modelstudio.inference.tasks.flat_rerank import FlatRerank
from airflow_provider_modelstudio.inference.tasks.multi_modal_embedding import MultiModalEmbedding
from airflow_provider_modelstudio.inference.tasks.rerank import Rerank
from airflow_provider_modelstudio.inference.tasks.sparse_embedding import SparseEmbedding
from airflow_provider_modelstudio.inference.tasks.text_embedding import TextEmbedding
from airflow_provider_modelstudio.operators.dataset import InferenceOperator
from airflow_provider_modelstudio.operators.locations import open_images
from airflow_provider_modelstudio.operators.rendered import choice, flag, mapping, number, whole, whole_or_none

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context, ObjectStoragePath

    from airflow_provider_modelstudio.catalog import Model
    from airflow_provider_modelstudio.inference.dataset import Source
    from airflow_provider_modelstudio.inference.engine import Budget, Options
    from airflow_provider_modelstudio.inference.tasks import InferenceTask
    from airflow_provider_modelstudio.inference.tasks.vector_types import VectorType
    from airflow_provider_modelstudio.inference.transport import EndpointFacts

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
            on_empty=choice("on_empty", self.on_empty, _POLICY),
            on_too_long=choice("on_too_long", self.on_too_long, _TEXT_POLICY),
            max_tokens=self.longest_text(self.max_tokens, "text_embedding", cut=self.on_too_long == "truncate"),
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
            on_empty=choice("on_empty", self.on_empty, _POLICY),
            on_too_long=choice("on_too_long", self.on_too_long, _TEXT_POLICY),
            on_truncation=choice("on_truncation", self.on_truncation, ("keep", "null")),
            max_tokens=self.longest_text(self.max_tokens, "sparse_embedding", cut=self.on_too_long == "truncate"),
            task_settings=mapping("task_settings", self.task_settings),
        )


class RerankOperator(InferenceOperator):
    """The documents of each query, ordered by how well they answer it (``rerank``).

    With a list of documents in each row, writes ``list<struct<index, relevance_score>>``, best first; ``index`` counts
    the row's documents from 0.
    With ``query_id_column``, a row is one candidate: writes ``relevance_score`` and ``rank`` beside it, 1 for the best;
    under another ``output_column``, ``<output_column>_relevance_score`` and ``<output_column>_rank``.

    :param query_column: column with the query. (templated)
    :param documents_column: column with the list of documents; with ``query_id_column``, with one document. (templated)
    :param query_id_column: column that tells which rows are candidates of one query: they are neighbours and have the
        same query. (templated)
    :param output_column: column for the ranking; ``<output_column>_error`` says why a row has none. (templated)
    :param top_n: keep the best documents, at most so many; with ``query_id_column``, rank so many. (templated)
    :param return_documents: add the document's text to each entry; not with ``query_id_column``, where it is there.
        (templated)
    :param max_documents: most documents of a row, or of a request, that the model takes; ``None``: as the catalog has it
        of ``model``, else 500. (templated)
    :param max_tokens: longest query or document the model takes, in estimated tokens; ``None``: twice what the catalog
        has of the model, since estimates are rough; any where it has nothing. (templated)
    :param scores_comparable: with ``query_id_column``: scores of two requests with one query can be compared. Then
        queries with more candidates than a request takes are split, and only new pairs of query and document are asked;
        else all candidates of a query are asked together, or none. ``None``: as the catalog has it of ``model``, else
        false. (templated)
    :param on_empty: what rows without a query or a document do: ``"null"`` or ``"fail"``. (templated)
    :param task_settings: sent with each request, for endpoints that know them. (templated)
    """

    template_fields: Sequence[str] = (
        *InferenceOperator.template_fields,
        "query_column",
        "documents_column",
        "query_id_column",
        "output_column",
        "top_n",
        "return_documents",
        "max_documents",
        "max_tokens",
        "scores_comparable",
        "on_empty",
        "task_settings",
    )

    def __init__(
        self,
        *,
        query_column: str = "query",
        documents_column: str = "documents",
        query_id_column: str | None = None,
        output_column: str = "reranked",
        top_n: int | str | None = None,
        return_documents: bool | str = False,
        max_documents: int | str | None = None,
        max_tokens: int | str | None = None,
        scores_comparable: bool | str | None = None,
        on_empty: str = "null",
        task_settings: dict[str, Any] | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.query_column = query_column
        self.documents_column = documents_column
        self.query_id_column = query_id_column
        self.output_column = output_column
        self.top_n = top_n
        self.return_documents = return_documents
        self.max_documents = max_documents
        self.max_tokens = max_tokens
        self.scores_comparable = scores_comparable
        self.on_empty = on_empty
        self.task_settings = task_settings

    def make_task(self) -> InferenceTask:
        """``rerank`` of ``documents_column`` for ``query_column``."""
        if self.query_id_column:
            return self._flat(self.query_id_column)
        if self.scores_comparable is not None and flag("scores_comparable", self.scores_comparable):
            raise ConfigurationError(
                "scores_comparable is for one row a candidate: set query_id_column, or leave it out"
            )
        known = self.model_for("rerank")
        # The service cuts what is too much without a word, which ruins the ranking: a reason is better.
        tokens = known.tokens_per_request if known is not None else None
        return Rerank(
            query_column=self.query_column,
            documents_column=self.documents_column,
            output_column=self.output_column,
            limits=RequestLimits(rows=whole_or_none("batch_size", self.batch_size, 1, 2048) or 1, tokens=tokens),
            top_n=whole_or_none("top_n", self.top_n, 1, 1_000_000),
            return_documents=flag("return_documents", self.return_documents),
            max_documents=self._most_documents(known),
            max_tokens=self.longest_text(self.max_tokens, "rerank"),
            on_empty=choice("on_empty", self.on_empty, _POLICY),
            task_settings=mapping("task_settings", self.task_settings),
        )

    def arrange(self, source: Source, task: InferenceTask) -> Source:  # noqa: ARG002  # of the form of the operator
        """With ``query_id_column``, the candidates of each query together."""
        return group_rows(source, self.query_id_column, self.query_column) if self.query_id_column else source

    def _most_documents(self, known: Model | None) -> int:
        usual = known.documents_per_request if known is not None and known.documents_per_request else 500
        return whole_or_none("max_documents", self.max_documents, 1, 100_000) or usual

    def _flat(self, query_id_column: str) -> FlatRerank:
        if flag("return_documents", self.return_documents):
            raise ConfigurationError("return_documents is for lists of documents: with query_id_column leave it out")
        known = self.model_for("rerank")
        comparable = known is not None and known.scores_comparable is True
        if self.scores_comparable is not None:
            comparable = flag("scores_comparable", self.scores_comparable)
        most = self._most_documents(known)
        return FlatRerank(
            query_id_column=query_id_column,
            query_column=self.query_column,
            document_column=self.documents_column,
            output_column=self.output_column,
            max_documents=min(most, self.rows_per_request(most)),
            max_tokens=self.longest_text(self.max_tokens, "rerank"),
            max_request_tokens=known.tokens_per_request if known is not None else None,
            scores_comparable=comparable,
            top_n=whole_or_none("top_n", self.top_n, 1, 1_000_000),
            on_empty=choice("on_empty", self.on_empty, _POLICY),
            task_settings=mapping("task_settings", self.task_settings),
        )


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
            on_empty=choice("on_empty", self.on_empty, _POLICY),
            on_too_long=choice("on_too_long", self.on_too_long, _POLICY),
            max_tokens=self.longest_text(self.max_tokens, "completion"),
            task_settings=mapping("task_settings", self.task_settings),
        )


class MultiModalEmbedOperator(InferenceOperator):
    """One vector for each row's text, image, video or list of images (``multi_modal_embedding``).

    Addresses are handed on, not fetched: the service must be able to reach them.
    Images may also be bytes, or files below ``image_root``; those are sent themselves.
    How many tokens an image or a video has is not known: with a column of them no cost is estimated, and ``max_cost`` and
    ``max_total_tokens`` are refused.

    :param text_column: column with texts. (templated)
    :param image_column: column with addresses, paths or bytes of images. (templated)
    :param video_column: column with addresses of videos. (templated)
    :param multi_images_column: column with lists of images, several views of one thing. (templated)
    :param output_column: column for the vector; ``<output_column>_error`` says why a row has none. (templated)
    :param independent: the model gives a vector for each element instead of one for all; then name one column, and use
        an operator for each column. ``None``: as the catalog has it of ``model``, or of the model the endpoint is named
        like, else false. (templated)
    :param image_root: folder with the images that rows name by a path, relative to it or whole; a local path or an
        object storage URI. Nothing outside of it is read. ``None``: a path is no image. (templated)
    :param max_image_bytes: largest image that is sent itself. (templated)
    :param max_tokens: longest text the model takes, in estimated tokens; ``None``: twice what the catalog has of the
        model, since estimates are rough; any where it has nothing. (templated)
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
        "image_root",
        "max_image_bytes",
        "max_tokens",
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
        independent: bool | str | None = None,
        image_root: str | ObjectStoragePath | None = None,
        max_image_bytes: int | str = 10 * 1024 * 1024,
        max_tokens: int | str | None = None,
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
        self.image_root = image_root
        self.max_image_bytes = max_image_bytes
        self.max_tokens = max_tokens
        self.on_empty = on_empty
        self.vector_type = vector_type
        self.task_settings = task_settings

    def make_task(self) -> InferenceTask:
        """``multi_modal_embedding`` of the columns that are named."""
        self._check_guards()
        most_bytes = whole("max_image_bytes", self.max_image_bytes, 1, 20 * 1024 * 1024)
        known = self.model_for("multi_modal_embedding")
        independent = known is not None and known.vectors == "independent"
        if self.independent is not None:
            independent = flag("independent", self.independent)
        elif known is not None and known.vectors == "both":
            self._check_fusion(known)
        rows = 1
        if independent and known is not None and self.multi_images_column is None:  # else rows are not elements
            rows = min(filter(None, (known.elements_per_request, known.images_per_request)), default=1)
        return MultiModalEmbedding(
            text_column=self.text_column,
            image_column=self.image_column,
            video_column=self.video_column,
            multi_images_column=self.multi_images_column,
            output_column=self.output_column,
            independent=independent,
            limits=RequestLimits(rows=self.rows_per_request(rows), size=64 * 1024 * 1024),
            images=None if self.image_root is None else open_images(self.image_root, most_bytes),
            max_image_bytes=most_bytes,
            max_images=known.images_per_request if known is not None else None,
            max_tokens=self.longest_text(self.max_tokens, "multi_modal_embedding"),
            on_empty=choice("on_empty", self.on_empty, _POLICY),
            vector_type=choice("vector_type", self.vector_type, _VECTOR_TYPES),
            task_settings=mapping("task_settings", self.task_settings),
        )

    def _options(self, context: Context) -> Options:
        """Where rows may have several elements, the first answer tells what the model does with them: until then, ask one."""
        options = super()._options(context)
        if len(self._columns) < 2:  # noqa: PLR2004
            return options
        return replace(options, limits=replace(options.limits, start_concurrency=1))

    def _budget(self, facts: EndpointFacts, region: str | None) -> Budget:
        """Without a price where there are images or videos: nobody says how many tokens one has."""
        budget = super()._budget(facts, region)
        if not self._has_media:
            return budget
        self.log.info(
            "tokens are counted of texts alone, and no cost is estimated: that of images and videos is not known"
        )
        return replace(budget, price=None, currency=None)

    def _check_guards(self) -> None:
        """A guard that cannot see what is spent guards nothing."""
        guards = {
            "max_cost": number("max_cost", self.max_cost),
            "max_total_tokens": number("max_total_tokens", self.max_total_tokens),
        }
        blind = next((name for name, most in guards.items() if most is not None), None)
        if blind and self._has_media:
            raise ConfigurationError(
                f"{blind} cannot be kept: how many tokens an image or a video has is known to the service alone; "
                "use max_rows or max_requests"
            )

    @property
    def _has_media(self) -> bool:
        return any((self.image_column, self.video_column, self.multi_images_column))

    @property
    def _columns(self) -> list[str]:
        columns = (self.text_column, self.image_column, self.video_column, self.multi_images_column)
        return [column for column in columns if column is not None]

    def _check_fusion(self, known: Model) -> None:
        """A model of both kinds must have been told to fuse where rows have several elements."""
        settings = mapping("task_settings", self.task_settings) or {}
        told = [settings, settings.get("parameters")]
        fuses = any(isinstance(one, dict) and one.get("enable_fusion") is True for one in told)
        if len(self._columns) > 1 and not fuses:
            raise ConfigurationError(
                f"model {known.name!r} gives one vector for each element unless it is told to fuse them: embed one column at "
                "a time, each into an output_column of its own, or, where the endpoint has enable_fusion, set independent=False"
            )

    def arrange(self, source: Source, task: InferenceTask) -> Source:
        """The source, with as many rows at a time as their image files allow."""
        if not isinstance(task, MultiModalEmbedding) or task.images is None:
            return source
        return SourceWithImages(source.filesystem, source.files, source.schema, task.image_bytes)
