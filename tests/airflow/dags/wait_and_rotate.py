"""Endpoints that are waited for in the triggerer, and keys that are rotated over two tries: what only a whole Airflow has."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from airflow_provider_modelstudio.operators.model import CreateModelOperator
from airflow_provider_modelstudio.sensors.model import ModelReadySensor

LATE = {
    "inference_id": "late",
    "modelstudio_conn_id": "stored",  # in Airflow's database, of which programs have to ask for it
    "poke_interval": 0.5,
    "timeout": 300,
    "deferrable": True,
}

with DAG("wait_and_rotate", schedule=None, catchup=False):
    ModelReadySensor(task_id="ready", task_type="rerank", **LATE)
    ModelReadySensor(task_id="wrong", task_type="completion", soft_fail=True, **LATE)
    ModelReadySensor(task_id="never", soft_fail=True, **{**LATE, "inference_id": "never", "timeout": 15})
    CreateModelOperator(
        task_id="rotate",
        task_type="rerank",
        on_existing="update",
        rotate_key=True,
        retries=1,
        retry_delay=timedelta(seconds=1),
    )
