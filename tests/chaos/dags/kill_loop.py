"""The Dag whose task is killed: vectors for one source, into one destination, both named by the run."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from airflow_provider_modelstudio.operators.text_embedding import EmbedOperator

with DAG("kill_loop", schedule=None, max_active_runs=16, is_paused_upon_creation=False):
    EmbedOperator(
        task_id="embed",
        inference_id="bailian_embeddings",
        source="{{ dag_run.conf['source'] }}",
        destination="{{ dag_run.conf['destination'] }}",
        batch_size="{{ dag_run.conf['batch_size'] }}",
        concurrency="{{ dag_run.conf['concurrency'] }}",
        retries=500,
        retry_delay=timedelta(0),
    )
