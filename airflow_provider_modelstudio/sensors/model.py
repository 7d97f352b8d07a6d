"""Wait until an inference endpoint can be used."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue, conf
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_modelstudio.hooks.modelstudio import ModelStudioHook
from airflow_provider_modelstudio.inference.errors import PermanentError
from airflow_provider_modelstudio.operators.rendered import flag, text, text_or_none
from airflow_provider_modelstudio.triggers.model import ModelReadyTrigger, NotYet, look

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context

__all__ = ["ModelReadySensor"]


class ModelReadySensor(BaseSensorOperator):
    """Wait until an inference endpoint is there, of the task type that is wanted.

    While Elasticsearch or the model service is out of order it waits; a login that is refused, or an endpoint of
    another task type, fails at once, or skips with ``soft_fail``, as a timeout does, wherever it waits.
    Returns ``inference_id``, ``task_type`` and ``service``.

    :param inference_id: name of the endpoint. (templated)
    :param task_type: what it must be for, for example ``"text_embedding"``; ``None``: anything. (templated)
    :param free_only: only look whether the endpoint is there, which is free; ``False`` also asks its model one short
        question at each look that finds it, which is billed.
    :param deferrable: wait in the triggerer and not on a worker; there it looks each ``poke_interval``, without
        ``exponential_backoff``.
    :param modelstudio_conn_id: the connection. (templated)
    """

    template_fields: Sequence[str] = ("inference_id", "endpoint_task_type", "modelstudio_conn_id")
    ui_color = "#ff6a00"

    def __init__(
        self,
        *,
        inference_id: str,
        task_type: str | None = None,
        free_only: bool = True,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        modelstudio_conn_id: str = ModelStudioHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.inference_id = inference_id
        self.endpoint_task_type = task_type  # BaseOperator has a property of the other name
        self.free_only = free_only
        self.deferrable = deferrable
        self.modelstudio_conn_id = modelstudio_conn_id

    def poke(self, context: Context) -> PokeReturnValue:  # noqa: ARG002 - Airflow's signature
        """Look once, and leave the rest to the triggerer where it is to wait there.

        Airflow's own ``execute`` is around it in either case, and does as ``soft_fail`` and its like say.
        """
        try:
            inference_id = text("inference_id", self.inference_id)
            task_type = text_or_none("task_type", self.endpoint_task_type)
            free_only, deferrable = flag("free_only", self.free_only), flag("deferrable", self.deferrable)
            hook = ModelStudioHook(self.modelstudio_conn_id)
            seen = look(hook, inference_id, task_type, free_only=free_only)
        except PermanentError as error:
            raise self._failure(str(error)) from error
        if not isinstance(seen, NotYet):
            return PokeReturnValue(is_done=True, xcom_value=asdict(seen))
        self.log.info("endpoint %s: %s", self.inference_id, seen.reason)
        if deferrable:
            self.defer(
                trigger=ModelReadyTrigger(
                    inference_id=inference_id,
                    task_type=task_type,
                    free_only=free_only,
                    poke_interval=self.poke_interval,
                    modelstudio_conn_id=self.modelstudio_conn_id,
                ),
                method_name="execute_complete",
                timeout=timedelta(seconds=self.timeout),
            )
        return PokeReturnValue(is_done=False)

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> Any:  # noqa: ARG002 - Airflow's signature
        """What the trigger saw."""
        if event["status"] != "ready":
            raise self._failure(event["reason"])
        return event["endpoint"]

    def _failure(self, reason: str) -> AirflowFailException:
        """What ends the sensor; Airflow does not say why it skips."""
        if self.soft_fail or self.never_fail:
            self.log.warning("%s", reason)
        return AirflowFailException(reason)
