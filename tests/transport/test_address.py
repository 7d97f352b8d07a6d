"""Where requests may go, and what a connection's values must look like."""

from __future__ import annotations

import asyncio
import ipaddress
import traceback
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_modelstudio.inference.errors import ConfigurationError, Fault, RequestError
from airflow_provider_modelstudio.inference.transport import ElasticTransport
from airflow_provider_modelstudio.inference.transport.address import (
    ApiKey,
    BasicAuth,
    ClusterConfig,
    forbidden_address,
    inference_path,
    is_loopback,
    normal_url,
    secret_shapes,
)

if TYPE_CHECKING:
    from collections.abc import Callable

METADATA = int(ipaddress.IPv4Address("169.254.169.254"))

FORBIDDEN = [
    "169.254.169.254",
    "169.254.0.1",
    "169.254.169.254.",
    "2852039166",
    "0xa9fea9fe",
    "0XA9FEA9FE",
    "0xA9.0xFE.0xA9.0xFE",
    "0251.0376.0251.0376",
    "025177524776",
    "169.254.43518",
    "169.16689662",
    "0xa9.254.0251.254",
    "::ffff:169.254.169.254",
    "::ffff:a9fe:a9fe",
    "::169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "fe80::1",
    "fe80::1%eth0",
    "febf::1",
    "0.0.0.0",  # noqa: S104 - one that must be refused
    "0",
    "0x0",
    "0.1.2.3",
    "::",
    "224.0.0.1",
    "239.255.255.250",
    "255.255.255.255",
    "4294967295",
    "ff02::1",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "fd00:ec2::254",
    "metadata.google.internal",
    "METADATA.google.internal.",
    "metadata",
    "instance-data",
    "metadata.tencentyun.com",
]

ALLOWED = [
    "es-cn-abc123.elasticsearch.aliyuncs.com",
    "10.0.0.5",
    "172.16.3.4",
    "192.168.1.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.1",
    "::1",
    "fd00::1",
    "2001:db8::1",
    "8.8.8.8",
    "localhost",
    "xn--bcher-kva.example",
    "1.2.3.4.example.com",
    "999.999.999.999",
    "08.08.08.08",
]


def shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@pytest.mark.parametrize("host", FORBIDDEN)
def test_addresses_that_only_a_trick_would_name(host):
    """Metadata services, link-local, multicast and no-host addresses are refused in every spelling."""
    assert forbidden_address(host)
    with pytest.raises(ConfigurationError, match="host"):
        ClusterConfig(url=f"https://{shown(host)}:9200")


@pytest.mark.parametrize("host", ALLOWED)
def test_addresses_of_real_clusters(host):
    """Public, private and local addresses, and names, are fine."""
    assert forbidden_address(host) is None
    assert ClusterConfig(url=f"https://{shown(host)}:9200").host == host


@given(st.integers(0, 2**32 - 1), st.sampled_from(["dotted", "number", "hex", "octal", "mapped", "nat64", "6to4"]))
def test_no_spelling_changes_the_verdict(number, spelling):
    """An IPv4 address is judged the same however it is written."""
    address = ipaddress.IPv4Address(number)
    high, low = number >> 16, number & 0xFFFF
    spelled = {
        "dotted": str(address),
        "number": str(number),
        "hex": hex(number),
        "octal": ".".join(f"0{byte:o}" for byte in address.packed),
        "mapped": f"::ffff:{address}",
        "nat64": f"64:ff9b::{high:x}:{low:x}",
        "6to4": f"2002:{high:x}:{low:x}::7",
    }[spelling]
    assert forbidden_address(spelled) == forbidden_address(str(address))


@given(st.text(max_size=40))
def test_judging_never_fails(host):
    """Any text is judged without an exception."""
    assert forbidden_address(host) is None or isinstance(forbidden_address(host), str)
    assert is_loopback(host) in {True, False}


@pytest.mark.parametrize(
    "url",
    [
        "https://user:pass@es.example.com",
        "https://user@es.example.com",
        "https://es.example.com@169.254.169.254",
        "https://169.254.169.254#@es.example.com",
        "https://es.example.com?x=1",
        "https://es.example.com?",
        "https://es.example.com#top",
        "https://es.example.com/a/../b",
        "https://es.example.com/./a",
        "https://es.example.com/%2e%2e/b",
        "https://es.example.com/a b",
        "https://es.example.com\\@evil.example",
        "https://es.example.com\r\nhost: evil",
        "https://es.example.com:99999",
        "https://es.example.com:0",
        "https://es.example.com:port",
        "https://",
        "https://:9200",
        "https://-bad.example",
        "https://bücher.example",
        "https://[::1",
        "https://[fe80::1]:9200",
        "https://a..b",
        "ftp://es.example.com",
        "file:///etc/passwd",
        "es.example.com:9200",
        "",
        "http://es.example.com",
        "http://10.0.0.5:9200",
        "http://127.0.0.1.example.com",
        "http://localhost.example.com",
    ],
)
def test_urls_that_are_refused(url):
    """User info, query, fragment, odd characters, other schemes, and plain http to another machine are refused by name."""
    with pytest.raises(ConfigurationError, match=r"^host "):
        ClusterConfig(url=url)


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("https://es.example.com", "https://es.example.com:443"),
        ("https://ES.example.com:9243/Base/", "https://es.example.com:9243/Base"),
        ("https://[2001:db8::1]:9200", "https://[2001:db8::1]:9200"),
        ("http://localhost:9200", "http://localhost:9200"),
        ("http://127.0.0.1", "http://127.0.0.1:80"),
        ("http://[::1]:9200/es", "http://[::1]:9200/es"),
        ("http://[::ffff:127.0.0.1]:9200", "http://[::ffff:127.0.0.1]:9200"),
    ],
)
def test_urls_that_are_kept(url, normal):
    """A URL keeps host, port and path; the port is always told."""
    assert ClusterConfig(url=url).url == normal
    assert normal_url(normal, what="host") == normal


