"""The inference endpoints this server knows: made, listed, changed, deleted. Pure but for its own memory.

Secrets are dropped on arrival: they are never stored, so nothing can show them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_modelstudio.sandbox.refusals import (
    Refusal,
    already_exists,
    misread,
    not_a_valid_question,
    not_found,
    status_exception,
    wrong_task_type,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ANY", "TASK_TYPES", "Endpoint", "Endpoints"]

TASK_TYPES = ("text_embedding", "sparse_embedding", "rerank", "completion", "multi_modal_embedding")
ANY = "any"
"""What a path without a task type asks for."""

_SERVICES = {
    "alibaba-cloud-custom-model": TASK_TYPES,
    "custom": TASK_TYPES[:-1],  # upstream knows no multi_modal_embedding
    "sandbox": TASK_TYPES,
}
_NEEDED = {"alibaba-cloud-custom-model": ("url", "path"), "custom": ("url", "request", "response"), "sandbox": ()}
_PREPARED = {
    "bailian_embeddings": "text_embedding",
    "bailian_sparse_emb": "sparse_embedding",
    "bailian_rerank": "rerank",
    "bailian_mm": "multi_modal_embedding",
    "bailian_mm_independent": "multi_modal_embedding",
    "bailian_deepseek": "completion",
}
"""The names of the product page, and one for the other kind of multi-modal model."""
_TOLD: Mapping[str, Mapping[str, Any]] = {"bailian_mm": {"enable_fusion": True}}
"""Task settings of those: the page shows one vector for four elements."""
_VALID_ID = re.compile(r"[a-z0-9](?:[a-z0-9_\-.]*[a-z0-9])?")
_BODY_FIELDS = frozenset({"service", "service_settings", "task_settings", "chunking_settings", "task_type"})
_SECRET_SETTINGS = frozenset({"secret_parameters", "api_key"})
_SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "x-api-key", "cookie"})
_CONCEALED = "***"
_SHORTEST_SECRET = 4
"""Characters; shorter ones would be found everywhere."""
_CHUNKED = frozenset({"text_embedding", "sparse_embedding"})
_CHUNKING = {"strategy": "sentence", "max_chunk_size": 250, "sentence_overlap": 1}


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """One inference endpoint, without its secrets."""

    inference_id: str
    task_type: str
    service: str
    service_settings: Mapping[str, Any]
    task_settings: Mapping[str, Any] = field(default_factory=dict)
    chunking_settings: Mapping[str, Any] | None = None

    def told(self) -> dict[str, Any]:
        """As GET shows it."""
        told: dict[str, Any] = {
            "inference_id": self.inference_id,
            "task_type": self.task_type,
            "service": self.service,
            "service_settings": dict(self.service_settings),
        }
        if self.task_settings:
            told["task_settings"] = dict(self.task_settings)
        if self.chunking_settings is not None:
            told["chunking_settings"] = dict(self.chunking_settings)
        return told


class Endpoints:
    """All endpoints of one server.

    ``facts``: what is said of each endpoint of a task type, so that nobody takes the stand-in for the real service.
    """

    def __init__(self, facts: Mapping[str, Mapping[str, Any]]) -> None:
        self._facts = facts
        self._known: dict[str, Endpoint] = {}
        for inference_id, task_type in _PREPARED.items():
            self._known[inference_id] = self._make(inference_id, task_type, "sandbox", {}, _TOLD.get(inference_id, {}))

    def _make(
        self,
        inference_id: str,
        task_type: str,
        service: str,
        service_settings: Mapping[str, Any],
        task_settings: Mapping[str, Any],
        chunking_settings: Mapping[str, Any] | None = None,
    ) -> Endpoint:
        return Endpoint(
            inference_id=inference_id,
            task_type=task_type,
            service=service,
            service_settings={**service_settings, **self._facts[task_type]},
            task_settings=task_settings,
            chunking_settings=(chunking_settings or _CHUNKING) if task_type in _CHUNKED else None,
        )

    def find(self, task_type: str, inference_id: str) -> Endpoint:
        """The endpoint; raises 404, or 400 when it does something else."""
        known_task_type(task_type)
        found = self._known.get(inference_id)
        if found is None:
            raise not_found(inference_id)
        if task_type not in {ANY, found.task_type}:
            raise wrong_task_type(task_type, found.task_type)
        return found

    def list(self, task_type: str = ANY) -> list[Endpoint]:
        """Endpoints by id."""
        known_task_type(task_type)
        return [one for _, one in sorted(self._known.items()) if task_type in {ANY, one.task_type}]

    def create(self, task_type: str, inference_id: str, body: Any) -> Endpoint:
        """A new endpoint. Nothing is asked of the service it names; a real server asks its model once, which is billed."""
        known_task_type(task_type)
        if not _VALID_ID.fullmatch(inference_id):
            raise not_a_valid_question(
                f"Invalid inference_id; '{inference_id}' can contain lowercase alphanumeric (a-z and 0-9), hyphens or "
                "underscores; must start and end with alphanumeric"
            )
        given = _object(body, "body")
        task_type = _one_task_type(task_type, given.get("task_type"))
        service = given.get("service")
        if not isinstance(service, str):
            raise status_exception(400, "Missing required field [service]")
        if service not in _SERVICES:
            raise status_exception(400, f"Unknown service [{service}]")
        if task_type not in _SERVICES[service]:
            raise status_exception(400, f"The [{service}] service does not support task type [{task_type}]")
        if unknown := sorted(set(given) - _BODY_FIELDS):
            raise status_exception(
                400, f"Configuration contains settings [{', '.join(unknown)}] unknown to the [{service}] service"
            )
        if inference_id in self._known:
            raise already_exists(inference_id)
        settings = _object(given.get("service_settings") or {}, "service_settings")
        missing = [name for name in _NEEDED[service] if not settings.get(name)]
        if missing:
            complaints = ";".join(
                f"{i}: [service_settings] does not contain the required setting [{name}]"
                for i, name in enumerate(missing, 1)
            )
            raise Refusal(400, "validation_exception", f"Validation Failed: {complaints};")
        task_settings = _object(given.get("task_settings") or {}, "task_settings")
        secrets = _secrets(settings)
        made = self._make(
            inference_id,
            task_type,
            service,
            _without(settings, secrets),
            _without(task_settings, secrets),
            _object(given.get("chunking_settings") or {}, "chunking_settings"),
        )
        self._known[inference_id] = made
        return made

    def update(self, task_type: str, inference_id: str, body: Any) -> Endpoint:
        """New task settings, laid over the old ones; new secrets are taken and dropped; all else stays."""
        known_task_type(task_type)
        given = _object(body, "body")
        if unknown := sorted(set(given) - {"service_settings", "task_settings", "task_type"}):
            raise status_exception(400, f"Unknown fields [{', '.join(unknown)}] in the update of an endpoint")
        found = self._known.get(inference_id)
        if found is None:
            raise status_exception(404, f"The inference endpoint [{inference_id}] does not exist and cannot be updated")
        self.find(str(given.get("task_type", ANY)), inference_id)
        self.find(task_type, inference_id)
        settings = _object(given.get("service_settings") or {}, "service_settings")
        task_settings = _object(given.get("task_settings") or {}, "task_settings")
        changed = replace(found, task_settings={**found.task_settings, **_without(task_settings, _secrets(settings))})
        self._known[inference_id] = changed
        return changed

    def delete(self, task_type: str, inference_id: str, *, dry_run: bool) -> dict[str, Any]:
        """Forget an endpoint; a dry run tells what uses it (nothing, here) and deletes nothing."""
        self.find(task_type, inference_id)
        if not dry_run:
            del self._known[inference_id]
        return {"acknowledged": not dry_run, "pipelines": [], "indexes": []}


def known_task_type(task_type: str) -> None:
    """Raise 400 for a task type that this server does not have."""
    if task_type not in {*TASK_TYPES, ANY}:
        raise status_exception(400, f"Unknown task_type [{task_type}]")


def _one_task_type(in_path: str, in_body: Any) -> str:
    if in_body is not None:
        known_task_type(str(in_body))
        if in_path == ANY:
            return str(in_body)
        if in_body != in_path:
            raise status_exception(
                400,
                f"Cannot resolve conflicting task_type parameter in the request URL [{in_path}] and the request body [{in_body}]",
            )
    if in_path == ANY:
        raise status_exception(400, "The task_type must be given in the request URL or in the request body")
    return in_path


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise misread(f"[1:1] [{name}] is not an object")
    return value


def _secrets(settings: Mapping[str, Any]) -> frozenset[str]:
    """Every secret among the settings."""
    return frozenset(
        text for name in _SECRET_SETTINGS for text in _texts(settings.get(name)) if len(text) >= _SHORTEST_SECRET
    )


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for one in value.values() for text in _texts(one)]
    return [value] if isinstance(value, str) else []


def _without(settings: Any, secrets: frozenset[str]) -> Any:
    """The settings without their secrets, wherever else these are written out."""
    if isinstance(settings, dict):
        return {
            name: _CONCEALED
            if str(name).lower() in _SECRET_HEADERS and "${" not in str(one)
            else _without(one, secrets)
            for name, one in settings.items()
            if name not in _SECRET_SETTINGS
        }
    if isinstance(settings, list):
        return [_without(one, secrets) for one in settings]
    if isinstance(settings, str):
        for secret in secrets:
            settings = settings.replace(secret, _CONCEALED)
    return settings
