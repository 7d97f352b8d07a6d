"""Rerank what a first, cheap search found: a table with one row a candidate gets a score and a rank beside each row.

- **retrieve** finds candidates for each question by the words they share with it, as a keyword search would, and
  writes them to a Parquet file, the candidates of a question side by side
- **rerank** asks an inference endpoint how well each candidate answers its question
- **pick** writes the best ones of each question to a table of their own

It needs a connection `modelstudio_default` and an inference endpoint `bailian_rerank`.
The questions are a parameter, the texts stand below: put your own search in the place of `retrieve`, and leave the rest.
Rows of one `query_id` must be neighbours: sort by it.
All candidates of a question are asked in one request; a question whose candidates did not change is not asked again.

The data lies in `$RERANK_CANDIDATES_FOLDER`, or else in `$AIRFLOW_HOME/rerank_candidates`; all workers must see that
folder.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from airflow.sdk import Param, dag, task

from airflow_provider_modelstudio.operators.rerank import RerankOperator

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

FOLDER = Path(
    os.environ.get("RERANK_CANDIDATES_FOLDER") or Path(os.environ.get("AIRFLOW_HOME", "~/airflow"), "rerank_candidates")
)
CANDIDATES = FOLDER.expanduser().absolute() / "candidates.parquet"
RERANKED = CANDIDATES.with_name("reranked")
BEST = CANDIDATES.with_name("best.parquet")

SCHEMA = pa.schema([(name, pa.string()) for name in ("query_id", "query", "document_id", "document")])
QUESTIONS = [
    "How long does a parcel take to arrive?",
    "Can I send back shoes that do not fit?",
    "Which cards do you take?",
    "My lamp came broken, what now?",
]
DOCUMENTS = {
    "delivery-1": "Parcels within the country take two to three working days to arrive.",
    "delivery-2": "You can follow your parcel with the number in the mail that tells you it is on its way.",
    "delivery-3": "Furniture is brought by two people, at a time that you choose.",
    "returns-1": "Whatever does not fit can be sent back within thirty days, shoes and clothes included.",
    "returns-2": "Put the label that came with the order on the parcel when you send something back.",
    "returns-3": "Money for what you send back arrives on your card within a week.",
    "payment-1": "We take credit cards, debit cards and bank transfer.",
    "payment-2": "A gift card can be used together with other cards.",
    "damage-1": "If something came broken, send us a picture of it and we replace it.",
    "damage-2": "A lamp of glass is packed in two boxes, so that it does not break on its way.",
    "damage-3": "Shoes with a fault are replaced for two years.",
    "account-1": "What you ordered before is listed in your account.",
}
WORD = re.compile(r"\w+")


@dag(
    schedule=None,
    max_active_runs=1,  # two would write the same files
    default_args={"retries": 2},
    params={
        "questions": Param(QUESTIONS, type="array", items={"type": "string", "minLength": 1}, description="One a line"),
        "candidates": Param(6, type="integer", minimum=1, maximum=500, description="Candidates of each question"),
        "best": Param(3, type="integer", minimum=1, description="How many of them to keep"),
    },
    doc_md=__doc__,
    tags=["modelstudio", "example"],
)
def rerank_candidates() -> None:
    """The three tasks."""

    @task
    def retrieve(params: Mapping[str, Any]) -> dict[str, Any]:
        """Write the candidates of all questions."""
        rows = list(search(params["questions"], params["candidates"]))
        CANDIDATES.parent.mkdir(parents=True, exist_ok=True)
        new = CANDIDATES.with_suffix(".new")
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), new)
        new.replace(CANDIDATES)
        return {"rows": len(rows), "path": str(CANDIDATES)}

    rerank = RerankOperator(
        task_id="rerank",
        inference_id="bailian_rerank",
        source=str(CANDIDATES),
        destination=str(RERANKED),
        query_id_column="query_id",
        query_column="query",
        documents_column="document",
        top_n="{{ params.best }}",
    )

    @task
    def pick() -> dict[str, Any]:
        """Write the best candidates of each question, best first; the rank is null beyond `top_n`."""
        ranked = ds.dataset(RERANKED, format="parquet").to_table(filter=pc.field("rank").is_valid())
        best = ranked.sort_by([("query_id", "ascending"), ("rank", "ascending")])
        pq.write_table(best, BEST)
        return {"questions": pc.count_distinct(best["query_id"]).as_py(), "rows": len(best), "path": str(BEST)}

    retrieve() >> rerank >> pick()


def search(questions: Iterable[str], most: int) -> Iterator[dict[str, str]]:
    """For each question the texts that share most words with it, the candidates of a question side by side."""
    for number, question in enumerate(questions, 1):
        found = sorted(DOCUMENTS, key=lambda one: (-len(words(question) & words(DOCUMENTS[one])), one))
        for document_id in found[:most]:
            row = (f"question-{number:03d}", question, document_id, DOCUMENTS[document_id])
            yield dict(zip(SCHEMA.names, row, strict=True))


def words(text: str) -> set[str]:
    """The words of a text, without regard to case."""
    return set(WORD.findall(text.casefold()))


rerank_candidates()
