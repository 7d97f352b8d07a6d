"""Which connection a question goes over: names, proxies, and what is kept for the next one."""

from __future__ import annotations

import asyncio
import base64
import select
import socket
import time
import traceback
from typing import TYPE_CHECKING

import pytest

from airflow_provider_modelstudio.inference.errors import Fault, RequestError
from airflow_provider_modelstudio.inference.transport import ElasticTransport
from airflow_provider_modelstudio.inference.transport.address import ClusterConfig
from airflow_provider_modelstudio.inference.transport.node import ElasticNode
from tests.transport.certificates import certificate
from tests.transport.loopback import Loopback, Received, reply, saying, tunnel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from airflow_provider_modelstudio.inference.tasks import Answer

ANSWER = reply(200, {"text_embedding": []})
LOGIN = "me:pröxy-canary%2F1"


async def infer(transport: ElasticTransport) -> Answer:
    return await transport.infer("text_embedding", "x", b'{"input":["one"]}', expect_bytes=10)


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110  # what a server did in its own thread sets no event here
            await asyncio.sleep(0.005)


# ------------------------------------------------------------------------------------------------------------ the wire


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://127.0.0.1:9200", "127.0.0.1:9200"),
        ("http://127.0.0.1", "127.0.0.1"),
        ("https://es.example.com:443", "es.example.com"),
        ("https://es.example.com.:9200", "es.example.com:9200"),
        ("https://[2001:db8::1]:9200", "[2001:db8::1]:9200"),
        ("https://[2001:db8::1]", "[2001:db8::1]"),
        ("http://[::1]:443", "[::1]:443"),
    ],
)
def test_host_of_a_request(url, host):
    """Brackets around IPv6, a port where it is not the scheme's own, no dot at the end."""
    assert ElasticNode(ClusterConfig(url=url))._host == host


def test_nothing_is_sent_but_what_was_asked_for(serve, talk):
    """The headers are ours, and what HTTP needs."""
    server = serve(saying(ANSWER))
    talk(server, infer)
    (sent,) = server.received
    assert sorted(sent.headers) == ["accept", "authorization", "content-length", "content-type", "host", "user-agent"]
    assert sent.headers["host"] == f"127.0.0.1:{server.port}"


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\nb", "canary\r"])
def test_no_header_makes_another_one(serve, loops, value):
    """A line break in a header is refused before anything is sent, and not quoted."""
    server = serve(saying(ANSWER))

    async def main() -> None:
        node = ElasticNode(ClusterConfig(url=server.url))
        with pytest.raises(ValueError, match="a header holds a line break") as caught:
            await node.exchange("GET", "/", body=None, headers={"x": value}, deadline=5, most_bytes=10)
        assert "canary" not in str(caught.value)

    with asyncio.Runner(loop_factory=loops) as runner:
        runner.run(main())
    assert server.connections == 0


def test_ipv6(serve, talk):
    """A cluster may be at an address of IPv6."""
    with socket.socket(socket.AF_INET6) as there:
        try:
            there.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
    server = serve(saying(ANSWER), host="::1")
    assert talk(server, infer).body
    assert server.received[0].headers["host"] == f"[::1]:{server.port}"


# ------------------------------------------------------------------------------------------------------------ the pool


async def hang_up(received: Received, writer: asyncio.StreamWriter) -> None:
    """Answer, and close a moment later: what a server does when a connection has been idle for too long for it."""
    writer.write(ANSWER)
    await writer.drain()
    writer.close()


async def chatter(received: Received, writer: asyncio.StreamWriter) -> None:
    writer.write(ANSWER)
    await writer.drain()
    await asyncio.sleep(0.01)
    writer.write(ANSWER)


@pytest.mark.parametrize("handler", [hang_up, chatter], ids=["closed", "spoken on"])
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "TLS"])
def test_a_connection_that_went_stale_is_not_used(serve, talk, tmp_path, handler, encrypted):
    """Closed by the server, or spoken on while nobody asked: the next question goes over another connection."""
    context, file = certificate(tmp_path) if encrypted else (None, None)
    server = serve(handler, tls=context)

    async def twice(transport: ElasticTransport) -> None:
        await infer(transport)
        resting = list(transport._node._idle)  # none, where the end came with the answer
        await until(lambda: all(one.closed for one in resting))
        await infer(transport)

    talk(server, twice, ca_certificate=str(file) if file else None)
    assert (len(server.posts), server.connections) == (2, 2)


