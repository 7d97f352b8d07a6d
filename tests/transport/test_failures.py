"""What becomes of a call that fails: one error that says where, why, and whether it may have been billed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

import pytest

from airflow_provider_modelstudio.inference.errors import Fault, RequestError
from tests.transport.loopback import CBOR, Received, error, reply, saying

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from airflow_provider_modelstudio.inference.tasks import Answer
    from airflow_provider_modelstudio.inference.transport import ElasticTransport

BODY = b'{"input":["one","two"]}'
UPSTREAM_503 = (
    "Received a server error status code for request from inference entity id [bailian_embeddings] status [503]. "
    "Error message: [ModelServiceFailed]"
)


async def infer(transport: ElasticTransport) -> Answer:
    return await transport.infer("text_embedding", "bailian_embeddings", BODY, expect_bytes=1000)


async def describe(transport: ElasticTransport) -> object:
    return await transport.describe("text_embedding", "bailian_embeddings")


@pytest.fixture
def failing(serve, talk):
    def run(handler, conversation=infer, **settings) -> RequestError:
        with pytest.raises(RequestError) as caught:
            talk(serve(handler), conversation, **settings)
        return caught.value

    return run


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_nothing_is_sent_twice(serve, talk, status):
    """Whatever the status, exactly one POST arrives: repeating is somebody else's decision."""
    server = serve(saying(error(status, "no")))
    with pytest.raises(RequestError) as caught:
        talk(server, infer)
    assert (len(server.posts), caught.value.status) == (1, status)


def test_outage_of_the_model_inside_a_400(failing):
    """An upstream 503 that Elasticsearch wraps into 400 shows as upstream_status."""
    failed = failing(saying(error(400, UPSTREAM_503)))
    assert (failed.fault, failed.status, failed.upstream_status) == (Fault.HTTP, 400, 503)
    assert failed.reason == UPSTREAM_503
    assert "the model service 503" in str(failed)


def test_reason_hidden_in_caused_by(failing):
    """The innermost reason is told, and a status anywhere in the chain is found."""
    inner = {"type": "illegal_argument_exception", "reason": "DataInspectionFailed"}
    middle = {"type": "status_exception", "reason": "... status [400]. Error message: [..]", "caused_by": inner}
    failed = failing(saying(error(400, "validation call to service threw an exception", caused_by=middle)))
    assert (failed.reason, failed.upstream_status, failed.error_type) == (
        "DataInspectionFailed",
        400,
        "status_exception",
    )


def test_error_in_cbor(failing):
    """An error that comes as CBOR is read like one in JSON."""
    told = {"error": {"type": "security_exception", "reason": "unable to authenticate"}, "status": 401}
    failed = failing(saying(reply(401, told, media=CBOR)))
    assert (failed.status, failed.error_type, failed.reason) == (401, "security_exception", "unable to authenticate")


def test_message_says_what_where_and_why(failing):
    """The message holds method, path, host, status and reason, for whoever is called at night."""
    text = str(failing(saying(error(404, "Inference endpoint not found [bailian_embeddings]"))))
    for part in ("POST", "/_inference/text_embedding/bailian_embeddings", "127.0.0.1", "404", "endpoint not found"):
        assert part in text


@pytest.mark.parametrize(
    ("answer", "billed"),
    [
        (error(408, "Request timed out after [30s]"), True),
        (error(429, "Request timed out after [30s] for inference id [x]", "timeout_exception"), True),
        (error(429, "Received a rate limit status code ... status [429]"), False),
        (error(429, "Failed to execute task because the request service [x] queue is full"), False),
        (error(400, UPSTREAM_503), False),
        (error(503, "no node"), False),
        (reply(502, b"<h1>Bad gateway</h1>", media="text/html", product=False), True),
        (reply(504, b"<h1>Timeout</h1>", media="text/html", product=False), True),
        (reply(503, b"<h1>Maintenance</h1>", media="text/html", product=False), False),
        (reply(502, b"", media="", product=False), True),
        (reply(504, b"", media="", product=False), True),
        (reply(503, b"", media="", product=False), False),
        (reply(502, b"", media=""), False),
        (error(502, "no"), False),
    ],
)
def test_what_may_have_been_billed(failing, answer, billed):
    """A timeout of Elasticsearch (408, or 429 by text) or of a gateway may have been billed, a refusal has not."""
    assert failing(saying(answer)).maybe_billed is billed


