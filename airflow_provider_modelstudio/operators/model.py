"""Make and delete inference endpoints for models, as tasks of a Dag."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_modelstudio.catalog.hosts import choose_host
from airflow_provider_modelstudio.catalog.templates import SERVICES, asks_for_host
from airflow_provider_modelstudio.catalog.wanted import Wanted, every_model, one_model
from airflow_provider_modelstudio.hooks.modelstudio import ModelStudioHook
from airflow_provider_modelstudio.inference.decide import Stop, decide
from airflow_provider_modelstudio.inference.errors import (
    ConfigurationError,
    EndpointError,
    OutageError,
    PermanentError,
    RequestError,
)
from airflow_provider_modelstudio.operators.provisioning import Provisioning, Result, secrets_of, users_of
from airflow_provider_modelstudio.operators.rendered import choice, flag, text, text_or_none, whole_or_none
from airflow_provider_modelstudio.operators.rotation import Rotation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context

    from airflow_provider_modelstudio.catalog import Catalog
    from airflow_provider_modelstudio.operators.provisioning import OnExisting

__all__ = ["CreateModelOperator", "DeleteModelOperator"]

_MODES: tuple[Literal["automatic", "manual"], ...] = ("automatic", "manual")
_ON_EXISTING: tuple[OnExisting, ...] = ("keep", "update", "replace", "fail")
_WORKING = frozenset({"created", "kept", "updated", "replaced"})
_CONFLICT = 409


class CreateModelOperator(BaseOperator):
    """Make inference endpoints for models of Model Studio, where they are not there already.

    Key, API host and region come from the connection (extras ``model_studio_api_key``, ``api_host``, ``region``);
    Elasticsearch keeps the key and shows it to nobody.
    The login of the connection needs the cluster privilege ``manage_inference``.
    Elasticsearch tries each new endpoint with one call to the model, which is billed.

    An endpoint that is as wanted is left alone, without a call that writes or costs.
    Secrets are not compared, since no server shows them: ``rotate_key`` sends the key again.
    What was made is kept when something else fails, and a retry does the rest.

    :param mode: ``"manual"`` makes one endpoint; ``"automatic"`` needs an API key alone and makes one for each model of
        the catalog that the server accepts, or for each of one ``task_type``. (templated)
    :param model: for ``"manual"``: the model, for example as ``airflow modelstudio models`` lists it. (templated)
    :param task_type: of the endpoint; ``None``: what the catalog names first for the model. (templated)
    :param inference_id: name of the endpoint; ``None``: the name of the model in lower case. (templated)
    :param dimensions: length of the vectors; ``None``: what the model usually gives. (templated)
    :param service: of Elasticsearch; ``None``: ``alibaba-cloud-custom-model``, or ``custom`` where the server does not
        know that one. (templated)
    :param endpoint_body: for ``"manual"``: the body of the request instead of one from the catalog, sent as it is, with
        ``task_type`` and ``inference_id`` given. Below ``secret_parameters`` and as ``api_key`` write
        ``${model_studio_api_key}`` for the key of the connection, in ``url`` ``${api_host}`` for its API host; a
        secret itself has no place in a Dag file. Not templated, so that it is in no rendered field.
    :param on_existing: what to do about an endpoint of that name with other settings: ``"keep"`` it and show the
        difference; ``"update"`` what Elasticsearch can change, its ``task_settings``; ``"replace"`` it, after a trial,
        unless it is in use; ``"fail"``. Between deletion and creation of ``"replace"`` there is no endpoint: when the
        creation fails, the error says so, and the next try creates it. (templated)
    :param rotate_key: send the key again to endpoints that are there; with ``"update"`` or ``"replace"``. No server shows
        which endpoints have the new key: Airflow 3.3 and newer remember it from one try of a run to the next, so that a
        retry does the rest; before, a retry does all of them again: prefer ``"update"`` there, since ``"replace"``
        deletes and creates those once more that an earlier try has replaced. Not templated.
    :param modelstudio_conn_id: the connection. (templated)
    """

    template_fields: Sequence[str] = (
        "mode",
        "model",
        "endpoint_task_type",
        "inference_id",
        "dimensions",
        "service",
        "on_existing",
        "modelstudio_conn_id",
    )
    ui_color = "#ff6a00"
    ui_fgcolor = "#fff"

    def __init__(
        self,
        *,
        mode: str = "automatic",
        model: str | None = None,
        task_type: str | None = None,
        inference_id: str | None = None,
        dimensions: int | str | None = None,
        service: str | None = None,
        endpoint_body: Mapping[str, Any] | None = None,
        on_existing: str = "keep",
        rotate_key: bool = False,
        modelstudio_conn_id: str = ModelStudioHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.mode = mode
        self.model = model
        self.endpoint_task_type = task_type  # BaseOperator has a property of the other name
        self.inference_id = inference_id
        self.dimensions = dimensions
        self.service = service
        self.endpoint_body = endpoint_body
        self.on_existing = on_existing
        self.rotate_key = rotate_key
        self.modelstudio_conn_id = modelstudio_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Make what is missing.

        :return: ``endpoints``, a record for each, and their names by what became of them. Never a secret.
        """
        try:
            return self._make(context)
        except PermanentError as error:
            raise AirflowFailException(str(error)) from error

    def _make(self, context: Context) -> dict[str, Any]:
        mode = choice("mode", self.mode, _MODES)
        on_existing = choice("on_existing", self.on_existing, _ON_EXISTING)
        rotate_key = flag("rotate_key", self.rotate_key)
        if rotate_key and on_existing not in {"update", "replace"}:
            raise ConfigurationError(f"rotate_key needs on_existing 'update' or 'replace', not {on_existing!r}")
        hook = ModelStudioHook(self.modelstudio_conn_id)
        wanted = self._wanted(mode, hook.catalog)
        account = hook.account
        own = self.endpoint_body
        if own is None and not account.api_key:
            raise ConfigurationError(
                f"connection {self.modelstudio_conn_id!r}: extra model_studio_api_key is empty, and new endpoints need it"
            )
        provisioning = Provisioning(
            hook,
            api_host=choose_host(
                account.api_host,
                account.region,
                # A body of one's own may lead anywhere: no host is needed where it names none of ours.
                automatic=mode == "automatic" or (own is not None and not asks_for_host(own)),
            ),
            services=(choice("service", self.service, SERVICES),) if self.service else SERVICES,
            on_existing=on_existing,
            rotation=Rotation(context.get("task_state_store"), secrets_of(hook, own)) if rotate_key else None,
            own_body=own,
        )
        provisioning.look()
        results = []
        for one in wanted:
            results.append(provisioning.provide(one))
            self._tell(results[-1])
        self._tell_unverified(results)
        if mode == "manual":
            return self._report_one(results[0])
        return self._report_all(results)

    def _wanted(self, mode: str, catalog: Catalog) -> tuple[Wanted, ...]:
        dimensions = whole_or_none("dimensions", self.dimensions, 1, 100_000)
        for name, value in (
            ("model", self.model),
            ("task_type", self.endpoint_task_type),
            ("inference_id", self.inference_id),
        ):
            text_or_none(name, value)
        if mode == "automatic":
            for name in ("model", "inference_id", "endpoint_body", "dimensions"):
                if getattr(self, name) is not None:
                    raise ConfigurationError(
                        f"{name} is for mode 'manual'; 'automatic' takes all models of the catalog"
                    )
            return every_model(catalog, self.endpoint_task_type)
        if self.endpoint_body is not None:
            return (self._own(self.endpoint_body, dimensions),)
        if not self.model:
            raise ConfigurationError("model is empty: mode 'manual' needs one, or an endpoint_body")
        return (one_model(catalog, self.model, self.endpoint_task_type, self.inference_id, dimensions),)

    def _own(self, body: object, dimensions: int | None) -> Wanted:
        if not isinstance(body, dict):
            raise ConfigurationError(f"endpoint_body must be a dictionary, not {type(body).__name__}")
        if not self.endpoint_task_type or not self.inference_id:
            raise ConfigurationError("endpoint_body needs task_type and inference_id beside it")
        if self.service or dimensions:
            raise ConfigurationError("service and dimensions stand in endpoint_body itself, where there is one")
        return Wanted(inference_id=self.inference_id, task_type=self.endpoint_task_type, model=self.model)

    def _tell(self, result: Result) -> None:
        wanted = result.wanted
        what = f"{wanted.task_type} endpoint {wanted.inference_id}: {result.action}"
        log = self.log.info if result.action in _WORKING else self.log.warning
        log("%s%s", what, f" ({result.reason})" if result.reason else "")
        if self.dimensions is not None and result.vector_length not in {None, wanted.dimensions}:
            self.log.warning("its vectors have %s values, not %s as asked for", result.vector_length, self.dimensions)
        for line in result.drift:
            self.log.warning("%s differed in %s", wanted.inference_id, line)

    def _tell_unverified(self, results: Sequence[Result]) -> None:
        made = [one for one in results if one.action in {"created", "replaced"}]
        unverified = sorted({one.wanted.task_type for one in made if one.template == "unverified"})
        if unverified:
            self.log.warning(
                "the settings for %s are put together from the documentation of their parts: "
                "look at an answer before you rely on one",
                ", ".join(unverified),
            )

    def _report_one(self, result: Result) -> dict[str, Any]:
        if result.action not in _WORKING:
            kind = OutageError if result.transient else EndpointError
            raise kind(f"endpoint {result.wanted.inference_id}: {_why(result)}")
        return {"inference_id": result.wanted.inference_id, **_report("manual", [result])}

    def _report_all(self, results: Sequence[Result]) -> dict[str, Any]:
        failed = [one for one in results if one.action == "failed"]
        working = [one for one in results if one.action in _WORKING]
        if failed:
            kind = OutageError if any(one.transient for one in failed) else EndpointError
            reasons = "; ".join(f"{one.wanted.inference_id}: {_why(one)}" for one in failed)
            raise kind(
                f"{len(failed)} of {len(results)} endpoints failed, {len(working)} are there and kept, "
                f"a retry does the rest: {reasons}"
            )
        if not working:
            raise EndpointError(f"the server accepts no model of the catalog; for example {_why(results[0])}")
        return _report("automatic", results)


