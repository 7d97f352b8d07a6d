"""The rows that every program here asks for, and the check of what came out. Needs pyarrow and numpy alone."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
TEXT = " ".join(f"word{i}" for i in range(27))
DOCUMENTS = 16
COMPLETION_CHARACTERS = 1_500
TASKS = ("text_embedding", "multi_modal_embedding", "sparse_embedding", "rerank", "completion")
_CHUNK = 50_000


def text(row: int, version: int = 0) -> str:
    """About 200 characters, distinct, with the row number at its start."""
    return f"r{row:08d} {version} {TEXT}"


def make_input(path: Path, rows: int, *, changed: int = 0, documents: bool = False) -> None:
    """``id`` and ``text``; every ``changed``-th row is another one than without. With ``documents`` a list of them."""
    schema = pa.schema([("id", pa.int64()), ("text", pa.string())])
    if documents:
        schema = schema.append(pa.field("documents", pa.list_(pa.string())))
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, _CHUNK):
            numbers = range(start, min(start + _CHUNK, rows))
            texts = [text(row, int(bool(changed) and row % changed == 0)) for row in numbers]
            columns: dict[str, Any] = {"id": list(numbers), "text": texts}
            if documents:
                columns["documents"] = [[f"d{i} of {row}: {TEXT[:100]}" for i in range(DOCUMENTS)] for row in numbers]
            writer.write_table(pa.table(columns, schema=schema))


def make_files(folder: Path, files: int, rows: int) -> Path:
    """The same rows in many small files; returns the folder."""
    folder.mkdir()
    each = rows // files
    for number in range(files):
        numbers = range(number * each, (number + 1) * each)
        pq.write_table(
            pa.table({"id": list(numbers), "text": list(map(text, numbers))}), folder / f"{number:06d}.parquet"
        )
    return folder


def check_output(folder: Path, rows: int, task: str = "text_embedding", *, in_order: bool = True) -> None:
    """Each row is there once, with its own answer and, where there is such a column, no error.

    :param in_order: the order of the input is kept, too.
    """
    at, seen = 0, np.zeros(rows, bool)
    for path in sorted(folder.iterdir()):
        parquet = pq.ParquetFile(path)
        errors = [name for name in parquet.schema_arrow.names if name.endswith("_error")]
        for batch in parquet.iter_batches(2048):
            numbers = batch.column("id").to_numpy()
            if any(batch.column(name).null_count != batch.num_rows for name in errors):
                raise SystemExit(f"rows without an answer in {path} from {at} on")
            if in_order and not (numbers == np.arange(at, at + batch.num_rows)).all():
                raise SystemExit(f"rows out of order in {path} from {at} on")
            if seen[numbers].any() or not _own(batch, numbers, task):
                raise SystemExit(f"rows with the answers of others in {path} from {at} on")
            seen[numbers] = True
            at += batch.num_rows
    if at != rows or not seen.all():
        raise SystemExit(f"{at} rows, {seen.sum()} of them different ones, instead of {rows}")


def _own(batch: pa.RecordBatch, numbers: np.ndarray, task: str) -> bool:
    """Whether each row has the answer with its own number."""
    if task == "completion":
        expected = [f"r{row:08d}{' word' * COMPLETION_CHARACTERS}"[:COMPLETION_CHARACTERS] for row in numbers]
        return bool(batch.column("completion").to_pylist() == expected)
    if task == "sparse_embedding":
        found = [dict(pairs)["row"] for pairs in batch.column("sparse_embedding").to_pylist()]
        return bool((np.array(found) == numbers).all())
    if task == "rerank":
        best = [ranking[0] for ranking in batch.column("reranked").to_pylist()]
        return all(one["index"] == DOCUMENTS - 1 for one in best) and bool(
            (np.array([one["relevance_score"] for one in best]) == numbers + np.float32((DOCUMENTS - 1) / 16)).all()
        )
    matrix = batch.column("embedding").flatten().to_numpy().reshape(batch.num_rows, -1)
    # Row numbers up to 16 million are exact as float32; the other values are the canned ones.
    rest = matrix[:, 1:]
    return bool(
        (matrix[:, 0] == numbers.astype(np.float32)).all()
        and np.isfinite(rest).all()
        and (np.abs(rest).max(axis=1) > 0).all()
    )


def memory(name: str) -> float:
    """MiB of this process: ``VmRSS`` or ``VmHWM``."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"no {name} here")


@contextmanager
def server(*, latency: float = 0.0, tail: float = 0.0, dimensions: int = 1024) -> Iterator[str]:
    """The URL of a canned server of our own, on the other core where there are two; who asks keeps to the last core."""
    cores = sorted(os.sched_getaffinity(0))
    apart = ["--core", str(cores[0])] if len(cores) > 1 else []
    command = [sys.executable, HERE / "canned.py", *apart]
    command += ["--latency", latency, "--tail", tail, "--dimensions", dimensions]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[-1]})
    try:
        yield process.stdout.readline().strip() if process.stdout else ""
    finally:
        os.sched_setaffinity(0, cores)
        process.terminate()
        process.wait()


def bill(url: str) -> dict[str, Any]:
    """What the server answered so far."""
    with urllib.request.urlopen(f"{url}/_bill") as answer:  # noqa: S310  # our own server
        told: dict[str, Any] = json.load(answer)
        return told


class Meter:
    """Seconds, CPU seconds of this process and of its children, and the peak of its memory, from its start on."""

    def __init__(self) -> None:
        self._before = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._cpu, self._wall = _cpu(), time.perf_counter()

    def read(self, rows: int) -> dict[str, Any]:
        """What ``rows`` took, for people and programs."""
        wall, cpu = time.perf_counter() - self._wall, _cpu() - self._cpu
        return {
            "rows": rows,
            "seconds": round(wall, 3),
            "rows_per_second": round(rows / wall),
            "cpu_seconds_per_1000_rows": round(cpu / rows * 1000, 5),
            "peak_memory_mib": round(memory("VmHWM") - self._before, 1),
        }


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
