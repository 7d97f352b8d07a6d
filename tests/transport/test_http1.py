"""One answer byte by byte: however it comes in pieces, and wherever it ends."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_modelstudio.inference.errors import Fault
from airflow_provider_modelstudio.inference.transport.exchange import Exchange, ExchangeError
from airflow_provider_modelstudio.inference.transport.http1 import HttpConnection

MOST = 100_000


class Wire:
    """The side of a socket that a protocol sees."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.unsent = 0
        self.open = True
        self.ending = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.ending or not self.open

    def get_extra_info(self, name: str) -> None:
        return None

    def abort(self) -> None:
        self.open = False


class Clock:
    """As much of a loop as a connection uses."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.create_future = loop.create_future
        self.due: list[tuple[float, Any]] = []

    def call_at(self, when: float, callback: Any) -> Any:
        self.due.append((when, callback))
        return self

    def cancel(self) -> None:
        self.due.pop()


@pytest.fixture(scope="module")
def loop():
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture
def connect(loop):
    def make(wire: Wire | None = None) -> HttpConnection:
        return HttpConnection(Clock(loop), wire or Wire(), lambda _: None)

    return make


def ask(connection: HttpConnection, *pieces: bytes, most_bytes: int = MOST) -> asyncio.Future[Exchange]:
    answer = connection.ask(b"question", most_bytes=most_bytes, by=60)
    for piece in pieces:
        connection.data_received(piece)
    return answer


def outcome(answer: asyncio.Future[Exchange]) -> Exchange | tuple[Fault, bool] | None:
    """The answer, or the fault and whether the question was sent, or nothing yet."""
    if not answer.done():
        return None
    failed = answer.exception()
    if failed is None:
        return answer.result()
    assert isinstance(failed, ExchangeError)
    return failed.fault, failed.sent


@dataclass
class Told:
    """An answer on the wire, and what it means."""

    status: int
    before: bytes
    head: bytes
    body: bytes
    rest: bytes
    means: bytes
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def wire(self) -> bytes:
        return self.before + self.head + self.rest


NAMES = st.sampled_from(["Content-Type", "X-Elastic-Product", "date", "x-a", "X-B", "Set-Cookie"])
VALUES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=20)
INTERIM = st.sampled_from(
    [b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\ncontent-type: y\r\n\r\n"]
)


@st.composite
def answers(draw: Any) -> Told:
    form = draw(st.sampled_from(["length", "chunked", "until the end", "nothing"]))
    status = draw(st.sampled_from([204, 304] if form == "nothing" else [200, 201, 302, 400, 429, 503]))
    body = b"" if form == "nothing" else draw(st.binary(max_size=300))
    told = draw(st.lists(st.tuples(NAMES, VALUES), max_size=4))
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.0"])) if form != "chunked" else b"1.1"
    if draw(st.booleans()):
        told.append(("Connection", "close"))
    rest = body
    if form == "length":
        told.append(("content-length", str(len(body))))
    elif form == "chunked":
        told.append(("Transfer-Encoding", "chunked"))
        cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=3)))
        parts = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True) if a < b]
        extension = draw(st.sampled_from([b"", b";x=y"]))
        trailer = draw(st.sampled_from([b"", b"content-type: of-a-trailer\r\nx-late: 1\r\n"]))
        rest = b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts)
        rest += b"0\r\n" + trailer + b"\r\n"
    lines = "".join(f"{name}:{draw(st.sampled_from(['', ' ', '  ']))}{value}\r\n" for name, value in told)
    head = b"HTTP/%b %d Said\r\n%b\r\n" % (version, status, lines.encode())
    headers: dict[str, str] = {}
    for name, value in told:
        headers.setdefault(name.lower(), value)
    return Told(status, draw(INTERIM), head, body, rest, body, headers)


def has_no_length(told: Told) -> bool:
    return told.status not in {204, 304} and not {"content-length", "transfer-encoding"} & told.headers.keys()


@settings(max_examples=300)
@given(told=answers(), data=st.data())
def test_pieces_do_not_matter(loop, told, data):
    """Any valid answer means the same, however it is cut into pieces on its way; it is whole with its last byte."""
    cuts = sorted(set(data.draw(st.lists(st.integers(1, len(told.wire) - 1), max_size=12))))
    pieces = [told.wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(told.wire)], strict=True)]
    connection = HttpConnection(Clock(loop), Wire(), lambda _: None)
    answer = ask(connection, *pieces)
    if has_no_length(told):
        assert not answer.done()
        connection.eof_received()
    assert outcome(answer) == Exchange(told.status, told.headers, told.means)
    assert connection.closed or b"HTTP/1.0" not in told.head


@settings(max_examples=300)
@given(told=answers(), data=st.data(), how=st.sampled_from(["end", "reset"]))
def test_an_answer_that_ends_early(loop, told, data, how):
    """Cut anywhere, an answer is an error: a broken connection within the head, a cut one after it.

    Where only the end of the connection tells the end of the body, what came counts.
    """
    kept = data.draw(st.integers(0, len(told.wire) - (0 if has_no_length(told) else 1)))
    connection = HttpConnection(Clock(loop), Wire(), lambda _: None)
    answer = ask(connection, told.wire[:kept])
    assert not answer.done()
    reset = ConnectionResetError() if how == "reset" else None
    if reset is None:
        connection.eof_received()
    connection.connection_lost(reset)
    in_body = kept - len(told.before) - len(told.head)
    if in_body < 0:
        assert outcome(answer) == (Fault.CONNECTION, True)
    elif has_no_length(told) and how == "end":
        assert outcome(answer) == Exchange(told.status, told.headers, told.body[:in_body])
    else:
        assert outcome(answer) == (Fault.CUT, True)
    assert connection.closed


@settings(max_examples=300)
@given(noise=st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=5), headed=st.booleans())
def test_nonsense_ends_in_an_error_or_waits(loop, noise, headed):
    """Whatever bytes come, they are an answer, an ExchangeError, or too few to tell."""
    connection = HttpConnection(Clock(loop), Wire(), lambda _: None)
    answer = ask(connection)
    for piece in [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"] * headed + noise:
        if not answer.done():
            connection.data_received(piece)
    connection.connection_lost(None)
    assert outcome(answer) is not None


WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@pytest.mark.parametrize(
    "more", [b"x", b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", b"HTTP/1.1 200 OK\r\nconte", b"\0\0"]
)
@pytest.mark.parametrize("apart", [True, False])
def test_bytes_behind_an_answer(connect, more, apart):
    """The answer counts, what follows it is nobody's, and the connection takes no further question."""
    connection = connect()
    answer = ask(connection, *([WHOLE, more] if apart else [WHOLE + more]))
    assert outcome(answer) == Exchange(200, {"content-length": "2"}, b"ok")
    assert connection.closed
    assert not connection.transport.open
    assert outcome(connection.ask(b"next", most_bytes=MOST, by=60)) == (Fault.CONNECTION, False)
    assert connection.transport.written == [b"question"]


