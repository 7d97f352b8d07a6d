"""The hook, against servers that say what the tests tell them to."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import socket
import traceback
from typing import TYPE_CHECKING

import pytest
import urllib3
from airflow.sdk._shared.secrets_masker import _secrets_masker

from airflow_provider_modelstudio.hooks.client import Guarded
from airflow_provider_modelstudio.hooks.modelstudio import ModelStudioHook
from airflow_provider_modelstudio.inference.errors import ConfigurationError, Fault, ModelStudioError, RequestError
from tests.transport.certificates import certificate
from tests.transport.loopback import Received, by_path, error, reply, saying

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = {"cluster_name": "es-cn-test", "version": {"number": "8.17.0"}}
ENDPOINT = {"inference_id": "bailian_rerank", "task_type": "rerank", "service": "alibaba-cloud-custom-model"}
ENDPOINTS = {"endpoints": [ENDPOINT, {**ENDPOINT, "inference_id": "other"}]}
ANSWER = {"rerank": [{"index": 1, "relevance_score": 0.5}]}
PASSWORD = "canary-password/1+2"
BODY = {
    "service": "alibaba-cloud-custom-model",
    "service_settings": {
        "secret_parameters": {"DASHSCOPE": "sk-canary-0123456789"},
        "url": "https://dashscope.aliyuncs.com",
    },
}


def test_question_is_asked_once_after_a_free_call(serve, hook_to):
    """infer() looks at the endpoint for free, then sends one POST that says version 8 and how long the server may wait."""
    server = serve(by_path(get=reply(200, {"endpoints": [ENDPOINT]}), post=reply(200, ANSWER)))
    hook = hook_to(server, login="elastic", password=PASSWORD)
    assert hook.infer("rerank", "bailian_rerank", ["a", "b"], query="q", timeout=33) == ANSWER
    assert hook.infer("rerank", "bailian_rerank", ["a", "b"], query="q") == ANSWER
    assert [one.method for one in server.received] == ["GET", "POST", "POST"]
    first, second = server.posts
    assert json.loads(first.body) == {"input": ["a", "b"], "query": "q"}
    assert first.target == "/_inference/rerank/bailian_rerank?timeout=33000ms"
    assert second.target.endswith("?timeout=60000ms")
    for one in server.received:
        assert one.headers["accept"] == "application/vnd.elasticsearch+json; compatible-with=8"
        assert one.headers["authorization"] == "Basic " + base64.b64encode(f"elastic:{PASSWORD}".encode()).decode()
    assert first.headers["content-type"] == "application/vnd.elasticsearch+json; compatible-with=8"


def test_any_task_type(serve, hook_to):
    """A task type that only the vendor's kernel knows is asked like any other, with its task settings."""
    server = serve(by_path(get=reply(200, {"endpoints": [ENDPOINT]}), post=reply(200, {"x": []})))
    assert hook_to(server).infer("multi_modal_embedding", "mm", '{"text":"水"}', task_settings={"a": 1}) == {"x": []}
    assert json.loads(server.posts[0].body) == {"input": '{"text":"水"}', "task_settings": {"a": 1}}


def test_paid_answer_without_product_header_is_kept(serve, hook_to):
    """A proxy that strips the product header off the paid answer does not make the client throw it away."""
    server = serve(by_path(get=reply(200, {"endpoints": [ENDPOINT]}), post=reply(200, ANSWER, product=False)))
    assert hook_to(server).infer("rerank", "bailian_rerank", ["a"], query="q") == ANSWER


def test_something_else_is_found_out_for_free(serve, hook_to):
    """A server that is not Elasticsearch gets no paid question."""
    server = serve(saying(reply(200, {"endpoints": []}, product=False)))
    with pytest.raises(RequestError, match="X-Elastic-Product") as caught:
        hook_to(server).infer("rerank", "bailian_rerank", ["a"], query="q")
    assert caught.value.fault is Fault.NOT_ELASTICSEARCH
    assert not server.posts


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_nothing_is_sent_twice(serve, hook_to, status):
    """The client's own retries are off: one POST arrives, and one PUT, which Elasticsearch tries out for money."""
    server = serve(
        by_path(get=reply(200, {"endpoints": [ENDPOINT]}), post=error(status, "no"), put=error(status, "no"))
    )
    hook = hook_to(server)
    for call in (
        lambda: hook.infer("rerank", "x", ["a"], query="q"),
        lambda: hook.create_endpoint("rerank", "x", BODY),
    ):
        with pytest.raises(RequestError) as caught:
            call()
        assert caught.value.status == status
    assert [one.method for one in server.received] == ["GET", "POST", "PUT"]


