"""A loop with elasticsearch-py, as one writes it by hand: the official client, a thread pool, a window of rows at a time.

    python benchmarks/peers/elasticsearch_loop.py --rows 100000 [--concurrency 64] [--latency 0.1]

It keeps order and memory in hand, and has nothing else: no journal, no refused rows, no pacing, no second run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from elasticsearch import Elasticsearch

sys.path.insert(0, str(Path(__file__).parents[1]))
from rows import Meter, check_output, make_input, server

REQUEST = 10
WINDOW = 5_120


def embed(source: Path, destination: Path, url: str, concurrency: int, dimensions: int) -> None:
    """The loop."""
    client = Elasticsearch(url, connections_per_node=concurrency, request_timeout=60)

    def ask(texts: list[str]) -> list[list[float]]:
        answer = client.inference.text_embedding(inference_id="canned", input=texts)
        return [row["embedding"] for row in answer["text_embedding"]]

    schema = pq.read_schema(source).append(pa.field("embedding", pa.list_(pa.float32(), dimensions)))
    with ThreadPoolExecutor(concurrency) as pool, pq.ParquetWriter(destination, schema) as writer:
        for batch in pq.ParquetFile(source).iter_batches(WINDOW):
            texts = batch.column("text").to_pylist()
            answers = pool.map(ask, [texts[at : at + REQUEST] for at in range(0, len(texts), REQUEST)])
            vectors = [vector for answer in answers for vector in answer]
            column = pa.array(vectors, schema.field("embedding").type)
            writer.write_batch(pa.RecordBatch.from_arrays([*batch.columns, column], schema=schema))


def main() -> None:
    """Run once and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--dimensions", type=int, default=1024)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, destination = Path(folder) / "in.parquet", Path(folder) / "out"
        destination.mkdir()
        make_input(source, asked.rows)
        with server(latency=asked.latency, dimensions=asked.dimensions) as url:
            meter = Meter()
            embed(source, destination / "part.parquet", url, asked.concurrency, asked.dimensions)
            took = meter.read(asked.rows)
        check_output(destination, asked.rows)
        print(json.dumps(took))


if __name__ == "__main__":
    main()
