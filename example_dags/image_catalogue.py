"""Vectors of the pictures of a catalogue, and which products look alike.

- **catalogue** writes a table of products with their pictures in it, if you have put none of your own into the folder
- **embed** asks for a vector of each picture that is new; a broken picture fails alone
- **look_alikes** names for each product the one that looks most like it, to find doubles and to recommend

Pictures may be in the table, as here, or at addresses that the service can reach, or in files: then the column holds
paths, and `image_root` the folder, on disk or in an object store.

It needs a connection `modelstudio_default` and the inference endpoint `bailian_mm`, of a model that gives a vector for
each picture.

The data lies in `$IMAGE_CATALOGUE_FOLDER`, or else in `$AIRFLOW_HOME/image_catalogue`; all workers must see that folder.
Put Parquet files with the columns `sku` and `image` into the folder `catalogue`.
"""

from __future__ import annotations

import os
import struct
import zlib
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from airflow.sdk import dag, task

from airflow_provider_modelstudio.operators.multi_modal_embedding import MultiModalEmbedOperator

if TYPE_CHECKING:
    from collections.abc import Mapping

HOME = Path(os.environ.get("AIRFLOW_HOME", "~/airflow"))
FOLDER = Path(os.environ.get("IMAGE_CATALOGUE_FOLDER") or HOME / "image_catalogue").expanduser().absolute()
CATALOGUE = FOLDER / "catalogue"
PIXELS = 48
COLOURS = {"red": (200, 30, 40), "green": (30, 150, 60), "blue": (40, 60, 190)}
PATTERNS = ("plain", "striped", "dotted")


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=1,  # two would write the same files
    default_args={"retries": 2},
    doc_md=__doc__,
    tags=["modelstudio", "example"],
)
def image_catalogue() -> None:
    """The three tasks."""

    @task
    def catalogue() -> None:
        """Write the sample, unless there is something else."""
        CATALOGUE.mkdir(parents=True, exist_ok=True)
        if not any(CATALOGUE.rglob("*.parquet")):
            looks = list(product(COLOURS, PATTERNS))
            table = {
                "sku": [f"scarf-{colour}-{pattern}" for colour, pattern in looks],
                "image": pa.array([png(picture(*look)) for look in looks], pa.binary()),
            }
            pq.write_table(pa.table(table), CATALOGUE / "sample.parquet")

    embed = MultiModalEmbedOperator(
        task_id="embed",
        inference_id="bailian_mm",
        source=str(CATALOGUE),
        destination=str(FOLDER / "vectors"),
        image_column="image",
        independent=True,  # a vector for each picture; a model that fuses takes titles and pictures together
    )

    @task
    def look_alikes(summary: Mapping[str, Any]) -> dict[str, str]:
        """The nearest other product of each, by cosine."""
        table = ds.dataset(summary["destination"], format="parquet").to_table(
            ["sku", "embedding"], filter=ds.field("embedding_error").is_null()
        )
        vectors = np.array(table["embedding"].to_pylist())
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        alike = vectors @ vectors.T
        np.fill_diagonal(alike, -1.0)
        skus = table["sku"].to_pylist()
        return {sku: skus[nearest] for sku, nearest in zip(skus, alike.argmax(axis=1).tolist(), strict=True)}

    catalogue() >> embed >> look_alikes(embed.output)


def picture(colour: str, pattern: str) -> np.ndarray:
    """Pixels of a scarf: by row, column and colour."""
    row, column = np.indices((PIXELS, PIXELS))
    marked = {
        "plain": np.zeros((PIXELS, PIXELS), bool),
        "striped": row // 6 % 2 == 1,
        "dotted": (row % 12 - 6) ** 2 + (column % 12 - 6) ** 2 < 10,  # noqa: PLR2004 - squared pixels of a dot
    }[pattern]
    return np.where(marked[..., None], 235, np.array(COLOURS[colour])).astype(np.uint8)


def png(pixels: np.ndarray) -> bytes:
    """The pixels as a PNG file."""
    height, width, _ = pixels.shape
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)  # each line starts with the number of its filter, none
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


image_catalogue()
