"""Endpoints are made, listed, changed and deleted as Elasticsearch does it, and keep no secret."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_modelstudio.sandbox.endpoints import TASK_TYPES, Endpoints
from tests.sandbox.loopback import ask, infer

PAGE_IDS = {
    "bailian_embeddings": "text_embedding",
    "bailian_sparse_emb": "sparse_embedding",
    "bailian_rerank": "rerank",
    "bailian_mm": "multi_modal_embedding",
    "bailian_deepseek": "completion",
}
INDEPENDENT = {"bailian_mm_independent": "multi_modal_embedding"}
SECRET = "sk-0123456789abcdef"
CUSTOM = {
    "service": "alibaba-cloud-custom-model",
    "service_settings": {
        "secret_parameters": {"DASHSCOPE_API_KEY": SECRET},
        "url": "https://dashscope.aliyuncs.com",
        "path": {
            "/compatible-mode/v1/embeddings": {
                "POST": {
                    "headers": {"Authorization": "Bearer ${DASHSCOPE_API_KEY}"},
                    "request": {"format": "string", "content": '{"model":"text-embedding-v3","input":${input}}'},
                    "response": {"json_parser": {"text_embeddings": "$.data[*].embedding"}},
                }
            }
        },
    },
    "task_settings": {"parameters": {"dimension": "1024", "encoding_format": "float"}},
}


def test_the_ids_of_the_product_page_are_there(sandbox):
    """A newcomer's first request needs no creation; every endpoint says that it is a stand-in, and with which engine."""
    told = ask(sandbox, "GET", "/_inference").body["endpoints"]
    assert {one["inference_id"]: one["task_type"] for one in told} == {**PAGE_IDS, **INDEPENDENT}
    assert [one["inference_id"] for one in told] == sorted({**PAGE_IDS, **INDEPENDENT})
    for one in told:
        assert one["service"] == "sandbox"
        assert "stand-in" in one["service_settings"]["served_by"]
        assert one["service_settings"]["engine"].startswith("hashed n-grams")
        dense = one["task_type"] in {"text_embedding", "multi_modal_embedding"}
        assert one["service_settings"].get("dimensions") == (16 if dense else None)


@pytest.mark.parametrize("path", ["/_inference/_all", "/_inference/*", "/_inference/%2A", "/_inference"])
def test_all_endpoints_have_several_names(sandbox, path):
    """``_all``, ``*`` and nothing at all list everything."""
    assert len(ask(sandbox, "GET", path).body["endpoints"]) == 6


def test_endpoints_of_one_task_type(sandbox):
    """A task type in the path narrows the list."""
    told = ask(sandbox, "GET", "/_inference/rerank/_all").body["endpoints"]
    assert [one["inference_id"] for one in told] == ["bailian_rerank"]


@pytest.mark.parametrize("path", ["/_inference/bailian_mm", "/_inference/multi_modal_embedding/bailian_mm"])
def test_one_endpoint(sandbox, path):
    """An endpoint is found by its id, with its task type or without."""
    (told,) = ask(sandbox, "GET", path).body["endpoints"]
    assert told["task_type"] == "multi_modal_embedding"


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_what_is_not_there_is_not_found(sandbox, method):
    """404 with Elasticsearch's type and words."""
    got = ask(sandbox, method, "/_inference/text_embedding/nope")
    assert (got.status, got.error["type"]) == (404, "resource_not_found_exception")
    assert got.error["reason"] == "Inference endpoint not found [nope]"


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_the_task_type_has_to_fit(sandbox, method):
    """400, naming both task types."""
    got = ask(sandbox, method, "/_inference/rerank/bailian_embeddings")
    assert (got.status, got.error["type"]) == (400, "status_exception")
    assert got.error["reason"] == (
        "Requested task type [rerank] does not match the inference endpoint's task type [text_embedding]"
    )


@pytest.mark.parametrize(
    ("method", "body"), [("GET", None), ("DELETE", None), ("PUT", CUSTOM), ("POST", {"input": "a"})]
)
def test_an_unknown_task_type(sandbox, method, body):
    """What an upstream server says to ``multi_modal_embedding`` this one says to ``embedding``."""
    got = ask(sandbox, method, "/_inference/telepathy/some-id", body)
    assert (got.status, got.error["reason"]) == (400, "Unknown task_type [telepathy]")