def test_bytes_before_a_question(connect):
    """A greeting is no answer: nothing is asked on that connection."""
    connection = connect()
    connection.data_received(WHOLE)
    assert outcome(ask(connection)) == (Fault.CONNECTION, False)
    assert connection.transport.written == []


def test_the_next_answer_has_nothing_of_the_one_before(connect):
    """Headers and trailers of an answer are gone when the next question is asked."""
    connection = connect()
    first = b"HTTP/1.1 200 OK\r\nx-a: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx-late: 1\r\ncontent-type: y\r\n\r\n"
    assert outcome(ask(connection, first)) == Exchange(200, {"x-a": "1", "transfer-encoding": "chunked"}, b"")
    assert not connection.closed
    assert outcome(ask(connection, WHOLE)) == Exchange(200, {"content-length": "2"}, b"ok")


@pytest.mark.parametrize("blank", [b" ", b"  "])
def test_a_blank_before_a_colon(connect, blank):
    """A name means the same with a blank behind it: the length, too, without which the end would be the end."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length" + blank + b": 9\r\nconnection: close\r\n\r\n"
    answer = ask(connection := connect(), head + b"cut")
    connection.eof_received()
    assert outcome(answer) == (Fault.CUT, True)
    assert outcome(ask(connect(), head + b"not a cut"))[:2] == (200, {"content-length": "9", "connection": "close"})


def test_the_body_of_an_interim_answer(connect):
    """It is no part of the answer, and has an end."""
    interim = b"HTTP/1.1 104 Early\r\ntransfer-encoding: chunked\r\n\r\n"
    answer = ask(connect(), interim + b"5\r\nwrong\r\n0\r\n\r\n" + WHOLE)
    assert outcome(answer) == Exchange(200, {"content-length": "2"}, b"ok")
    answer = ask(connection := connect(), interim)
    for _ in range(70):
        if not answer.done():
            connection.data_received(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
    assert outcome(answer) == (Fault.NOT_ELASTICSEARCH, True)


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("interim", [b"HTTP/1.1 100 C\r\nConnection: close\r\n\r\n", b"HTTP/1.0 100 C\r\n\r\n"])
def test_an_interim_answer_that_would_close(connect, interim, apart):
    """It closes nothing: the answer that follows counts, and tells by itself whether the connection is kept."""
    for last in (b"", b"connection: close\r\n"):
        final = WHOLE.replace(b"\r\n", b"\r\n" + last, 1)
        connection = connect()
        answer = ask(connection, *([interim, final] if apart else [interim + final]))
        assert answer.result().body == b"ok"
        assert connection.closed is bool(last)


@pytest.mark.parametrize("where", ["here", "below"])
def test_an_answer_before_its_question_was_sent(connect, where):
    """A refusal may come while the question is still being sent; the rest of it must not go before the next one.

    With TLS the rest lies below it, and TLS does not know.
    """
    tcp, tls = Wire(), Wire()
    connection = connect(tcp)
    connection.transport = tls
    (tls if where == "here" else tcp).unsent = 1
    assert outcome(ask(connection, WHOLE)) == Exchange(200, {"content-length": "2"}, b"ok")
    assert connection.closed


@pytest.mark.parametrize("where", ["here", "below"])
def test_nothing_is_asked_where_the_connection_is_closing(connect, where):
    """A transport knows that it closes before it says so, and that of TLS does not know it of what is below."""
    tcp, tls = Wire(), Wire()
    connection = connect(tcp)
    connection.transport = tls
    (tls if where == "here" else tcp).ending = True
    assert not connection.closed
    assert outcome(ask(connection)) == (Fault.CONNECTION, False)
    assert tls.written == []


@pytest.mark.parametrize(
    "endless",
    [
        [b"HTTP/1.1 200 " + b"O" * 70_000],
        [b"HTTP/1.1 200 OK\r\nx: ", *[b"y" * 1000] * 70],
        [b"HTTP/1.1 200 OK\r\n", *[b"x: y\r\n" * 200] * 70],
        [b"HTTP/1.1 200 OK\r\nx: " + b"y" * 66_000 + b"\r\n\r\n"],
        [b"HTTP/1.1 100 Continue\r\n\r\n" * 50] * 70,
    ],
    ids=["reason", "value", "headers", "value in one piece", "interim answers"],
)
def test_a_head_without_end(connect, endless):
    """64 KiB of head are no head of Elasticsearch's."""
    connection = connect()
    answer = connection.ask(b"question", most_bytes=MOST, by=60)
    for piece in endless:
        if not answer.done():
            connection.data_received(piece)
    assert outcome(answer) == (Fault.NOT_ELASTICSEARCH, True)
    assert connection.closed


