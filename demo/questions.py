"""Questions in plain words, answered by the nearest vectors of a dataset that the operator wrote.

``python -m demo.questions FOLDER QUESTION…``, with the connection ``modelstudio_default`` in the environment.
"""

from __future__ import annotations

import argparse
import logging
import sys
import textwrap
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

__all__ = ["Vectors", "main", "read_vectors"]

INFERENCE_ID = "bailian_embeddings"
ANSWERS = 3


class Vectors:
    """Rows and their vectors, in memory: right for some 100,000 rows. For more, take a vector index."""

    def __init__(self, rows: pa.Table, embeddings: npt.NDArray[np.float32]) -> None:
        """
        :param rows: what is shown; ``text`` tells equal rows from others.
        :param embeddings: a vector for each row.
        """
        self.rows = rows
        self._embeddings = _unit(embeddings)

    def nearest(self, query: npt.NDArray[np.float32], count: int) -> list[tuple[float, dict[str, str]]]:
        """Cosine and row of the ``count`` nearest texts, the nearest first; of equal texts the first row."""
        cosines = self._embeddings @ _unit(query)
        found: dict[str, tuple[float, dict[str, str]]] = {}
        for index in np.argsort(-cosines, kind="stable"):
            if len(found) == count:
                break
            row = self.rows.slice(int(index), 1).to_pylist()[0]
            found.setdefault(row["text"], (float(cosines[index]), row))
        return list(found.values())


def read_vectors(folder: str | Path) -> Vectors:
    """The rows of a dataset that have a vector."""
    table = ds.dataset(folder, format="parquet").to_table()
    table = table.filter(pc.is_valid(table["embedding"])).combine_chunks()
    embeddings = table["embedding"].combine_chunks()
    numbers = embeddings.flatten().to_numpy().reshape(len(table), embeddings.type.list_size)
    return Vectors(table.drop_columns(["embedding"]), numbers)


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: npt.NDArray[np.float32] = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the nearest texts of each question."""
    parser = argparse.ArgumentParser(prog="python -m demo.questions", description=__doc__)
    parser.add_argument("folder", help="the destination of an EmbedOperator")
    parser.add_argument("question", nargs="+")
    given = parser.parse_args(arguments)
    # Airflow takes seconds to import; a wrong call should not.
    from airflow_provider_modelstudio.hooks.modelstudio import ModelStudioHook  # noqa: PLC0415

    logging.getLogger("elastic_transport").setLevel(logging.WARNING)  # Airflow shows every call otherwise
    vectors = read_vectors(given.folder)
    answer = ModelStudioHook().infer(
        "text_embedding", INFERENCE_ID, given.question, task_settings={"input_type": "search"}
    )
    for question, embedded in zip(given.question, answer["text_embedding"], strict=True):
        sys.stdout.write(f"\n  {question}\n")
        for place, (_, row) in enumerate(vectors.nearest(np.asarray(embedded["embedding"], np.float32), ANSWERS), 1):
            name = f"{row['module']}.{row['object']}".rstrip(".")
            text = textwrap.shorten(row["text"], 100, placeholder=" …")
            sys.stdout.write(f"    {place}. {row['package']}: {name}\n       {text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
