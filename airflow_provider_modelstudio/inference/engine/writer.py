"""Finished windows, in order, into parts; finished parts into the vault."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from airflow_provider_modelstudio.inference.dataset.parts import PartWriter
from airflow_provider_modelstudio.inference.disk import SCRATCH_FOLDER, STATE_FOLDER, refusal
from airflow_provider_modelstudio.inference.errors import RowsRefusedError
from airflow_provider_modelstudio.inference.survey.recall import KEY
from airflow_provider_modelstudio.inference.tasks import FinishesRows
from airflow_provider_modelstudio.inference.tasks.oddities import oddities
from airflow_provider_modelstudio.inference.vault import LocalFile
from airflow_provider_modelstudio.inference.vault.records import Counts

from .window import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from airflow_provider_modelstudio.inference.plan import Part, Plan
    from airflow_provider_modelstudio.inference.tasks import InferenceTask
    from airflow_provider_modelstudio.inference.vault import Vault
    from airflow_provider_modelstudio.inference.vault.records import Seal

    from .options import Options
    from .windows import OpenWindows

__all__ = ["Writer"]

log = logging.getLogger(__name__)


class Writer:
    """One pass over the parts that are left."""

    def __init__(
        self,
        plan: Plan,
        task: InferenceTask,
        vault: Vault,
        windows: OpenWindows,
        schema: pa.Schema,
        options: Options,
        folder: Path,
    ) -> None:
        """:param schema: of the source.
        :param folder: local folder for parts that are being written.
        """
        self.seals: dict[int, Seal] = {}
        self._plan = plan
        self._task = task
        self._vault = vault
        self._windows = windows
        self._schema = schema
        self._options = options
        self._quarantine = options.on_row_error == "quarantine"
        self._folder = folder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._putting: asyncio.Future[None] | None = None
        """The batch that was handed to the thread last."""
        self._sealing: asyncio.Task[None] | None = None
        """The part before the one that is written."""
        self._open: PartWriter | None = None
        self._apart: PartWriter | None = None
        """Rows of the open part that are kept out of the dataset."""
        self._unsealed: list[PartWriter] = []
        self._keys: set[Path] = set()
        """Files with the keys of parts that are written."""

    async def run(self, left: Sequence[Part]) -> None:
        """Write and seal the parts that are left, in order. A part is sealed while the next one is written."""
        try:
            for part in left:
                done = await self._write(part)
                if self._sealing is not None:
                    await self._sealing
                self._sealing = asyncio.create_task(self._seal(part, *done))
            if self._sealing is not None:
                await self._sealing
        finally:
            under_way = [job for job in (self._sealing, self._putting) if job is not None]
            for job in under_way:
                job.cancel()
            # In the writer's thread, so that nothing is being written; the loop has answers to keep meanwhile.
            discarding = asyncio.get_running_loop().run_in_executor(self._thread, self._discard)
            self._thread.shutdown(wait=False)
            await asyncio.gather(*under_way, return_exceptions=True)  # whatever became of them, the run has its end
            await asyncio.shield(discarding)

    def _discard(self) -> None:
        for drop in (*(writer.discard for writer in self._unsealed), *(keys.unlink for keys in self._keys)):
            with contextlib.suppress(Exception):  # gone, or of a run that tells already what went wrong
                drop()

    async def _write(self, part: Part) -> tuple[PartWriter, PartWriter | None, Path, Counts]:
        counts, at = Counts(), part.first_row
        scratch, place = await self._scratch()
        keys = scratch / f"{part.index:05d}-{uuid.uuid4().hex}.keys"
        self._keys.add(keys)
        with _told(keys, place):
            await asyncio.to_thread(keys.touch, 0o640)
        while True:
            window = await self._windows.oldest() if part.rows else self._nothing(part)
            writer = await self._append(part, window, _KeyFile(keys, place))
            if part.rows:
                self._windows.written(window)
            counts.add(window.counts)
            self._check_errors()
            if self._sealing is not None and self._sealing.done():
                self._sealing.result()  # a part that cannot be kept ends the run before the next one is full
            at += window.rows
            if at >= part.end_row:
                apart, self._open, self._apart = self._apart, None, None
                if self._putting is not None:
                    await self._putting
                return writer, apart, keys, counts

    async def _append(self, part: Part, window: Window, keys: _KeyFile) -> PartWriter:
        """Write a window, and the keys of its rows that are in the dataset."""
        batch = window.build(self._windows.schema, self._task.error_column)
        window.counts.notice(oddities(batch.select(self._windows.schema.names)))
        if isinstance(self._task, FinishesRows):
            batch = self._task.finish(batch)
        kept = window.keys
        if self._quarantine and window.counts.failed:
            reasons = batch.column(self._task.error_column)
            kept = kept[reasons.is_null().to_numpy(zero_copy_only=False)]
            if self._apart is None:
                self._apart = await self._create(part, batch.schema)
            await self._put(partial(self._apart.write, batch.filter(reasons.is_valid())))
            batch = batch.filter(reasons.is_null())
        if self._open is None:
            self._open = await self._create(part, batch.schema)
        if batch.num_rows:
            await self._put(partial(_write_both, self._open, batch, keys, kept.tobytes()))
        return self._open

    async def _create(self, part: Part, schema: pa.Schema) -> PartWriter:
        scratch, place = await self._scratch()
        path = scratch / f"{part.index:05d}-{uuid.uuid4().hex}.parquet"
        writer = PartWriter(path, schema, self._windows.schema.names, place=place)
        self._unsealed.append(writer)
        return writer

    async def _scratch(self) -> tuple[Path, str]:
        """Where parts are built, and which kind of place that is."""
        folder = await self._vault.storage.scratch(self._folder)
        return folder, SCRATCH_FOLDER if folder == self._folder else STATE_FOLDER

    async def _put(self, write: Callable[[], None]) -> None:
        """Return when all but the last batch are written: the next window is built meanwhile."""
        before = self._putting
        self._putting = asyncio.get_running_loop().run_in_executor(self._thread, write)
        if before is not None:
            await before

    def _nothing(self, part: Part) -> Window:
        """An empty dataset still has a file, with the full schema."""
        return Window(part, part.first_row, pa.RecordBatch.from_pylist([], self._schema), np.empty(0, KEY))

    async def _seal(self, part: Part, writer: PartWriter, apart: PartWriter | None, keys: Path, counts: Counts) -> None:
        self.seals[part.index] = await self._vault.seal(
            part,
            await self._finish(writer),
            None if apart is None else await self._finish(apart),
            keys=keys,
            columns=self._windows.schema.names,
            counts=counts,
        )
        self._unsealed = [one for one in self._unsealed if one not in {writer, apart}]
        log.info("part %s of %s: %s rows, %s failed", part.index + 1, len(self._plan.parts), counts.rows, counts.failed)

    async def _finish(self, writer: PartWriter) -> LocalFile:
        sha256, size = await asyncio.to_thread(writer.close)
        return LocalFile(writer.path, writer.rows, sha256, size)

    def _check_errors(self) -> None:
        counts = self._windows.counts
        if self._options.too_many(counts.failed, self._plan.rows):
            most = max(counts.errors, key=counts.errors.__getitem__)
            raise RowsRefusedError(
                f"{counts.failed} of {self._plan.rows} rows failed, more than max_error_rate="
                f"{self._options.max_error_rate:g} allows; "
                f"most often: {most}; when the cause is mended, errors_only=True asks them again"
            )


class _KeyFile(NamedTuple):
    """The keys of a part's rows, one after the other."""

    path: Path
    place: str
    """Which kind of place that is."""

    def append(self, content: bytes) -> None:
        """Opened each time: a part may have any number of windows, and many parts may be written."""
        with _told(self.path, self.place), self.path.open("ab") as file:
            file.write(content)


def _write_both(writer: PartWriter, batch: pa.RecordBatch, keys: _KeyFile, content: bytes) -> None:
    """In the writer's thread: a disk that is being synced lets nobody open a file for milliseconds."""
    writer.write(batch)
    keys.append(content)


@contextlib.contextmanager
def _told(path: Path, place: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise refusal(error, place, path) from error