def test_server_that_knows_no_newer_version_than_8(serve, hook_to):
    """Reading, creating, changing and deleting endpoints works with a server that refuses all but version 8."""

    async def only_8(received: Received, writer: asyncio.StreamWriter) -> None:
        said = [received.headers[name] for name in ("accept", "content-type") if name in received.headers]
        ok = said and all("compatible-with=8" in one for one in said)
        refusal = error(400, "Accept version must be either version 8 or 7, but found 9", "media_type_header_exception")
        writer.write(reply(200, {**ENDPOINTS, "acknowledged": True}) if ok else refusal)

    server = serve(only_8)
    hook = hook_to(server)
    assert len(hook.list_endpoints()) == 2
    hook.list_endpoints("rerank")
    hook.get_endpoint("bailian_rerank")
    hook.get_endpoint("bailian_rerank", "rerank")
    hook.create_endpoint("rerank", "bailian_rerank", BODY)
    hook.update_endpoint("rerank", "bailian_rerank", BODY)
    assert hook.delete_endpoint("bailian_rerank", "rerank", dry_run=True, force=True)["acknowledged"]
    hook.delete_endpoint("bailian_rerank")
    assert [f"{one.method} {one.target}" for one in server.received] == [
        "GET /_inference/_all",
        "GET /_inference/rerank/_all",
        "GET /_inference/bailian_rerank",
        "GET /_inference/rerank/bailian_rerank",
        "PUT /_inference/rerank/bailian_rerank",
        "PUT /_inference/rerank/bailian_rerank/_update",
        "DELETE /_inference/rerank/bailian_rerank?dry_run=true&force=true",
        "DELETE /_inference/bailian_rerank?dry_run=false&force=false",
    ]
    assert json.loads(server.received[4].body) == BODY


def test_endpoint_that_is_not_there(serve, hook_to):
    """A missing endpoint is None; any other refusal is an error."""
    missing = error(404, "Inference endpoint not found [x]", "resource_not_found_exception")
    assert hook_to(serve(saying(missing))).get_endpoint("x") is None
    with pytest.raises(RequestError):
        hook_to(serve(saying(error(404, "no such route", "status_exception")))).get_endpoint("x")


def test_reason_of_a_refused_creation(serve, hook_to):
    """The service's own words, hidden in caused_by, and its status come out; the key does not."""
    inner = {"type": "status_exception", "reason": "canary-of-the-body is wrong, status [401]"}
    server = serve(saying(error(400, "validation call to service threw an exception", caused_by=inner)))
    with pytest.raises(RequestError) as caught:
        hook_to(server).create_endpoint("rerank", "x", {"service_settings": {"api_key": "canary-of-the-body"}})
    assert (caught.value.status, caught.value.upstream_status) == (400, 401)
    assert caught.value.reason == "*** is wrong, status [401]"


def test_names_in_a_refused_creation(serve, hook_to):
    """What is no secret stays readable in a refusal, so that the wrong setting can be found."""
    server = serve(saying(error(400, "Unknown service [alibaba-cloud-custom-model] for $.sparse_embedding[*].index")))
    body = {**BODY, "task_settings": {"sparse_token": "$.sparse_embedding[*].index"}}
    with pytest.raises(RequestError) as caught:
        hook_to(server).create_endpoint("rerank", "x", body)
    assert caught.value.reason == "Unknown service [alibaba-cloud-custom-model] for $.sparse_embedding[*].index"


@pytest.mark.parametrize("value", [object(), {1, 2}, b"x", float("nan")])
def test_body_that_is_no_json(serve, hook_to, value):
    """A value that JSON does not know is refused before anything is sent."""
    server = serve(by_path(get=reply(200, {"endpoints": [ENDPOINT]}), post=reply(200, ANSWER)))
    with pytest.raises(ConfigurationError, match="body"):
        hook_to(server).create_endpoint("rerank", "x", {"service": value})
    with pytest.raises(ConfigurationError, match="body"):
        hook_to(server).infer("rerank", "x", "a", task_settings={"a": value})
    assert not server.posts


