"""What comes back from a call that went well, or that looks as if it had."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
import zlib
from typing import TYPE_CHECKING

import cbor2
import pytest

from airflow_provider_modelstudio.inference.errors import ConfigurationError, Fault, RequestError
from tests.transport.loopback import CBOR, JSON, Loopback, Received, by_path, error, reply, saying

if TYPE_CHECKING:
    from airflow_provider_modelstudio.inference.tasks import Answer
    from airflow_provider_modelstudio.inference.transport import ElasticTransport, EndpointFacts

BODY = b'{"input":["one","two"]}'
VECTORS = {"text_embedding": [{"embedding": [0.5, 1.0]}, {"embedding": [2.0, 0.25]}]}
ROOT = {"cluster_name": "es-cn-test", "version": {"number": "8.17.0"}}
ENDPOINT = {
    "endpoints": [
        {
            "inference_id": "bailian_embeddings",
            "task_type": "text_embedding",
            "service": "alibaba-cloud-custom-model",
            "service_settings": {"dimensions": 1024, "url": "https://dashscope.aliyuncs.com"},
            "task_settings": {"parameters": {"dimension": "1024"}},
        }
    ]
}


async def infer(transport: ElasticTransport, *, expect_bytes: int = 1000) -> Answer:
    return await transport.infer("text_embedding", "bailian_embeddings", BODY, expect_bytes=expect_bytes)


async def describe(transport: ElasticTransport) -> EndpointFacts:
    return await transport.describe("text_embedding", "bailian_embeddings")


def test_bytes_come_back_undecoded(serve, talk):
    """The answer's bytes and media type reach the caller as the server sent them."""
    server = serve(saying(reply(200, VECTORS)))
    answer = talk(server, infer)
    assert answer == (json.dumps(VECTORS).encode(), "application/vnd.elasticsearch+json")


def test_one_post_with_the_body_and_version_8(serve, talk):
    """The request is one POST to the endpoint, speaks compatible-with=8 on both headers, and asks the server to stop first."""
    server = serve(saying(reply(200, VECTORS)))
    talk(server, infer, server_timeout=42.0)
    (sent,) = server.received
    assert (sent.method, sent.body) == ("POST", BODY)
    assert sent.target == "/_inference/text_embedding/bailian_embeddings?timeout=42s"
    assert sent.headers["accept"] == "application/vnd.elasticsearch+json; compatible-with=8"
    assert sent.headers["content-type"] == "application/vnd.elasticsearch+json; compatible-with=8"
    assert "accept-encoding" not in sent.headers
    assert sent.headers["authorization"].startswith("ApiKey ")


def test_server_that_knows_no_newer_version_than_8(serve, talk):
    """A server that refuses every version but 8 answers, whatever the major of the installed client."""

    async def only_8(received: Received, writer: asyncio.StreamWriter) -> None:
        ok = all("compatible-with=8" in received.headers[name] for name in ("accept", "content-type"))
        refusal = error(400, "Accept version must be either version 8 or 7, but found 9", "media_type_header_exception")
        writer.write(reply(200, VECTORS) if ok else refusal)

    assert talk(serve(only_8), infer).body


def test_path_prefix_is_kept(serve, talk):
    """A cluster behind a path of a gateway is asked under that path."""
    server = serve(saying(reply(200, VECTORS)))
    talk(server, infer, url=server.url + "/gateway/es/")
    assert server.received[0].target.startswith("/gateway/es/_inference/text_embedding/")


def test_timeout_below_a_second_is_said_in_milliseconds(serve, talk):
    """The server's timeout is sent exactly, also when it is no whole number of seconds."""
    server = serve(saying(reply(200, VECTORS)))
    talk(server, infer, server_timeout=0.5)
    assert server.received[0].target.endswith("?timeout=500ms")


def test_paid_answer_without_product_header_is_kept(serve, talk):
    """A paid 200 whose product header was stripped by a proxy is used: it cannot be bought back."""
    server = serve(saying(reply(200, VECTORS, product=False)))
    assert json.loads(talk(server, infer).body) == VECTORS


@pytest.mark.parametrize("path", ["root", "get"])
def test_free_answer_without_product_header_is_refused(serve, talk, path):
    """Something that is not Elasticsearch is found out by a free call, before anything is paid."""
    answers = {"root": reply(200, ROOT), "get": reply(200, ENDPOINT), path: reply(200, ROOT, product=False)}
    server = serve(by_path(**answers))
    with pytest.raises(RequestError, match="X-Elastic-Product") as caught:
        talk(server, describe)
    assert caught.value.fault is Fault.NOT_ELASTICSEARCH
    assert not server.posts