class DeleteModelOperator(BaseOperator):
    """Delete an inference endpoint, unless something uses it.

    :param inference_id: name of the endpoint. (templated)
    :param task_type: delete it only if it is of this type. (templated)
    :param dry_run: delete nothing, only tell who uses it.
    :param force: delete it even if pipelines or indices use it; they fail from then on.
    :param missing_ok: an endpoint that is not there is as good as deleted.
    :param modelstudio_conn_id: the connection; its login needs the cluster privilege ``manage_inference``. (templated)
    """

    template_fields: Sequence[str] = ("inference_id", "endpoint_task_type", "modelstudio_conn_id")
    ui_color = "#ff6a00"
    ui_fgcolor = "#fff"

    def __init__(
        self,
        *,
        inference_id: str,
        task_type: str | None = None,
        dry_run: bool = False,
        force: bool = False,
        missing_ok: bool = True,
        modelstudio_conn_id: str = ModelStudioHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.inference_id = inference_id
        self.endpoint_task_type = task_type  # BaseOperator has a property of the other name
        self.only_look = dry_run  # BaseOperator has a method of the other name
        self.force = force
        self.missing_ok = missing_ok
        self.modelstudio_conn_id = modelstudio_conn_id

    def execute(self, context: Context) -> dict[str, Any]:  # noqa: ARG002 - Airflow's signature
        """Delete it.

        :return: ``inference_id``, ``action`` (``deleted``, ``missing``, or for a dry run ``unused`` or ``in use``),
            and the ``pipelines`` and ``indices`` that use it.
        """
        try:
            record = self._delete()
        except PermanentError as error:
            raise AirflowFailException(str(error)) from error
        self.log.info("endpoint %s: %s", self.inference_id, record["action"])
        return record

    def _delete(self) -> dict[str, Any]:
        inference_id = text("inference_id", self.inference_id)
        only_look, force = flag("dry_run", self.only_look), flag("force", self.force)
        missing_ok = flag("missing_ok", self.missing_ok)
        hook = ModelStudioHook(self.modelstudio_conn_id)
        try:
            if hook.get_endpoint(inference_id, self.endpoint_task_type) is None:
                return self._missing(missing_ok=missing_ok)
            told = hook.delete_endpoint(inference_id, self.endpoint_task_type, dry_run=True)
            users = users_of(told)
            if only_look:
                return self._record("in use" if users else "unused", told)
            if users and not force:
                raise EndpointError(
                    f"endpoint {inference_id} is in use by {users}: "
                    "let them use another one first, or set force, which breaks them"
                )
            hook.delete_endpoint(inference_id, self.endpoint_task_type, force=force)
        except RequestError as error:
            if error.error_type == "resource_not_found_exception":
                return self._missing(missing_ok=missing_ok)
            if error.error_type == "security_exception":
                raise EndpointError(
                    f"{error}; the user or API key of the connection needs the cluster privilege manage_inference"
                ) from error
            if error.status == _CONFLICT:
                raise EndpointError(f"endpoint {inference_id} came into use: {error.reason}") from error
            decision = decide(error, rows=1, attempts=0)
            if isinstance(decision, Stop):
                raise decision.error from error
            raise OutageError(str(error)) from error
        return self._record("deleted", told)

    def _missing(self, *, missing_ok: bool) -> dict[str, Any]:
        if not missing_ok:
            raise EndpointError(f"there is no endpoint {self.inference_id}, and missing_ok is False")
        return self._record("missing", {})

    def _record(self, action: str, told: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "inference_id": self.inference_id,
            "action": action,
            "pipelines": list(told.get("pipelines") or []),
            "indices": list(told.get("indexes") or []),
        }


def _why(result: Result) -> str:
    return "; ".join(filter(None, (result.reason, *result.drift)))


def _report(mode: str, results: Sequence[Result]) -> dict[str, Any]:
    """What goes into XCom."""
    actions = ("created", "kept", "updated", "replaced", "unsupported")
    return {
        "mode": mode,
        "endpoints": [one.as_dict() for one in results],
        **{action: [one.wanted.inference_id for one in results if one.action == action] for action in actions},
    }