@pytest.mark.parametrize("inference_id", ["../x", "_all", "*", "a/b", ""])
def test_hostile_ids(serve, hook_to, inference_id):
    """No method sends an id that Elasticsearch could not have given, so nobody deletes all by a star."""
    server = serve(saying(reply(200, ENDPOINTS)))
    hook = hook_to(server)
    calls: list[Callable[[], object]] = [
        lambda: hook.infer("rerank", inference_id, "x"),
        lambda: hook.get_endpoint(inference_id),
        lambda: hook.create_endpoint("rerank", inference_id, BODY),
        lambda: hook.update_endpoint("rerank", inference_id, BODY),
        lambda: hook.delete_endpoint(inference_id, force=True),
    ]
    for call in calls:
        with pytest.raises(ConfigurationError, match="inference_id"):
            call()
    assert not server.received


def test_redirect_is_not_followed(serve, hook_to):
    """The client follows no redirect either."""
    other = serve(saying(reply(200, ENDPOINTS)))
    server = serve(saying(reply(302, b"", location=other.url + "/_inference/_all")))
    with pytest.raises(RequestError) as caught:
        hook_to(server).list_endpoints()
    assert caught.value.status == 302
    assert not other.received


def test_name_that_resolves_to_a_forbidden_address(hook_to, monkeypatch):
    """An innocent name that leads to a metadata service gets no connection from the client either."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: found)
    with pytest.raises(RequestError, match=r"resolves to 169\.254\.169\.254") as caught:
        hook_to("https://innocent.example.com").list_endpoints()
    assert (caught.value.fault, caught.value.maybe_billed) == (Fault.CONNECTION, False)


def test_a_name_is_looked_up_anew_for_each_connection(serve, hook_to, names):
    """The client, too, asks again where a name leads after the address that it had was dead, and passes over a dead one."""
    server = serve(by_path(get=reply(200, {"endpoints": [ENDPOINT]})))
    hook = hook_to(f"http://es.example:{server.port}", extra={"allow_http": True})
    names.answers["es.example"] = [["127.0.0.77"]]
    with pytest.raises(RequestError) as caught:
        hook.list_endpoints()
    assert (caught.value.fault, caught.value.maybe_billed) == (Fault.CONNECTION, False)
    names.answers["es.example"] = [["127.0.0.77", "127.0.0.1"]]
    assert hook.list_endpoints() == [ENDPOINT]


@pytest.mark.parametrize("address", ["169.254.169.254", "fe80::1", "::ffff:169.254.169.254", "127.0.0.1", "10.1.2.3"])
def test_the_connected_socket_is_asked_where_it_leads(address):
    """A name that resolved to one address when it was looked at and to another when it was connected gets no byte."""
    ours, theirs = socket.socketpair()

    class Connection:
        def _new_conn(self):
            return self

        def getpeername(self):
            return (address, 443)

        def close(self):
            ours.close()

    connection = type("Both", (Guarded, Connection), {})()
    if address in {"127.0.0.1", "10.1.2.3"}:
        assert connection._new_conn() is connection
        ours.sendall(b"x")
        assert theirs.recv(1) == b"x"
    else:
        with pytest.raises(urllib3.exceptions.NewConnectionError, match="it leads to"):
            connection._new_conn()
        assert theirs.recv(1) == b""
    ours.close()
    theirs.close()


def test_connections_of_the_client_are_guarded(serve, hook_to):
    """All that the client sends goes through sockets that are asked, on HTTP and on HTTPS."""
    for url in (serve(saying(reply(200, {"endpoints": []}))), "https://es.example.com"):
        (node,) = hook_to(url).conn.transport.node_pool.all()
        assert issubclass(node.pool.ConnectionCls, Guarded)


def test_no_connection_of_that_name(monkeypatch):
    """A connection that does not exist is named."""
    monkeypatch.delenv("AIRFLOW_CONN_NOWHERE", raising=False)
    with pytest.raises(ConfigurationError, match="'nowhere'"):
        _ = ModelStudioHook("nowhere").fields


def test_wrong_field_names_the_connection(hook_to):
    """A field that makes no sense is told with the connection's id."""
    with pytest.raises(ConfigurationError, match=r"'modelstudio_default': extra .*verify_tls"):
        _ = hook_to("https://es.example.com", extra={"verify_tsl": True}).fields