@pytest.mark.parametrize("end", ["closed", "reset", "spoken on"])
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "TLS"])
def test_what_lies_unread_is_seen_before_a_connection_is_used(serve, talk, tmp_path, end, encrypted):
    """A loop that was busy has not read yet that the server closed, or what it said unasked."""
    context, file = certificate(tmp_path) if encrypted else (None, None)
    back = asyncio.Event()

    async def handler(received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(200, {"text_embedding": [len(server.posts)]}))
        await writer.drain()
        if len(server.posts) > 1:
            return
        await back.wait()
        if end == "closed":
            writer.close()
        elif end == "reset":
            writer.transport.abort()
        else:
            writer.write(reply(200, {"text_embedding": ["unasked"]}))

    server: Loopback = serve(handler, tls=context)

    async def twice(transport: ElasticTransport) -> bytes:
        await infer(transport)
        (connection,) = transport._node._idle
        server._loop.call_soon_threadsafe(back.set)
        assert select.select([connection.transport.get_extra_info("socket").fileno()], [], [], 5)[0]  # the loop stands
        assert not connection.closed
        return (await infer(transport)).body

    assert talk(server, twice, ca_certificate=str(file) if file else None) == b'{"text_embedding": [2]}'
    assert (len(server.posts), server.connections) == (2, 2)


def test_a_question_is_not_asked_again_when_its_connection_breaks(serve, talk):
    """A server that closes at the very moment of a question may have read it: an error, and no second POST."""

    async def once(received: Received, writer: asyncio.StreamWriter) -> None:
        if len(server.received) == 1:
            writer.write(ANSWER)
        else:
            writer.close()

    server: Loopback = serve(once)

    async def twice(transport: ElasticTransport) -> RequestError:
        await infer(transport)
        with pytest.raises(RequestError) as caught:
            await infer(transport)
        return caught.value

    failed = talk(server, twice)
    assert (failed.fault, failed.maybe_billed, len(server.posts)) == (Fault.CONNECTION, True, 2)


