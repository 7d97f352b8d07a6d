"""What the fields of a connection mean, and which make no sense."""

from __future__ import annotations

import base64
import json

import pytest
from airflow.sdk import Connection

from airflow_provider_modelstudio.hooks.fields import read_fields
from airflow_provider_modelstudio.inference.errors import ConfigurationError
from airflow_provider_modelstudio.inference.transport.address import ApiKey, BasicAuth

HOST = "https://es-cn-abc.elasticsearch.aliyuncs.com"


def connection(*, extra: object = None, **fields: object) -> Connection:
    said = {"conn_id": "c", "conn_type": "modelstudio", "host": HOST, **fields}
    return Connection(**said, extra=extra if extra is None or isinstance(extra, str) else json.dumps(extra))


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({}, f"{HOST}:443"),
        ({"port": 9200}, f"{HOST}:9200"),
        ({"port": 0}, f"{HOST}:443"),
        ({"host": f"{HOST}:9243/base"}, f"{HOST}:9243/base"),
        ({"host": f"{HOST}:9243/base", "port": 9243}, f"{HOST}:9243/base"),
        ({"host": f"{HOST}/base", "port": 9243}, f"{HOST}:9243/base"),
        ({"host": "es.example.com"}, "https://es.example.com:9200"),
        ({"host": "es.example.com", "port": 443}, "https://es.example.com:443"),
        ({"host": "es.example.com:9201"}, "https://es.example.com:9201"),
        ({"host": " es.example.com "}, "https://es.example.com:9200"),
        ({"host": "localhost", "schema": "http"}, "http://localhost:9200"),
        ({"host": "2001:db8::1"}, "https://[2001:db8::1]:9200"),
        ({"host": "https://es.example.com", "schema": "https"}, "https://es.example.com:443"),
        ({"host": "http://127.0.0.1:9200"}, "http://127.0.0.1:9200"),
        ({"host": "http://10.0.0.5:9200", "extra": {"allow_http": True}}, "http://10.0.0.5:9200"),
    ],
)
def test_where_the_cluster_is(fields, url):
    """A full URL, or a host and a port; https and 9200 unless told otherwise."""
    assert read_fields(connection(**fields)).cluster.url == url


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"host": None}, "host"),
        ({"host": "  "}, "host"),
        ({"host": f"{HOST}:9243", "port": 9200}, "port"),
        ({"host": "es.example.com:1", "port": 2}, "port"),
        ({"host": f"{HOST}:x", "port": 2}, "host"),
        ({"schema": "http"}, "schema"),
        ({"schema": "prefix"}, "schema"),
        ({"host": "http://10.0.0.5:9200"}, "allow_http"),
        ({"host": "https://169.254.169.254"}, "host"),
        ({"host": "https://u:canary-secret@es.example.com"}, "host"),
        ({"login": "elastic"}, "password"),
        ({"login": "elastic", "password": "short"}, "password"),
        ({"password": "short"}, "password"),
        ({"password": "id:short"}, "password"),
        ({"login": "a:b", "password": "long-enough"}, "login"),
        ({"extra": "{"}, "extra"),
        ({"extra": "[]"}, "extra"),
        ({"extra": '{"model_studio_api_key": "canary-secret"'}, "extra"),
        ({"extra": {"verify_tls": "maybe"}}, "verify_tls"),
        ({"extra": {"verify_tls": 0}}, "verify_tls"),
        ({"extra": {"request_timeout": "soon"}}, "request_timeout"),
        ({"extra": {"request_timeout": True}}, "request_timeout"),
        ({"extra": {"request_timeout": -1}}, "request_timeout"),
        ({"extra": {"connect_timeout": [1]}}, "connect_timeout"),
        ({"extra": {"media_type": "smile"}}, "media_type"),
        ({"extra": {"media_type": 1}}, "media_type"),
        ({"extra": {"model_studio_api_key": "short"}}, "model_studio_api_key"),
        ({"extra": {"model_studio_api_key": 12345678}}, "model_studio_api_key"),
        ({"extra": {"api_host": "http://dashscope.aliyuncs.com"}}, "api_host"),
        ({"extra": {"api_host": "https://me:canary-secret@dashscope.aliyuncs.com"}}, "api_host"),
        ({"extra": {"region": "cn shanghai"}}, "region"),
    ],
)
def test_fields_that_make_no_sense(fields, named):
    """Each wrong field is refused by its name, and no secret is repeated."""
    with pytest.raises(ConfigurationError, match=named) as caught:
        read_fields(connection(**fields))
    assert "canary-secret" not in str(caught.value)
    assert caught.value.__context__ is None or "canary-secret" not in repr(vars(caught.value.__context__))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("verify_certs", "verify_tls"),
        ("request_timeouts", "request_timeout"),
        ("model_studio_apikey", "model_studio_api_key"),
        ("headers", "known are allow_http, api_host"),
    ],
)
def test_unknown_extra(name, hint):
    """An extra that nobody knows is refused with the name that was probably meant, without its value."""
    with pytest.raises(ConfigurationError, match=hint) as caught:
        read_fields(connection(extra={name: "canary-secret"}))
    assert "canary-secret" not in str(caught.value)