def test_transport_speaks_to_the_same_cluster(serve, hook_to):
    """transport() carries the connection's values."""
    server = serve(saying(reply(200, ANSWER)))
    hook = hook_to(server, login="elastic", password=PASSWORD, extra={"request_timeout": 7})

    async def main() -> bytes:
        transport = hook.transport()
        try:
            return (await transport.infer("rerank", "x", b"{}", expect_bytes=10)).body
        finally:
            await transport.aclose()

    assert json.loads(asyncio.run(main())) == ANSWER
    assert server.posts[0].target.endswith("?timeout=7s")
    assert server.posts[0].headers["authorization"].startswith("Basic ")


def test_conn_is_the_official_client(serve, hook_to):
    """The client is Elasticsearch's own, for whatever the hook does not offer."""
    server = serve(saying(reply(200, ROOT)))
    hook = hook_to(server)
    assert hook.conn.info()["cluster_name"] == "es-cn-test"
    assert hook.get_conn() is hook.conn
    assert server.received[0].headers["accept"].endswith("compatible-with=8")


def test_account_for_creating_endpoints(hook_to):
    """Key, host and region of Model Studio are there for the operators that create endpoints."""
    account = hook_to(
        "https://es.example.com",
        extra={"model_studio_api_key": "sk-0123456789", "api_host": "dashscope.aliyuncs.com", "region": "cn-beijing"},
    ).account
    assert (account.api_key, account.region) == ("sk-0123456789", "cn-beijing")
    assert account.api_host == "https://dashscope.aliyuncs.com:443"


# ---------------------------------------------------------------------------------------------- the connection test


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 inference endpoints"), (1, "1 inference endpoint."), (2, "2 inference endpoints")],
)
def test_connection_that_works(serve, hook_to, count, words):
    """The test says cluster, version and how many endpoints there are, and asks nothing that costs money."""
    server = serve(by_path(root=reply(200, ROOT), get=reply(200, {"endpoints": [ENDPOINT] * count})))
    ok, text = hook_to(server).test_connection()
    assert ok
    assert text.startswith("Connected to cluster es-cn-test, Elasticsearch 8.17.0")
    assert words in text
    assert {one.method for one in server.received} == {"GET"}


def test_connection_of_a_user_who_may_only_use_models(serve, hook_to):
    """A user without the right to see the cluster passes the test."""
    refusal = error(403, "unauthorized", "security_exception")
    ok, text = hook_to(serve(by_path(root=refusal, get=reply(200, ENDPOINTS)))).test_connection()
    assert (ok, text) == (True, "Connected to the cluster, version unknown: 2 inference endpoints.")


CANARY = "canary of the server <script>"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (error(401, CANARY, "security_exception"), "does not accept the password or API key"),
        (error(500, CANARY), "answered 500"),
        (error(429, CANARY), "answered 429"),
        (reply(200, CANARY.encode(), media="text/html", product=False), "is not Elasticsearch"),
        (reply(200, {"x": CANARY}, product=False), "is not Elasticsearch"),
        (reply(502, CANARY.encode(), media="text/html", product=False), "is not Elasticsearch"),
        (reply(302, CANARY.encode(), location="http://127.0.0.1:1/"), "is not Elasticsearch"),
        (reply(200, b"{" + CANARY.encode()), "is not Elasticsearch"),
        (b"HTTP/1.1 canary of the server\r\n\r\n", "no connection"),
        (b"", "no connection"),
        (reply(200, {"cluster_name": CANARY, "version": CANARY, "endpoints": CANARY}), "canary?of?the?server"),
    ],
)
def test_connection_that_does_not(serve, hook_to, answer, words):
    """Each failure is one short sentence in our words; nothing the server says is repeated as it came."""

    async def handler(received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        if b"content-length" not in answer:
            writer.close()

    _, text = hook_to(serve(handler), login="elastic", password=PASSWORD).test_connection()
    assert words in text
    assert CANARY not in text
    assert PASSWORD not in text
    assert "\n" not in text
    assert len(text) < 200


def test_connection_without_the_privilege(serve, hook_to):
    """The missing privilege is named."""
    server = serve(by_path(root=reply(200, ROOT), get=error(403, "action [x] is unauthorized", "security_exception")))
    assert hook_to(server).test_connection() == (
        False,
        "The user or API key lacks Elasticsearch's cluster privilege monitor_inference (403).",
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"host": ""}, "host is empty"),
        ({"host": "http://10.0.0.5"}, "allow_http"),
        ({"host": "https://169.254.169.254"}, "refused"),
        ({"host": "https://es.invalid"}, "no connection"),
        ({"host": "https://es.example.com", "extra": {"ca_certificate": "/nowhere"}}, "ca_certificate"),
        ({"host": "https://es.example.com", "password": "short"}, "shorter than 8"),
        ({"host": "https://es.example.com", "extra": {"models": {"x": {"rows_per_request": -3}}}}, "extra models"),
    ],
)
def test_connection_with_wrong_fields(hook_to, fields, words):
    """A wrong field is a sentence, not an exception."""
    ok, text = hook_to(**fields).test_connection()
    assert not ok
    assert words in text


