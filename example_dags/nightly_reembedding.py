"""Keep the vectors of a table up to date, night after night, on an endpoint that the Dag itself sees to.

- **endpoint** makes the inference endpoint for the model if it is not there; every later night it finds it, for free
- **ready** waits until it can be used
- **articles** writes a few articles, if you have put none of your own into the folder
- **embed** asks for the rows that are new or have changed since last night, and tells whoever waits for the asset
- **report** says what the night took

It needs a connection `modelstudio_default` whose login may manage inference endpoints, with the extras
`model_studio_api_key` and `api_host`.
Put Parquet files with a column `text` into the folder `articles`; more columns are carried along.
A new endpoint is tried with one call, which is billed as the rows are.

The data lies in `$NIGHTLY_REEMBEDDING_FOLDER`, or else in `$AIRFLOW_HOME/nightly_reembedding`; all workers must see that
folder.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pendulum
import pyarrow as pa
import pyarrow.parquet as pq
from airflow.sdk import Asset, Param, dag, task
from airflow.timetables.trigger import CronTriggerTimetable

from airflow_provider_modelstudio.operators.model import CreateModelOperator
from airflow_provider_modelstudio.operators.text_embedding import EmbedOperator
from airflow_provider_modelstudio.sensors.model import ModelReadySensor

if TYPE_CHECKING:
    from collections.abc import Mapping

HOME = Path(os.environ.get("AIRFLOW_HOME", "~/airflow"))
FOLDER = Path(os.environ.get("NIGHTLY_REEMBEDDING_FOLDER") or HOME / "nightly_reembedding").expanduser().absolute()
ARTICLES = FOLDER / "articles"
VECTORS = FOLDER / "vectors"
ENDPOINT = "articles-embedding"
SAMPLE = {
    "id": [1, 2, 3],
    "text": [
        "The reading room is open from nine to five; on Sundays it is closed.",
        "Books are lent for four weeks and can be renewed twice.",
        "旧报纸在二楼的阅览室。可以复印。",
    ],
}


@dag(
    # Without a start date, unpausing the Dag starts no run for the night that is over: runs may cost money.
    # And not by default for one that is over for less than a tenth of a day, either.
    schedule=CronTriggerTimetable(
        "0 2 * * *", timezone=pendulum.timezone("Asia/Shanghai"), run_immediately=timedelta(0)
    ),
    catchup=False,
    max_active_runs=1,  # two would write the same files
    default_args={"retries": 2, "retry_delay": pendulum.duration(minutes=1)},
    params={
        "model": Param("text-embedding-v4", type="string", description="As `airflow modelstudio models` lists it"),
        "max_rows": Param(100_000, type="integer", minimum=0, description="Ask for no more rows than these in a night"),
    },
    doc_md=__doc__,
    tags=["modelstudio", "example"],
)
def nightly_reembedding() -> None:
    """Provision, embed, tell."""
    endpoint = CreateModelOperator(
        task_id="endpoint",
        mode="manual",
        model="{{ params.model }}",
        task_type="text_embedding",
        inference_id=ENDPOINT,
        on_existing="keep",  # an endpoint that somebody has changed is used as it is, and the difference is logged
    )
    ready = ModelReadySensor(
        task_id="ready", inference_id=ENDPOINT, task_type="text_embedding", poke_interval=10, timeout=600
    )

    @task
    def articles() -> int:
        """Write the sample, unless there is something else; returns the number of files."""
        ARTICLES.mkdir(parents=True, exist_ok=True)
        if not any(ARTICLES.rglob("*.parquet")):
            pq.write_table(pa.table(SAMPLE), ARTICLES / "sample.parquet")
        return sum(1 for _ in ARTICLES.rglob("*.parquet"))

    embed = EmbedOperator(
        task_id="embed",
        inference_id=ENDPOINT,
        source=str(ARTICLES),
        destination=str(VECTORS),
        input_column="text",
        max_rows="{{ params.max_rows }}",
        outlets=[Asset("article_vectors", uri=VECTORS.as_uri())],  # each event carries the counts of the summary
    )

    @task
    def report(summary: Mapping[str, Any]) -> str:
        """Say what the night took; Airflow logs what a task returns."""
        said = "{rows} rows: {embedded} embedded, {reused} reused, {removed} gone, {failed} failed"
        return said.format_map(summary)

    endpoint >> ready >> embed
    articles() >> embed >> report(embed.output)


nightly_reembedding()
