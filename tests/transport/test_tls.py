"""The server has to prove who it is."""

from __future__ import annotations

import logging
import socket
import ssl
import warnings
from typing import TYPE_CHECKING

import pytest

from airflow_provider_modelstudio.inference.errors import ConfigurationError, Fault, RequestError
from airflow_provider_modelstudio.inference.transport.address import ClusterConfig
from airflow_provider_modelstudio.inference.transport.node import tls_context
from tests.transport.certificates import certificate
from tests.transport.loopback import Loopback, Received, reply, saying

if TYPE_CHECKING:
    import asyncio

    from airflow_provider_modelstudio.inference.tasks import Answer
    from airflow_provider_modelstudio.inference.transport import ElasticTransport

ANSWER = reply(200, {"text_embedding": []})


async def infer(transport: ElasticTransport) -> Answer:
    return await transport.infer("text_embedding", "x", b'{"input":["one"]}', expect_bytes=10)


@pytest.mark.parametrize("as_text", [True, False])
def test_trusted_certificate(serve, talk, tmp_path, as_text):
    """A private authority is trusted from a file as well as from PEM text."""
    context, file = certificate(tmp_path)
    given = file.read_text() if as_text else str(file)
    assert talk(serve(saying(ANSWER), tls=context), infer, ca_certificate=given).body


@pytest.mark.parametrize(
    ("made", "trusted", "why"),
    [
        ({}, False, "self-signed"),
        ({"days": -1}, True, "expired"),
        ({"address": "127.0.0.2"}, True, "mismatch"),
    ],
)
def test_certificate_that_proves_nothing(serve, talk, tmp_path, made, trusted, why):
    """Self-signed, expired, of another host: refused before the key is sent, and the message says why."""
    context, file = certificate(tmp_path, **made)
    server = serve(saying(ANSWER), tls=context)
    with pytest.raises(RequestError, match=why) as caught:
        talk(server, infer, ca_certificate=str(file) if trusted else None)
    assert (caught.value.fault, caught.value.maybe_billed) == (Fault.CONNECTION, False)
    assert not server.received


@pytest.fixture
def of_yesterday(tmp_path):
    """A server context that speaks TLS 1.1 and nothing newer, and the file with its certificate."""
    context, file = certificate(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it is old, that is the point
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context, file


def speaks_tls_1_1(server: Loopback) -> bool:
    """Whether the server and a client that takes anything come together: some builds of OpenSSL have no TLS 1.1."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        client.minimum_version = ssl.TLSVersion.TLSv1
    client.set_ciphers("ALL:@SECLEVEL=0")
    try:
        with socket.create_connection(("127.0.0.1", server.port)) as plain, client.wrap_socket(plain) as wrapped:
            return wrapped.version() == "TLSv1.1"
    except ssl.SSLError:
        return False


@pytest.mark.parametrize("verify_tls", [True, False])
def test_old_tls_is_refused(serve, talk, of_yesterday, verify_tls):
    """A server that speaks nothing newer than TLS 1.1 gets no question and no key, whatever its certificate is worth."""
    context, file = of_yesterday
    server = serve(saying(ANSWER), tls=context)
    if not speaks_tls_1_1(server):
        pytest.skip(f"{ssl.OPENSSL_VERSION} does not speak TLS 1.1")
    with pytest.raises(RequestError) as caught:
        talk(server, infer, ca_certificate=str(file), verify_tls=verify_tls)
    assert (caught.value.fault, caught.value.maybe_billed) == (Fault.CONNECTION, False)
    assert server.received == []


def test_the_oldest_tls_is_ours_and_not_the_systems(tmp_path):
    """A system may be configured to take older ones; with the real server above, the client's node refuses as well."""
    _, file = certificate(tmp_path)
    client = tls_context(ClusterConfig(url="https://127.0.0.1:1", ca_certificate=str(file)))
    assert client.minimum_version is ssl.TLSVersion.TLSv1_2
    assert client.check_hostname
    assert client.verify_mode is ssl.CERT_REQUIRED


def test_unverified_on_demand_with_a_warning(serve, talk, tmp_path, caplog):
    """verify_tls off accepts any certificate, and each transport warns about it."""
    context, _ = certificate(tmp_path, days=-1, address="127.0.0.9")
    with caplog.at_level(logging.WARNING):
        assert talk(serve(saying(ANSWER), tls=context), infer, verify_tls=False).body
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "verify_tls is off" in caplog.text


def test_certificate_changed_while_we_talk(serve, talk, tmp_path):
    """A server whose certificate is replaced by one nobody trusts is refused at the next connection."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    context, file = certificate(old)
    certificate(new)

    async def once_a_connection(received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(200, {"text_embedding": []}, connection="close"))
        await writer.drain()
        writer.close()

    server: Loopback = serve(once_a_connection, tls=context)

    async def conversation(transport: ElasticTransport) -> RequestError:
        await infer(transport)
        context.load_cert_chain(new / "cert.pem", new / "key.pem")
        with pytest.raises(RequestError) as caught:
            await infer(transport)
        return caught.value

    assert talk(server, conversation, ca_certificate=str(file)).fault is Fault.CONNECTION
    assert len(server.posts) == 1


@pytest.mark.parametrize("given", ["/nowhere/ca.pem", "-----BEGIN CERTIFICATE-----\nnot base64", "a\0b", __file__])
def test_ca_certificate_that_cannot_be_read(given):
    """A wrong ca_certificate is told by its field name and not quoted."""
    with pytest.raises(ConfigurationError, match=r"^ca_certificate is neither") as caught:
        tls_context(ClusterConfig(url="https://es.example.com", ca_certificate=given))
    assert given not in str(caught.value)


def test_tls_spoken_to_a_plain_server(serve, talk):
    """TLS to a server that speaks http is a failed connection, with nothing sent."""
    server = serve(saying(ANSWER), greeting=b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(RequestError) as caught:
        talk(server, infer, url=server.url.replace("http", "https"))
    assert (caught.value.fault, caught.value.maybe_billed) == (Fault.CONNECTION, False)
