"""Servers that spring one trap each, and a transport to them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pytest
import uvloop

from airflow_provider_modelstudio.inference.transport import ElasticTransport
from airflow_provider_modelstudio.inference.transport.address import ApiKey, ClusterConfig
from tests.transport.loopback import Handler, Loopback

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

T = TypeVar("T")

KEY = "VnVhQ2ZHY0JDZGJrUW0tZTVhT3g6dWkybHAyYXhUTm1zeWFrdzl0dk5udw=="


@pytest.fixture
def serve() -> Iterator[Callable[..., Loopback]]:
    """Starts a scripted server; all are stopped at the end."""
    with contextlib.ExitStack() as stack:

        def start(handler: Handler, **options: Any) -> Loopback:
            return stack.enter_context(Loopback(handler, **options))

        yield start


@pytest.fixture(params=["asyncio", "uvloop"])
def loops(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    """Makes loops of a kind: the engine runs on uvloop, whoever calls the transport by hand on asyncio's."""
    factory = asyncio.new_event_loop if request.param == "asyncio" else uvloop.new_event_loop
    return cast("Callable[[], asyncio.AbstractEventLoop]", factory)


@pytest.fixture
def talk(loops: Callable[[], asyncio.AbstractEventLoop]) -> Callable[..., Any]:
    """Runs one conversation over a fresh transport, and closes it; on loops of each kind."""

    def run(server: Loopback, conversation: Callable[[ElasticTransport], Awaitable[T]], **settings: Any) -> T:
        config = ClusterConfig(**{"url": server.url, "auth": ApiKey(KEY), **settings})

        async def main() -> T:
            transport = ElasticTransport(config)
            try:
                return await conversation(transport)
            finally:
                await transport.aclose()

        with asyncio.Runner(loop_factory=loops) as runner:
            return runner.run(main())

    return run