def test_facts_of_an_endpoint(serve, talk):
    """describe() tells cluster, version, service, settings and dimensions."""
    server = serve(by_path(root=reply(200, ROOT), get=reply(200, ENDPOINT)))
    facts = talk(server, describe)
    assert (facts.cluster_name, facts.version, facts.service) == ("es-cn-test", "8.17.0", "alibaba-cloud-custom-model")
    assert (facts.dimensions, facts.task_type) == (1024, "text_embedding")
    assert facts.task_settings == {"parameters": {"dimension": "1024"}}
    assert not facts.accepts_cbor


def test_user_who_may_not_see_the_cluster(serve, talk):
    """A 403 on / (only monitor_inference granted) leaves name and version unknown, and describe() goes on."""
    server = serve(by_path(root=error(403, "action is unauthorized", "security_exception"), get=reply(200, ENDPOINT)))
    facts = talk(server, describe)
    assert (facts.cluster_name, facts.version, facts.dimensions) == (None, None, 1024)


def test_forbidden_by_a_proxy_is_not_forbidden_by_elasticsearch(serve, talk):
    """A 403 page of a proxy on / is an error, not a missing privilege."""
    page = reply(403, b"<html>Forbidden</html>", media="text/html", product=False)
    with pytest.raises(RequestError) as caught:
        talk(serve(by_path(root=page, get=reply(200, ENDPOINT))), describe)
    assert (caught.value.fault, caught.value.status) == (Fault.NOT_ELASTICSEARCH, 403)


@pytest.mark.parametrize("told", [{"endpoints": []}, {"endpoints": [1]}, {"endpoints": {}}, {}, []])
def test_description_that_says_nothing(serve, talk, told):
    """An answer of describe() without exactly one endpoint is an error, not a guess."""
    with pytest.raises(RequestError) as caught:
        talk(serve(by_path(root=reply(200, ROOT), get=reply(200, told))), describe)
    assert caught.value.fault is Fault.NOT_ELASTICSEARCH


def cbor_server(*, posts_cbor: bool = True, describes_cbor: bool = True) -> object:
    async def handler(received: Received, writer: asyncio.StreamWriter) -> None:
        wants = "cbor" in received.headers["accept"]
        if received.target == "/":
            writer.write(reply(200, ROOT))
        elif received.method == "GET":
            writer.write(reply(200, ENDPOINT, media=CBOR if wants and describes_cbor else JSON))
        elif wants and not posts_cbor:
            writer.write(error(406, "Content-Type is not supported", "media_type_header_exception"))
        else:
            writer.write(reply(200, VECTORS, media=CBOR if wants else JSON))

    return handler


async def describe_and_infer(transport: ElasticTransport) -> tuple[bool, Answer]:
    return (await describe(transport)).accepts_cbor, await infer(transport)


def test_cbor_is_asked_for_once_a_free_call_has_shown_it(serve, talk):
    """Where the free call came back as CBOR, the paid one asks for CBOR and says so in its media type."""
    accepts, answer = talk(serve(cbor_server()), describe_and_infer)
    assert accepts
    assert answer.content_type == "application/vnd.elasticsearch+cbor"
    assert cbor2.loads(answer.body) == VECTORS


def test_json_where_the_free_call_came_as_json(serve, talk):
    """A server that answers JSON to a request for CBOR is asked for JSON from then on."""
    server = serve(cbor_server(describes_cbor=False))
    accepts, answer = talk(server, describe_and_infer)
    assert (accepts, answer.content_type) == (False, "application/vnd.elasticsearch+json")
    assert "json" in server.posts[0].headers["accept"]


def test_json_where_cbor_is_refused_for_the_description(serve, talk):
    """A server that refuses to describe in CBOR is described in JSON."""

    async def no_cbor(received: Received, writer: asyncio.StreamWriter) -> None:
        wants = "cbor" in received.headers["accept"]
        refusal = error(400, "Invalid media-type value", "media_type_header_exception")
        writer.write(refusal if wants else reply(200, ROOT if received.target == "/" else ENDPOINT))

    facts = talk(serve(no_cbor), describe)
    assert (facts.dimensions, facts.accepts_cbor) == (1024, False)


