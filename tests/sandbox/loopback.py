"""Two ways to talk to the sandbox: an HTTP client that hides nothing, and a bare socket."""

from __future__ import annotations

import http.client
import json
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import cbor2

VND_JSON = "application/vnd.elasticsearch+json; compatible-with=8"
VND_CBOR = "application/vnd.elasticsearch+cbor; compatible-with=8"

EMBED = "/_inference/text_embedding/bailian_embeddings"
SPARSE = "/_inference/sparse_embedding/bailian_sparse_emb"
RERANK = "/_inference/rerank/bailian_rerank"
COMPLETE = "/_inference/completion/bailian_deepseek"
MEDIA = "/_inference/multi_modal_embedding/bailian_mm_independent"
FUSED = "/_inference/multi_modal_embedding/bailian_mm"


@dataclass(frozen=True)
class Got:
    status: int
    headers: http.client.HTTPMessage
    raw: bytes

    @property
    def body(self) -> Any:
        if "cbor" in self.headers["content-type"]:
            return cbor2.loads(self.raw)
        return json.loads(self.raw)

    @property
    def error(self) -> Any:
        return self.body["error"]


def ask(server, method, path, body=None, headers=None) -> Got:
    """One request over a connection of its own. A ``dict`` is sent as JSON, bytes as they are."""
    address = urlsplit(server.url)
    given = dict(headers or {})
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    if body is not None:
        given.setdefault("content-type", "application/json")
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
    try:
        connection.request(method, path, body, given)
        response = connection.getresponse()
        return Got(response.status, response.headers, response.read())
    finally:
        connection.close()


def infer(server, path, texts, **more) -> Got:
    return ask(server, "POST", path, {"input": texts, **more})


def raw_request(path=EMBED, body=b'{"input":["a","b"]}', headers=()) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "host: x",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def exchange(server, request=None) -> tuple[bytes, str]:
    """Send bytes and read to the end; what came, and how it ended: ``closed`` or ``reset``."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as sock:
        sock.sendall(raw_request(headers=["connection: close"]) if request is None else request)
        came = b""
        try:
            while piece := sock.recv(65536):
                came += piece
        except ConnectionResetError:
            return came, "reset"
        return came, "closed"
