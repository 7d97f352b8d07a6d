"""Elasticsearch's inference endpoints, for operators, for functions of a Dag, and for the connection test."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.log import mask_secret

from airflow_provider_modelstudio.catalog import Catalog
from airflow_provider_modelstudio.catalog.secrecy import secrets_in
from airflow_provider_modelstudio.hooks.client import ask, make_client, send_question
from airflow_provider_modelstudio.hooks.fields import read_fields
from airflow_provider_modelstudio.inference.errors import ConfigurationError, Fault, ModelStudioError, RequestError
from airflow_provider_modelstudio.inference.transport import ElasticTransport
from airflow_provider_modelstudio.inference.transport.address import inference_path, listing_path, secret_shapes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from elasticsearch import Elasticsearch

    from airflow_provider_modelstudio.hooks.fields import ConnectionFields, ModelStudioAccount

__all__ = ["ModelStudioHook"]

_TEST_SECONDS = 5.0
"""The test runs inside the API server and must not hold it up."""

_JSON_HEADERS = {"accept": "application/json", "content-type": "application/json"}
"""The client makes Elasticsearch's own media types of them."""


class ModelStudioHook(BaseHook):
    """Inference endpoints of an Elasticsearch cluster: ask them, list them, create and delete them.

    Raises errors of :mod:`~airflow_provider_modelstudio.inference.errors` only:
    ``ConfigurationError`` when the connection or a parameter makes no sense,
    ``RequestError`` when Elasticsearch refuses or cannot be reached.

    :param modelstudio_conn_id: connection of type ``modelstudio``
    """

    conn_name_attr = "modelstudio_conn_id"
    default_conn_name = "modelstudio_default"
    conn_type = "modelstudio"
    hook_name = "Alibaba Cloud Model Studio"

    def __init__(self, modelstudio_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.modelstudio_conn_id = modelstudio_conn_id
        self._is_elasticsearch = False
        self._hidden: frozenset[str] = frozenset()
        """Secrets of bodies, in all their shapes."""

    @cached_property
    def fields(self) -> ConnectionFields:
        """What the connection says. Its secrets are masked in the log from here on."""
        try:
            connection = self.get_connection(self.modelstudio_conn_id)
        except AirflowNotFoundException as exc:
            raise ConfigurationError(f"there is no connection {self.modelstudio_conn_id!r}") from exc
        try:
            fields = read_fields(connection)
        except ConfigurationError as exc:
            raise ConfigurationError(f"connection {self.modelstudio_conn_id!r}: {exc}") from exc
        _mask(fields.secrets)
        return fields

    @property
    def account(self) -> ModelStudioAccount:
        """Key, host and region of Model Studio, for endpoints that are to be created."""
        return self.fields.account

    @cached_property
    def catalog(self) -> Catalog:
        """The models that are known, as the connection knows them."""
        models = self.fields.models
        try:
            return Catalog.read(models)
        except ConfigurationError as exc:
            raise ConfigurationError(f"connection {self.modelstudio_conn_id!r}: extra models: {exc}") from exc

    @cached_property
    def conn(self) -> Elasticsearch:
        """The official client. It sends each call once and speaks to servers of version 8 and 9."""
        return make_client(self.fields.cluster)

    def get_conn(self) -> Elasticsearch:
        """See :attr:`conn`."""
        return self.conn

    def transport(self) -> ElasticTransport:
        """The way for many questions at once. Close it in the event loop that used it."""
        return ElasticTransport(self.fields.cluster)

    def infer(
        self,
        task_type: str,
        inference_id: str,
        input: str | Sequence[str],  # noqa: A002 - Elasticsearch's name
        *,
        query: str | None = None,
        task_settings: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """The answer to one question. Billed, sent once.

        :param task_type: ``text_embedding``, ``sparse_embedding``, ``rerank``, ``completion``, or any other of the server
        :param inference_id: endpoint
        :param input: text or texts
        :param query: for ``rerank``
        :param task_settings: instead of the endpoint's
        :param timeout: seconds that Elasticsearch may wait for the model; ``None``: as the connection says
        """
        cluster = self.fields.cluster
        if timeout is not None:
            cluster = replace(cluster, server_timeout=timeout)
        path = inference_path(task_type, inference_id)
        if not self._is_elasticsearch:
            # Something else would be found out here for free, and not by a paid question.
            self._get(path, lambda: self.conn.inference.get(task_type=task_type, inference_id=inference_id))
            self._is_elasticsearch = True
        body = {"input": input, "query": query, "task_settings": task_settings}
        question = _json({name: value for name, value in body.items() if value is not None})
        return ask(
            f"POST {path} at {cluster.host}",
            lambda: send_question(self.conn, path, question, cluster),
            cluster,
            questions=question,
            secrets=self._hidden,
            paid=True,
        )

    def list_endpoints(self, task_type: str | None = None) -> list[dict[str, Any]]:
        """All endpoints, or those of one task type, as Elasticsearch describes them."""
        path = listing_path(task_type)
        told = self._get(path, lambda: self.conn.inference.get(task_type=task_type, inference_id="_all"))
        return [one for one in told.get("endpoints") or [] if isinstance(one, dict)]

    def get_endpoint(self, inference_id: str, task_type: str | None = None) -> dict[str, Any] | None:
        """An endpoint as Elasticsearch describes it, without its secrets; ``None`` when there is none."""
        path = inference_path(task_type, inference_id)
        try:
            told = self._get(path, lambda: self.conn.inference.get(task_type=task_type, inference_id=inference_id))
        except RequestError as exc:
            if exc.error_type == "resource_not_found_exception":
                return None
            raise
        endpoints = [one for one in told.get("endpoints") or [] if isinstance(one, dict)]
        return endpoints[0] if endpoints else None

    def create_endpoint(self, task_type: str, inference_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The endpoint, created. Elasticsearch tries it once, which is billed.

        :param body: ``service``, ``service_settings``, ``task_settings``; its secrets are masked in the log
        """
        return self._put(task_type, inference_id, body, update=False)

    def update_endpoint(self, task_type: str, inference_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The endpoint with new ``task_settings`` or secrets; Elasticsearch changes nothing else."""
        return self._put(task_type, inference_id, body, update=True)

    def delete_endpoint(
        self, inference_id: str, task_type: str | None = None, *, dry_run: bool = False, force: bool = False
    ) -> dict[str, Any]:
        """What Elasticsearch says about the deletion: ``acknowledged``, ``pipelines``, ``indexes``.

        :param dry_run: delete nothing, only tell who uses the endpoint
        :param force: delete even if it is in use
        """
        path = inference_path(task_type, inference_id)
        return ask(
            f"DELETE {path} at {self.fields.cluster.host}",
            lambda: self.conn.inference.delete(
                task_type=task_type, inference_id=inference_id, dry_run=dry_run, force=force
            ),
            self.fields.cluster,
            secrets=self._hidden,
        )

    def hide(self, body: Mapping[str, Any]) -> None:
        """Keep the secrets of a body out of the log and of all errors from here on, before it is sent, too: a server that
        was given them once may repeat them at any call.
        """
        shapes = frozenset(shape for secret in secrets_in(body) for shape in secret_shapes(secret))
        _mask(shapes)
        self._hidden |= shapes

    def test_connection(self) -> tuple[bool, str]:
        """Whether the endpoints can be listed, and a sentence for the user. Free; repeats nothing the server says."""
        try:
            _ = self.catalog  # what the extra says of models
            name, version = self._cluster_facts()
            told = self._get("/_inference", self.conn.options(request_timeout=_TEST_SECONDS).inference.get)
        except RequestError as exc:
            return False, _sentence(exc, self.fields.cluster.host)
        except ModelStudioError as exc:
            return False, str(exc)
        except Exception as exc:  # noqa: BLE001 - Airflow shows the message of whatever is raised, secrets and all
            return False, f"The test failed unexpectedly with {type(exc).__name__}."
        endpoints = told.get("endpoints")
        count = len(endpoints) if isinstance(endpoints, list) else 0
        return True, f"Connected to {name}, {version}: {count} inference endpoint{'' if count == 1 else 's'}."

    def _cluster_facts(self) -> tuple[str, str]:
        try:
            told = self._get("/", self.conn.options(request_timeout=_TEST_SECONDS).info)
        except RequestError as exc:
            if exc.status == 403 and exc.fault is Fault.HTTP:  # noqa: PLR2004 - models may be used, the cluster not seen
                return "the cluster", "version unknown"
            raise
        version = told.get("version")
        number = version.get("number") if isinstance(version, dict) else None
        return f"cluster {_name(told.get('cluster_name'))}", f"Elasticsearch {_name(number)}"

    def _get(self, path: str, send: Callable[[], Any]) -> dict[str, Any]:
        return ask(f"GET {path} at {self.fields.cluster.host}", send, self.fields.cluster, secrets=self._hidden)

    def _put(self, task_type: str, inference_id: str, body: Mapping[str, Any], *, update: bool) -> dict[str, Any]:
        path = inference_path(task_type, inference_id)
        self.hide(body)
        _json(body)
        send: Callable[[], Any]
        if update:
            # By hand: the method of client 8.17 sends POST, which no server knows.
            path += "/_update"
            send = partial(self.conn.perform_request, "PUT", path, headers=_JSON_HEADERS, body=dict(body))
        else:
            put = self.conn.inference.put
            send = partial(put, task_type=task_type, inference_id=inference_id, inference_config=dict(body))
        return ask(f"PUT {path} at {self.fields.cluster.host}", send, self.fields.cluster, secrets=self._hidden)


def _json(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(dict(body), allow_nan=False).encode()
    except (TypeError, ValueError):
        known = "text, numbers, true, false, None, lists and dictionaries"
    raise ConfigurationError(f"the body of a request may hold only {known}")


def _mask(secrets: frozenset[str]) -> None:
    for secret in secrets:
        mask_secret(secret)


def _name(value: Any) -> str:
    """A name as the server gives it, fit for one line."""
    return re.sub(r"[^\w.:+-]", "?", value[:60]) if isinstance(value, str) and value else "without a name"


def _sentence(exc: RequestError, host: str) -> str:
    match exc.fault, exc.status:
        case Fault.HTTP, 401:
            return "Elasticsearch does not accept the password or API key (401)."
        case Fault.HTTP, 403:
            return "The user or API key lacks Elasticsearch's cluster privilege monitor_inference (403)."
        case Fault.HTTP, status:
            return f"Elasticsearch at {host} answered {status}."
        case Fault.NOT_ELASTICSEARCH, _:
            return f"What answered at {host} is not Elasticsearch."
        case Fault.TIMEOUT, _:
            return f"Elasticsearch at {host} did not answer in time."
        case _:
            return f"There is no connection to {host}: {exc.reason}."