def test_json_after_cbor_was_refused_for_a_question(serve, talk):
    """When only POST refuses CBOR, which costs nothing, the question is asked again in JSON and so are all later ones."""
    server = serve(cbor_server(posts_cbor=False))

    async def twice(transport: ElasticTransport) -> list[str]:
        await describe(transport)
        return [(await infer(transport)).content_type for _ in range(2)]

    assert talk(server, twice) == ["application/vnd.elasticsearch+json"] * 2
    assert [("cbor" in post.headers["accept"]) for post in server.posts] == [True, False, False]


@pytest.mark.parametrize(("media", "asked"), [("json", [False, False]), ("cbor", [True, True])])
def test_pinned_form_is_never_changed(serve, talk, media, asked):
    """A connection that pins json or cbor asks for nothing else, in the free call and in the paid one."""
    server = serve(cbor_server())
    talk(server, describe_and_infer, media=media)
    inference = [one for one in server.received if one.target != "/"]
    assert ["cbor" in one.headers["accept"] for one in inference] == asked


def test_pinned_cbor_that_is_refused_is_an_error(serve, talk):
    """Pinned means pinned: a refusal is shown, not worked around."""
    with pytest.raises(RequestError) as caught:
        talk(serve(cbor_server(posts_cbor=False)), infer, media="cbor")
    assert caught.value.status == 406


def test_content_type_of_the_answer_decides(serve, talk):
    """A server that answers CBOR to a request for JSON loses no paid answer: the media type tells the reader."""
    answer = talk(serve(saying(reply(200, VECTORS, media="application/cbor"))), infer)
    assert answer.content_type == "application/cbor"


def test_compressed_answer_nobody_asked_for(serve, talk):
    """An answer that a proxy has compressed all the same is read, not thrown away."""
    packed = gzip.compress(json.dumps(VECTORS).encode())
    answer = talk(serve(saying(reply(200, packed, content_encoding="gzip"))), infer)
    assert json.loads(answer.body) == VECTORS


def test_compressed_bomb_is_cut_off(serve, talk):
    """A compressed answer is bounded by what comes out of it, not by what goes in."""
    server = serve(saying(reply(200, gzip.compress(bytes(50_000_000)), content_encoding="gzip")))
    tracemalloc.start()
    try:
        with pytest.raises(RequestError) as caught:
            talk(server, infer)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.fault is Fault.TOO_LARGE
    assert most < 5_000_000


@pytest.mark.parametrize("packed", [gzip.compress(b'{"a":1}', mtime=0)[:-6], b"\x1f\x8bnonsense"])
def test_damaged_compression(serve, talk, packed):
    """A compressed answer that was cut or damaged is no answer, and may have been billed."""
    with pytest.raises(RequestError) as caught:
        talk(serve(saying(reply(200, packed, content_encoding="gzip"))), infer)
    assert (caught.value.fault, caught.value.maybe_billed) == (Fault.CUT, True)


@pytest.mark.parametrize("status", [401, 413, 429, 503])
@pytest.mark.parametrize(
    ("packed", "encoding"),
    [
        (gzip.compress(b'{"a":1}', mtime=0)[:-6], "gzip"),
        (b"\x1f\x8bnonsense", "gzip"),
        (b"", "gzip"),
        (zlib.compress(b'{"a":1}', wbits=-zlib.MAX_WBITS), "deflate"),
        (gzip.compress(bytes(5_000_000)), "gzip"),
        (bytes(5_000_000), "gzip"),
    ],
    ids=["cut", "damaged", "empty", "raw deflate", "too long unpacked", "too long packed"],
)
def test_an_error_keeps_its_status_however_it_was_compressed(serve, talk, status, packed, encoding):
    """What an error says may be lost, and its status decides what is done about it."""
    server = serve(saying(reply(status, packed, content_encoding=encoding, retry_after="3")))
    with pytest.raises(RequestError) as caught:
        talk(server, infer)
    failed = caught.value
    assert (failed.fault, failed.status, failed.retry_after) == (Fault.HTTP, status, 3.0)
    assert not failed.maybe_billed


