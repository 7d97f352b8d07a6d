"""Calls through a proxy, when the connection asks for the one of the environment."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING

import pytest

from airflow_provider_modelstudio.inference.errors import Fault, RequestError
from tests.transport.certificates import certificate
from tests.transport.loopback import by_path, reply, saying, tunnel

if TYPE_CHECKING:
    from airflow_provider_modelstudio.hooks.modelstudio import ModelStudioHook
    from tests.transport.loopback import Loopback

GOOD = by_path(get=reply(200, {"endpoints": [{"inference_id": "x"}]}), post=reply(200, {"rerank": []}))
LOGIN = "me:proxy-canary-1"


def infer(hook: ModelStudioHook) -> bytes:
    async def main() -> bytes:
        transport = hook.transport()
        try:
            return (await transport.infer("rerank", "x", b"{}", expect_bytes=10)).body
        finally:
            await transport.aclose()

    return asyncio.run(main())


@pytest.fixture
def environment(monkeypatch):
    """Points the environment at a proxy that asks for a login."""

    def point(proxy: Loopback) -> None:
        for name in ("no_proxy", "NO_PROXY", "https_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", f"//{LOGIN}@"))

    return point


def test_both_ways_lead_through_the_proxy(serve, hook_to, environment, tmp_path):
    """The client and the transport tunnel TLS through the proxy, which sees its login and no key of ours."""
    context, file = certificate(tmp_path)
    server, proxy = serve(GOOD, tls=context), serve(tunnel)
    environment(proxy)
    hook = hook_to(server, password="id:elastic-canary", extra={"trust_env": True, "ca_certificate": str(file)})
    assert len(hook.list_endpoints()) == 1
    assert infer(hook) == b'{"rerank": []}'
    assert [(one.method, one.target) for one in proxy.received] == [("CONNECT", f"127.0.0.1:{server.port}")] * 2
    for one in proxy.received:
        assert one.headers["proxy-authorization"] == "Basic " + base64.b64encode(LOGIN.encode()).decode()
        assert "authorization" not in one.headers
    for one in server.received:
        assert "proxy-authorization" not in one.headers


def test_proxy_is_not_used_unasked(serve, hook_to, environment, tmp_path):
    """Without trust_env nothing goes to the proxy of the environment."""
    context, file = certificate(tmp_path)
    server, proxy = serve(GOOD, tls=context), serve(tunnel)
    environment(proxy)
    hook = hook_to(server, extra={"ca_certificate": str(file)})
    assert len(hook.list_endpoints()) == 1
    assert infer(hook)
    assert not proxy.received


def test_proxy_that_refuses(serve, hook_to, environment, tmp_path):
    """A proxy that lets nobody through is an error that names neither its login nor ours, and nothing was billed."""
    context, _ = certificate(tmp_path)
    server = serve(GOOD, tls=context)
    proxy = serve(saying(reply(407, b"who are you?", media="text/plain", product=False, connection="close")))
    environment(proxy)
    hook = hook_to(server, password="id:elastic-canary", extra={"trust_env": True})
    for call in (lambda: infer(hook), hook.list_endpoints):
        with pytest.raises(RequestError) as caught:
            call()
        assert caught.value.fault in {Fault.NOT_ELASTICSEARCH, Fault.CONNECTION}
        assert not caught.value.maybe_billed
        shown = str(caught.value) + repr(caught.value.__cause__) + repr(caught.value.__context__)
        assert "canary" not in shown
    assert not server.received