def test_create_use_and_delete(start):
    """The life of an endpoint; its URL is never contacted."""
    server = start()
    made = ask(server, "PUT", "/_inference/text_embedding/my-embeddings", CUSTOM)
    assert made.status == 200
    assert made.body["inference_id"] == "my-embeddings"
    assert made.body["service"] == "alibaba-cloud-custom-model"
    assert made.body["service_settings"]["url"] == "https://dashscope.aliyuncs.com"
    assert made.body["service_settings"]["dimensions"] == 16
    assert made.body["task_settings"] == CUSTOM["task_settings"]
    assert ask(server, "GET", "/_inference/my-embeddings").body["endpoints"] == [made.body]
    assert infer(server, "/_inference/my-embeddings", "a").status == 200
    dry = ask(server, "DELETE", "/_inference/my-embeddings?dry_run=true").body
    assert dry == {"acknowledged": False, "pipelines": [], "indexes": []}
    done = ask(server, "DELETE", "/_inference/text_embedding/my-embeddings?force").body
    assert done == {"acknowledged": True, "pipelines": [], "indexes": []}
    assert infer(server, "/_inference/my-embeddings", "a").status == 404


def test_put_creates_and_never_replaces(sandbox):
    """A second PUT is refused, whatever it holds."""
    got = ask(sandbox, "PUT", "/_inference/text_embedding/bailian_embeddings", CUSTOM)
    assert (got.status, got.error["type"]) == (400, "resource_already_exists_exception")
    assert got.error["reason"] == "Inference endpoint [bailian_embeddings] already exists"


@pytest.mark.parametrize(
    ("path", "body", "complaint"),
    [
        ("text_embedding/x", {}, "Missing required field [service]"),
        ("text_embedding/x", {"service": "openai"}, "Unknown service [openai]"),
        ("text_embedding/x", {"service": "sandbox", "model": "m"}, "settings [model] unknown to the [sandbox] service"),
        ("text_embedding/x", {"service": "alibaba-cloud-custom-model"}, "required setting [url];2: [service_settings]"),
        ("text_embedding/x", {"service": "custom", "service_settings": {"url": "u"}}, "required setting [request]"),
        ("multi_modal_embedding/x", {"service": "custom"}, "does not support task type [multi_modal_embedding]"),
        ("text_embedding/x", {"service": "sandbox", "task_type": "rerank"}, "Cannot resolve conflicting task_type"),
        ("x", {"service": "sandbox"}, "The task_type must be given"),
        ("text_embedding/X y", {"service": "sandbox"}, "Invalid inference_id; 'X y' can contain lowercase"),
        ("text_embedding/-x", {"service": "sandbox"}, "Invalid inference_id; '-x'"),
        ("text_embedding/x", [], "[body] is not an object"),
        ("text_embedding/x", {"service": "sandbox", "service_settings": 1}, "[service_settings] is not an object"),
        ("text_embedding/x", None, "request body is required"),
    ],
)
def test_endpoints_that_make_no_sense(sandbox, path, body, complaint):
    """400 with the reason, and nothing is created."""
    got = ask(sandbox, "PUT", f"/_inference/{path.replace(' ', '%20')}", body)
    assert got.status == 400
    assert complaint in got.error["reason"]
    assert len(ask(sandbox, "GET", "/_inference").body["endpoints"]) == 6


def test_the_task_type_may_stand_in_the_body(start):
    """``PUT _inference/<id>`` with a task type in the body."""
    server = start()
    made = ask(server, "PUT", "/_inference/x", {"service": "sandbox", "task_type": "rerank"})
    assert made.body["task_type"] == "rerank"


@pytest.mark.parametrize(
    "path", ["/_inference/bailian_embeddings/_update", "/_inference/text_embedding/bailian_embeddings/_update"]
)
def test_update_changes_task_settings_alone(start, path):
    """Task settings are laid over the old ones; service settings other than secrets stay as they are."""
    server = start()
    before = ask(server, "GET", "/_inference/bailian_embeddings").body["endpoints"][0]
    body = {"task_settings": {"input_type": "search"}, "service_settings": {"api_key": SECRET, "url": "https://other"}}
    changed = ask(server, "PUT", path, body)
    assert changed.status == 200
    assert changed.body == {**before, "task_settings": {"input_type": "search"}}
    assert SECRET.encode() not in changed.raw
    again = ask(server, "PUT", path, {"task_settings": {"truncate": True}})
    assert again.body["task_settings"] == {"input_type": "search", "truncate": True}


