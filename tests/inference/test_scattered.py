"""Answers on record that are wanted in another order than they were written."""

import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_provider_modelstudio.inference.dataset.parts import PartReader, PartWriter
from airflow_provider_modelstudio.inference.storage.local import LocalStorage
from airflow_provider_modelstudio.inference.survey.flat import Flat, by_group, lay_out, pick
from airflow_provider_modelstudio.inference.tasks import Decoded, RequestLimits
from tests.inference.fakes import Hashes, Scripted, vector

WIDE = 1024


@dataclass(frozen=True)
class Wide(Hashes):
    """Vectors of 1,024 values: the same four again and again."""

    def decode(self, answer, questions):
        matrix = np.tile(np.array(json.loads(answer.body), np.float32), WIDE // 4)
        kind = self.output_schema(WIDE).field(0).type
        column = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), type=kind)
        return Decoded(pa.RecordBatch.from_arrays([column], schema=self.output_schema(WIDE)))


class Counted:
    """A file that counts what is read of it."""

    def __init__(self, file, books):
        self.file, self.books = file, books

    def read(self, size=-1):
        content = self.file.read(size)
        self.books.append(len(content))
        return content

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.fixture
def part(tmp_path):
    """A finished part of three row groups: words, some of them missing, and lists of numbers."""
    words = [None if i % 7 == 0 else f"word {i}" for i in range(2500)]
    table = pa.table({"words": words, "numbers": [[i, i / 2] for i in range(2500)]})
    writer = PartWriter(tmp_path / "part.parquet", table.schema, ["numbers"])
    for batch in table.to_batches(max_chunksize=1000):
        writer.write(batch)
    writer.close()
    return PartReader(pa.OSFile(str(tmp_path / "part.parquet")), ["words", "numbers"]), table


def test_a_part_that_is_laid_out_has_the_same_rows(part, tmp_path):
    """Any rows, in any order, with repetitions."""
    reader, table = part
    assert lay_out(reader, tmp_path / "flat")
    rows = np.random.default_rng(1).integers(0, 2500, 999)
    places, columns = Flat(tmp_path / "flat", reader.group_ends).take(rows)
    assert sorted(places.tolist()) == list(range(999))
    assert pa.Table.from_batches([columns]).to_pylist() == table.take(rows[places]).to_pylist()


def test_rows_are_found_in_their_groups():
    """Each row once, in the group that holds it."""
    found = [
        (group, places.tolist(), at.tolist()) for group, places, at in by_group(np.array([9, 0, 4, 3]), [4, 8, 12])
    ]
    assert found == [(0, [1, 3], [0, 3]), (1, [2], [0]), (2, [0], [1])]
    assert not list(by_group(np.array([], np.int64), [4]))


@pytest.mark.parametrize(
    ("rows", "copied"),
    [
        (np.arange(1000), False),
        (np.delete(np.arange(1000), slice(50, None, 100)), False),
        (np.arange(400), True),
        (np.random.default_rng(1).permutation(1000), True),
        (np.arange(999, -1, -1), True),
    ],
    ids=["all", "but every hundredth", "less than half", "in no order", "backwards"],
)
def test_rows_are_copied_where_that_takes_less(rows, copied):
    """Whether as slices of their group or as copies, each row is there once, at its place."""
    group = pa.record_batch({"number": np.arange(1000)})
    places = np.arange(len(rows)) + 7
    pieces = list(pick(group, places, rows))
    assert np.concatenate([where for where, _ in pieces]).tolist() == places.tolist()
    assert np.concatenate([columns.column(0).to_numpy() for _, columns in pieces]).tolist() == rows.tolist()
    held = {columns.column(0).buffers()[1].address for _, columns in pieces}
    assert (group.column(0).buffers()[1].address not in held) == copied


def test_a_disk_without_room_is_no_error(part, tmp_path):
    """Where nothing can be written, a part is not laid out."""
    reader, _ = part
    assert not lay_out(reader, tmp_path / "no such folder" / "flat")


def test_a_source_in_another_order_reads_its_answers_a_few_times_at_most(place):
    """Not once for each window: the time for a dataset that is sorted anew grows with its rows, not with their square."""
    books = []

    class Store(LocalStorage):
        async def open(self, key):
            file = await super().open(key)
            return pa.PythonFile(Counted(file, books), mode="r") if key.endswith(".parquet") else file

    task = Wide(limits=RequestLimits(rows=500))
    texts = [f"row {i}" for i in range(12 * 1024)]
    place.write(texts)
    place.run(Scripted(), task, part_rows=len(texts))
    (path,) = place.destination.iterdir()
    size = path.stat().st_size
    texts = [texts[i] for i in np.random.default_rng(1).permutation(len(texts))]
    place.write(texts)
    service = Scripted()
    place.run(service, task, part_rows=len(texts), storage=Store)
    assert not service.requests
    assert sum(books) < 5 * size
    (path,) = place.destination.iterdir()
    rows = pq.read_table(path)
    assert rows["text"].to_pylist() == texts
    values = rows["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, WIDE)
    assert (values == np.tile(np.array([vector(text) for text in texts], np.float32), WIDE // 4)).all()
