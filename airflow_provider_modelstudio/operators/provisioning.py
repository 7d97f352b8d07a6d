"""Bring one endpoint after the other to where it should be, and say what became of each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from airflow_provider_modelstudio.catalog.drift import drift
from airflow_provider_modelstudio.catalog.hosts import region_of
from airflow_provider_modelstudio.catalog.templates import fill, find_template
from airflow_provider_modelstudio.inference.decide import Stop, Wait, decide
from airflow_provider_modelstudio.inference.errors import (
    ConfigurationError,
    EndpointError,
    Fault,
    OutageError,
    RequestError,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from airflow_provider_modelstudio.catalog.drift import Change
    from airflow_provider_modelstudio.catalog.wanted import Wanted
    from airflow_provider_modelstudio.hooks.modelstudio import ModelStudioHook
    from airflow_provider_modelstudio.operators.rotation import Rotation

__all__ = ["Action", "OnExisting", "Provisioning", "Result", "secrets_of", "users_of"]

OnExisting = Literal["keep", "update", "replace", "fail"]
Action = Literal["created", "kept", "updated", "replaced", "unsupported", "failed"]
Body = tuple[str, dict[str, Any]]
"""How far it can be trusted, and what is sent but for the connection's key and host."""

_UNKNOWN_SERVICE = re.compile(r"unknown service\b", re.IGNORECASE)
_UNSUPPORTED = re.compile(
    r"does not support task type|unknown task_?type|ModelNotFound|model_not_(?:found|supported)|model not exist",
    re.IGNORECASE,
)
"""Of the model or the server. What the account may not do or has not paid for is a failure."""
_KEY_REFUSED = re.compile(r"InvalidApiKey|(?:invalid|incorrect) api.?key", re.IGNORECASE)
_TRIAL = "-modelstudio-trial"
_HAS_THE_KEY = "an earlier try of this task has sent the key"
_NO_SERVICE = "the server knows none of the services that endpoints for these models are made with"


class _Made(NamedTuple):
    service: str
    template: str
    vector_length: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What became of one endpoint."""

    wanted: Wanted
    action: Action
    service: str | None = None
    template: str | None = None
    """``documented``, ``unverified``, or ``own`` for a body the user gave."""
    drift: tuple[str, ...] = ()
    """Differences between the endpoint that was there and the one that was wanted; nothing secret."""
    reason: str = ""
    transient: bool = False
    """Whether trying again may help."""
    vector_length: int | None = None
    """Of a new endpoint, where the server tells."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, for XCom."""
        return {
            "inference_id": self.wanted.inference_id,
            "task_type": self.wanted.task_type,
            "model": self.wanted.model,
            "service": self.service,
            "template": self.template,
            "action": self.action,
            "drift": list(self.drift),
            "reason": self.reason,
        }


def users_of(told: Mapping[str, Any]) -> str:
    """Who uses an endpoint, as a dry run of its deletion tells; empty when nobody does."""
    kinds = {"pipelines": "pipelines", "indexes": "indices"}
    named = [f"{kind} {', '.join(map(str, told[name]))}" for name, kind in kinds.items() if told.get(name)]
    return " and ".join(named)


def secrets_of(hook: ModelStudioHook, own_body: Mapping[str, Any] | None) -> frozenset[str]:
    """All that an endpoint may be given and nobody may see."""
    return hook.account.secrets | frozenset(_texts(_secret_settings(own_body or {})))


