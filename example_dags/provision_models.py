"""Try a model on texts of your own before you depend on it, and leave nothing behind.

- **create** makes an inference endpoint for the model
- **ready** waits until it can be used
- **lines** embeds the texts with it
- **neighbours** says which text the model takes for most like each other one: you see whether it understands yours
- **delete** removes the endpoint, also when something between failed

It needs a connection `modelstudio_default` whose login may manage inference endpoints, with the extras
`model_studio_api_key` and `api_host`.
Trigger it with another `model`, or with `texts` of your own. Elasticsearch tries the endpoint with one call, which is
billed as the texts are.

The vectors lie in `$PROVISION_MODELS_FOLDER`, or else in `$AIRFLOW_HOME/provision_models`; all workers must see that
folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.dataset as ds
from airflow.sdk import Param, dag, task

from airflow_provider_modelstudio.operators.model import CreateModelOperator, DeleteModelOperator
from airflow_provider_modelstudio.sensors.model import ModelReadySensor

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER = Path(
    os.environ.get("PROVISION_MODELS_FOLDER") or Path(os.environ.get("AIRFLOW_HOME", "~/airflow"), "provision_models")
)
# Each run has an endpoint and a folder of its own, so that runs do not disturb one another.
RUN = "{{ dag_run.run_after.strftime('%Y%m%dt%H%M%S%f') }}"
ENDPOINT = f"trial-{RUN}"
TEXTS = [
    "The invoice of March is overdue.",
    "Payment for March has not arrived yet.",
    "The lift in building B is out of order.",
    "Nobody can use the elevator in building B.",
]


@dag(
    schedule=None,
    catchup=False,
    params={
        "model": Param("text-embedding-v4", type="string", description="As `airflow modelstudio models` lists it"),
        "texts": Param(TEXTS, type="array", items={"type": "string"}, minItems=2),
    },
    doc_md=__doc__,
    tags=["modelstudio", "example"],
)
def provision_models() -> None:
    """Create, use, delete."""
    create = CreateModelOperator(
        task_id="create",
        mode="manual",
        model="{{ params.model }}",
        task_type="text_embedding",
        inference_id=ENDPOINT,
    ).as_setup()
    ready = ModelReadySensor(
        task_id="ready", inference_id=ENDPOINT, task_type="text_embedding", poke_interval=10, timeout=600
    )
    delete = DeleteModelOperator(task_id="delete", inference_id=ENDPOINT).as_teardown(setups=create)

    @task.modelstudio_embed(inference_id=ENDPOINT, destination=str(FOLDER.expanduser().absolute() / RUN))
    def lines(params: Mapping[str, Any]) -> list[str]:
        """What to ask for: a list of texts, a dictionary of columns, or a pyarrow.Table."""
        return list(params["texts"])

    @task
    def neighbours(summary: Mapping[str, Any]) -> dict[str, str]:
        """The nearest other text of each text, by cosine."""
        rows = ds.dataset(summary["destination"], format="parquet").to_table().to_pylist()
        rows = [row for row in rows if row["embedding"] is not None]
        vectors = np.array([row["embedding"] for row in rows])
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        alike = vectors @ vectors.T
        np.fill_diagonal(alike, -1.0)
        return {row["text"]: rows[nearest]["text"] for row, nearest in zip(rows, alike.argmax(axis=1), strict=True)}

    embedded = lines()
    create >> ready >> embedded
    neighbours(embedded) >> delete


provision_models()
