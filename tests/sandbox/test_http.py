"""HTTP/1.1 as clients use it."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.client
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import numpy as np
import pytest

from airflow_provider_modelstudio.sandbox.server import ExposedError, Sandbox, is_loopback
from tests.sandbox.loopback import EMBED, ask, exchange, infer, raw_request


def connection(server):
    address = urlsplit(server.url)
    return http.client.HTTPConnection(address.hostname, address.port, timeout=10)


def test_a_connection_is_kept(sandbox):
    """Many requests over one socket, refusals included."""
    talk = connection(sandbox)
    for _ in range(3):
        for path in ("/", "/no/where"):
            talk.request("GET", path)
            sock = talk.sock
            talk.getresponse().read()
            assert talk.sock is sock is not None
    talk.close()


def test_close_is_honoured(sandbox):
    """A client that asks for a close gets it, with the answer."""
    came, end = exchange(sandbox)
    assert came.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"connection: close\r\n" in came
    assert end == "closed"


def test_http_1_0_is_closed_after_the_answer(sandbox):
    """Without keep-alive the old version ends the connection."""
    came, end = exchange(sandbox, b"GET / HTTP/1.0\r\n\r\n")
    assert came.startswith(b"HTTP/1.1 200 OK")
    assert end == "closed"


def test_requests_may_be_sent_ahead(sandbox):
    """Pipelined requests are answered in order."""
    ahead = b"GET /first/is/unknown HTTP/1.1\r\n\r\n" + raw_request(headers=["connection: close"])
    came, _ = exchange(sandbox, ahead)
    assert came.index(b"HTTP/1.1 400") < came.index(b"HTTP/1.1 200")


def test_a_body_may_come_in_chunks(sandbox):
    """As clients send bodies of unknown length, with a trailer even."""
    body = b'4\r\n{"in\r\n8;x=y\r\nput":"a"\r\n1\r\n}\r\n0\r\nx-trailer: 1\r\n\r\n'
    head = f"POST {EMBED} HTTP/1.1\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    came, _ = exchange(sandbox, head.encode() + body)
    assert came.startswith(b"HTTP/1.1 200")


def test_a_body_may_be_compressed(sandbox):
    """As the clients' option to compress sends it; a damaged one is refused."""
    zipped = gzip.compress(json.dumps({"input": "a"}).encode())
    got = ask(sandbox, "POST", EMBED, zipped, {"content-encoding": "gzip"})
    assert got.status == 200
    assert ask(sandbox, "POST", EMBED, zipped[:-12], {"content-encoding": "gzip"}).status == 400
    assert ask(sandbox, "POST", EMBED, b"plain", {"content-encoding": "gzip"}).status == 400


def test_answers_are_compressed_for_those_who_ask(sandbox):
    """With ``Accept-Encoding: gzip``, as Elasticsearch does without TLS."""
    got = ask(sandbox, "POST", EMBED, {"input": "a"}, {"accept-encoding": "gzip, deflate"})
    assert got.headers["content-encoding"] == "gzip"
    assert gzip.decompress(got.raw) == infer(sandbox, EMBED, "a").raw


def test_expect_is_answered(sandbox):
    """A client that waits for leave to send its body gets it."""
    address = urlsplit(sandbox.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as sock:
        sock.sendall(raw_request(headers=["expect: 100-continue"], body=b"").replace(b"length: 0", b"length: 13"))
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b'{"input":"a"}')
        assert sock.recv(100).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 20_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 200_000, 431),
        (b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 200000000\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nfffffffff\r\n", 413),
    ],
)
def test_what_is_no_request(sandbox, request_, status):
    """One refusal, then the connection is closed."""
    came, _ = exchange(sandbox, request_)
    assert came.startswith(f"HTTP/1.1 {status} ".encode())


def test_a_client_that_leaves_half_way_harms_nobody(sandbox):
    """Half a head, half a body: the next client is served."""
    for part in (b"GET / HT", raw_request()[:-5]):
        address = urlsplit(sandbox.url)
        with socket.create_connection((address.hostname, address.port)) as sock:
            sock.sendall(part)
    assert ask(sandbox, "GET", "/").status == 200


def test_ids_in_paths_may_be_encoded(sandbox):
    """Clients percent-encode what they put into a path."""
    assert ask(sandbox, "GET", "/_inference/bailian%5Fmm").status == 200


def test_sixty_four_connections_at_once(start):
    """Each gets its own answers, in order, while latency overlaps."""
    server = start(latency=0.02)
    address = urlsplit(server.url)

    async def client(name):
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        found = []
        for i in range(3):
            writer.write(
                raw_request(body=json.dumps({"input": [f"{name} {i}"]}).encode(), headers=["accept: application/json"])
            )
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            size = int(await reader.readline(), 16)
            found.append(await reader.readexactly(size))
            assert await reader.readexactly(7) == b"\r\n0\r\n\r\n"
        writer.close()
        await writer.wait_closed()
        return found

    async def main():
        return await asyncio.gather(*(client(name) for name in range(64)))

    answers = asyncio.run(main())
    assert server.most_in_flight > 32
    assert len(server.bill) == 192
    for name in (0, 63):
        for i in range(3):
            assert answers[name][i] == infer(server, EMBED, [f"{name} {i}"]).raw


class Slow:
    """An engine that answers when it is let."""

    dimensions = 1
    description = "slow"

    def __init__(self):
        self.asked = threading.Event()
        self.let = threading.Event()

    def embed(self, texts, *, query):
        self.asked.set()
        assert self.let.wait(10)
        return np.ones((len(texts), 1), np.float32)


def test_a_busy_model_does_not_hold_up_the_others(start):
    """While a large question is worked on, other requests are answered."""
    engine = Slow()
    server = start(engine=engine, dimensions=None)
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(infer, server, EMBED, ["text " * 20_000])
        assert engine.asked.wait(10)
        assert ask(server, "GET", "/").status == 200
        engine.let.set()
        assert slow.result().status == 200


def test_only_loopback_without_further_ado():
    """A server without protection is not opened to others by accident."""
    with pytest.raises(ExposedError, match=r"0\.0\.0\.0 is reachable from other machines"):
        Sandbox(host="0.0.0.0", engine="hashed")  # noqa: S104 - refused, which is the point
    assert [is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost", "0.0.0.0", "example.org")] == [  # noqa: S104
        True,
        True,
        True,
        True,
        False,
        False,
    ]


def test_a_taken_port_is_an_error_at_the_start(start):
    """The second server does not start, and its thread is gone."""
    server = start()
    with pytest.raises(OSError, match="in use"):
        Sandbox(engine="hashed", port=server.port).start()


def test_stopping_closes_open_connections(start):
    """A client in the middle of a wait sees the end at once; stopping twice is allowed."""
    server = start(latency=5)
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as sock:
        sock.sendall(raw_request())
        while not server.bill:
            time.sleep(0.001)
        server.stop()
        server.stop()
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(100) == b""
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((address.hostname, address.port), timeout=1)