def test_connection_nobody_can_vouch_for(serve, hook_to, tmp_path):
    """A self-signed certificate fails the test with the reason, and passes it as the connection's own authority."""
    context, file = certificate(tmp_path)
    server = serve(by_path(root=reply(200, ROOT), get=reply(200, ENDPOINTS)), tls=context)
    ok, text = hook_to(server).test_connection()
    assert (ok, "self-signed" in text) == (False, True)
    assert not server.received
    assert hook_to(server, extra={"ca_certificate": file.read_text()}).test_connection()[0]


# ------------------------------------------------------------------------------------------------------- no secrets


def test_nothing_secret_is_logged_or_raised(serve, hook_to, caplog):
    """At DEBUG, with the client's own loggers on, keys and texts stay out of logs, errors and what they are chained to."""
    hidden = [PASSWORD, "sk-canary-0123456789", "row canary 4711", "answer canary"]
    hidden.append(base64.b64encode(f"elastic:{PASSWORD}".encode()).decode())
    good = by_path(
        get=reply(200, {"endpoints": [ENDPOINT]}), post=reply(200, {"x": "answer canary"}), put=reply(200, {})
    )
    echo, echo_of_keys = error(400, " ".join(hidden[:3])), error(400, " ".join(hidden[:2]))
    nodes = [logging.getLogger(name) for name in ("elastic_transport.node", "elastic_transport.transport")]
    with caplog.at_level(logging.DEBUG):
        for logger in nodes:
            logger.addHandler(caplog.handler)
            logger.setLevel(logging.DEBUG)
        try:
            for handler in (good, by_path(get=reply(200, {"endpoints": [ENDPOINT]}), post=echo, put=echo_of_keys)):
                hook = hook_to(serve(handler), login="elastic", password=PASSWORD)
                for call in (
                    lambda hook=hook: hook.infer("completion", "x", hidden[2]),
                    lambda hook=hook: hook.create_endpoint("rerank", "x", BODY),
                ):
                    try:
                        call()
                    except ModelStudioError as exc:
                        shown = "".join(traceback.format_exception(exc)) + repr(exc) + repr(vars(exc))
                        assert not [one for one in hidden[:3] if one in shown]
        finally:
            for logger in nodes:
                logger.removeHandler(caplog.handler)
                logger.setLevel(logging.NOTSET)
    assert not [one for one in hidden if one in caplog.text]


def test_secrets_are_masked_by_airflow_in_every_shape(serve, hook_to):
    """Once the connection was read, Airflow's own masker hides its secrets however they are spelled."""
    hook = hook_to(
        "https://es.example.com",
        password='my-id:my-k"ey/key+1',
        extra={"model_studio_api_key": "sk-mask-0123456789"},
    )
    secrets = hook.fields.secrets
    assert len(secrets) > 10
    for secret in secrets:
        assert secret not in str(_secrets_masker().redact(f"before {secret} after"))


def test_secrets_of_a_created_endpoint_are_masked(serve, hook_to):
    """Keys in the body of a new endpoint are masked from then on."""
    hook_to(serve(saying(reply(200, {})))).create_endpoint(
        "rerank", "x", {"service_settings": {"api_key": "sk-created-1", "secret_parameters": {"A": ["sk-created-2"]}}}
    )
    assert "sk-created" not in str(_secrets_masker().redact("sk-created-1 and sk-created-2"))
