"""Daft, in two ways: a batch function that asks through elasticsearch-py, or its own ``embed_text``.

    python benchmarks/peers/daft_once.py --rows 100000 [--concurrency 64] [--latency 0.1] [--api embed_text]

``embed_text`` speaks OpenAI's API alone, with answers of the same size, and chooses itself how many requests are in flight.
Runs in an environment of its own: daft, elasticsearch[async], openai, pyarrow.
The order of the input is not kept, so it is not checked.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.update(DAFT_ANALYTICS_ENABLED="0", DO_NOT_TRACK="1", DAFT_PROGRESS_BAR="0")  # read when it is imported
import daft
from elasticsearch import AsyncElasticsearch

sys.path.insert(0, str(Path(__file__).parents[1]))
from rows import Meter, check_output, make_input, server

REQUEST = 10


def embed_text(source: Path, destination: Path, url: str, dimensions: int) -> None:
    """The pipeline, with what Daft has for this."""
    session = daft.Session()
    session.set_provider("openai", base_url=f"{url}/v1", api_key="none")
    with session:
        rows = daft.read_parquet(str(source))
        model = "text-embedding-3-small"
        vectors = daft.functions.embed_text(
            rows["text"], provider="openai", model=model, dimensions=dimensions, batch_size=REQUEST
        )
        rows.with_column("embedding", vectors).write_parquet(str(destination), compression="none")


def embed(source: Path, destination: Path, url: str, concurrency: int, dimensions: int) -> None:
    """The pipeline."""
    client: AsyncElasticsearch | None = None

    @daft.func.batch(
        return_dtype=daft.DataType.embedding(daft.DataType.float32(), dimensions),
        batch_size=REQUEST,
        max_concurrency=concurrency,
    )
    async def ask(texts: daft.Series) -> list[list[float]]:
        nonlocal client
        if client is None:  # belongs to the loop that Daft runs it in
            client = AsyncElasticsearch(url, connections_per_node=concurrency, request_timeout=60)
        answer = await client.inference.text_embedding(inference_id="canned", input=texts.to_pylist())
        return [row["embedding"] for row in answer["text_embedding"]]

    rows = daft.read_parquet(str(source))
    rows.with_column("embedding", ask(rows["text"])).write_parquet(str(destination), compression="none")


def main() -> None:
    """Run once and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--dimensions", type=int, default=1024)
    parser.add_argument("--api", choices=("function", "embed_text"), default="function")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, destination = Path(folder) / "in.parquet", Path(folder) / "out"
        make_input(source, asked.rows)
        with server(latency=asked.latency, dimensions=asked.dimensions) as url:
            meter = Meter()
            if asked.api == "embed_text":
                embed_text(source, destination, url, asked.dimensions)
            else:
                embed(source, destination, url, asked.concurrency, asked.dimensions)
            took = meter.read(asked.rows)
        check_output(destination, asked.rows, in_order=False)
        print(json.dumps(took))


if __name__ == "__main__":
    main()
