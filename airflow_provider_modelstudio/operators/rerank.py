"""Documents of a Parquet dataset in the order of their relevance to a query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_modelstudio.inference.dataset.groups import group_rows
from airflow_provider_modelstudio.inference.errors import ConfigurationError
from airflow_provider_modelstudio.inference.tasks import RequestLimits
from airflow_provider_modelstudio.inference.tasks.flat_rerank import FlatRerank
from airflow_provider_modelstudio.inference.tasks.rerank import Rerank
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

    from airflow_provider_modelstudio.catalog import Model
    from airflow_provider_modelstudio.inference.dataset import Source
    from airflow_provider_modelstudio.inference.tasks import InferenceTask

__all__ = ["RerankOperator"]


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
            on_empty=choice("on_empty", self.on_empty, POLICY),
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
            on_empty=choice("on_empty", self.on_empty, POLICY),
            task_settings=mapping("task_settings", self.task_settings),
        )
