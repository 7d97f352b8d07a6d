"""Wait in the triggerer until an inference endpoint can be used."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

from airflow_provider_modelstudio.hooks.modelstudio import ModelStudioHook
from airflow_provider_modelstudio.inference.decide import Wait, decide
from airflow_provider_modelstudio.inference.errors import ConfigurationError, EndpointError, RequestError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["ModelReadyTrigger", "NotYet", "Ready", "look"]

log = logging.getLogger(__name__)

_QUESTIONS = {
    "text_embedding": ("ready?", None),
    "sparse_embedding": ("ready?", None),
    "rerank": (["ready?"], "ready?"),
    "completion": ("Answer with one word: ready?", None),
    "multi_modal_embedding": ('{"text": "ready?"}', None),
}
"""The shortest question to a model of each task type, and its query."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The endpoint can be used."""

    inference_id: str
    task_type: str
    service: str


@dataclass(frozen=True, slots=True)
class NotYet:
    """Waiting may help."""

    reason: str


def look(hook: ModelStudioHook, inference_id: str, task_type: str | None, *, free_only: bool) -> Ready | NotYet:
    """Whether an endpoint is there, of the task type that is wanted, and its model answers.

    ``free_only``: do not ask the model, which is billed; the endpoint being there is enough.
    Raises :class:`~..inference.errors.PermanentError` for what waiting does not mend: a login that is refused, an
    endpoint of another task type, a parameter that makes no sense.
    """
    try:
        found = hook.get_endpoint(inference_id)
        if found is None:
            return NotYet("there is no such endpoint")
        kind = str(found.get("task_type"))
        if task_type is not None and kind != task_type:
            raise EndpointError(f"endpoint {inference_id} is for {kind}, not for {task_type}")
        if not free_only:
            if kind not in _QUESTIONS:
                raise ConfigurationError(f"there is no short question for {kind}: free_only must be True")
            question, query = _QUESTIONS[kind]
            hook.infer(kind, inference_id, question, query=query)
    except RequestError as error:
        if isinstance(decide(error, rows=1, attempts=0), Wait):
            return NotYet(str(error))
        raise EndpointError(str(error)) from error
    return Ready(inference_id, kind, str(found.get("service")))


class ModelReadyTrigger(BaseTrigger):
    """Fires once an inference endpoint can be used, or never will.

    Asking blocks, so it happens in a thread; in one of asgiref's, since before Airflow 3.3 a
    triggerer dies when any other asks it for a connection.

    :param inference_id: name of the endpoint
    :param task_type: what it must be for; ``None``: anything
    :param free_only: do not ask the model, which is billed
    :param poke_interval: seconds between two looks
    :param modelstudio_conn_id: the connection
    """

    def __init__(
        self,
        *,
        inference_id: str,
        task_type: str | None = None,
        free_only: bool = True,
        poke_interval: float = 60.0,
        modelstudio_conn_id: str = ModelStudioHook.default_conn_name,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's, without annotations
        self.inference_id = inference_id
        self.task_type = task_type
        self.free_only = free_only
        self.poke_interval = poke_interval
        self.modelstudio_conn_id = modelstudio_conn_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Name of the class, and what it is made with."""
        return f"{__name__}.{type(self).__qualname__}", {
            "inference_id": self.inference_id,
            "task_type": self.task_type,
            "free_only": self.free_only,
            "poke_interval": self.poke_interval,
            "modelstudio_conn_id": self.modelstudio_conn_id,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event: ``ready`` with the endpoint, or ``failed`` with the reason."""
        hook = ModelStudioHook(self.modelstudio_conn_id)
        look_apart = sync_to_async(look, thread_sensitive=False)
        while True:
            try:
                seen = await look_apart(hook, self.inference_id, self.task_type, free_only=self.free_only)
            except (ConfigurationError, EndpointError) as error:
                yield _event(status="failed", reason=str(error))
                return
            if isinstance(seen, Ready):
                told = {"inference_id": seen.inference_id, "task_type": seen.task_type, "service": seen.service}
                yield _event(status="ready", endpoint=told)
                return
            log.info("endpoint %s: %s", self.inference_id, seen.reason)
            await asyncio.sleep(self.poke_interval)


def _event(**told: Any) -> TriggerEvent:
    return TriggerEvent(told)  # type: ignore[no-untyped-call]  # Airflow's, without annotations
