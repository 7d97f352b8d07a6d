"""Sends requests when the governor says so, makes answers durable, and does what was decided about errors.

A permit is held until the answer is durable.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
import random
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_modelstudio.inference.budget import Spent
from airflow_provider_modelstudio.inference.decide import Mark, Split, Stop, Wait, decide, recorded
from airflow_provider_modelstudio.inference.decide.size import Cut, Size
from airflow_provider_modelstudio.inference.errors import (
    AnswerError,
    BudgetError,
    OutageError,
    RequestError,
    RowsRefusedError,
)
from airflow_provider_modelstudio.inference.governor import Governor
from airflow_provider_modelstudio.inference.plan import Packer
from airflow_provider_modelstudio.inference.vault.journal import Record, once_key

from .window import Asked, Batch

if TYPE_CHECKING:
    from airflow_provider_modelstudio.inference.governor import Permit
    from airflow_provider_modelstudio.inference.tasks import Decoded, InferenceTask, Question
    from airflow_provider_modelstudio.inference.transport import Transport
    from airflow_provider_modelstudio.inference.vault import Vault
    from airflow_provider_modelstudio.inference.vault.lease import Lease

    from .options import Options
    from .windows import OpenWindows

__all__ = ["Sender"]

STUBBORN = 3
"""Failures of a request after which, when nothing else is left to ask, we want to know whether the service is well."""

log = logging.getLogger(__name__)

TICK = 0.001
"""Seconds that the loop's clock can tell apart: who sleeps for less does not sleep at all."""
_GRACE_SECONDS = 20.0
"""A request is given up by itself so much later than its server should have, at most."""
ANSWER_BYTES_PER_QUESTION = 512 * 1024
"""Twenty times a JSON vector of 2,048 numbers; longer answers are not ours."""