class Later(asyncio.SelectorEventLoop):
    """A loop whose clock can be put forward."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


@pytest.mark.parametrize(("seconds", "connections"), [(14.5, 1), (15.5, 2)])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_connection_rests_for_fifteen_seconds_at_most(serve, seconds, connections, at_once):
    """Servers, and what is between, close theirs at some time: ours is closed before, whether anybody asks or not."""
    server = serve(saying(ANSWER))

    async def main() -> None:
        transport = ElasticTransport(ClusterConfig(url=server.url))
        await infer(transport)
        (connection,) = transport._node._idle
        loop.ahead = seconds
        if not at_once:
            await asyncio.sleep(0.01)
            assert connection.closed is (connections == 2)
        await infer(transport)
        await transport.aclose()

    with asyncio.Runner(loop_factory=Later) as runner:
        loop = runner.get_loop()
        runner.run(main())
    assert server.connections == connections


def test_the_connection_used_last_is_used_next(serve, talk):
    """So that those of a busy time can close when there is less to do."""
    server = serve(saying(ANSWER))

    async def some(transport: ElasticTransport) -> None:
        await asyncio.gather(*(infer(transport) for _ in range(3)))
        resting = list(transport._node._idle)
        assert len(resting) == 3
        await infer(transport)
        assert transport._node._idle == resting
        assert resting[-1].idle_since == max(one.idle_since for one in resting)

    talk(server, some)


@pytest.mark.parametrize("how", ["cancelled", "late"])
def test_a_question_that_was_given_up_closes_its_connection(serve, talk, how):
    """Its answer, should it come, is not taken for the answer to the next question."""
    release = asyncio.Event()

    async def first_is_slow(received: Received, writer: asyncio.StreamWriter) -> None:
        if len(server.received) == 1:
            await release.wait()
            writer.write(reply(200, {"text_embedding": ["of the first"]}))
        else:
            writer.write(ANSWER)

    server: Loopback = serve(first_is_slow)

    async def main(transport: ElasticTransport) -> bytes:
        asking = asyncio.ensure_future(infer(transport))
        await until(lambda: server.received)
        if how == "cancelled":
            asking.cancel()
        await asyncio.wait([asking])
        await until(lambda: not transport._node._connections)
        server._loop.call_soon_threadsafe(release.set)
        return (await infer(transport)).body

    given = {"server_timeout": 0.1, "round_trip": 0.1} if how == "late" else {}
    assert b"first" not in talk(server, main, **given)
    assert server.connections == 2


def test_nothing_is_open_after_closing(serve, talk):
    """aclose() closes what rests and what still asks, and who waits is told."""

    async def never(received: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    server = serve(never)

    async def main(transport: ElasticTransport) -> BaseException | None:
        asking = asyncio.ensure_future(infer(transport))
        await until(lambda: server.received)
        await transport.aclose()
        await asyncio.wait([asking])
        assert not transport._node._connections
        return asking.exception()

    failed = talk(server, main)
    assert isinstance(failed, RequestError)
    assert failed.maybe_billed


def test_who_is_still_connecting_sends_nothing_after_closing(serve, talk):
    """A connection that comes about after aclose() is closed unused, and who waited is told that nothing was sent."""
    server = serve(saying(ANSWER))

    async def main(transport: ElasticTransport) -> BaseException | None:
        loop = asyncio.get_running_loop()
        here, go, connect = asyncio.Event(), asyncio.Event(), loop.create_connection

        async def slowly(*given: object, **options: object) -> object:
            made = await connect(*given, **options)
            here.set()
            await go.wait()
            return made

        loop.create_connection = slowly
        asking = asyncio.ensure_future(infer(transport))
        await here.wait()
        await transport.aclose()
        go.set()
        await asyncio.wait([asking])
        assert not transport._node._connections
        await until(lambda: server.connections == 1)
        await asyncio.sleep(0.01)
        return asking.exception()

    failed = talk(server, main)
    assert isinstance(failed, RequestError)
    assert (failed.fault, failed.maybe_billed, server.received) == (Fault.CONNECTION, False, [])


@pytest.mark.parametrize("turns", [1, 5], ids=["not begun", "begun"])
def test_closing_while_a_name_is_looked_up(serve, talk, names, turns):
    """Who waits for an address is told that nothing was sent, and is not cancelled; the next one looks anew."""
    server = serve(saying(ANSWER))
    names.answers["es.example"] = [["127.0.0.1"]]

    async def main(transport: ElasticTransport) -> list[object]:
        loop = asyncio.get_running_loop()
        look_up = loop.getaddrinfo

        async def never(*_: object, **__: object) -> None:
            await asyncio.sleep(60)

        loop.getaddrinfo = never
        asking = [asyncio.ensure_future(infer(transport)) for _ in range(3)]
        for _ in range(turns):
            await asyncio.sleep(0)
        await transport.aclose()
        loop.getaddrinfo = look_up
        told = await asyncio.gather(*asking, return_exceptions=True)
        await infer(transport)
        return told

    told = talk(server, main, allow_http=True, url=f"http://es.example:{server.port}")
    assert [(type(one), one.fault, one.maybe_billed) for one in told] == [(RequestError, Fault.CONNECTION, False)] * 3
    assert len(server.posts) == 1


# --------------------------------------------------------------------------------------------------------------- names


def test_who_stops_waiting_for_a_name_does_not_stop_the_others(serve, talk, names):
    """Ten wait for one look; nine are cancelled; the tenth is answered, and nobody looked twice."""
    server = serve(saying(ANSWER))
    names.answers["es.example"] = [["127.0.0.1"]]
    looked = names.look_up

    async def main(transport: ElasticTransport) -> None:
        loop = asyncio.get_running_loop()
        go = asyncio.Event()

        async def slowly(host: str, port: int, **options: int) -> object:
            await go.wait()
            return looked(host, port, **options)

        loop.getaddrinfo = slowly
        asking = [asyncio.ensure_future(infer(transport)) for _ in range(10)]
        await asyncio.sleep(0.01)
        for one in asking[:9]:
            one.cancel()
        await asyncio.wait(asking[:9])
        go.set()
        await asking[9]

    talk(server, main, allow_http=True, url=f"http://es.example:{server.port}")
    assert (len(server.posts), names.looked) == (1, ["es.example"])


def test_a_name_server_that_does_not_answer(serve, talk, names):
    """Time runs while a name is looked up, and nothing was sent: nothing was billed."""

    async def main(transport: ElasticTransport) -> None:
        async def never(*_: object, **__: object) -> None:
            await asyncio.sleep(60)

        asyncio.get_running_loop().getaddrinfo = never
        await infer(transport)

    began = time.monotonic()
    with pytest.raises(RequestError, match="no connection in time") as caught:
        talk(serve(saying(ANSWER)), main, allow_http=True, url="http://es.example:9200", connect_timeout=0.05)
    assert time.monotonic() - began < 5
    assert (caught.value.fault, caught.value.maybe_billed) == (Fault.CONNECTION, False)


def test_time_for_the_answer_runs_from_the_question_on(serve, talk, names):
    """Connecting that takes longer than an answer may leaves the server all of its time: it has to give up first."""
    server = serve(saying(ANSWER))
    names.answers["es.example"] = [["127.0.0.1"]]

    async def main(transport: ElasticTransport) -> Answer:
        loop = asyncio.get_running_loop()
        look_up = loop.getaddrinfo

        async def slowly(*given: object, **options: object) -> object:
            await asyncio.sleep(1)
            return await look_up(*given, **options)

        loop.getaddrinfo = slowly
        return await infer(transport)

    url = f"http://es.example:{server.port}"
    assert talk(server, main, allow_http=True, url=url, server_timeout=0.3, round_trip=0.3).body


@pytest.mark.parametrize("error", [TypeError, ValueError, UnicodeError, KeyError])
@pytest.mark.parametrize("method", ["getaddrinfo", "start_tls"])
def test_whatever_keeps_from_connecting(serve, talk, error, method):
    """Whatever a loop raises: it is no connection, nothing was billed, and what it says is not passed on."""

    async def main(transport: ElasticTransport) -> RequestError:
        async def broken(*_: object, **__: object) -> None:
            raise error("canary")

        setattr(asyncio.get_running_loop(), method, broken)
        with pytest.raises(RequestError) as caught:
            await infer(transport)
        await asyncio.sleep(0.01)  # closing a socket takes the loop a few rounds
        return caught.value

    server = serve(saying(ANSWER))
    failed = talk(server, main, url=server.url.replace("http:", "https:"))
    assert (failed.fault, failed.maybe_billed) == (Fault.CONNECTION, False)
    assert failed.reason == f"no connection: {error.__name__}"
    assert "canary" not in "".join(traceback.format_exception(failed))


def test_a_proxy_with_a_name_that_none_can_have(serve, talk):
    """A label too long for the name system is told like a name that leads nowhere."""
    proxy = f"http://me:canary-1@{'ü' * 70}.example:3128"
    with pytest.raises(RequestError, match="no connection: ") as caught:
        talk(serve(saying(ANSWER)), infer, url="https://es.example.com", proxy=proxy)
    assert (caught.value.fault, caught.value.maybe_billed) == (Fault.CONNECTION, False)


def test_a_forbidden_address_among_good_ones(serve, talk, names):
    """One address that only a trick would name spoils the name, whichever would have been taken."""
    server = serve(saying(ANSWER))
    names.answers["es.example"] = [["127.0.0.1", "169.254.169.254"]]
    with pytest.raises(RequestError, match=r"es\.example resolves to 169\.254\.169\.254: refused, this is") as caught:
        talk(server, infer, allow_http=True, url=f"http://es.example:{server.port}")
    assert (caught.value.fault, caught.value.maybe_billed, server.connections) == (Fault.CONNECTION, False, 0)


def test_a_server_that_takes_a_connection_and_says_nothing_of_tls(serve, talk, tmp_path):
    """The handshake is part of connecting, and connecting has its limit."""
    _, file = certificate(tmp_path)
    server = serve(saying(ANSWER))
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"https://127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(RequestError, match="in time") as caught:
            talk(server, infer, url=url, connect_timeout=0.1, ca_certificate=str(file))
    assert (caught.value.fault, caught.value.maybe_billed) == (Fault.CONNECTION, False)


# --------------------------------------------------------------------------------------------------------------- proxy


@pytest.fixture
def through(serve, talk, tmp_path):
    """Asks a server with TLS by a proxy, which speaks TLS itself where it is told to."""

    def run(
        handler: Callable[..., Awaitable[None]], *, encrypted: bool = False, **settings: object
    ) -> tuple[Answer, Loopback, Loopback]:
        context, file = certificate(tmp_path)
        server = serve(saying(ANSWER), tls=context)
        proxy = serve(handler, tls=context if encrypted else None)
        url = proxy.url.replace("//", f"//{LOGIN}@")
        return talk(server, infer, proxy=url, ca_certificate=str(file), **settings), server, proxy

    return run


@pytest.fixture
def refused(through):
    """The error where a proxy does not let us through, which shows nobody's login."""

    def run(handler: Callable[..., Awaitable[None]], **settings: object) -> RequestError:
        with pytest.raises(RequestError) as caught:
            through(handler, **settings)
        failed = caught.value
        assert "canary" not in str(failed) + repr(failed.__cause__) + repr(failed.__context__)
        return failed

    return run


