"""One run of a real operator against the canned server, checked row by row, measured as a whole.

    python benchmarks/embed_once.py --rows 100000 [--concurrency 64] [--latency 0.1] [--media json|cbor] [--keep FOLDER]
    python benchmarks/embed_once.py --task sparse_embedding|rerank|completion|multi_modal_embedding

Prints one JSON object: rows a second, CPU seconds for 1,000 rows, peak memory over the process before ``execute``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rows import TASKS, Meter, bill, check_output, make_input, server


def context(run_id: str) -> dict[str, Any]:
    """As much of Airflow's context as the operator reads."""
    ti = SimpleNamespace(dag_id="benchmark", run_id=run_id, task_id="ask", map_index=-1)
    return {"ti": ti, "outlet_events": {}}


def main() -> None:
    """Run once and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--task", choices=TASKS, default="text_embedding")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--batch-size", type=int, help="rows in a request; the task type's own, if not given")
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--tail", type=float, default=0.0)
    parser.add_argument("--dimensions", type=int, default=1024)
    parser.add_argument("--media", choices=("auto", "json", "cbor"), default="auto")
    parser.add_argument("--vector-type", default="float32")
    parser.add_argument("--source", type=Path, help="a dataset to read instead, with ids from 0 on")
    parser.add_argument(
        "--keep", type=Path, help="folder for input and output; a second run there goes on from the first"
    )
    parser.add_argument("--run-id", default="first", help="another one for a run that goes on from the first")
    parser.add_argument("--changed", type=int, default=0, help="change every n-th row of the input")
    asked = parser.parse_args()
    os.environ.setdefault("AIRFLOW__LOGGING__LOGGING_LEVEL", "WARNING")
    with tempfile.TemporaryDirectory(dir=asked.keep) as scratch:
        folder = asked.keep or Path(scratch)
        source, destination = folder / f"in-{asked.rows}-{asked.changed}.parquet", folder / "out"
        if asked.source is None and not source.exists():
            make_input(source, asked.rows, changed=asked.changed, documents=asked.task == "rerank")
        given = {name: getattr(asked, name) for name in ("latency", "tail", "dimensions")}
        with server(**given) as url:
            print(json.dumps(run(asked, url, asked.source or source, destination)))


def make_operator(asked: argparse.Namespace, source: Path, destination: Path) -> Any:
    """The operator of the task type."""
    # What is imported here is not what is measured.
    from airflow_provider_modelstudio.operators.completion import CompletionOperator  # noqa: PLC0415
    from airflow_provider_modelstudio.operators.multi_modal_embedding import MultiModalEmbedOperator  # noqa: PLC0415
    from airflow_provider_modelstudio.operators.rerank import RerankOperator  # noqa: PLC0415
    from airflow_provider_modelstudio.operators.sparse_embedding import SparseEmbedOperator  # noqa: PLC0415
    from airflow_provider_modelstudio.operators.text_embedding import EmbedOperator  # noqa: PLC0415

    shared = {
        "task_id": "ask",
        "inference_id": "canned",
        "source": str(source),
        "destination": str(destination),
        "concurrency": asked.concurrency,
        "batch_size": asked.batch_size,
    }
    match asked.task:
        case "text_embedding":
            return EmbedOperator(**shared, vector_type=asked.vector_type)
        case "multi_modal_embedding":
            return MultiModalEmbedOperator(**shared, text_column="text", vector_type=asked.vector_type)
        case "sparse_embedding":
            return SparseEmbedOperator(**shared)
        case "rerank":
            return RerankOperator(**shared, query_column="text")
        case _:
            return CompletionOperator(**shared, prompt="{text}")


def run(asked: argparse.Namespace, url: str, source: Path, destination: Path) -> dict[str, Any]:
    """Run the operator, check its output, and say what it took."""
    connection = {"conn_type": "modelstudio", "host": url, "extra": {"media_type": asked.media}}
    os.environ["AIRFLOW_CONN_MODELSTUDIO_DEFAULT"] = json.dumps(connection)
    operator = make_operator(asked, source, destination)
    before = bill(url)
    meter, began = Meter(), time.monotonic()
    summary = operator.execute(context(asked.run_id))
    took = meter.read(asked.rows)
    after = bill(url)
    if asked.vector_type == "float32":
        check_output(destination, asked.rows, asked.task)
    if after["rows"] - before["rows"] != summary["embedded"] or summary["failed"]:
        raise SystemExit(f"{after['rows'] - before['rows']} rows answered for {summary}")
    return {
        **took,
        "asked": summary["embedded"],
        "requests": summary["requests"],
        "seconds_before_first_request": None if after["first_at"] is None else round(after["first_at"] - began, 3),
        "most_in_flight": after["most_in_flight"],
        "middle_rows_per_second": after["middle_rows_per_second"],
        "server_cpu_seconds_per_1000_rows": round(
            (after["cpu_seconds"] - before["cpu_seconds"]) / asked.rows * 1000, 5
        ),
    }


if __name__ == "__main__":
    main()