def test_extras_left_empty():
    """The form stores null for empty fields: they mean the default, not a value."""
    names = ["allow_http", "api_host", "ca_certificate", "connect_timeout", "media_type", "model_studio_api_key"]
    names += ["region", "request_timeout", "trust_env", "verify_tls"]
    empty = read_fields(connection(extra=dict.fromkeys(names)))
    assert empty == read_fields(connection()) == read_fields(connection(extra=dict.fromkeys(names, "")))
    assert (empty.cluster.verify_tls, empty.cluster.server_timeout, empty.cluster.media) == (True, 60.0, "auto")
    assert empty.cluster.auth is None


def test_extras_with_values():
    """Every extra arrives where it belongs, also when a URI made it text."""
    said = {
        "ca_certificate": "/etc/ca.pem",
        "connect_timeout": "2.5",
        "media_type": "cbor",
        "model_studio_api_key": "sk-0123456789abcdef",
        "api_host": "llm-abc.cn-beijing.maas.aliyuncs.com",
        "region": "cn-beijing",
        "request_timeout": 120,
        "verify_tls": "False",
    }
    fields = read_fields(connection(extra=said))
    cluster, account = fields.cluster, fields.account
    assert (cluster.ca_certificate, cluster.connect_timeout, cluster.media) == ("/etc/ca.pem", 2.5, "cbor")
    assert (cluster.server_timeout, cluster.verify_tls) == (120.0, False)
    assert account.api_key == "sk-0123456789abcdef"
    assert (account.api_host, account.region) == ("https://llm-abc.cn-beijing.maas.aliyuncs.com:443", "cn-beijing")


@pytest.mark.parametrize("password", ["my-id:my-secret-key", base64.b64encode(b"my-id:my-secret-key").decode()])
def test_password_alone_is_an_api_key(password):
    """Without a user the password is an API key, as id:key or encoded."""
    auth = read_fields(connection(password=password)).cluster.auth
    assert isinstance(auth, ApiKey)
    assert auth.header == "ApiKey bXktaWQ6bXktc2VjcmV0LWtleQ=="


def test_user_and_password():
    """With a user it is a password, colons and all."""
    auth = read_fields(connection(login="elastic", password="p:ss w/ö rd")).cluster.auth
    assert isinstance(auth, BasicAuth)
    assert base64.b64decode(auth.header.removeprefix("Basic ")).decode() == "elastic:p:ss w/ö rd"


def test_a_connection_given_as_uri():
    """A URI with an encoded URL as host and text-only extras says the same as the form."""
    uri = "modelstudio://elastic:p%40ss%2Fword@https%3A%2F%2Fes.example.com%3A9243%2Fbase/?verify_tls=false&request_timeout=90"
    cluster = read_fields(Connection(conn_id="c", uri=uri)).cluster
    assert (cluster.url, cluster.verify_tls, cluster.server_timeout) == (
        "https://es.example.com:9243/base",
        False,
        90.0,
    )
    assert cluster.auth == BasicAuth("elastic", "p@ss/word")


@pytest.mark.parametrize(
    ("environment", "extra", "proxy"),
    [
        ({"HTTPS_PROXY": "http://proxy:3128"}, {}, None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, {"trust_env": False}, None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, {"trust_env": True}, "http://proxy:3128"),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": ".aliyuncs.com"}, {"trust_env": True}, None),
        ({"HTTP_PROXY": "http://proxy:3128"}, {"trust_env": True}, None),
    ],
)
def test_proxy_of_the_environment(monkeypatch, environment, extra, proxy):
    """A proxy is obeyed only when the connection asks for it, and NO_PROXY counts."""
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert read_fields(connection(extra=extra)).cluster.proxy == proxy


def test_fields_hide_their_secrets():
    """Printing what a connection says shows no key."""
    fields = read_fields(connection(password="canary-id:canary-key", extra={"model_studio_api_key": "sk-canary-0123"}))
    assert "canary" not in repr(fields)
    assert {"canary-key", "sk-canary-0123", "canary-id:canary-key"} <= fields.secrets


@pytest.mark.parametrize("models", [{"m": {"task_types": ["rerank"]}}, '{"m": {"task_types": ["rerank"]}}'])
def test_models_are_an_object_or_its_text(models):
    """An environment variable may hold the object, the form holds its text."""
    assert read_fields(connection(extra={"models": models})).models == {"m": {"task_types": ["rerank"]}}


@pytest.mark.parametrize("models", ["{", "[]", "1", 5, ["m"], True])
def test_models_that_are_no_object_are_refused(models):
    """The extra is named."""
    with pytest.raises(ConfigurationError, match="extra models must be a JSON object"):
        read_fields(connection(extra={"models": models}))