def test_free_calls_are_never_billed(failing):
    """No failure of a free call claims that money may be gone."""

    async def hang_up(received: Received, writer: asyncio.StreamWriter) -> None:
        writer.close()

    for handler in (saying(error(408, "Request timed out after [30s]")), hang_up):
        assert failing(handler, describe).maybe_billed is False


@pytest.mark.parametrize("status", [401, 413, 429, 502])
def test_page_of_a_proxy_with_an_error(failing, status):
    """HTML with an error status is told as such, with its status and its first characters."""
    page = b"<html><h1>Nope</h1>" + b"x" * 5000
    failed = failing(saying(reply(status, page, media="text/html", product=False, retry_after="7")))
    assert (failed.fault, failed.status, failed.retry_after) == (Fault.NOT_ELASTICSEARCH, status, 7.0)
    assert "not Elasticsearch" in str(failed)
    assert "<h1>Nope</h1>" in str(failed)
    assert len(str(failed)) < 400


@pytest.mark.parametrize("answer", [reply(413, b"", media=""), reply(413, b"", media="", product=False)])
def test_refusal_without_a_body(failing, answer):
    """Elasticsearch refuses too long bodies without a word; nothing says that it was a proxy."""
    failed = failing(saying(answer))
    assert (failed.fault, failed.status) == (Fault.HTTP, 413)


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"[]",
        b'{"error":' * 100_000,
        b'{"error":null}',
        b'{"error":"Incorrect HTTP method"}',
        b'{"error":{"reason":5,"type":[],"root_cause":{},"caused_by":"x"}}',
        b'{"error":{"reason":"' + b"y" * 100_000 + b'"}}',
        b"\xff\xfe\x00",
        b"z" * 3_000_000,
    ],
)
def test_odd_error_bodies(failing, body):
    """Whatever an error holds, it becomes one RequestError with the status and a bounded message."""
    failed = failing(saying(reply(500, body)))
    assert failed.status == 500
    assert len(failed.reason) <= 500
    assert len(str(failed)) < 1000


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("299", 299.0),
        ("86400", 300.0),
        ("9" * 400, 300.0),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("1e3", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_in_seconds(failing, value, seconds):
    """A pause in seconds is passed on, at most 300; what makes no sense is ignored."""
    answer = error(429, "slow down").replace(b"\r\n", f"\r\nRetry-After: {value}\r\n".encode(), 1)
    assert failing(saying(answer)).retry_after == seconds


@pytest.mark.parametrize(("ahead", "seconds"), [(30, 30.0), (100_000, 300.0), (-60, None)])
def test_retry_after_as_a_date(failing, ahead, seconds):
    """A date is measured by the server's own clock, so that ours may be wrong."""
    there = datetime(2031, 5, 1, 12, tzinfo=UTC)
    dates = f"\r\nDate: {format_datetime(there, usegmt=True)}\r\nRetry-After: "
    dates += f"{format_datetime(there + timedelta(seconds=ahead), usegmt=True)}\r\n"
    answer = error(503, "later").replace(b"\r\n", dates.encode(), 1)
    assert failing(saying(answer)).retry_after == seconds


def test_retry_after_as_a_date_without_a_clock(failing):
    """Where the answer names no time of its own, ours is used."""
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    answer = error(503, "later").replace(b"\r\n", f"\r\nRetry-After: {moment}\r\n".encode(), 1)
    assert failing(saying(answer)).retry_after == pytest.approx(60, abs=5)


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@pytest.mark.parametrize(
    ("sent", "fault"),
    [
        (b"", Fault.CONNECTION),
        (b"HTTP/1.1 200 OK\r\ncontent-le", Fault.CONNECTION),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\n{", Fault.CUT),
    ],
)
def test_connection_reset(failing, sent, fault):
    """A reset before or within the headers is a broken connection, after them a cut answer; each may have been billed."""

    async def handler(received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await writer.drain()
        reset(writer)

    failed = failing(handler)
    assert (failed.fault, failed.status, failed.maybe_billed) == (fault, None, True)


@pytest.mark.parametrize(
    ("sent", "fault"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 5000\r\n\r\n{}", Fault.CUT),
        (
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nff\r\n{",
            Fault.CUT,
        ),
        (b"", Fault.CONNECTION),
    ],
)
def test_answer_cut_short(failing, sent, fault):
    """Fewer bytes than announced are no answer, whatever they hold."""

    async def handler(received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await writer.drain()
        writer.close()

    failed = failing(handler)
    assert (failed.fault, failed.maybe_billed) == (fault, True)


@pytest.mark.parametrize(
    "sent", [b"SSH-2.0-OpenSSH_9.6\r\n\r\n", b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n"]
)
def test_answer_that_is_no_http(failing, sent):
    """Another protocol on the port, or headers without end, are told apart from Elasticsearch."""
    assert failing(saying(sent)).fault is Fault.NOT_ELASTICSEARCH


def test_nobody_listens(failing, serve, talk):
    """A refused connection has sent nothing, so nothing was billed."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        failed = failing(saying(b""), url=url)
    assert (failed.fault, failed.maybe_billed) == (Fault.CONNECTION, False)
    assert "no connection" in failed.reason


def test_name_that_does_not_exist(failing):
    """A name without an address is a failed connection, not a crash."""
    failed = failing(saying(b""), url="https://es.invalid")
    assert (failed.fault, failed.maybe_billed) == (Fault.CONNECTION, False)


ANSWER = reply(200, {"text_embedding": [{"embedding": [0.5]}]})
DEAD, LIVE = "127.0.0.77", "127.0.0.1"


@pytest.mark.parametrize("first", [[DEAD], []], ids=["dead address", "no address"])
def test_a_name_is_looked_up_anew_for_each_connection(serve, talk, names, first):
    """A name that led nowhere a moment ago is asked for again, and the address that it has now is taken."""
    server = serve(saying(ANSWER))
    names.answers["es.example"] = [first, [LIVE]]

    async def twice(transport: ElasticTransport) -> RequestError:
        with pytest.raises(RequestError) as caught:
            await infer(transport)
        await infer(transport)
        return caught.value

    failed = talk(server, twice, allow_http=True, url=f"http://es.example:{server.port}", connect_timeout=1.0)
    assert (failed.fault, failed.maybe_billed) == (Fault.CONNECTION, False)
    assert names.looked == ["es.example"] * 2
    assert len(server.posts) == 1


def test_who_moves_is_found_at_the_next_connection(serve, talk, names):
    """The first server goes away, the name leads to another one: no new connection seeks it where it was."""
    closing = reply(200, {"text_embedding": [{"embedding": [0.5]}]}, connection="close")

    async def handler(received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(closing)
        await writer.drain()
        writer.close()

    server = serve(handler)
    names.answers["es.example"] = [[LIVE], [LIVE], [DEAD], [LIVE]]

    async def four_times(transport: ElasticTransport) -> list[bool]:
        return [not isinstance(one, Exception) for one in [await quietly(infer(transport)) for _ in range(4)]]

    async def quietly(asking: Awaitable[Answer]) -> object:
        return (await asyncio.gather(asking, return_exceptions=True))[0]

    came = talk(server, four_times, allow_http=True, url=f"http://es.example:{server.port}", connect_timeout=1.0)
    assert came == [True, True, False, True]
    assert len(names.looked) == 4


def test_connections_that_are_opened_at_one_time_share_a_look(serve, talk, names):
    """A slow name server is not asked by every one of many requests; a connection that stays open asks it no more."""
    server = serve(saying(ANSWER))
    names.answers["es.example"] = [[LIVE]]

    async def many(transport: ElasticTransport) -> None:
        await asyncio.gather(*(infer(transport) for _ in range(20)))
        await infer(transport)

    talk(server, many, allow_http=True, url=f"http://es.example:{server.port}")
    assert len(server.posts) == 21
    assert len(names.looked) == 1


@pytest.fixture
def silent():
    """Makes an address that takes no connection and refuses none, as a host does that lost its power."""
    with contextlib.ExitStack() as until_end:

        def make(port: int) -> None:
            listener = until_end.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((DEAD, port))
            listener.listen(0)
            for _ in range(3):  # its queue is full from now on
                caller = until_end.enter_context(socket.socket())
                caller.setblocking(False)
                caller.connect_ex((DEAD, port))

        yield make


@pytest.mark.parametrize("how", ["refuses", "is silent"])
@pytest.mark.parametrize("order", [[DEAD, LIVE], [LIVE, DEAD]], ids=["dead one first", "dead one last"])
def test_a_dead_address_among_several_is_passed_over(serve, talk, names, silent, order, how):
    """One of the hosts behind a name is dead: the other one answers, in far less than a connection may take."""
    server = serve(saying(ANSWER))
    if how == "is silent":
        silent(server.port)
    names.answers["es.example"] = [order]
    began = time.monotonic()
    talk(server, infer, allow_http=True, url=f"http://es.example:{server.port}", connect_timeout=20.0)
    assert time.monotonic() - began < 5
    assert len(server.posts) == 1


@pytest.mark.parametrize(
    "first", [b"", b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n"]
)
def test_one_deadline_over_the_whole_answer(serve, talk, first):
    """A server that drips a byte now and then, in the headers or in the body, is given up at the deadline."""

    async def drip(received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        for byte in b"HTTP/1.1 200 OK\r\n" + b"x" * 1000:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.01)

    began = time.monotonic()
    with pytest.raises(RequestError) as caught:
        talk(serve(drip), infer, server_timeout=0.02, round_trip=0.03)
    took = time.monotonic() - began
    assert (caught.value.fault, caught.value.maybe_billed) == (Fault.TIMEOUT, True)
    assert took < 1


@pytest.mark.parametrize("announced", [True, False])
def test_answer_longer_than_the_question_allows(serve, talk, announced):
    """An endless answer is cut off while it is read: the rest is neither waited for nor kept."""
    written = 0

    async def flood(received: Received, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        length = "content-length: 5000000000" if announced else "transfer-encoding: chunked"
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{length}\r\n\r\n".encode())
        block = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        for _ in range(2000):
            writer.write(block)
            written += len(block)
            await writer.drain()

    with pytest.raises(RequestError) as caught:
        talk(serve(flood), infer)
    assert (caught.value.fault, caught.value.maybe_billed) == (Fault.TOO_LARGE, True)
    assert written < 50_000_000


def test_answer_of_about_the_expected_size_is_read(serve, talk):
    """The cap leaves room: twice what is expected still comes through."""
    answer = talk(serve(saying(reply(200, b"x" * 1_050_000))), infer)
    assert len(answer.body) == 1_050_000


def test_cancelling_a_call_is_not_an_error(serve, talk):
    """A cancelled call ends as cancelled, so that a stop of the run is not taken for a failed request."""

    async def never(received: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    async def cancel(transport: ElasticTransport) -> bool:
        call = asyncio.ensure_future(infer(transport))
        await asyncio.sleep(0.03)
        call.cancel()
        await asyncio.wait([call])
        return call.cancelled()

    assert talk(serve(never), cancel)


def test_other_calls_survive_one_that_breaks(serve, talk):
    """A reset concerns its own call only."""

    async def every_third(received: Received, writer: asyncio.StreamWriter) -> None:
        if b"break" in received.body:
            reset(writer)
        else:
            writer.write(reply(200, {"text_embedding": []}))

    async def some(transport: ElasticTransport) -> list[bool]:
        bodies = [b'{"input":["break"]}' if i % 3 == 0 else BODY for i in range(30)]
        calls = [transport.infer("text_embedding", "x", body, expect_bytes=10) for body in bodies]
        return [isinstance(done, RequestError) for done in await asyncio.gather(*calls, return_exceptions=True)]

    assert talk(serve(every_third), some) == [i % 3 == 0 for i in range(30)]
