"""The hook and the transport against the stand-in that users start, for all that a connection is used for."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from airflow_provider_modelstudio.inference.errors import RequestError
from airflow_provider_modelstudio.inference.transport.refusal import read_object
from airflow_provider_modelstudio.sandbox.server import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_modelstudio.hooks.modelstudio import ModelStudioHook

PASSWORD = "sandbox-password"


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(engine="hashed", dimensions=8, user="elastic", password=PASSWORD) as server:
        yield server


@pytest.fixture
def hook(sandbox, hook_to) -> ModelStudioHook:
    return hook_to(sandbox.url, login="elastic", password=PASSWORD)


def test_connection(hook, sandbox):
    """The test button names the cluster and counts the endpoints, for free."""
    ok, text = hook.test_connection()
    assert ok, text
    assert "inference endpoints." in text
    assert not sandbox.bill


def test_wrong_password(sandbox, hook_to):
    """A wrong password is told in a sentence."""
    ok, text = hook_to(sandbox.url, login="elastic", password="another-password").test_connection()
    assert (ok, text) == (False, "Elasticsearch does not accept the password or API key (401).")


@pytest.mark.parametrize(
    ("task_type", "inference_id", "question", "query"),
    [
        ("text_embedding", "bailian_embeddings", ["one", "two"], None),
        ("sparse_embedding", "bailian_sparse_emb", ["one", "two"], None),
        ("rerank", "bailian_rerank", ["one", "two"], "two"),
        ("completion", "bailian_deepseek", "who are you?", None),
        ("multi_modal_embedding", "bailian_mm", '{"text": "one"}', None),
    ],
)
def test_each_task_by_the_hook(hook, sandbox, task_type, inference_id, question, query):
    """Each of the five tasks is asked once and answered under its own name."""
    assert task_type in hook.infer(task_type, inference_id, question, query=query)
    assert len(sandbox.bill) == 1


@pytest.mark.parametrize("media", ["auto", "json", "cbor"])
def test_each_form_by_the_transport(sandbox, hook_to, media):
    """The transport describes the endpoint and gets its answer in the form that was agreed on."""
    hook = hook_to(sandbox.url, login="elastic", password=PASSWORD, extra={"media_type": media})

    async def main() -> tuple[bool, str, int]:
        transport = hook.transport()
        try:
            facts = await transport.describe("text_embedding", "bailian_embeddings")
            body = json.dumps({"input": ["one", "two"]}).encode()
            answer = await transport.infer("text_embedding", "bailian_embeddings", body, expect_bytes=1000)
        finally:
            await transport.aclose()
        told = read_object(answer.body, answer.content_type)
        assert told is not None
        return facts.accepts_cbor, answer.content_type, len(told["text_embedding"])

    expected = "json" if media == "json" else "cbor"
    assert asyncio.run(main()) == (expected == "cbor", f"application/vnd.elasticsearch+{expected}", 2)


def test_life_of_an_endpoint(hook):
    """An endpoint is created, found, changed, not created twice, and deleted."""
    assert hook.get_endpoint("mine") is None
    body = {"service": "sandbox", "service_settings": {}, "task_settings": {}}
    hook.create_endpoint("text_embedding", "mine", body)
    found = hook.get_endpoint("mine", "text_embedding")
    assert found is not None
    assert found["service"] == "sandbox"
    assert "mine" in [one["inference_id"] for one in hook.list_endpoints("text_embedding")]
    with pytest.raises(RequestError) as caught:
        hook.create_endpoint("text_embedding", "mine", body)
    assert caught.value.error_type == "resource_already_exists_exception"
    assert not hook.delete_endpoint("mine", dry_run=True)["acknowledged"]
    assert hook.delete_endpoint("mine", "text_embedding")["acknowledged"]
    assert hook.get_endpoint("mine") is None