def test_page_of_a_proxy_with_200(serve, talk):
    """HTML with status 200 is not an answer, and the message says who was not there."""
    server = serve(saying(reply(200, b"<html>Sign in</html>", media="text/html; charset=utf-8", product=False)))
    with pytest.raises(RequestError, match="not Elasticsearch") as caught:
        talk(server, infer)
    assert (caught.value.fault, caught.value.status, caught.value.maybe_billed) == (Fault.NOT_ELASTICSEARCH, 200, False)


@pytest.mark.parametrize("media", ["text/plain", "application/octet-stream", ""])
def test_a_success_of_elasticsearch_in_another_form(serve, talk, media):
    """What somebody in between relabelled cannot be read, and was paid for where it was asked for money."""
    server = serve(saying(reply(200, b'{"text_embedding":[]}', media=media)))
    for ask, billed in ((infer, True), (describe, False)):
        with pytest.raises(RequestError, match="content type") as caught:
            talk(server, ask)
        assert (caught.value.fault, caught.value.maybe_billed) == (Fault.NOT_ELASTICSEARCH, billed)


@pytest.mark.parametrize("status", [204, 301, 302, 303, 307, 308])
def test_redirect_is_not_followed(serve, talk, status):
    """A redirect ends the call: the question and the key go nowhere else."""
    other = serve(saying(reply(200, VECTORS)))
    server = serve(saying(reply(status, b"", location=other.url + "/elsewhere")))
    with pytest.raises(RequestError) as caught:
        talk(server, infer)
    failed = caught.value
    assert (failed.fault, failed.status, failed.maybe_billed) == (Fault.NOT_ELASTICSEARCH, status, False)
    assert not other.received


@pytest.mark.parametrize(
    ("task_type", "inference_id"),
    [
        ("text_embedding", "../_security/user"),
        ("text_embedding", "a/b"),
        ("text_embedding", "a%2fb"),
        ("text_embedding", "_all"),
        ("text_embedding", "*"),
        ("text_embedding", ""),
        ("text_embedding", "a?timeout=1"),
        ("text_embedding", "a#b"),
        ("text_embedding", "Upper"),
        ("text_embedding", "a\r\nx: y"),
        ("text_embedding", "trailing-"),
        ("text_embedding", "..a"),
        ("text_embedding", "x" * 300),
        ("text_embedding", "é"),
        ("../text_embedding", "a"),
        ("", "a"),
        ("Text", "a"),
    ],
)
def test_hostile_ids_never_reach_the_wire(serve, talk, task_type, inference_id):
    """An id that Elasticsearch could not have given is refused before a byte is sent."""
    server = serve(saying(reply(200, VECTORS)))

    async def ask(transport: ElasticTransport) -> Answer:
        return await transport.infer(task_type, inference_id, BODY, expect_bytes=10)

    with pytest.raises(ConfigurationError):
        talk(server, ask)
    assert not server.received


@pytest.mark.parametrize("inference_id", [".elser-2-elasticsearch", "text-embedding-v4", "a", "qwen2.5_vl"])
def test_ids_as_elasticsearch_gives_them(serve, talk, inference_id):
    """Ids with dots, dashes and underscores, and the built-in ones with a leading dot, are used as they are."""
    server = serve(saying(reply(200, VECTORS)))

    async def ask(transport: ElasticTransport) -> Answer:
        return await transport.infer("multi_modal_embedding", inference_id, BODY, expect_bytes=10)

    talk(server, ask)
    assert server.received[0].target.startswith(f"/_inference/multi_modal_embedding/{inference_id}?")


def test_128_questions_are_in_flight_at_once(serve, talk):
    """128 concurrent calls reach the server together: no limit of the HTTP library holds any back."""
    all_here = asyncio.Event()

    async def wait_for_all(received: Received, writer: asyncio.StreamWriter) -> None:
        if server.in_flight >= 128:
            all_here.set()
        await asyncio.wait_for(all_here.wait(), 20)
        writer.write(reply(200, VECTORS))

    server: Loopback = serve(wait_for_all)

    async def many(transport: ElasticTransport) -> int:
        return len(await asyncio.gather(*(infer(transport) for _ in range(128))))

    assert talk(server, many) == 128
    assert server.most_in_flight == 128


def test_connections_are_used_again(serve, talk):
    """Calls one after the other share one connection."""
    server = serve(saying(reply(200, VECTORS)))

    async def some(transport: ElasticTransport) -> None:
        for _ in range(5):
            await infer(transport)

    talk(server, some)
    assert (len(server.received), server.connections) == (5, 1)
