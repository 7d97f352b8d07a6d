"""Dense and sparse vectors of the same texts in one dataset, ready to be indexed, and a search that uses both.

- **passages** writes a few passages, if you have put none of your own into the folder
- **dense** and **sparse** ask for vectors and for weights of tokens, side by side
- **join** puts both beside each text; rows that lack one are left out, and counted
- **search** answers a question from the joined dataset: meaning and words count, by `weight`

Dense vectors find what means the same in other words, sparse ones find names and numbers that must stand there.
It needs a connection `modelstudio_default` and the inference endpoints `bailian_embeddings` and `bailian_sparse_emb`.
A run asks for passages that are new, and for the question, once each by both.

The data lies in `$HYBRID_SEARCH_FOLDER`, or else in `$AIRFLOW_HOME/hybrid_search`; all workers must see that folder.
Put Parquet files with the columns `id` and `text` into the folder `passages`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from airflow.sdk import Param, dag, task

from airflow_provider_modelstudio.hooks.modelstudio import ModelStudioHook
from airflow_provider_modelstudio.operators.sparse_embedding import SparseEmbedOperator
from airflow_provider_modelstudio.operators.text_embedding import EmbedOperator

if TYPE_CHECKING:
    from collections.abc import Mapping

HOME = Path(os.environ.get("AIRFLOW_HOME", "~/airflow"))
FOLDER = Path(os.environ.get("HYBRID_SEARCH_FOLDER") or HOME / "hybrid_search").expanduser().absolute()
PASSAGES = FOLDER / "passages"
JOINED = FOLDER / "passages_with_vectors.parquet"
DENSE, SPARSE = "bailian_embeddings", "bailian_sparse_emb"
SAMPLE = {
    "id": [1, 2, 3, 4, 5, 6],
    "text": [
        "Lamp L-204 is returned free of charge within thirty days.",
        "Lamp L-240 has a warranty of two years.",
        "If you change your mind, send the goods back to us; the label is in the parcel.",
        "Our shop in the old town is closed on Mondays.",
        "退货请在三十天内寄回。运费由我们承担。",
        "灯具保修两年。",
    ],
}


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=1,  # two would write the same files
    default_args={"retries": 2},
    params={
        "question": Param("How do I return lamp L-204?", type="string", minLength=1),
        "weight": Param(0.5, type="number", minimum=0, maximum=1, description="Of meaning; the rest is that of words"),
        "hits": Param(3, type="integer", minimum=1),
    },
    doc_md=__doc__,
    tags=["modelstudio", "example"],
)
def hybrid_search() -> None:
    """The five tasks."""

    @task
    def passages() -> None:
        """Write the sample, unless there is something else."""
        PASSAGES.mkdir(parents=True, exist_ok=True)
        if not any(PASSAGES.rglob("*.parquet")):
            pq.write_table(pa.table(SAMPLE), PASSAGES / "sample.parquet")

    dense = EmbedOperator(task_id="dense", inference_id=DENSE, source=str(PASSAGES), destination=str(FOLDER / "dense"))
    sparse = SparseEmbedOperator(
        task_id="sparse", inference_id=SPARSE, source=str(PASSAGES), destination=str(FOLDER / "sparse"), top_k=256
    )

    @task
    def join(by_meaning: Mapping[str, Any], by_words: Mapping[str, Any]) -> dict[str, Any]:
        """Write one file with both; the rows of both datasets are those of the source, in its order."""
        dense, sparse = (
            ds.dataset(summary["destination"], format="parquet").to_table() for summary in (by_meaning, by_words)
        )
        if dense["id"].combine_chunks() != sparse["id"].combine_chunks():
            raise ValueError("the passages were changed between the two tasks; run the Dag again")
        both = dense.append_column("sparse_embedding", sparse["sparse_embedding"])
        whole = pc.and_(pc.is_null(dense["embedding_error"]), pc.is_null(sparse["sparse_embedding_error"]))
        both = both.filter(whole).drop_columns(["embedding_error"])
        pq.write_table(both, JOINED)
        return {"path": str(JOINED), "rows": len(both), "left_out": len(dense) - len(both)}

    @task
    def search(joined: Mapping[str, Any], params: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The best passages with what each kind of vector says of them, from 0 to 1."""
        table, hook = pq.read_table(joined["path"]), ModelStudioHook()
        asked = hook.infer("text_embedding", DENSE, [params["question"]])["text_embedding"][0]["embedding"]
        tokens = hook.infer("sparse_embedding", SPARSE, [params["question"]])["sparse_embedding"][0]["embedding"]
        meaning = scaled(unit(np.array(table["embedding"].to_pylist())) @ unit(np.array([asked]))[0])
        words = scaled(
            np.array([sum(weight * tokens.get(token, 0.0) for token, weight in row) for row in lists(table)])
        )
        score = params["weight"] * meaning + (1 - params["weight"]) * words
        best = np.argsort(-score, kind="stable")[: params["hits"]].tolist()
        return [
            {
                "id": table["id"][at].as_py(),
                "score": round(float(score[at]), 3),
                "meaning": round(float(meaning[at]), 3),
                "words": round(float(words[at]), 3),
            }
            for at in best
        ]

    passages() >> [dense, sparse]
    search(join(dense.output, sparse.output))


def lists(table: pa.Table) -> list[list[tuple[str, float]]]:
    """Tokens and weights of each row."""
    rows: list[list[tuple[str, float]]] = table["sparse_embedding"].to_pylist()
    return rows


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1, so that their product is their cosine."""
    scaled_vectors: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled_vectors


def scaled(scores: np.ndarray) -> np.ndarray:
    """Scores from 0 to 1: cosines and products of weights are not comparable as they are."""
    least, most = scores.min(), scores.max()
    return (scores - least) / (most - least) if most > least else np.zeros(len(scores))


hybrid_search()
