"""What a function returned, as a Parquet file that exists while a task runs, and in its memory only."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import re
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from airflow.sdk.io import attach
from fsspec.implementations.memory import MemoryFileSystem

from airflow_provider_modelstudio.inference.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["half_character", "lend", "make_table"]

_STORE = "modelstudio_rows"
"""What Airflow knows the memory of this process by: no store of the user's has that name."""
_HALVES = re.compile("[\\ud800-\\udfff]")


def make_table(returned: Any, column: str) -> pa.Table:
    """Rows to ask for: from a list of texts, which become ``column``, a dictionary of columns, or an Arrow table.

    Raises :class:`~..inference.errors.ConfigurationError` that names the type, never a value.
    """
    if isinstance(returned, pa.Table):
        return returned
    if isinstance(returned, pa.RecordBatch):
        return pa.Table.from_batches([returned])
    if isinstance(returned, dict) and all(isinstance(name, str) for name in returned):
        for name, values in returned.items():
            _check_characters(values, f"column {name!r}")
        try:
            return pa.table(returned)
        except (pa.ArrowException, TypeError, ValueError):
            # Outside of the handler: Arrow quotes the values that it cannot convert.
            failed = ConfigurationError(
                "the function's dictionary is no table: columns of one length and of one type each"
            )
    elif isinstance(returned, (list, tuple)):
        strange = next((one for one in returned if one is not None and not isinstance(one, str)), None)
        _check_characters(returned, "list")
        if strange is None:
            return pa.table({column: pa.array(returned, pa.string())})
        failed = ConfigurationError(
            f"the function's list holds a {type(strange).__name__}; texts or None were expected"
        )
    else:
        if inspect.iscoroutine(returned):
            returned.close()
        failed = ConfigurationError(
            f"the function returned {type(returned).__name__}; "
            "a list of texts, a dictionary of columns or a pyarrow.Table was expected"
        )
    raise failed


def half_character(values: Sequence[Any]) -> int | None:
    """Which of the values is a text that UTF-8 cannot hold, counted from 0; ``None`` when none is."""
    return next((at for at, one in enumerate(values) if isinstance(one, str) and _HALVES.search(one)), None)


def _check_characters(values: Any, where: str) -> None:
    """Arrow cannot hold such a text, and says so with the text."""
    at = half_character(values) if isinstance(values, (list, tuple)) else None
    if at is not None:
        raise ConfigurationError(f"text {at} of the function's {where} holds half a surrogate pair, which is no text")


@contextlib.contextmanager
def lend(table: pa.Table) -> Iterator[str]:
    """The URI of a file with the rows, for as long as it is needed.

    The same rows have the same URI in every process, so that a retry knows its own work again.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    content = sink.getvalue().to_pybytes()
    path = f"/{hashlib.sha256(content).hexdigest()[:32]}.parquet"
    memory = MemoryFileSystem()
    attach("memory", conn_id=_STORE, fs=memory)
    memory.pipe_file(path, content)
    try:
        yield f"memory://{_STORE}@{path}"
    finally:
        memory.rm_file(path)