class Provisioning:
    """One operation over any number of endpoints. Raises only for what concerns all of them."""

    def __init__(
        self,
        hook: ModelStudioHook,
        *,
        api_host: str,
        services: Sequence[str],
        on_existing: OnExisting,
        rotation: Rotation | None,
        own_body: Mapping[str, Any] | None,
    ) -> None:
        """:param rotation: send the key to all endpoints that do not have it yet; ``None``: only to new ones."""
        self._hook = hook
        self._api_host = api_host
        self._services = list(services)
        self._on_existing = on_existing
        self._rotation = rotation
        self._own_body = own_body
        hook.hide(own_body or {})
        self._secrets = secrets_of(hook, own_body)
        self._existing: dict[str, Mapping[str, Any]] = {}
        self._gone: dict[str, tuple[str, ...]] = {}
        """Endpoints that were deleted to be replaced and are not there again, and how they differed."""

    def look(self) -> None:
        """See what is there already. Free."""
        try:
            self._existing = {str(one.get("inference_id")): one for one in self._hook.list_endpoints()}
        except RequestError as error:
            self._raise_for_all(error)
            decision = decide(error, rows=1, attempts=0)
            if isinstance(decision, Stop):
                raise decision.error from error
            raise OutageError(f"{error}; nothing was changed") from error

    def provide(self, wanted: Wanted) -> Result:
        """Bring one endpoint to where it should be."""
        try:
            trial = wanted.inference_id + _TRIAL
            if self._on_existing == "replace" and trial in self._existing:
                self._hook.delete_endpoint(trial)  # left by a try that was killed
            found = self._existing.get(wanted.inference_id)
            return self._create(wanted, "created") if found is None else self._settle(wanted, found)
        except RequestError as error:
            self._raise_for_all(error)
            lost = self._lost({wanted.inference_id} & self._gone.keys())
            if not lost and _UNSUPPORTED.search(error.reason):
                return Result(wanted=wanted, action="unsupported", reason=str(error))
            decision = decide(error, rows=1, attempts=0)
            said = f"{lost}{error}"
            if isinstance(decision, Stop):
                said += f"; {decision.error}"
            return Result(
                wanted=wanted,
                action="failed",
                drift=self._gone.get(wanted.inference_id, ()),
                reason=said,
                transient=isinstance(decision, Wait),
            )

    def _bodies(self, wanted: Wanted) -> Iterator[Body]:
        """Bodies in the order in which the server is asked."""
        if self._own_body is not None:
            yield "own", dict(self._own_body)
            return
        for service in tuple(self._services):
            template = find_template(service, wanted.task_type)
            if template is not None and wanted.model is not None:
                yield template.status, template.make_body(wanted.model, wanted.dimensions)

    def _create(self, wanted: Wanted, action: Action, shown: tuple[str, ...] = ()) -> Result:
        try:
            made = self._make(wanted, wanted.inference_id)
        except RequestError as error:
            found = self._found_meanwhile(wanted, error)
            if found is None:
                raise
            self._gone.pop(wanted.inference_id, None)
            return self._settle(wanted, found)
        if made is None:
            services = " or ".join(self._services)
            reason = f"no template of {services} for {wanted.task_type}" if services else _NO_SERVICE
            if lost := self._lost({wanted.inference_id} & self._gone.keys()):
                return Result(wanted=wanted, action="failed", reason=f"{lost}{reason}", drift=shown)
            return Result(wanted=wanted, action="unsupported", reason=reason)
        self._gone.pop(wanted.inference_id, None)
        self._has_key(wanted)
        return Result(
            wanted=wanted,
            action=action,
            service=made.service,
            template=made.template,
            drift=shown,
            vector_length=made.vector_length,
        )

    def _make(self, wanted: Wanted, inference_id: str) -> _Made | None:
        """Create an endpoint by the first service that the server knows; ``None`` when it knows none."""
        for template, body in self._bodies(wanted):
            try:
                told = self._hook.create_endpoint(wanted.task_type, inference_id, self._filled(body))
            except RequestError as error:
                if self._own_body is not None or not _UNKNOWN_SERVICE.search(error.reason):
                    raise
                self._services.remove(body["service"])
            else:
                settings = told.get("service_settings")
                length = settings.get("dimensions") if isinstance(settings, dict) else None
                return _Made(str(body.get("service")), template, length if isinstance(length, int) else None)
        return None

    def _filled(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return fill(body, self._hook.account.api_key, self._api_host)

    def _found_meanwhile(self, wanted: Wanted, error: RequestError) -> Mapping[str, Any] | None:
        """The endpoint, when somebody made it since we looked, or our own request did that was not answered."""
        if error.error_type != "resource_already_exists_exception":
            return None
        return self._hook.get_endpoint(wanted.inference_id)

    def _settle(self, wanted: Wanted, found: Mapping[str, Any]) -> Result:
        """What to do about an endpoint that is there."""
        service = found.get("service")
        bodies = list(self._bodies(wanted))
        if not bodies:
            return self._create(wanted, "created")
        # Nobody wants an endpoint made anew only because another service would do as well.
        template, body = next((one for one in bodies if one[1].get("service") == service), bodies[0])
        changes = drift(self._filled(_without_secrets(body)), found, wanted.task_type)
        shown = tuple(change.show(self._secrets) for change in changes)
        due = self._rotation is not None and not self._rotation.has(wanted.inference_id)
        if not changes and not due:
            reason = _HAS_THE_KEY if self._rotation is not None else ""
            return Result(wanted=wanted, action="kept", service=service, template=template, reason=reason)
        if refusal := _refusal(changes, self._on_existing):
            return Result(wanted=wanted, action="failed", service=service, drift=shown, reason=refusal)
        match self._on_existing:
            case "update":
                return self._update(wanted, template, body, shown)
            case "replace":
                return self._replace(wanted, shown)
            case _:
                return Result(wanted=wanted, action="kept", service=service, template=template, drift=shown)

    def _update(self, wanted: Wanted, template: str, body: Mapping[str, Any], shown: tuple[str, ...]) -> Result:
        told: dict[str, Any] = {}
        if settings := body.get("task_settings"):
            told["task_settings"] = settings
        if self._rotation is not None:
            told["service_settings"] = _secret_settings(self._filled(body))
        self._hook.update_endpoint(wanted.task_type, wanted.inference_id, told)
        self._has_key(wanted)
        return Result(wanted=wanted, action="updated", service=body.get("service"), template=template, drift=shown)

    def _replace(self, wanted: Wanted, shown: tuple[str, ...]) -> Result:
        """Delete and create, after a trial under another name: what does not work must not cost what did."""
        inference_id = wanted.inference_id
        if users := users_of(self._hook.delete_endpoint(inference_id, dry_run=True)):
            reason = f"in use by {users}: it cannot be replaced before they use another one"
            return Result(wanted=wanted, action="failed", drift=shown, reason=reason)
        trial = inference_id + _TRIAL
        if self._make(wanted, trial) is None:
            return Result(wanted=wanted, action="unsupported", drift=shown, reason=_NO_SERVICE)
        self._hook.delete_endpoint(trial)
        self._hook.delete_endpoint(inference_id)
        self._gone[inference_id] = shown
        return self._create(wanted, "replaced", shown)

    def _has_key(self, wanted: Wanted) -> None:
        if self._rotation is not None:
            self._rotation.note(wanted.inference_id)

    def _lost(self, names: Collection[str]) -> str:
        """What a reader must know first, when a replacement went wrong half-way; empty without ``names``."""
        if not names:
            return ""
        return (
            f"{', '.join(sorted(names))}: the old endpoint is deleted, and creating the new one failed after a trial that "
            "worked; run the task again with the same parameters, once the cause is mended, and it is created; the cause: "
        )

    def _raise_for_all(self, error: RequestError) -> None:
        """Raise when the next endpoint would fail the same way."""
        lost = self._lost(self._gone)
        if error.error_type == "security_exception":
            raise EndpointError(
                f"{lost}{error}; the user or API key of the connection needs the cluster privilege manage_inference"
            ) from error
        if error.upstream_status == 401 or _KEY_REFUSED.search(error.reason):  # noqa: PLR2004 - not authenticated
            region = region_of(self._api_host)
            raise ConfigurationError(
                f"{lost}Model Studio at {self._api_host}{f' (region {region})' if region else ''} does not accept the API key: "
                "keys and hosts work in one region only; check extras model_studio_api_key, api_host and region of the "
                "connection"
            ) from error
        if error.fault in {Fault.CONNECTION, Fault.CUT, Fault.NOT_ELASTICSEARCH}:
            raise OutageError(f"{lost}{error}; what was created is kept, a retry does the rest") from error


def _refusal(changes: Sequence[Change], on_existing: OnExisting) -> str:
    """Why an endpoint that differs cannot be dealt with as told; empty when it can."""
    if on_existing == "fail":
        return "there is another endpoint under this name, and on_existing is 'fail'"
    if on_existing == "replace":
        return ""
    if any(change.path == "task_type" for change in changes):
        return "there is an endpoint of another task type under this name: choose another inference_id"
    if on_existing == "update" and not all(change.updatable for change in changes):
        return "Elasticsearch changes task_settings only, the rest needs on_existing='replace'"
    return ""


def _without_secrets(body: Mapping[str, Any]) -> dict[str, Any]:
    settings = body.get("service_settings")
    if not isinstance(settings, dict):
        return dict(body)
    return {**body, "service_settings": {k: v for k, v in settings.items() if k not in _SECRET_SETTINGS}}


_SECRET_SETTINGS = ("secret_parameters", "api_key")


def _secret_settings(body: Mapping[str, Any]) -> dict[str, Any]:
    settings = body.get("service_settings")
    return {k: settings[k] for k in _SECRET_SETTINGS if k in settings} if isinstance(settings, dict) else {}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, str) and value and "${" not in value:
        yield value
