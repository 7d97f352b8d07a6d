"""What happens to one request, from the first look at its headers to the answer.

The loop is never blocked: models and writing run in the threads of an executor.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_modelstudio.sandbox import named_refusals
from airflow_provider_modelstudio.sandbox.answering import answer, facts
from airflow_provider_modelstudio.sandbox.asking import Question, bind, read_question
from airflow_provider_modelstudio.sandbox.endpoints import Endpoint, Endpoints
from airflow_provider_modelstudio.sandbox.faults import Act, Delay, Distort, Occasion, Refuse, Reset, Script
from airflow_provider_modelstudio.sandbox.http1 import Cut, Reply, Request, zipped
from airflow_provider_modelstudio.sandbox.ledger import Call, Ledger
from airflow_provider_modelstudio.sandbox.media import Format, agree
from airflow_provider_modelstudio.sandbox.quota import Quota
from airflow_provider_modelstudio.sandbox.refusals import Refusal, misread, queue_full, simple, timed_out
from airflow_provider_modelstudio.sandbox.routes import Route, duration, flag, route
from airflow_provider_modelstudio.sandbox.spoil import PRODUCT_HEADER, distorted, instead, spoiled
from airflow_provider_modelstudio.sandbox.wire import UnreadableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from airflow_provider_modelstudio.sandbox.credentials import Credentials
    from airflow_provider_modelstudio.sandbox.engines import Engine
    from airflow_provider_modelstudio.sandbox.engines.chat import Chat

__all__ = ["Limits", "Service"]

log = logging.getLogger(__name__)

_T = TypeVar("_T")

_LARGE_BYTES = 64 * 1024
"""Bodies above this are read in a thread."""

_ROOT = {
    "name": "sandbox",
    "cluster_name": "modelstudio-sandbox",
    "cluster_uuid": "c2FuZGJveC1zdGFuZC1pbg",
    "version": {
        "number": "8.17.0",
        "build_flavor": "default",
        "build_type": "sandbox",
        "build_hash": "0000000000000000000000000000000000000000",
        "build_date": "2024-12-11T12:08:05.663969764Z",
        "build_snapshot": False,
        "lucene_version": "9.12.0",
        "minimum_wire_compatibility_version": "7.17.0",
        "minimum_index_compatibility_version": "7.0.0",
    },
    "tagline": "You Know, for Search",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What the stand-in refuses or holds back."""

    rows: int = 10
    """Texts of one embedding request."""
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    in_flight: int | None = None
    latency: float = 0.0
    """Seconds that an answer takes at least."""


@dataclass(slots=True)
class _Notes:
    """What is learnt of a request on its way, for the books."""

    number: int
    route: Route = field(default_factory=lambda: Route(""))
    inputs: int = 0
    acts: list[Act] = field(default_factory=list)


