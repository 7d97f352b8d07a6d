"""Elasticsearch's own Python client drives the sandbox; run it with client 8 and with client 9.

A 9.x client speaks version 9 unless its headers are changed below its API; a server of version 8 refuses that.
"""

from __future__ import annotations

import pytest

elasticsearch = pytest.importorskip("elasticsearch")
elastic_transport = pytest.importorskip("elastic_transport")

MAJOR = elasticsearch.__version__[0]
DOCUMENTS = ["a cat", "a dog", "the cat"]


class Pinned(elastic_transport.Transport):
    """A transport that speaks version 8, whatever the client is."""

    def perform_request(self, method, target, *, headers=None, **more):
        pinned = {
            name: value.replace("compatible-with=9", "compatible-with=8") for name, value in dict(headers or {}).items()
        }
        return super().perform_request(method, target, headers=pinned, **more)


@pytest.fixture
def client(sandbox):
    with elasticsearch.Elasticsearch(sandbox.url, transport_class=Pinned, max_retries=0) as found:
        yield found


def test_a_9x_client_as_it_comes_is_refused(sandbox):
    """The complaint that users of an 8.x cluster meet; an 8.x client is served."""
    with elasticsearch.Elasticsearch(sandbox.url, max_retries=0) as plain:
        if MAJOR < 9:
            assert plain.info()["version"]["number"] == "8.17.0"
            return
        with pytest.raises(elasticsearch.BadRequestError, match="media_type_header_exception"):
            plain.info()


def test_it_is_taken_for_elasticsearch(client):
    """The product check passes."""
    assert client.info()["tagline"] == "You Know, for Search"
    assert client.ping()


def test_endpoints_are_administered(client):
    """Create, read, change, list, try to delete, delete."""
    body = {"service": "sandbox", "service_settings": {"api_key": "secret"}}
    made = client.inference.put(task_type="rerank", inference_id="client-made", inference_config=body)
    assert made["inference_id"] == "client-made"
    assert "api_key" not in made["service_settings"]
    client.inference.update(inference_id="client-made", inference_config={"task_settings": {"top_n": 2}})
    (told,) = client.inference.get(task_type="rerank", inference_id="client-made")["endpoints"]
    assert told["task_settings"] == {"top_n": 2}
    assert len(client.inference.get()["endpoints"]) == 7
    assert client.inference.delete(inference_id="client-made", dry_run=True)["acknowledged"] is False
    assert client.inference.delete(task_type="rerank", inference_id="client-made", force=True)["acknowledged"] is True
    with pytest.raises(elasticsearch.NotFoundError):
        client.inference.get(inference_id="client-made")


@pytest.mark.parametrize(
    ("task_type", "inference_id", "question", "rows"),
    [
        ("text_embedding", "bailian_embeddings", {"input": DOCUMENTS}, 3),
        ("sparse_embedding", "bailian_sparse_emb", {"input": DOCUMENTS}, 3),
        ("rerank", "bailian_rerank", {"input": DOCUMENTS, "query": "cat"}, 3),
        ("completion", "bailian_deepseek", {"input": "A cat is an animal. What is a cat?"}, 1),
        ("multi_modal_embedding", "bailian_mm", {"input": '{"text":"a"}, {"image":"https://a"}'}, 1),
        ("multi_modal_embedding", "bailian_mm_independent", {"input": '{"text":"a"}, {"image":"https://a"}'}, 2),
    ],
)
def test_all_five_task_types(client, task_type, inference_id, question, rows):
    """The generic method of the client takes any task type, Alibaba's own included."""
    answer = client.inference.inference(task_type=task_type, inference_id=inference_id, timeout="30s", **question)
    assert len(answer[task_type]) == rows


def test_typed_methods(client):
    """The methods of the four upstream task types."""
    assert client.inference.text_embedding(inference_id="bailian_embeddings", input=["a"])["text_embedding"]
    assert client.inference.sparse_embedding(inference_id="bailian_sparse_emb", input=["a"])["sparse_embedding"]
    assert client.inference.rerank(inference_id="bailian_rerank", input=["a"], query="b")["rerank"]
    assert client.inference.completion(inference_id="bailian_deepseek", input="a")["completion"]


def test_errors_are_the_clients_own(client, start):
    """Status decides the class, and the reason is where the client looks for it."""
    with pytest.raises(elasticsearch.BadRequestError) as caught:
        client.inference.inference(inference_id="bailian_embeddings", input=["a"] * 11)
    assert "batch size is invalid" in caught.value.body["error"]["reason"]
    stranger = elasticsearch.Elasticsearch(start(api_key="k").url, transport_class=Pinned, max_retries=0)
    with stranger, pytest.raises(elasticsearch.AuthenticationException):
        stranger.info()


def test_the_client_shows_its_credentials(start):
    """A user with a password, or an API key in either of the client's forms."""
    url = start(user="u", password="p", api_key="id:key").url
    for given in ({"basic_auth": ("u", "p")}, {"api_key": ("id", "key")}, {"api_key": "aWQ6a2V5"}):
        with elasticsearch.Elasticsearch(url, transport_class=Pinned, **given) as known:
            assert known.info()


def test_a_compressing_client(sandbox):
    """Both directions compressed."""
    with elasticsearch.Elasticsearch(sandbox.url, transport_class=Pinned, http_compress=True) as client:
        assert client.inference.inference(inference_id="bailian_embeddings", input=["a"])["text_embedding"]