@pytest.mark.parametrize("encrypted", [False, True], ids=["http", "https"])
def test_a_tunnel_through_a_proxy(through, encrypted):
    """The proxy sees where to and its login, and nothing of ours; with https:// not even that can be read on the way."""
    answer, server, proxy = through(tunnel, encrypted=encrypted)
    assert answer.body
    (asked,) = proxy.received
    assert (asked.method, asked.target) == ("CONNECT", f"127.0.0.1:{server.port}")
    login = base64.b64encode("me:pröxy-canary/1".encode("latin-1")).decode()
    assert asked.headers == {"host": f"127.0.0.1:{server.port}", "proxy-authorization": f"Basic {login}"}


def test_a_proxy_that_nobody_trusts(serve, talk, tmp_path):
    """A proxy with https:// has to prove who it is before it sees its login."""
    context, _ = certificate(tmp_path)
    proxy = serve(tunnel, tls=context)
    with pytest.raises(RequestError, match="certificate is not trusted") as caught:
        talk(proxy, infer, url="https://127.0.0.1:9", proxy=proxy.url)
    assert (caught.value.fault, caught.value.maybe_billed) == (Fault.CONNECTION, False)
    assert not proxy.received


@pytest.mark.parametrize(
    "said",
    [
        reply(407, b"who are you?", media="text/plain", product=False),
        reply(403, b"x" * 200_000, media="text/html", product=False),
        b"HTTP/1.1 302 Found\r\nlocation: https://elsewhere.example\r\n\r\n",
        b"HTTP/1.1 201 Made\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 4000,
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    ],
    ids=["407", "403", "redirect", "201", "endless", "interim for ever", "no HTTP"],
)
def test_a_proxy_that_refuses(refused, said):
    """Anything but 200 within 64 KiB is a refusal; nothing was sent to anybody else."""
    failed = refused(saying(said), connect_timeout=20.0)
    assert (failed.fault, failed.maybe_billed) == (Fault.NOT_ELASTICSEARCH, False)
    assert failed.reason == "the proxy refused to connect"


