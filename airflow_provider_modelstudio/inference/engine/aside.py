"""Finished windows that cannot be written yet, on local disk instead of in memory.

Before the first answer nobody may know how long a vector is, and a dataset may begin with any number of rows that ask
nothing. Such rows have a reason each, and no answer.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from .window import Window

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_modelstudio.inference.plan import Part
    from airflow_provider_modelstudio.inference.vault.records import Counts

__all__ = ["Aside"]


@dataclass(frozen=True, slots=True)
class Aside:
    """One window."""

    part: Part
    first_row: int
    counts: Counts
    path: Path
    finished: bool = True

    @classmethod
    def put(cls, window: Window, folder: Path) -> Aside:
        """Write down a finished window in which no row has an answer."""
        path = folder / f"{window.first_row}-{uuid.uuid4().hex}.arrow"
        reasons = pa.array(window.reasons, pa.string())
        schema = window.batch.schema.append(pa.field("", pa.string()))
        with pa.ipc.new_file(str(path), schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as file:
            file.write_batch(pa.RecordBatch.from_arrays([*window.batch.columns, reasons], schema=schema))
        return cls(window.part, window.first_row, window.counts, path)

    def take(self) -> Window:
        """The window, in memory again; what was on disk goes."""
        with pa.OSFile(str(self.path)) as file:
            stored = pa.ipc.open_file(file).get_batch(0)
        self.path.unlink()
        batch = pa.RecordBatch.from_arrays(stored.columns[:-1], schema=stored.schema.remove(stored.num_columns - 1))
        return Window.of_failed(self.part, self.first_row, batch, stored.columns[-1].to_pylist(), self.counts)