def test_update_of_what_is_not_there(sandbox):
    """404, as a refusal with a status of its own."""
    got = ask(sandbox, "PUT", "/_inference/nope/_update", {"task_settings": {}})
    assert (got.status, got.error["type"]) == (404, "status_exception")
    assert got.error["reason"] == "The inference endpoint [nope] does not exist and cannot be updated"


def test_update_cannot_change_the_task_type_or_invent_fields(sandbox):
    """400 for both."""
    wrong = ask(sandbox, "PUT", "/_inference/rerank/bailian_mm/_update", {"task_settings": {}})
    assert "does not match" in wrong.error["reason"]
    assert ask(sandbox, "PUT", "/_inference/bailian_mm/_update", {"model": "x"}).status == 400


def test_secrets_are_never_returned_or_logged(start, caplog):
    """Not where they were given, not where they were repeated, not in a log, not in an error."""
    server = start()
    body = {
        **CUSTOM,
        "service_settings": {
            **CUSTOM["service_settings"],
            "api_key": "another-secret-key",
            "query_string": f"?key={SECRET}",
            "headers": {"Authorization": "Bearer typed-in-plainly", "X-Trace": "1"},
        },
        "task_settings": {"parameters": {"leak": [SECRET]}},
    }
    with caplog.at_level(logging.DEBUG):
        seen = [
            ask(server, "PUT", "/_inference/text_embedding/mine", body).raw,
            ask(server, "PUT", "/_inference/text_embedding/mine", body).raw,
            ask(server, "GET", "/_inference/mine").raw,
            infer(server, "/_inference/mine", "a").raw,
        ]
    everything = b"".join(seen) + caplog.text.encode() + repr(server.calls).encode() + repr(server.bill).encode()
    for secret in (SECRET, "another-secret-key", "typed-in-plainly"):
        assert secret.encode() not in everything
    assert b"${DASHSCOPE_API_KEY}" in seen[2]
    assert b'"X-Trace":"1"' in seen[2]


words = st.text("abcdef${}:", min_size=4, max_size=12)


@settings(max_examples=50, deadline=None)  # a busy machine is no failure
@given(
    st.dictionaries(words, words, min_size=1, max_size=3),
    st.recursive(words, lambda below: st.lists(below) | st.dictionaries(words, below)),
)
def test_no_secret_survives_anywhere(secrets, settings):
    """Wherever a secret parameter is repeated among the settings, it is not kept."""
    endpoints = Endpoints({task_type: {} for task_type in TASK_TYPES})
    body = {
        "service": "sandbox",
        "service_settings": {"secret_parameters": secrets, "other": settings, "repeated": list(secrets.values())},
    }
    told = endpoints.create("rerank", "x", body).told()["service_settings"]
    assert "secret_parameters" not in told
    kept = " ".join(_strings(told))
    assert not [secret for secret in secrets.values() if secret in kept]


def _strings(value):
    if isinstance(value, dict):
        return [text for one in value.values() for text in _strings(one)]
    if isinstance(value, list):
        return [text for one in value for text in _strings(one)]
    return [value]


def test_the_trial_of_a_new_endpoint_is_on_the_bill(sandbox):
    """A server asks the model of a new endpoint once; a creation that is refused and a change ask nothing."""
    path = "/_inference/text_embedding/mine"
    assert ask(sandbox, "PUT", path, CUSTOM).status == 200
    assert [(paid.inference_id, paid.count, paid.trial) for paid in sandbox.bill] == [("mine", 1, True)]
    assert ask(sandbox, "PUT", path, CUSTOM).status == 400
    assert ask(sandbox, "PUT", f"{path}/_update", {"task_settings": {}}).status == 200
    assert len(sandbox.bill) == 1
    assert infer(sandbox, path, "a").status == 200
    assert [paid.trial for paid in sandbox.bill] == [True, False]