@pytest.mark.parametrize("noise", [b"x-late: " + b"y" * 1000, b"0" * 1000])
def test_a_body_that_goes_on_without_a_byte(connect, noise):
    """Trailers without end, or what else is no body, are given up after 64 KiB."""
    start = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + (b"0\r\n" if noise[:1] == b"x" else b"1;")
    answer = ask(connection := connect(), start)
    for _ in range(70):
        if not answer.done():
            connection.data_received(noise)
    assert outcome(answer) == (Fault.CUT, True)


@pytest.mark.parametrize("status", [200, 302, 400, 503])
@pytest.mark.parametrize("form", ["announced", "chunked", "until the end"])
def test_more_than_the_question_allows(connect, status, form):
    """A success is an error then; of an error its status is kept, and not its body. Nobody waits for the rest."""
    length = {"announced": b"content-length: 11\r\n", "chunked": b"transfer-encoding: chunked\r\n"}.get(form, b"")
    body = b"b\r\nhello world\r\n" if form == "chunked" else b"hello world"
    head = b"HTTP/1.1 %d X\r\n%b\r\n" % (status, length)
    connection = connect()
    answer = ask(connection, head, *([] if form == "announced" else [body]), most_bytes=10)
    assert connection.closed
    if status < 400:
        assert outcome(answer) == (Fault.TOO_LARGE, True)
    else:
        assert (answer.result().status, answer.result().body) == (status, b"")


def test_as_much_as_the_question_allows(connect):
    """The cap itself is not above the cap."""
    answer = ask(connect(), b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123456789", most_bytes=10)
    assert answer.result().body == b"0123456789"


@pytest.mark.parametrize("upgrade", [b"", b"upgrade: websocket\r\nconnection: upgrade\r\n"])
def test_nobody_asked_for_another_protocol(connect, upgrade):
    """101 is the last answer of that connection."""
    connection = connect()
    answer = ask(connection, b"HTTP/1.1 101 Switching\r\n" + upgrade + b"\r\n\x81\x05hello")
    assert answer.result().status == 101
    assert connection.closed


def test_the_deadline_closes(connect):
    """When time is up the question counts as sent, and what comes then is not taken for the next answer."""
    connection = connect()
    answer = ask(connection, WHOLE[:-1])
    ((when, late),) = connection._loop.due
    late()
    assert (when, outcome(answer)) == (60, (Fault.TIMEOUT, True))
    assert not connection.transport.open
    assert connection._loop.due == []


def test_who_stops_waiting_closes(connect):
    """A question that was given up has no deadline any more, and its answer goes nowhere."""
    connection = connect()
    answer = ask(connection, WHOLE[:-1])
    answer.cancel()
    connection.abort()
    connection.data_received(b"k")
    connection.connection_lost(None)
    assert connection._loop.due == []
    assert outcome(connection.ask(b"next", most_bytes=MOST, by=60)) == (Fault.CONNECTION, False)


def test_closing_ends_what_waits(connect):
    """Whoever waits for an answer is told when the connection is closed here."""
    connection = connect()
    answer = ask(connection)
    connection.abort()
    assert outcome(answer) == (Fault.CONNECTION, True)
