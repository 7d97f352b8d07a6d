"""No key, no password and no text of a row leaves by an exception, a log or a repr, in whatever spelling."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import traceback
import urllib.parse
from typing import TYPE_CHECKING

import pytest

from airflow_provider_modelstudio.inference.errors import ModelStudioError
from airflow_provider_modelstudio.inference.transport import ElasticTransport
from airflow_provider_modelstudio.inference.transport.address import ApiKey, BasicAuth, ClusterConfig
from tests.transport.loopback import CBOR, Received, error, reply, saying

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = 'c4n"ary/k+y:p\\ä ss'
CLEAR = "canary-id:canary-key-0123456789"
ROW = 'row text canary: "Müller, 4711", line\nand more of it'
BODY = json.dumps({"input": [ROW, "other"]}).encode()

SHAPES = {
    "raw": SECRET,
    "login:password": f"elastic:{SECRET}",
    "base64": base64.b64encode(f"elastic:{SECRET}".encode()).decode(),
    "base64 alone": base64.b64encode(SECRET.encode()).decode(),
    "percent-encoded": urllib.parse.quote(SECRET, safe=""),
    "as in a form": urllib.parse.quote_plus(SECRET),
    "in JSON": json.dumps(SECRET)[1:-1],
    "in JSON with UTF-8": json.dumps(SECRET, ensure_ascii=False)[1:-1],
    "in a repr": repr(SECRET)[1:-1],
}


def everything_shown(exc: BaseException) -> Iterator[str]:
    """All that a log could show of an exception and of all it is chained to."""
    yield "".join(traceback.format_exception(exc))
    seen: set[int] = set()
    left: list[BaseException | None] = [exc]
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield from (str(one), repr(one), repr(one.args), repr(vars(one)))
        left += [one.__cause__, one.__context__]


def fail(server, auth) -> ModelStudioError:
    async def main() -> None:
        transport = ElasticTransport(
            ClusterConfig(url=server.url, auth=auth, connect_timeout=1, server_timeout=0.02, round_trip=0.05)
        )
        try:
            await transport.infer("text_embedding", "x", BODY, expect_bytes=10)
        finally:
            await transport.aclose()

    with pytest.raises(ModelStudioError) as caught:
        asyncio.run(main(), debug=True)
    return caught.value


async def close(received: Received, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def stall(received: Received, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(5)


def echo_of(shown: str) -> list:
    """Twenty-odd ways in which a server throws back what it was sent."""
    return [
        saying(error(status, f"refused: {shown} is no good", "security_exception"))
        for status in (400, 401, 403, 404, 408, 413, 429, 500)
    ] + [
        saying(
            reply(400, {"error": {"type": "x", "reason": "outer", "caused_by": {"reason": f"in {shown}"}}}, media=CBOR)
        ),
        saying(reply(400, {"error": shown})),
        saying(reply(400, {"error": {"type": shown, "reason": [shown]}})),
        saying(reply(502, f"<html>{shown}</html>".encode(), media="text/html", product=False)),
        saying(reply(200, f"<html>{shown}</html>".encode(), media="text/html", product=False)),
        saying(reply(302, b"", location="http://elsewhere.example/?" + urllib.parse.quote(shown))),
        saying(reply(500, shown.encode(), media="text/plain")),
        saying(b"HTTP/1.1 " + shown.encode().replace(b"\n", b" ") + b"\r\n\r\n"),
        saying(shown.encode() + b"\r\n\r\n"),
        close,
        stall,
    ]


@pytest.fixture
def quiet_canary(caplog):
    """Fails a test in which one of the given texts was logged, at any level, by any logger."""
    hidden: list[str] = []
    node = logging.getLogger("elastic_transport.node")
    node.addHandler(caplog.handler)
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, "elastic_transport.node"):
        yield hidden
    node.removeHandler(caplog.handler)
    for text in hidden:
        assert text not in caplog.text


@pytest.mark.parametrize("shape", SHAPES)
def test_password_in_every_shape(serve, quiet_canary, shape):
    """A server that echoes the password in any of nine spellings, in nineteen ways, gets it shown nowhere."""
    quiet_canary += SHAPES.values()
    for handler in echo_of(SHAPES[shape]):
        failed = fail(serve(handler), BasicAuth("elastic", SECRET))
        for text in everything_shown(failed):
            for hidden in SHAPES.values():
                assert hidden not in text


@pytest.mark.parametrize("given", [CLEAR, base64.b64encode(CLEAR.encode()).decode()])
def test_api_key_in_every_shape(serve, quiet_canary, given):
    """An API key is hidden as it was typed, encoded, decoded, and by its secret half alone."""
    encoded = base64.b64encode(CLEAR.encode()).decode()
    shapes = [CLEAR, encoded, encoded.rstrip("="), "canary-key-0123456789", urllib.parse.quote(encoded, safe="")]
    quiet_canary += shapes
    for shape in shapes:
        for handler in echo_of(shape):
            failed = fail(serve(handler), ApiKey.from_text(given))
            for text in everything_shown(failed):
                for hidden in shapes:
                    assert hidden not in text


@pytest.mark.parametrize("echo", [ROW, ROW[5:30], json.dumps(ROW)[1:-1], json.dumps(ROW, ensure_ascii=False)[1:-1]])
def test_text_of_a_row(serve, quiet_canary, echo):
    """A service that repeats the text it refuses does not get it into our log, not even in part."""
    quiet_canary += ["4711", "row text canary"]
    for handler in echo_of(echo):
        failed = fail(serve(handler), BasicAuth("elastic", SECRET))
        for text in everything_shown(failed):
            assert "4711" not in text
            assert "row text canary" not in text


def test_success_logs_neither_question_nor_key(serve, quiet_canary):
    """The log of a call that went well holds sizes, not contents, at DEBUG and with the client's own logger on."""
    quiet_canary += [*SHAPES.values(), "4711", "answer canary"]
    server = serve(saying(reply(200, {"completion": [{"result": "answer canary"}]})))

    async def main() -> None:
        transport = ElasticTransport(ClusterConfig(url=server.url, auth=BasicAuth("elastic", SECRET)))
        await transport.infer("completion", "x", BODY, expect_bytes=10)
        await transport.aclose()

    asyncio.run(main(), debug=True)


def test_values_hide_their_secrets():
    """Neither a configuration nor what it holds shows a secret when printed."""
    config = ClusterConfig(
        url="https://es.example.com", auth=BasicAuth("elastic", SECRET), proxy="http://me:proxy-secret-1@proxy:3128"
    )
    shown = [config, config.auth, ApiKey.from_text(CLEAR), ElasticTransport(config), vars(ElasticTransport(config))]
    for one in shown:
        for hidden in [*SHAPES.values(), "canary-key"]:
            assert hidden not in repr(one)
    assert "proxy-secret" not in repr(config)
