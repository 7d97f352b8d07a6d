"""Rows and secrets that are easy to find again, through a task that succeeds and one that fails."""

from __future__ import annotations

import os
from pathlib import Path

from airflow.sdk import DAG, Asset

from airflow_provider_modelstudio.operators.text_embedding import EmbedOperator

FOLDER = Path(os.environ["CANARIES_FOLDER"])

with DAG("full_of_canaries", schedule=None, catchup=False):
    for task_id, on_row_error in (("succeeds", "null"), ("fails", "fail")):
        EmbedOperator(
            task_id=task_id,
            inference_id="bailian_embeddings",
            source=str(FOLDER / "in.parquet"),
            destination=str(FOLDER / task_id),
            on_row_error=on_row_error,
            outlets=[Asset(task_id, uri=(FOLDER / task_id).as_uri())],
        )
