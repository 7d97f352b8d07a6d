"""Addresses that only a trick would name: no connection is made, whatever a connection's field or a parameter says."""

from __future__ import annotations

import sys

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_modelstudio.inference.errors import ModelStudioError

_METADATA = ("169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192")
HOSTS = [
    *_METADATA,
    "2852039166",
    "0xA9FEA9FE",
    "0xa9.0xfe.0xa9.0xfe",
    "0251.0376.0251.0376",
    "169.254.43518",
    "169.16689662",
    "0251.254.0xa9fe",
    "169.254.169.254.",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[0:0:0:0:0:ffff:a9fe:a9fe]",
    "[64:ff9b::169.254.169.254]",
    "[2002:a9fe:a9fe::]",
    "[::169.254.169.254]",
    "[fe80::1]",
    "[fe80::1%25eth0]",
    "[fd00:ec2::254]",
    "[ff02::1]",
    "[::]",
    "0.0.0.0",  # noqa: S104  # nobody listens there: it must not be reached
    "0",
    "0x0",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "metadata",
    "METADATA.google.internal",
    "metadata.google.internal.",
    "metadata.goog",
    "instance-data",
    "metadata.azure.com",
    "metadata.tencentyun.com",
]
URLS = [
    *(f"https://{host}:9200" for host in HOSTS),
    "https://user@169.254.169.254",
    "https://es.example.com@169.254.169.254",
    "https://es.example.com:443@169.254.169.254",
    "https://169.254.169.254#es.example.com",
    "https://169.254.169.254?es.example.com",
    "https://es.example.com\\@169.254.169.254",
    "https://es.example.com\t.evil.example",
    "https://es.example.com\n.evil.example",
    "https://es.example.com .evil.example",
    "https://169。254。169。254",
    "https://ⓜⓔⓣⓐⓓⓐⓣⓐ",
    "https://１６９.254.169.254",
    "http://es.example.com:9200",
    "http://10.0.0.1:9200",
    "ftp://es.example.com",
    "file:///etc/passwd",
    "gopher://es.example.com",
    "unix:///var/run/docker.sock",
    "javascript:alert(1)",
    "https://",
    "https:///path",
    "https://:9200",
    "https://es.example.com:0",
    "https://es.example.com:99999",
    "https://es.example.com:port",
    "//169.254.169.254",
    "https://[::1",
    "https://es..example.com",
]

_connected = []
_watching = []


@sys.addaudithook
def _watch(event, arguments):
    if _watching and event in {"socket.connect", "socket.getaddrinfo", "socket.sendto"}:
        _connected.append((event, arguments[-1] if event == "socket.connect" else arguments))


@pytest.fixture
def connections():
    """What anybody connects to, or looks up."""
    _connected.clear()
    _watching.append(True)
    yield _connected
    _watching.clear()


def test_there_are_sixty():
    """As many as were promised, each once."""
    assert len(set(URLS)) == len(URLS) >= 60


@pytest.mark.parametrize("url", URLS)
def test_no_trick_leads_anywhere(bench, connections, url):
    """Refused with a sentence before a name is looked up or a connection is made."""
    bench.write(["a"])
    bench.connect(url, login="elastic", password="made-up-secret")
    with pytest.raises((AirflowFailException, ModelStudioError)):
        bench.run()
    assert connections == []


IDS = [
    "", "..", ".", "../_cluster/settings", "a/../../b", "a/b", "_all", "*", "a,b", "a?b", "a#b", "a%2fb", "%2e%2e", "A",
    "a b", "a\nb", "a\0b", "a;b", "a&b", "a=b", "a:b", "a@b", "-a", "a-", "_a", "a_", "a.", "..a", "a" * 300, "é", "ａ",
    "a\\b", "a\r\nX: y", "<a>", '"a"', "'a'", "{{a}}", "${a}", "a|b", "~a",
]  # fmt: skip


def test_there_are_forty():
    """As many as were promised, each once."""
    assert len(set(IDS)) == len(IDS) == 40


@pytest.mark.parametrize("inference_id", IDS)
def test_no_id_leaves_its_place(bench, inference_id):
    """An id that Elasticsearch could not have given is refused before it is sent."""
    bench.write(["a"])
    with pytest.raises(AirflowFailException):
        bench.run(inference_id=inference_id)
    assert {call.target for call in bench.server.calls} <= {"/"}