class Sender:
    """All requests of one try."""

    def __init__(
        self,
        task: InferenceTask,
        inference_id: str,
        transport: Transport,
        vault: Vault,
        lease: Lease,
        windows: OpenWindows,
        options: Options,
    ) -> None:
        self.spent = Spent()
        """By this try; what was refused for free costs a request and no token."""
        self.lost = 0
        """Requests that brought nothing of use and may have been paid for."""
        self._answers = 0
        self.governor = Governor(options.limits, dice=random.uniform)
        self._task = task
        self._inference_id = inference_id
        self._transport = transport
        self._vault = vault
        self._lease = lease
        self._loop = asyncio.get_running_loop()
        self._windows = windows
        self._options = options
        self._packer: Packer[Asked] = Packer(task.limits)
        self._size = Size()
        self._ready: deque[Batch] = deque()
        self._later: list[tuple[float, int, Batch]] = []
        self._group_rows = 0
        """Rows of the largest request that holds a group; 0 where there are none."""
        self._order = 0
        self._limit_seen = self.governor.limit
        """When the last request was sent."""
        self._counting: asyncio.Task[None] | None = None
        """Writes down what will be spent."""
        self._asking: set[asyncio.Task[None]] = set()
        self._broken: BaseException | None = None
        self._closed = False
        self._succeeded_at = -math.inf
        self._answered: tuple[Asked, Question] | None = None
        self._useless = 0
        """Rows that were marked because of their answers."""
        self._doubtful: list[tuple[Batch, str]] = []
        """Those among them, with their reasons, from before any answer was good: perhaps it is not the rows."""
        self._control: Batch | None = None
        """A question that was answered, asked again because nothing else would tell whether the service is well."""
        self._wake = asyncio.Event()

    # ------------------------------------------------------------------ what to send

    @property
    def rows_in_flight(self) -> int:
        """Most rows in flight, as things are."""
        return self.governor.limit * (self._group_rows or self._packer.limits.rows)

    def feed(self, asked: Asked, question: Question, unfit: Decoded | None = None) -> None:
        """Ask this, together with what comes next.

        :param unfit: what an earlier try was answered, which was not what it had asked for; then it goes alone.
        """
        if unfit is not None:
            self._ready.append(Batch([(asked, question)], unfit=unfit))
            self._wake.set()
            return
        request = self._packer.feed(asked, question)
        if question.group is not None and request is not None:  # a group may be far smaller than a request
            self._group_rows = max(self._group_rows, len(request))
        if request is not None:
            self._ready.append(Batch(request))
        self._wake.set()  # also for a request that is not full: it may be all there is

    def flush(self) -> None:
        """Do not wait for more questions before the open request goes."""
        request = self._packer.flush()
        if request is not None:
            self._ready.append(Batch(request))
            self._wake.set()

    def close(self) -> None:
        """Nothing more will be fed."""
        self.flush()
        self._closed = True
        self._wake.set()

    # ------------------------------------------------------------------ when to send

    async def run(self) -> None:
        """Send until everything that was fed is settled."""
        try:
            await self._run()
        finally:
            if (counting := self._counting) is not None:
                try:
                    await asyncio.wait({counting}, timeout=self._options.drain_seconds)
                finally:  # whoever is in a hurry must not leave it behind: the end of the run writes the books, too
                    counting.cancel()
                    await asyncio.gather(counting, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            now = self._loop.time()
            self._wake.clear()
            if self._broken is not None:
                raise self._broken
            patience = self.governor.patience_left(now)
            if patience <= 0:
                raise OutageError(
                    f"no request to {self._inference_id!r} succeeded for {self._options.limits.patience:.0f} s; "
                    "everything answered before is kept, and the next try goes on from there"
                )
            due = self._later[0][0] if self._later else math.inf
            batch = self._later[0][2] if due <= now else self._ready[0] if self._ready else None
            if batch is None:
                if not self._asking and not self._later:
                    if self._closed:
                        await self._blame_rows()
                        return
                    self.flush()  # nobody fills the open request while everything waits for its rows
                    if self._ready:
                        continue
                    await self._blame_rows()
                await self._nap(due - now)
            elif not self._vault.meter.covers(spent := self._with(batch)):
                await self._count_ahead(batch)
            elif (pause := self.governor.wait(now, batch.tokens)) > 0:
                await self._nap(min(pause, patience + 0.001))
            else:
                self._take(batch)
                self._send(batch, now, spent)
                self._look_ahead(batch)

    def _take(self, batch: Batch) -> None:
        """The batch that is next leaves its queue."""
        if self._later and self._later[0][2] is batch:
            heapq.heappop(self._later)
        else:
            self._ready.popleft()

    def _with(self, batch: Batch, times: int = 1) -> Spent:
        """What will be spent when this was sent, so many times, and answered as requests are on average."""
        return self.spent.plus(Spent(times, times * batch.tokens, times * self._written_on_average))

    @property
    def _written_on_average(self) -> int:
        """Tokens that a model wrote for a request."""
        return -(-self.spent.written // max(self._answers, 1))

    async def _count_ahead(self, batch: Batch) -> None:
        """See to it that the next request is counted before it is sent: if we are killed, those ahead are counted, too."""
        await self._vault.meter.allow(self._with(batch, 2 * self._ahead))

    def _look_ahead(self, batch: Batch) -> None:
        """See to it that nobody has to wait for what comes next: that it is read, and counted while others still are."""
        if self.governor.limit > self._limit_seen:  # and with it the windows that may be open
            self._windows.look_again()
        self._limit_seen = self.governor.limit
        more = self._ready or self._later or not self._closed
        if more and self._counting is None and not self._vault.meter.covers(self._with(batch, self._ahead)):
            self._counting = asyncio.create_task(self._count_ahead(batch))
            self._counting.add_done_callback(self._counted)

    def _counted(self, counting: asyncio.Task[None]) -> None:
        self._counting = None
        if not counting.cancelled():
            counting.exception()  # whoever needs what was to be counted counts it again, and is told
        self._wake.set()

    @property
    def _ahead(self) -> int:
        """Requests that are worth being counted before they are needed."""
        return max(4, self.governor.limit)

    def _send(self, batch: Batch, now: float, spent: Spent) -> None:
        """:param spent: what will be, with this."""
        self._lease.check()
        refusal = self._options.budget.refusal(rows=0, spent=self._vault.meter.before.plus(spent))
        if refusal is not None:
            raise BudgetError(f"{refusal}; the run stops here, and what was answered is kept")
        permit = self.governor.sent(now, batch.tokens)
        self.spent = self.spent.plus(Spent(1, batch.tokens))
        asking = asyncio.create_task(self._ask(batch, permit))
        self._asking.add(asking)
        asking.add_done_callback(self._asked)

    def _asked(self, asking: asyncio.Task[None]) -> None:
        self._asking.discard(asking)
        if not asking.cancelled():
            asking.exception()  # heard already
        self._wake.set()

    async def _nap(self, seconds: float) -> None:
        """Sleep until something happened, at most ``seconds``."""
        if seconds == math.inf:
            await self._wake.wait()
            return
        alarm = self._loop.call_later(max(seconds, TICK), self._wake.set)
        try:
            await self._wake.wait()
        finally:
            alarm.cancel()

    async def drain(self, hurry: asyncio.Future[None]) -> None:
        """No new requests; what is in flight is paid for, and may still come in and become durable.

        :param hurry: done when there are only seconds left. Else a request has the time that it always has.
        """
        if not self._asking:
            return
        seconds = self._options.limits.timeout + _GRACE_SECONDS
        log.info("stopping: waiting for %s requests in flight", len(self._asking))
        settled = asyncio.ensure_future(asyncio.wait(set(self._asking)))
        either: set[asyncio.Future[Any]] = {settled, hurry}
        try:
            await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if hurry.done():
                await asyncio.wait({settled}, timeout=self._options.drain_seconds)
        finally:
            settled.cancel()
            late = list(self._asking)
            if late:
                log.warning("%s requests were given up, and may have been paid for", len(late))
                self.spent = self.spent.plus(Spent(written=len(late) * self._written_on_average))
            for asking in late:
                asking.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    # ------------------------------------------------------------------ one request

    async def _ask(self, batch: Batch, permit: Permit) -> None:
        try:
            try:
                answer = await self._transport.infer(
                    self._task.task_type,
                    self._inference_id,
                    self._task.encode(batch.questions),
                    expect_bytes=ANSWER_BYTES_PER_QUESTION * len(batch.questions),
                )
                decoded = self._task.decode(answer, batch.questions)
            except (RequestError, AnswerError) as error:
                await self._settle(batch, permit, error)
            else:
                self._answers += 1
                if decoded.written:
                    self.spent = self.spent.plus(Spent(written=decoded.written))
                self._succeeded_at = self._loop.time()
                self.governor.answered(self._succeeded_at, permit)
                if batch is self._control:
                    self._control = None
                    return
                self._answered = (batch.asked[0], batch.questions[0])
                self._took(batch)
                columns = self._windows.pin(decoded.columns)
                if columns is not decoded.columns:
                    decoded = replace(decoded, columns=columns)
                try:
                    if decoded.unfit and batch.unfit is None:
                        await self._ask_once_more(batch, decoded)
                    else:
                        await self._keep(batch, decoded)
                except RowsRefusedError:  # one of these ends the run; what is known of others was paid for, too
                    await self._blame_rows()
                    raise
                await self._blame_rows()  # after what was paid for is kept: it may end the run
                # A model wrote more than was foreseen; the answer itself was kept first.
                if not self._vault.meter.covers(self.spent):
                    await self._count_ahead(batch)
        except Exception as broken:
            self._broken = self._broken or broken  # before another request may have the permit
            raise
        finally:
            self.governor.released(self._loop.time(), permit)

    async def _keep(self, batch: Batch, decoded: Decoded) -> None:
        """Make an answer durable, then give it to the rows that asked."""
        await self._write_down(batch, decoded, [question.key for question in batch.questions])
        self._windows.deliver(batch, decoded)

    async def _ask_once_more(self, batch: Batch, decoded: Decoded) -> None:
        """Make an answer that is not what was asked for durable, under keys of its own, and ask before all others."""
        await self._write_down(batch, decoded, [once_key(question.key) for question in batch.questions])
        batch.unfit = decoded
        self._again(-math.inf, batch)
        self._wake.set()

    async def _write_down(self, batch: Batch, decoded: Decoded, keys: list[bytes]) -> None:
        errors = [decoded.refused.get(i) for i in range(len(keys))]
        await self._vault.journal.append(Record(keys, batch.rows, decoded.columns, errors, batch.parts))

    async def _settle(self, batch: Batch, permit: Permit, error: RequestError | AnswerError) -> None:
        """Do what was decided about a failed request."""
        now = self._loop.time()
        self.lost += isinstance(error, AnswerError) or error.maybe_billed
        if batch is self._control:
            self._control = None
            self.governor.failed(now, permit)
            return
        rows = 1 if self._task.limits.whole else len(batch.questions)
        useless = self._useless if self._answered is None else 0
        decision = decide(error, rows=rows, attempts=batch.attempts, alone=batch.alone, useless=useless)
        log.debug("a request with %s rows failed: %s", len(batch.questions), type(decision).__name__)
        match decision:
            case Stop():
                self.governor.failed(now, permit)
                raise decision.error from error
            case Wait():
                self._wait(batch, permit, decision, now)
            case Split():
                self.governor.answered(now, permit)  # the service is well; the request was not
                self._split(batch, decision)
            case Mark():
                self._useless += isinstance(error, AnswerError)
                self.governor.answered(now, permit)
                reason = recorded(decision.reason, [str(q.value) for q in batch.questions])
                if isinstance(error, AnswerError) and self._answered is None:
                    self._doubtful.append((batch, reason))
                else:
                    await self._mark(batch, reason)

    def _wait(self, batch: Batch, permit: Permit, decision: Wait, now: float) -> None:
        governor, pause = self.governor, 0.0
        if decision.cause == "throttled":
            self.spent = self.spent.plus(Spent(0, -batch.tokens))  # refused for free
            governor.throttled(now, permit, retry_after=decision.retry_after, unit=decision.unit)
        elif decision.cause == "overloaded":
            governor.overloaded(now, permit, retry_after=decision.retry_after)
        else:
            governor.failed(now, permit, retry_after=decision.retry_after)
            if governor.may_retry(now) and not governor.breaking:
                pause = governor.backoff(batch.attempts + 1)
        if decision.counts:
            batch.attempts += 1
            batch.alone += self._succeeded_at > batch.failed_at
            batch.failed_at = now
        self._again(now + pause, batch)
        nothing_else = self._closed and not self._ready and self._control is None
        if batch.attempts >= STUBBORN and nothing_else and self._answered is not None:
            self._control = Batch([self._answered])
            self._again(now, self._control)

    def _split(self, batch: Batch, decision: Split) -> None:
        """Ask again in smaller requests, and keep to a limit that the server named."""
        if decision.size is not None:
            self._packer.cap_size(decision.size)
        cut = Cut(batch.size, 2) if decision.too_large else None
        rows = -(-len(batch.questions) // 2)
        if decision.rows is not None:
            if decision.rows < self._packer.limits.rows:
                log.info("the endpoint takes at most %s rows a request; keeping to that", decision.rows)
            self._packer.cap_rows(decision.rows)
            self._ready = deque(piece for waiting in self._ready for piece in waiting.pieces(decision.rows))
            rows = min(decision.rows, len(batch.questions) - 1)
        for piece in batch.pieces(rows):
            piece.cut = cut
            self._again(0.0, piece)

    def _took(self, batch: Batch) -> None:
        """Learn from an answer how large a request may be, where the service names no limit."""
        self._size, cut = self._size.took(batch.size), batch.cut
        batch.cut = None
        if cut is not None and cut.answered(batch.size):
            self._size = self._size.gave_up(cut)
            if not self._task.limits.whole and self._size.most is not None:
                most = self._size.most
                self._ready = deque(piece for waiting in self._ready for piece in waiting.fitting(most))
        self._packer.most_size = self._size.most

    def _again(self, due: float, batch: Batch) -> None:
        heapq.heappush(self._later, (due, self._order, batch))
        self._order += 1

    async def _blame_rows(self) -> None:
        """The endpoint gives good answers, or nobody is left to tell: then it is the rows."""
        doubtful, self._doubtful = self._doubtful, []
        # Side by side, so that all reasons are written down before one of them ends the run.
        marking = (self._mark(batch, reason) for batch, reason in doubtful)
        for outcome in await asyncio.gather(*marking, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    async def _mark(self, batch: Batch, reason: str) -> None:
        """Write down for good why a row, or rows that only mean something together, have no answer."""
        if batch.unfit is not None:  # there is an answer, such as it is
            await self._keep(batch, batch.unfit)
            return
        keys = [question.key for question in batch.questions]
        await self._vault.journal.append(Record(keys, batch.rows, None, [reason] * len(keys), batch.parts))
        for asked in batch.asked:
            self._windows.refuse(asked, reason)
