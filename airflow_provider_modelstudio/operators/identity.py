"""What makes a run the run it is: the endpoint as Elasticsearch knows it, and what the task was told."""

from __future__ import annotations

from dataclasses import fields
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from airflow_provider_modelstudio.inference.dataset.images import ImageFiles
from airflow_provider_modelstudio.inference.errors import RequestError
from airflow_provider_modelstudio.inference.plan import digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_modelstudio.inference.errors import EndpointError
    from airflow_provider_modelstudio.inference.plan import InputFile
    from airflow_provider_modelstudio.inference.tasks import InferenceTask
    from airflow_provider_modelstudio.inference.transport import EndpointFacts

__all__ = ["errand", "identity", "may_have_passed", "told"]

_IRRELEVANT_SETTINGS = frozenset({"rate_limit", "num_threads", "num_allocations"})
"""Settings of an endpoint that change how fast it answers, not what."""


def identity(facts: EndpointFacts) -> dict[str, Any]:
    """What tells this endpoint from another one under the same id; a change means that all answers are new."""
    settings = {name: value for name, value in facts.service_settings.items() if name not in _IRRELEVANT_SETTINGS}
    return {
        "inference_id": facts.inference_id,
        "task_type": facts.task_type,
        "service": facts.service,
        "service_settings": settings,
        "task_settings": dict(facts.task_settings),
    }


def told(task: InferenceTask) -> dict[str, Any]:
    """Everything a task was told, except how much goes into a request: with another prompt or column, or another policy,
    a finished run is not the answer.
    """
    words = {field.name: getattr(task, field.name) for field in fields(cast("Any", task)) if field.name != "limits"}
    return {name: str(value) if isinstance(value, ImageFiles) else value for name, value in words.items()}


def errand(
    owner: str, *, again: str | None, endpoint: Sequence[str], output: Mapping[str, Any], files: Sequence[InputFile]
) -> str:
    """The name of everything that a task instance asks for, but for the endpoint's settings, which others know.

    :param endpoint: where it is, its task type, its id, and the model that the Dag says it has.
    """
    pinned = [(file.path, file.size, file.stamp, file.row_groups, file.partition) for file in files]
    return digest({"owner": owner, "again": again, "endpoint": endpoint, "output": output, "inputs": pinned})


def may_have_passed(error: EndpointError, *, rotated: bool) -> bool:
    """Whether a second look can tell more: a key that was refused and is another one now, an endpoint that was not there.

    The second look is free, and stops when the endpoint is gone or refuses again.
    """
    refusal = error.__cause__
    if not isinstance(refusal, RequestError) or refusal.upstream_status is not None:
        return False
    return refusal.status == HTTPStatus.NOT_FOUND or (
        rotated and refusal.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
    )
