"""Run a plan. The only room with a loop, a clock and dice.

Three things go on at the same time, and none waits for another without need::

    feeder    reads windows, hands out what is known, packs the rest into requests
    sender    asks the governor when, and sends; answer → journal → rows, or what was decided on the error
    writer    finished windows, in order, into parts; finished parts into the vault

They meet at the open windows.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from airflow_provider_modelstudio.inference.budget import Budget, Estimate, Spent
from airflow_provider_modelstudio.inference.errors import (
    BudgetError,
    InterruptedRunError,
    OutageError,
    RowsRefusedError,
    SupersededError,
)
from airflow_provider_modelstudio.inference.summary import Summary
from airflow_provider_modelstudio.inference.survey import survey
from airflow_provider_modelstudio.inference.survey.recall import Known, Shelf
from airflow_provider_modelstudio.inference.vault import Vault
from airflow_provider_modelstudio.inference.vault.errands import Errands

from .apart import run_apart
from .feeder import Feeder
from .options import Options, Progress, StopSignal
from .scratch import scratch_folder
from .sender import Sender
from .windows import OpenWindows
from .writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from pathlib import Path

    from airflow_provider_modelstudio.inference.dataset import Source
    from airflow_provider_modelstudio.inference.plan import Part, Plan
    from airflow_provider_modelstudio.inference.storage import Storage
    from airflow_provider_modelstudio.inference.survey import Survey
    from airflow_provider_modelstudio.inference.tasks import InferenceTask
    from airflow_provider_modelstudio.inference.transport import Transport
    from airflow_provider_modelstudio.inference.vault.lease import Lease
    from airflow_provider_modelstudio.inference.vault.records import Manifest, Seal

__all__ = ["Budget", "Estimate", "Options", "Progress", "StopSignal", "estimate", "run", "run_apart", "served"]

Result = TypeVar("Result")

log = logging.getLogger(__name__)


async def run(
    plan: Plan,
    source: Source,
    task: InferenceTask,
    *,
    inference_id: str,
    transport: Transport,
    vault: Vault,
    options: Options,
    stop: StopSignal,
    report: Callable[[Progress], None],
) -> Summary:
    """Bring the destination to what the plan says, asking only what is not known.

    Raises :class:`~..errors.PermanentError` when somebody must change something, and
    :class:`~..errors.TransientError` when a new try goes on from what is durable.
    """
    began = asyncio.get_running_loop().time()
    manifest = await vault.committed()
    await vault.publication.check(manifest.files(vault.storage.destination) if manifest else ())
    sender, warnings = None, {}
    if manifest is not None:
        await _remember(vault, options)
    if manifest is None or not await vault.publication.shows(manifest):
        with scratch_folder() as folder:
            work = _Run(plan, source, task, vault, options, report, folder, began)
            manifest = await work.complete(inference_id, transport, stop)
            sender, warnings = work.sender, work.warnings
    return _summary(manifest, vault, sender, began, options, warnings)


async def _remember(vault: Vault, options: Options) -> None:
    """Before the dataset is shown, so that whoever is killed after that finds it."""
    if options.errand:
        await Errands(vault.storage).remember(options.errand, vault.plan, options.budget.currency)


async def served(storage: Storage, options: Options) -> Summary | None:
    """The summary of the errand, if it was done before and readers still see what came of it. Asks nobody."""
    began = asyncio.get_running_loop().time()
    found = await Errands(storage).served(options.errand)
    if found is None:
        return None
    vault = Vault(storage, found.plan)
    manifest = await vault.committed()
    if manifest is None or not await vault.publication.shows(manifest):
        return None
    told = _summary(manifest, vault, None, began, options, {})
    return replace(told, cost_estimated=None if found.currency is None else 0.0, currency=found.currency)


async def estimate(plan: Plan, source: Source, task: InferenceTask, *, vault: Vault, options: Options) -> Estimate:
    """What :func:`run` would ask. Asks nothing, writes nothing."""
    asked = requests = tokens = 0
    if await vault.committed() is None:
        with scratch_folder() as folder:
            look = await _look(plan, source, task, vault, options, folder, StopSignal())
            asked, requests, tokens = look.found.asked, look.requests(task.limits.rows), look.found.tokens
    return Estimate(
        rows=plan.rows,
        rows_to_ask=asked,
        requests_estimated=requests,
        tokens_estimated=tokens,
        cost_estimated=options.budget.cost(Spent(requests, tokens)),
        currency=options.budget.currency,
        destination=vault.storage.destination,
    )


class _Look(NamedTuple):
    """What is there, and what is left."""

    known: Known
    seals: dict[int, Seal]
    left: list[Part]
    found: Survey

    def requests(self, rows: int) -> int:
        """Requests of so many rows that the rows to ask need, about."""
        return max(-(-self.found.asked // rows), self.found.groups)


async def _look(
    plan: Plan, source: Source, task: InferenceTask, vault: Vault, options: Options, folder: Path, stop: StopSignal
) -> _Look:
    """Read what is on record, and find for each row that is left where its answer comes from."""
    also = () if options.reuse_from is None else (options.reuse_from,)
    known = Known(vault, folder / "known", folder / "sealed", also=also, wider=options.wider)
    share = task.equal_rows_share
    seals = await known.read(share=share, reuse=options.reuse)
    left = [part for part in plan.parts if part.index not in seals]
    found = await _in_thread(
        partial(
            survey,
            source,
            task,
            left,
            known.keys_path,
            known.sealed_path,
            folder,
            share=share,
            previous=known.previous,
            journal=known.journal,
            built=known.built,
            stopped=lambda: stop.requested,
        ),
        options.drain_seconds,
    )
    return _Look(known, seals, left, found)


class _Run:
    """One try of one run."""

    _windows: OpenWindows

    def __init__(
        self,
        plan: Plan,
        source: Source,
        task: InferenceTask,
        vault: Vault,
        options: Options,
        report: Callable[[Progress], None],
        folder: Path,
        began: float,
    ) -> None:
        self._plan = plan
        self._source = source
        self._task = task
        self._vault = vault
        self._options = options
        self._report = report
        self._folder = folder
        self._began = began
        self.sender: Sender | None = None
        """``None`` as long as there is nothing to ask."""
        self._outside = ThreadPoolExecutor(1, thread_name_prefix="outside")
        """Airflow is told and asked from here: it may take minutes, and the loop has answers to keep."""
        self._damaged = 0
        """Files of state that could not be used."""
        self._to_ask = 0
        self._foreign: dict[str, str] = {}
        """Objects of other runs in the journal, and whose they are."""
        self._rows_before = 0

    @property
    def warnings(self) -> dict[str, int]:
        """What went wrong in this try and did not keep it from its end → how often."""
        told = {_LOST: self.sender.lost if self.sender is not None else 0, _DAMAGED: self._damaged}
        return {words: times for words, times in told.items() if times}

    async def complete(self, inference_id: str, transport: Transport, stop: StopSignal) -> Manifest:
        """Everything from the first look at the vault to the commit."""
        await self._vault.record_plan()
        lease = self._vault.lease(
            self._options.owner, self._options.attempt, self._options.clock, self._options.lease_seconds
        )
        keeping: list[asyncio.Task[None]] = []
        try:
            await _unless_stopped(lease.acquire(), stop)
            self._vault.journal.epoch = lease.epoch
            keeping.append(asyncio.create_task(lease.keep()))
            manifest = await self._vault.committed()  # another attempt may have finished while we waited
            if manifest is None or not await self._vault.can_show(manifest):
                if self._options.reuse and (adopted := await _unless_stopped(self._vault.adopt_unchanged(), stop)):
                    log.info("%s of %s parts are as they were and stay", adopted, len(self._plan.parts))
                manifest = await self._ask_what_is_left(inference_id, transport, lease, stop)
            else:  # readers may have something newer than what this try found when it began
                await self._check_source(stop)
            lease.check()  # who has been replaced shows nothing
            await self._vault.tidy_quarantine(manifest)
            await _remember(self._vault, self._options)
            await self._vault.publication.show(manifest, self._vault.manifest_key, lease)
            await self._vault.forget_other_runs(self._foreign, lease)
        except Exception:
            for words, times in self.warnings.items():  # there will be no summary to tell it
                log.warning("%s %s", times, words)
            raise
        finally:
            self._outside.shutdown(wait=False)
            for job in keeping:
                job.cancel()
            try:
                await asyncio.gather(*keeping, return_exceptions=True)
                if self.sender is not None:
                    await self._vault.meter.settle(self.sender.spent)
            finally:
                await lease.release()
        return manifest

    async def _ask_what_is_left(
        self, inference_id: str, transport: Transport, lease: Lease, stop: StopSignal
    ) -> Manifest:
        task, vault, options = self._task, self._vault, self._options
        looking = _look(self._plan, self._source, task, vault, options, self._folder, stop)
        look = await _unless_stopped(looking, stop)
        known, seals, left, found = look
        self._foreign = known.foreign
        self._damaged = len(known.damaged) + len(known.missing)
        for location in known.damaged:
            log.warning("%s is damaged; its rows are asked again", location)
        for location in known.missing:
            log.warning("%s is missing; its rows are asked again", location)
        for location in known.cut:
            log.info("%s ends in the middle of an answer that was being written when a try ended", location)
        shelf = Shelf(found.shared, self._folder)
        await vault.meter.open(lease.epoch)
        windows = OpenWindows(
            task,
            shelf,
            self._folder,
            shares=bool(len(found.shared)),
            dimensions=options.dimensions,
            fail_rows=options.on_row_error == "fail",
        )
        windows.answer_schema = await known.vectors(seals.values())
        for seal in seals.values():
            windows.counts.add(seal.counts)
        self._windows, self._to_ask, self._rows_before = windows, found.asked, windows.counts.rows
        log.info(
            "%s rows: %s to ask (about %s tokens), %s finished by an earlier try",
            self._plan.rows,
            found.asked,
            found.tokens,
            self._rows_before,
        )
        if found.refused and options.too_many(windows.counts.failed + found.refused_rows, self._plan.rows):
            raise RowsRefusedError(
                f"{found.refused_rows} of {self._plan.rows} rows cannot be asked, more than max_error_rate="
                f"{options.max_error_rate:g} allows; most often: {found.most_refused}; nothing was asked by this try"
            )
        refusal = options.budget.refusal(
            rows=windows.counts.embedded + found.journalled + found.asked,
            spent=vault.meter.before.plus(Spent(look.requests(task.limits.rows), found.tokens)),
        )
        if refusal is not None:
            raise BudgetError(f"{refusal}; nothing was asked by this try, and what was answered before is kept")
        self.sender = sender = Sender(task, inference_id, transport, vault, lease, windows, options)
        feeder = Feeder(self._source, task, found, known, windows, sender)
        writer = Writer(self._plan, task, vault, windows, self._source.schema, options, self._folder)
        jobs = (feeder.run(left), sender.run(), writer.run(left))
        await self._together(sender, [asyncio.create_task(job) for job in jobs], stop)
        await _unless_stopped(self._outwards(self._report, self._progress(sender)), stop)
        await self._check_source(stop)
        await _unless_stopped(self._ask_airflow(), stop)
        lease.check()
        segments = await vault.journal.segments()
        manifest = await vault.commit(
            [*seals.values(), *writer.seals.values()], owner=options.owner, removed=found.removed
        )
        # Not what came while we worked, from one that was replaced: those answers are in no part.
        seen = known.segments - known.foreign.keys()
        await vault.journal.drop([one for one in segments if one in seen or vault.journal.wrote(one)], lease)
        await lease.forget_earlier()
        return manifest

    async def _check_source(self, stop: StopSignal) -> None:
        """A listing that hangs is left behind, in a thread of its own."""
        await _unless_stopped(_in_thread(self._source.check_unchanged, self._options.drain_seconds), stop)

    async def _ask_airflow(self) -> None:
        """Return when this try still counts. Commits are rare and outages short: it is worth half a minute to know."""
        for pause in (*self._options.fence_pauses, None):
            try:
                await self._outwards(self._options.fence)
            except OutageError as error:
                if pause is None:
                    raise
                log.info("%s; asking again in %s s", error, pause)
                await asyncio.sleep(pause)
            else:
                return

    async def _together(self, sender: Sender, jobs: list[asyncio.Task[None]], stop: StopSignal) -> None:
        """Return when all jobs are done, raise as soon as one fails or the run is asked to stop."""
        stopped = asyncio.create_task(_interrupted(stop))
        ticker = asyncio.create_task(self._tick(sender))
        try:
            waiting = set(jobs)
            while waiting:
                done, _ = await asyncio.wait({*waiting, stopped}, return_when=asyncio.FIRST_COMPLETED)
                for job in done:
                    job.result()
                waiting -= done
        except BaseException as error:
            for job in jobs:
                job.cancel()
            if isinstance(error, (SupersededError, asyncio.CancelledError)):  # nobody sees what comes in later
                stopped.cancel()
            await sender.drain(stopped)
            raise
        finally:
            for job in (stopped, ticker):
                job.cancel()
            await asyncio.gather(*jobs, stopped, ticker, return_exceptions=True)

    async def _tick(self, sender: Sender) -> None:
        while True:
            await asyncio.sleep(self._options.progress_seconds)
            await self._outwards(self._report, self._progress(sender))

    async def _outwards(self, call: Callable[..., None], *told: Progress) -> None:
        await asyncio.get_running_loop().run_in_executor(self._outside, call, *told)

    def _progress(self, sender: Sender) -> Progress:
        counts, governor = self._windows.counts_so_far(), sender.governor
        seconds = asyncio.get_running_loop().time() - self._began
        rate = (counts.rows - self._rows_before) / seconds if seconds > 0 else 0.0
        return Progress(
            rows=self._plan.rows,
            rows_done=counts.rows,
            rows_to_ask=self._to_ask,
            embedded=counts.embedded,
            reused=counts.reused,
            deduplicated=counts.deduplicated,
            failed=counts.failed,
            requests=sender.spent.requests,
            cost_estimated=self._options.budget.cost(sender.spent),
            in_flight=governor.in_flight,
            limit=governor.limit,
            limited_by=governor.why,
            rows_per_second=round(rate, 1),
            seconds=round(seconds, 1),
            seconds_left=round((self._plan.rows - counts.rows) / rate, 1) if rate > 0 else None,
        )


async def _unless_stopped(waiting: Coroutine[Any, Any, Result], stop: StopSignal) -> Result:
    """Wait for something, and raise when the run is asked to stop meanwhile."""
    job, stopped = asyncio.create_task(waiting), asyncio.create_task(_interrupted(stop))
    try:
        done, _ = await asyncio.wait({job, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if job not in done:
            stopped.result()
        return job.result()
    finally:
        for one in (job, stopped):
            one.cancel()
        await asyncio.gather(job, stopped, return_exceptions=True)


async def _in_thread(work: Callable[[], Result], patience: float) -> Result:
    """What ``work`` returns, in a thread of its own: the end of a run that is stopped does not wait for it for long."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="survey")
    working = asyncio.get_running_loop().run_in_executor(thread, work)
    thread.shutdown(wait=False)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait({working}, timeout=patience)  # it hears of a stop with the next window
        working.cancel()
        raise