def test_a_proxy_that_is_slow(refused):
    """The tunnel is part of connecting, and connecting has its limit."""

    async def drip(received: Received, writer: asyncio.StreamWriter) -> None:
        for _ in range(1000):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.02)

    failed = refused(drip, connect_timeout=0.1)
    assert (failed.fault, failed.reason, failed.maybe_billed) == (Fault.CONNECTION, "no connection in time", False)


def test_a_proxy_that_hangs_up(refused):
    """A proxy that closes instead of answering has passed nothing on."""

    async def close(received: Received, writer: asyncio.StreamWriter) -> None:
        writer.close()

    failed = refused(close)
    assert (failed.fault, failed.maybe_billed) == (Fault.CONNECTION, False)
    assert "no connection" in failed.reason


def test_a_proxy_that_is_not_there(serve, talk):
    """A proxy that cannot be reached is told like a server that cannot."""
    server = serve(saying(ANSWER))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(RequestError, match="no connection: ") as caught:
            talk(server, infer, url="https://es.example.com", proxy=proxy)
    assert (caught.value.fault, caught.value.maybe_billed) == (Fault.CONNECTION, False)


def test_a_proxy_at_a_forbidden_address(serve, talk, names):
    """Where the proxy's name leads is judged as well."""
    names.answers["proxy.example"] = [["169.254.169.254"]]
    with pytest.raises(RequestError, match="refused, this is") as caught:
        talk(serve(saying(ANSWER)), infer, url="https://es.example.com", proxy="http://proxy.example:3128")
    assert not caught.value.maybe_billed
