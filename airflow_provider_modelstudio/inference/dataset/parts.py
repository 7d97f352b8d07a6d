"""Files of a destination: written row group by row group, read back by position."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_provider_modelstudio.inference.disk import SCRATCH_FOLDER, refusal
from airflow_provider_modelstudio.inference.errors import StorageError

from . import WINDOW_BYTES, WINDOW_ROWS
from .schemas import first_line
from .trouble import is_damage, name_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["PartReader", "PartWriter"]


class PartWriter:
    """Writes one output file on local disk, row group by row group.

    Vectors are stored plain and uncompressed, everything else with zstd; pages carry checksums.
    Parquet has no integer below 32 bits: whole vectors are numbers of a dictionary, 8 bits each.
    """

    def __init__(self, path: Path, schema: pa.Schema, answers: Sequence[str], *, place: str = SCRATCH_FOLDER) -> None:
        """:param answers: columns that hold answers; lists in them do not compress and need no statistics.
        :param place: which kind of place ``path`` is in, for people.
        """
        self.path = path
        self._place = place
        self.rows = 0
        self._held: list[pa.RecordBatch] = []
        self._alone = threading.Lock()
        """A run that is stopped drops a file that another thread may be finishing."""
        with self._refusal_told():
            self._sink = _HashingFile(path)
        leaves = _leaves(schema)
        lists = {name for name in answers if pa.types.is_nested(schema.field(name).type)}
        dense = [leaf for leaf, top, kind in leaves if top in lists and pa.types.is_floating(kind)]
        whole = [leaf for leaf, top, kind in leaves if top in lists and pa.types.is_int8(kind)]
        plain = [leaf for leaf, top, _ in leaves if top not in lists]
        self._writer = pq.ParquetWriter(
            self._sink,
            schema,
            compression={leaf: "none" if leaf in {*dense, *whole} else "zstd" for leaf, _, _ in leaves},
            compression_level={leaf: 1 for leaf, _, _ in leaves if leaf not in {*dense, *whole}},
            use_dictionary=[*plain, *whole],
            write_statistics=plain,
            write_page_checksum=True,
            store_schema=True,
        )

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows. Small batches wait until they make a row group: readers are slow with many of a few rows."""
        if self._held and sum(one.num_rows for one in self._held) + batch.num_rows > WINDOW_ROWS:
            self._write_group()
        self._held.append(batch)
        self.rows += batch.num_rows
        if batch.num_rows >= WINDOW_ROWS or sum(one.nbytes for one in self._held) >= WINDOW_BYTES:
            self._write_group()

    def _write_group(self) -> None:
        group = pa.Table.from_batches(self._held)
        with self._refusal_told():
            self._writer.write_table(group, row_group_size=max(group.num_rows, 1))
        self._held = []

    def close(self) -> tuple[str, int]:
        """Finish the file; returns the sha256 of its content and its size in bytes."""
        with self._alone, self._refusal_told():
            if self._held:
                self._write_group()
            self._writer.close()
            self._sink.close()
        return self._sink.sha256.hexdigest(), self._sink.size

    def discard(self) -> None:
        """Drop the file."""
        with self._alone:
            with contextlib.suppress(OSError):  # what the disk refused was told by whoever wrote
                self._writer.close()
            with contextlib.suppress(OSError):
                self._sink.close()
            self.path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _refusal_told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise refusal(error, self._place, self.path) from error


class _HashingFile:
    """A file that knows the digest of what was written to it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self.sha256 = hashlib.sha256()
        self.size = 0

    @property
    def closed(self) -> bool:
        return self._file.closed

    def write(self, content: Any) -> int:
        view = memoryview(content)
        self.sha256.update(view)
        self.size += view.nbytes
        return self._file.write(view)

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        self._file.flush()

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        self._file.close()


def _leaves(schema: pa.Schema) -> list[tuple[str, str, pa.DataType]]:
    """Parquet's leaf columns: dotted path, top-level name, Arrow type of the leaf."""
    leaves: list[tuple[str, str, pa.DataType]] = []

    def walk(kind: pa.DataType, path: str, top: str) -> None:
        if pa.types.is_map(kind):
            walk(kind.key_type, f"{path}.key_value.key", top)
            walk(kind.item_type, f"{path}.key_value.value", top)
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            walk(kind.value_type, f"{path}.list.element", top)
        elif pa.types.is_struct(kind):
            for i in range(kind.num_fields):
                walk(kind.field(i).type, f"{path}.{kind.field(i).name}", top)
        else:
            leaves.append((path, top, kind))

    for field in schema:
        walk(field.type, field.name, field.name)
    return leaves


@contextlib.contextmanager
def _damage_told() -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise  # of this machine
    except Exception as error:
        if not is_damage(error):  # each client of a store has its own family of errors
            raise StorageError(
                f"a file of the dataset, kept in the state folder, cannot be read now ({name_of(error)}); "
                "what was answered is kept, and the next try goes on from there"
            ) from None  # what a store says may hold an address that is signed
        raise StorageError(
            f"a file of the dataset, kept in the state folder, is damaged ({first_line(error)}); "
            "run with if_exists='overwrite' to ask everything anew"
        ) from error


class PartReader:
    """Rows of a finished part by position, a row group at a time."""

    def __init__(self, file: pa.NativeFile, columns: Sequence[str]) -> None:
        with _damage_told():
            self._parquet = pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False)
        if not {*columns} <= {*self._parquet.schema_arrow.names}:
            raise StorageError(
                "a file of the dataset, kept in the state folder, has other columns than its record says: one of them is "
                "damaged; run with if_exists='overwrite' to ask everything anew"
            )
        self._columns = list(columns)
        self._ends: list[int] = []
        for i in range(self._parquet.metadata.num_row_groups):
            self._ends.append((self._ends[-1] if self._ends else 0) + self._parquet.metadata.row_group(i).num_rows)

    @property
    def schema(self) -> pa.Schema:
        """Of the columns that are read."""
        schema: pa.Schema = self._parquet.schema_arrow
        return pa.schema([schema.field(name) for name in self._columns])

    @property
    def group_ends(self) -> Sequence[int]:
        """Row number after the last row of each row group."""
        return self._ends

    def group(self, index: int) -> pa.RecordBatch:
        """One row group. Raises :class:`~..errors.StorageError` when it is damaged."""
        with _damage_told():
            table = self._parquet.read_row_group(index, columns=self._columns, use_threads=False)
        (batch,) = table.select(self._columns).combine_chunks().to_batches()
        return batch
