"""One run of the real EmbedOperator against the canned server, checked row by row, measured as a whole.

    python benchmarks/embed_once.py --rows 100000 [--concurrency 64] [--latency 0.1] [--media json|cbor] [--keep FOLDER]

Prints one JSON object: rows a second, CPU seconds for 1,000 rows, peak memory over the process before ``execute``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent
TEXT = " ".join(f"word{i}" for i in range(27))


def text(row: int, version: int = 0) -> str:
    """About 200 characters, distinct, with the row number at its start."""
    return f"r{row:08d} {version} {TEXT}"


def make_input(path: Path, rows: int, changed: int = 0) -> None:
    """``id`` and ``text``; every ``changed``-th row is another one than without."""
    schema = pa.schema([("id", pa.int64()), ("text", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, 50_000):
            numbers = range(start, min(start + 50_000, rows))
            texts = [text(row, int(bool(changed) and row % changed == 0)) for row in numbers]
            writer.write_table(pa.table({"id": list(numbers), "text": texts}, schema=schema))


def check_output(destination: Path, rows: int) -> None:
    """Each row is there once, in order, with its own vector."""
    at = 0
    for path in sorted(destination.iterdir()):
        for batch in pq.ParquetFile(path).iter_batches(2048, columns=["id", "embedding", "embedding_error"]):
            numbers = np.arange(at, at + batch.num_rows)
            vectors = batch.column("embedding")
            first = vectors.flatten().to_numpy().reshape(batch.num_rows, -1)[:, 0]
            if not (
                (batch.column("id").to_numpy() == numbers).all()
                and (first == numbers.astype(np.float32)).all()
                and batch.column("embedding_error").null_count == batch.num_rows
            ):
                raise SystemExit(f"wrong rows in {path} at {at}")
            at += batch.num_rows
    if at != rows:
        raise SystemExit(f"{at} rows instead of {rows}")


def memory(name: str) -> float:
    """MiB of this process: ``VmRSS`` or ``VmHWM``."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"no {name} here")


def context() -> dict[str, Any]:
    """As much of Airflow's context as the operator reads."""
    ti = SimpleNamespace(dag_id="benchmark", run_id="run", task_id="embed", map_index=-1)
    return {"ti": ti, "outlet_events": {}}


def main() -> None:
    """Run once and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--tail", type=float, default=0.0)
    parser.add_argument("--dimensions", type=int, default=1024)
    parser.add_argument("--media", choices=("auto", "json", "cbor"), default="auto")
    parser.add_argument(
        "--keep", type=Path, help="folder for input and output; a second run there goes on from the first"
    )
    parser.add_argument("--changed", type=int, default=0, help="change every n-th row of the input")
    parser.add_argument("--profile", type=Path, help="write a cProfile there")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.keep) as scratch:
        folder = asked.keep or Path(scratch)
        source, destination = folder / f"in-{asked.rows}-{asked.changed}.parquet", folder / "out"
        if not source.exists():
            make_input(source, asked.rows, asked.changed)
        arguments = ["--latency", asked.latency, "--tail", asked.tail, "--dimensions", asked.dimensions]
        server = subprocess.Popen(  # noqa: S603  # our own program
            [sys.executable, HERE / "canned.py", *map(str, arguments)], stdout=subprocess.PIPE, text=True
        )
        try:
            url = server.stdout.readline().strip() if server.stdout else ""
            print(json.dumps(run(asked, url, source, destination)))
        finally:
            server.terminate()
            server.wait()


def run(asked: argparse.Namespace, url: str, source: Path, destination: Path) -> dict[str, Any]:
    """Run the operator, check its output, and say what it took."""
    connection = {"conn_type": "modelstudio", "host": url, "extra": {"media_type": asked.media}}
    os.environ["AIRFLOW_CONN_MODELSTUDIO_DEFAULT"] = json.dumps(connection)
    from airflow_provider_modelstudio.operators.inference import EmbedOperator  # noqa: PLC0415  # not what is measured

    operator = EmbedOperator(
        task_id="embed",
        inference_id="canned",
        source=str(source),
        destination=str(destination),
        concurrency=asked.concurrency,
    )
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    if asked.profile:
        import cProfile  # noqa: PLC0415  # only when asked for

        profiler = cProfile.Profile()
        profiler.enable()
    wall, cpu = time.perf_counter(), time.process_time()
    summary = operator.execute(context())
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if asked.profile:
        profiler.disable()
        profiler.dump_stats(asked.profile)
    peak = memory("VmHWM") - before
    check_output(destination, asked.rows)
    return {
        "rows": asked.rows,
        "asked": summary["embedded"],
        "requests": summary["requests"],
        "seconds": round(wall, 2),
        "rows_per_second": round(asked.rows / wall),
        "cpu_seconds_per_1000_rows": round(cpu / asked.rows * 1000, 4),
        "peak_memory_mib": round(peak, 1),
    }


if __name__ == "__main__":
    main()