def test_http_on_request():
    """Plain http to another machine works when it is asked for."""
    assert ClusterConfig(url="http://10.0.0.5:9200", allow_http=True).url == "http://10.0.0.5:9200"


def test_refused_url_is_not_quoted():
    """A URL with a password in it is refused without repeating the password."""
    with pytest.raises(ConfigurationError) as caught:
        ClusterConfig(url="https://me:canary-password@es.example.com")
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("request_timeout", 0),
        ("request_timeout", -1),
        ("request_timeout", 3601),
        ("request_timeout", float("nan")),
        ("connect_timeout", 0),
        ("connect_timeout", float("inf")),
        ("media_type", "yaml"),
    ],
)
def test_values_out_of_range(field, value):
    """A value that makes no sense is refused by the name the user gave it."""
    names = {"request_timeout": "server_timeout", "media_type": "media"}
    with pytest.raises(ConfigurationError, match=field):
        ClusterConfig(**{"url": "https://es.example.com", names.get(field, field): value})


def test_deadline_lies_above_the_servers():
    """We wait longer than the server, so that the layer nearest the bill gives up first."""
    assert ClusterConfig(url="https://es.example.com", server_timeout=60).deadline == 75


@pytest.mark.parametrize(
    "proxy",
    [
        "socks5://proxy:1080",
        "proxy:3128",
        "http://proxy/path?x",
        "http://me:canary",
        "http://me:canary@proxy:canary",
        "http://me:canary@proxy:70000",
        "http://me:canary@proxy:0",
        "http://me:canary@:3128",
        "http://me:canary@[proxy:3128",
        "http://me:canary@pro\u2100xy:3128",
    ],
)
def test_proxies_we_cannot_use(proxy):
    """A proxy that is no http or https URL, or whose host or port cannot be read, is refused and not quoted."""
    with pytest.raises(ConfigurationError, match="proxy") as caught:
        ClusterConfig(url="https://es.example.com", proxy=proxy)
    assert "canary" not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__cause__ is None


def test_a_proxy_is_never_passed_by():
    """A proxy through which the calls of this cluster cannot go is refused."""
    with pytest.raises(ConfigurationError, match="proxy is only used with https"):
        ClusterConfig(url="http://127.0.0.1:9200", proxy="http://proxy:3128")


def test_a_url_whose_port_cannot_be_read_is_not_quoted():
    """What stands where a port should may be a password."""
    url = "https://elastic:canary"
    with pytest.raises(ConfigurationError) as caught:
        ClusterConfig(url=url)
    assert "canary" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "make", [lambda: ApiKey("short=="), lambda: ApiKey.from_text("id:short"), lambda: BasicAuth("a", "1234567")]
)
def test_short_secrets_are_refused(make: Callable[[], object]):
    """A secret that is too short to be masked is refused with a sentence."""
    with pytest.raises(ConfigurationError, match="shorter than 8 characters"):
        make()


@pytest.mark.parametrize(
    "text", ["ApiKey VnVhQ2ZHY0JDZGJr", "naïve-key-value", "line\nbreak-in-key", "a" * 20 + "\x00"]
)
def test_api_keys_that_are_none(text):
    """A key with characters no key has is refused, without being quoted."""
    with pytest.raises(ConfigurationError) as caught:
        ApiKey.from_text(text)
    assert text not in str(caught.value)


def test_api_key_as_it_is_pasted():
    """id:key and the encoded form give the same header; white space around is dropped."""
    assert ApiKey.from_text(" my-id:my-secret-key\n").header == ApiKey.from_text("bXktaWQ6bXktc2VjcmV0LWtleQ==").header


@pytest.mark.parametrize("login", ["", "a:b"])
def test_logins_that_cannot_be_sent(login):
    """Basic authentication has no place for a colon in the user name."""
    with pytest.raises(ConfigurationError, match="login"):
        BasicAuth(login, "long-enough")


@given(st.text(min_size=8, max_size=40))
def test_shapes_of_any_secret(secret):
    """Any text, lone surrogates included, has its shapes, and is one of them."""
    assert secret in secret_shapes(secret)


def resolving_to(address: str):
    async def getaddrinfo(host: str, port: int, **more: object) -> list:
        import socket  # noqa: PLC0415 - only here

        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        where = (address, port, 0, 0) if ":" in address else (address, port)
        return [(family, socket.SOCK_STREAM, 6, "", where)]

    return getaddrinfo


@pytest.mark.parametrize("address", ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "0.0.0.0", "224.0.0.1"])  # noqa: S104 - one that must be refused
def test_name_that_resolves_to_a_forbidden_address(address):
    """An innocent name that leads to a metadata service gets no connection."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.getaddrinfo = resolving_to(address)
        transport = ElasticTransport(ClusterConfig(url="https://innocent.example.com"))
        try:
            await transport.infer("text_embedding", "x", b"{}", expect_bytes=10)
        finally:
            await transport.aclose()

    with pytest.raises(RequestError, match="refused") as caught:
        asyncio.run(main())
    assert (caught.value.fault, caught.value.maybe_billed) == (Fault.CONNECTION, False)


@pytest.mark.parametrize("name", [None, 7, ["a"], b"a"])
def test_what_is_no_name_is_not_taken_for_all(name):
    """Elasticsearch would take nothing for all endpoints."""
    with pytest.raises(ConfigurationError, match="inference_id must be a text"):
        inference_path("text_embedding", name)
