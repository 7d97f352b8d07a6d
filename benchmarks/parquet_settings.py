"""How vectors are best written to Parquet: encodings, compression, row groups and pages, one table.

    python benchmarks/parquet_settings.py [--rows 16384] [--dimensions 1024] [--rounds 3]

CPU µs a row to write and to read, bytes a row, and what it takes to read 100 rows in the middle: time, and bytes that went
through the file handle. Each file is read back and compared before its line is printed.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from airflow_provider_modelstudio.inference.dataset.parts import PartWriter

if TYPE_CHECKING:
    from collections.abc import Callable

RANGE_ROWS = 100
LEAF = "embedding.list.element"


@dataclass(frozen=True)
class Setting:
    """One line of the table."""

    name: str
    kind: str = "float32"
    rows: int = 1024
    """Of a row group."""
    options: dict[str, Any] = field(default_factory=dict)
    """For the writer, beside what all have."""


PLAIN = {"compression": "none", "use_dictionary": False}


def zstd(level: int = 1, **more: Any) -> dict[str, Any]:
    """Compressed with zstd."""
    return {"compression": "zstd", "compression_level": level, "use_dictionary": False, **more}


def encoded(name: str, **more: Any) -> dict[str, Any]:
    """With an encoding of its own for the vectors."""
    return {**PLAIN, "column_encoding": {LEAF: name}, **more}


SETTINGS = [
    Setting("what the operators write: float32"),
    Setting("what the operators write: float16", "float16"),
    Setting("what the operators write: int8", "int8"),
    *(Setting(f"plain, row groups of {rows:,}", rows=rows, options=PLAIN) for rows in (512, 1024, 2048, 4096, 8192)),
    *(
        Setting(f"plain, pages of {size // 1024:,} KiB", options={**PLAIN, "data_page_size": size})
        for size in (64 * 1024, 256 * 1024, 4 * 1024 * 1024)
    ),
    Setting("plain, no page checksums", options={**PLAIN, "write_page_checksum": False}),
    Setting("plain, statistics", options={**PLAIN, "write_statistics": True}),
    Setting("pyarrow's defaults (snappy, dictionary)", options={"compression": "snappy", "use_dictionary": True}),
    Setting("snappy", options={"compression": "snappy", "use_dictionary": False}),
    Setting("lz4", options={"compression": "lz4", "use_dictionary": False}),
    Setting("zstd 1", options=zstd()),
    Setting("byte stream split", options=encoded("BYTE_STREAM_SPLIT")),
    Setting("byte stream split, lz4", options=encoded("BYTE_STREAM_SPLIT", compression="lz4")),
    Setting("byte stream split, zstd 1", options=encoded("BYTE_STREAM_SPLIT", compression="zstd", compression_level=1)),
    Setting("float16, plain", "float16", options=PLAIN),
    Setting("float16, zstd 1", "float16", options=zstd()),
    Setting(
        "float16, byte stream split, zstd 1",
        "float16",
        options=encoded("BYTE_STREAM_SPLIT", compression="zstd", compression_level=1),
    ),
    Setting("int8, plain (32 bits a value)", "int8", options=PLAIN),
    Setting("int8, plain, zstd 1", "int8", options=zstd()),
    Setting("int8, dictionary", "int8", options={"compression": "none", "use_dictionary": True}),
    Setting("int8, dictionary, zstd 1", "int8", options=zstd(use_dictionary=True)),
    Setting("int8, delta", "int8", options=encoded("DELTA_BINARY_PACKED")),
    Setting("int8, byte stream split, zstd 1", "int8", options=encoded("BYTE_STREAM_SPLIT", compression="zstd")),
]


class CountingFile(io.FileIO):
    """A file that counts what is read from it."""

    count = 0

    def readinto(self, buffer: Any) -> int:
        """As a file does."""
        size = super().readinto(buffer) or 0
        self.count += size
        return size

    def read(self, size: int | None = -1) -> bytes:
        """As a file does."""
        content = super().read(-1 if size is None else size) or b""
        self.count += len(content)
        return content


def vectors(rows: int, dimensions: int, kind: str) -> pa.Array:
    """Unit vectors, or what becomes of them as int8."""
    matrix = np.random.default_rng(1).standard_normal((rows, dimensions), np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    if kind == "int8":
        matrix = np.rint(matrix / np.abs(matrix).max(axis=1, keepdims=True) * 127)
    flat = pa.array(matrix.astype(kind).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, type=pa.list_(pa.field("element", flat.type), dimensions))


def write(path: Path, column: pa.Array, setting: Setting) -> None:
    """One file with one column."""
    batch = pa.record_batch([column], names=["embedding"])
    pieces = [batch.slice(at, setting.rows) for at in range(0, batch.num_rows, setting.rows)]
    if setting.name.startswith("what the operators write"):
        part = PartWriter(path, batch.schema, ["embedding"])
        for piece in pieces:
            part.write(piece)
        part.close()
        return
    options = {"write_statistics": False, "write_page_checksum": True, **setting.options}
    with pq.ParquetWriter(path, batch.schema, **options) as writer:
        for piece in pieces:
            writer.write_batch(piece, row_group_size=setting.rows)


def read(path: Path) -> pa.Table:
    """All of it."""
    return pq.ParquetFile(path, page_checksum_verification=True).read(use_threads=False)


def read_range(path: Path, at: int) -> tuple[int, pa.Table]:
    """100 rows from ``at`` on, and how many bytes that took: the footer, and the row groups that have them."""
    with CountingFile(path) as handle:
        parquet = pq.ParquetFile(handle, page_checksum_verification=True)
        rows = parquet.metadata.row_group(0).num_rows
        groups = list(range(at // rows, (at + RANGE_ROWS - 1) // rows + 1))
        table = parquet.read_row_groups(groups, columns=["embedding"], use_threads=False)
        return handle.count, table.slice(at - groups[0] * rows, RANGE_ROWS)


def cpu(rounds: int, act: Callable[[], object]) -> float:
    """CPU seconds, the median of some rounds."""
    taken = []
    for _ in range(rounds):
        began = time.process_time()
        act()
        taken.append(time.process_time() - began)
    return statistics.median(taken)


def measure(setting: Setting, rows: int, dimensions: int, rounds: int, folder: Path) -> str:
    """A line of the table."""
    column, path = vectors(rows, dimensions, setting.kind), folder / "vectors.parquet"
    writing = cpu(rounds, lambda: write(path, column, setting))
    if not read(path).column("embedding").combine_chunks().equals(column):
        raise SystemExit(f"{setting.name}: the file does not hold what was written")
    at = rows // 2 + RANGE_ROWS  # inside of a row group, whatever its size
    count, piece = read_range(path, at)
    if not piece.column("embedding").combine_chunks().equals(column.slice(at, RANGE_ROWS)):
        raise SystemExit(f"{setting.name}: other rows than those asked for")
    reading, ranging = cpu(rounds, lambda: read(path)), cpu(rounds, lambda: read_range(path, at))
    return (
        f"| {setting.name} | {writing / rows * 1e6:.2f} | {path.stat().st_size / rows:,.0f} "
        f"| {reading / rows * 1e6:.2f} | {ranging * 1e3:.1f} | {count / 1024:,.0f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=16_384)
    parser.add_argument("--dimensions", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    print(
        "| vectors | write, CPU µs a row | bytes a row | read, CPU µs a row | read 100 rows, CPU ms | KiB read for them |"
    )
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for setting in SETTINGS:
            print(measure(setting, asked.rows, asked.dimensions, asked.rounds, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