async def _interrupted(stop: StopSignal) -> None:
    await stop.wait()
    raise InterruptedRunError("asked to stop; answers in flight were kept, the next try goes on from there")


_LOST = "requests brought nothing of use, and may have been paid for"
_DAMAGED = "files of the state were damaged or missing, and their rows were asked again"


def _summary(
    manifest: Manifest,
    vault: Vault,
    sender: Sender | None,
    began: float,
    options: Options,
    warnings: Mapping[str, int],
) -> Summary:
    counts = manifest.counts
    spent = Spent() if sender is None else sender.spent
    if sender is None and manifest.owner != options.owner:  # paid for by an earlier run, not by this one
        counts.embedded, counts.reused = 0, counts.embedded + counts.reused
    return Summary(
        rows=manifest.rows,
        embedded=counts.embedded,
        reused=counts.reused,
        deduplicated=counts.deduplicated,
        failed=counts.failed,
        quarantined=manifest.quarantined,
        removed=manifest.removed,
        requests=spent.requests,
        tokens_estimated=spent.tokens,
        output_tokens_estimated=spent.written,
        cost_estimated=options.budget.cost(spent),
        currency=options.budget.currency,
        seconds=round(asyncio.get_running_loop().time() - began, 3),
        destination=vault.storage.destination,
        manifest=vault.storage.locate(vault.manifest_key),
        quarantine=vault.storage.locate(vault.quarantine_key) if manifest.quarantined else None,
        files=len(manifest.parts),
        up_to_date=counts.embedded == 0 and not spent.requests,
        errors=counts.errors,
        warnings={**counts.oddities, **warnings},
    )