class Service:
    """Answers requests. Belongs to one event loop, but for :attr:`script` and :attr:`ledger`."""

    def __init__(
        self,
        *,
        engine: Engine,
        credentials: Credentials,
        limits: Limits,
        script: Script,
        ledger: Ledger,
        threads: Executor,
        chat: Chat | None,
    ) -> None:
        self.engine = engine
        self.chat = chat
        self.credentials = credentials
        self.limits = limits
        self.script = script
        self.ledger = ledger
        self.endpoints = Endpoints(_facts(engine, chat))
        self._threads = threads
        self._began = time.monotonic()
        self._numbers = 0
        self._late: set[asyncio.Task[Reply]] = set()
        self._requests = None if limits.requests_per_minute is None else Quota(limits.requests_per_minute)
        self._tokens = None if limits.tokens_per_minute is None else Quota(limits.tokens_per_minute)

    @property
    def now(self) -> float:
        """Seconds since the server started."""
        return time.monotonic() - self._began

    async def reply(self, request: Request) -> Reply:
        """The answer to a request, whatever it is; never raises."""
        self._numbers += 1
        notes = _Notes(self._numbers)
        began = self.now
        out = Format()
        try:
            out, body_format = agree(
                request.headers.get("accept"),
                request.headers.get("content-type"),
                has_body=bool(request.body),
                format_parameter=request.query.get("format"),
            )
            reply = await self._routed(request, out, body_format, notes)
        except Refusal as refusal:
            reply = _refused(refusal, out)
        except Exception as exc:  # noqa: BLE001 - a server answers whatever happens
            # The text of an exception may hold a text of the request.
            log.error("%s %s failed: %s", request.method, request.target, type(exc).__name__)  # noqa: TRY400 - see above
            reply = _refused(Refusal(500, "exception", "the sandbox itself failed"), out)
        for act in notes.acts:
            reply = spoiled(reply, act)
        ended = self.now
        log.debug("%s %s: %s in %.3f s", request.method, request.target, reply.status, ended - began)
        self.ledger.answered(
            Call(
                number=notes.number,
                method=request.method,
                target=request.target,
                operation=notes.route.operation,
                task_type=notes.route.task_type if notes.route.inference_id else None,
                inference_id=notes.route.inference_id or None,
                inputs=notes.inputs,
                status=None if reply.steps and isinstance(reply.steps[0], Cut) else reply.status,
                content_type=next((value for name, value in reply.headers if name == "content-type"), ""),
                faults=tuple(type(act).__name__ for act in notes.acts),
                began=began,
                ended=ended,
            )
        )
        return reply

    async def _routed(self, request: Request, out: Format, body_format: Format, notes: _Notes) -> Reply:
        if refusal := self.credentials.refusal(request.headers.get("authorization"), request.target):
            raise refusal
        notes.route = found = route(request)
        if found.operation == "infer":
            self.ledger.arrived()
            try:
                return await self._infer(request, out, body_format, notes)
            finally:
                self.ledger.left()
        if early := await self._play(found, (), notes):
            return early
        told = self._administer(found, request, body_format, notes)
        return Reply(200, out.write(told), _headers(out))

    def _administer(self, found: Route, request: Request, body_format: Format, notes: _Notes) -> Any:
        task_type, inference_id = found.task_type, found.inference_id
        match found.operation:
            case "root":
                return _ROOT
            case "get" if inference_id in {"_all", "*"}:
                return {"endpoints": [one.told() for one in self.endpoints.list(task_type)]}
            case "get":
                return {"endpoints": [self.endpoints.find(task_type, inference_id).told()]}
            case "delete":
                flag(request.query.get("force"))  # nothing here refers to an endpoint, so there is nothing to force
                return self.endpoints.delete(task_type, inference_id, dry_run=flag(request.query.get("dry_run")))
            case operation:
                duration(request.query.get("timeout", "30s"))
                body = _read(request, body_format)
                if operation == "update":
                    return self.endpoints.update(task_type, inference_id, body).told()
                made = self.endpoints.create(task_type, inference_id, body)
                self.ledger.tried(notes.number, made)
                return made.told()

    async def _play(self, found: Route, texts: tuple[str, ...], notes: _Notes) -> Reply | None:
        """Let the faults of this request happen that come before its answer is worked out."""
        occasion = Occasion(
            operation=found.operation,
            task_type=found.task_type,
            inference_id=found.inference_id,
            texts=texts,
            now=self.now,
        )
        notes.acts = self.script.acts(occasion)
        for act in notes.acts:
            match act:
                case Delay():
                    await asyncio.sleep(act.seconds)
                case Refuse() if found.operation != "infer" or act.error not in named_refusals.BILLED:
                    raise _named(act, found.inference_id)
                case Reset(billed=False):
                    return Reply(200)
                case _ if reply := instead(act):
                    return reply
        return None

    async def _infer(self, request: Request, out: Format, body_format: Format, notes: _Notes) -> Reply:
        timeout = duration(request.query.get("timeout", "30s"))
        body = await self._aside(len(request.body), _read, request, body_format)
        asked = read_question(notes.route.task_type, body)
        endpoint = self.endpoints.find(notes.route.task_type, notes.route.inference_id)
        notes.route = replace(notes.route, task_type=endpoint.task_type)
        notes.inputs = len(asked.inputs)
        if early := await self._play(notes.route, (*asked.inputs, asked.query or ""), notes):
            return early
        self._admit(asked, endpoint)
        question = await self._aside(len(request.body), bind, asked, endpoint, self.limits.rows)
        notes.inputs = len(question.elements) or notes.inputs
        work = asyncio.ensure_future(self._work(request, question, endpoint, out, notes))
        done, _ = await asyncio.wait({work}, timeout=timeout)
        if not done:
            # Elasticsearch stops waiting; the model goes on, and its answer is paid for.
            self._late.add(work)
            work.add_done_callback(self._late.discard)
            raise timed_out(request.query.get("timeout", "30s"), endpoint.inference_id)
        return work.result()

    async def _aside(self, size: int, act: Callable[..., _T], *arguments: Any) -> _T:
        """Run in a thread what would hold up the loop."""
        if size <= _LARGE_BYTES:
            return act(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self._threads, act, *arguments)

    def _admit(self, question: Question, endpoint: Endpoint) -> None:
        """Raise when the limits are used up."""
        if self.limits.in_flight is not None and self.ledger.in_flight > self.limits.in_flight:
            raise queue_full(endpoint.inference_id)
        now = self.now
        if self._requests is not None and not self._requests.take(1, now):
            raise named_refusals.refusal("throttled", endpoint.inference_id)
        if self._tokens is not None and not self._tokens.take(question.tokens, now):
            raise named_refusals.refusal("throttled_tokens", endpoint.inference_id)

    async def _work(
        self, request: Request, question: Question, endpoint: Endpoint, out: Format, notes: _Notes
    ) -> Reply:
        began = self.now
        loop = asyncio.get_running_loop()
        reply = await loop.run_in_executor(self._threads, self._compute, request, question, endpoint, out, notes)
        if (rest := began + self.limits.latency - self.now) > 0:
            await asyncio.sleep(rest)
        return reply

    def _compute(self, request: Request, question: Question, endpoint: Endpoint, out: Format, notes: _Notes) -> Reply:
        """Ask the model and write its answer; in a thread."""
        if self.chat is not None and endpoint.task_type == "completion":
            told: dict[str, Any] = {"completion": [{"result": self.chat.reply(question.inputs[0])}]}
        else:
            told = answer(endpoint, question, self.engine)
        spoiler = next((act for act in notes.acts if not isinstance(act, Delay)), None)
        self.ledger.paid(notes.number, endpoint, question, type(spoiler).__name__ if spoiler else None)
        if isinstance(spoiler, Refuse):
            return _refused(_named(spoiler, endpoint.inference_id), out)
        if isinstance(spoiler, Distort):
            told = distorted(told, spoiler)
        return zipped(Reply(200, out.write(told), _headers(out), chunked=True), request)


def _facts(engine: Engine, chat: Chat | None) -> dict[str, dict[str, Any]]:
    told = facts(engine)
    if chat is not None:
        told["completion"] |= {"engine": chat.description, "method": "generated by a small chat model"}
    return told


def _read(request: Request, body_format: Format) -> Any:
    if not request.body:
        raise Refusal(400, "parse_exception", "request body is required")
    try:
        return body_format.read(request.body)
    except UnreadableError as exc:
        raise misread(str(exc)) from None


def _headers(out: Format) -> tuple[tuple[str, str], ...]:
    return (PRODUCT_HEADER, ("content-type", out.content_type))


def _refused(refusal: Refusal, out: Format) -> Reply:
    return Reply(refusal.status, out.write(refusal.body()), (*_headers(out), *refusal.headers))


def _named(act: Refuse, inference_id: str) -> Refusal:
    found = named_refusals.refusal(act.error, inference_id, message=act.message)
    if act.retry_after is not None:
        found.headers = (*found.headers, ("Retry-After", str(act.retry_after)))
    return found


def unreadable(status: int, reason: str) -> Reply:
    """The answer to something that is no HTTP request."""
    return _refused(simple(status, reason), Format())
