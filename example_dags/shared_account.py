"""Two tasks that share one account of Model Studio through an Airflow pool.

- **prepare** writes articles and reviews to a Parquet file each; put your own tables in their place
- **embed_articles** and **embed_reviews** ask inference endpoints of one account, side by side where the pool has room

Quotas are counted over the whole account. A task finds its share of them by itself, and tasks that ask at the same time
find theirs without talking; the pool bounds how many do so. Make it once, with as many slots as tasks may ask at a time:

    airflow pools set model_studio 2 "tasks that share one Model Studio account"

A pool that does not exist keeps its tasks queued until somebody makes it. Name it at each task of that account, in all
Dags: one that is left out is not counted.

It needs a connection `modelstudio_default` and an inference endpoint `bailian_embeddings`.
The data lies in `$SHARED_ACCOUNT_FOLDER`, or else in `$AIRFLOW_HOME/shared_account`; all workers must see that folder.
"""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from airflow.sdk import dag, task

from airflow_provider_modelstudio.operators.text_embedding import EmbedOperator

FOLDER = Path(
    os.environ.get("SHARED_ACCOUNT_FOLDER") or Path(os.environ.get("AIRFLOW_HOME", "~/airflow"), "shared_account")
)
TABLES = FOLDER.expanduser().absolute()
POOL = "model_studio"

SAMPLES = {
    "articles": [
        "A floor lamp of oak, with a shade of linen.",
        "A desk for two, with room for cables.",
        "A garden table that may stay out in winter.",
    ],
    "reviews": [
        "The lamp is warm and bright, and was here in two days.",
        "Well made, but one leg of the desk was too short.",
    ],
}


@dag(
    schedule=None,
    max_active_runs=1,  # two would write the same files
    default_args={"retries": 2},
    doc_md=__doc__,
    tags=["modelstudio", "example"],
)
def shared_account() -> None:
    """The three tasks."""

    @task
    def prepare() -> None:
        """Write the tables that are not there yet."""
        TABLES.mkdir(parents=True, exist_ok=True)
        for name, texts in SAMPLES.items():
            path = TABLES / f"{name}.parquet"
            if not path.exists():
                pq.write_table(pa.table({"id": range(1, len(texts) + 1), "text": texts}), path)

    prepare() >> [
        EmbedOperator(
            task_id=f"embed_{name}",
            pool=POOL,
            inference_id="bailian_embeddings",
            source=str(TABLES / f"{name}.parquet"),
            destination=str(TABLES / f"{name}_with_vectors"),
        )
        for name in SAMPLES
    ]


shared_account()
