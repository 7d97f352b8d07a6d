"""Parts whose files did not change are taken over as they are: neither read nor written anew."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_modelstudio.inference.errors import EndpointError, StorageError
from airflow_provider_modelstudio.inference.plan import InputFile, make_plan
from airflow_provider_modelstudio.inference.storage.local import LocalStorage
from tests.inference.fakes import Hashes, Scripted, vector

OLD = [f"old {i}" for i in range(250)]


def add_day(place, name, texts):
    """One more file, with ids that go on."""
    first = sum(pq.read_metadata(path).num_rows for path in sorted(place.source.iterdir()) if path.name < name)
    table = pa.table({"id": list(range(first, first + len(texts))), "text": pa.array(texts, pa.string())})
    pq.write_table(table, place.source / name)


def inodes(place):
    """Each file of the dataset by its number within the dataset."""
    return {path.name[:10]: path.stat().st_ino for path in place.destination.iterdir()}


def test_a_new_file_leaves_earlier_parts_alone(place):
    """Parts of unchanged files are the same files as before; only the part that grew is built anew."""
    add_day(place, "day-1.parquet", OLD)
    place.run()
    before = inodes(place)
    add_day(place, "day-2.parquet", ["new 1", "old 3", "new 2"])
    service = Scripted()
    summary = place.run(service)
    place.check([*OLD, "new 1", "old 3", "new 2"])
    after = inodes(place)
    assert after["part-00000"] == before["part-00000"]
    assert after["part-00001"] == before["part-00001"]
    assert after["part-00002"] != before["part-00002"]
    assert service.billed == {"new 1": 1, "new 2": 1}
    assert (summary.rows, summary.embedded, summary.failed, summary.removed) == (253, 2, 0, 0)
    assert summary.reused + summary.deduplicated == 251


def test_a_file_that_goes_leaves_earlier_parts_alone(place):
    """Nothing is asked when the last file is removed, and its rows are counted as removed."""
    add_day(place, "day-1.parquet", OLD[:200])
    add_day(place, "day-2.parquet", OLD[200:])
    place.run()
    before = inodes(place)
    (place.source / "day-2.parquet").unlink()
    service = Scripted()
    summary = place.run(service)
    place.check(OLD[:200])
    assert inodes(place) == {name: before[name] for name in ("part-00000", "part-00001")}
    assert (service.requests, summary.reused, summary.removed) == (0, 200, 50)
    assert summary.up_to_date


def test_a_file_that_was_written_anew_is_read_anew(place):
    """The same rows in a file with another stamp are compared row by row."""
    add_day(place, "day-1.parquet", OLD)
    place.run()
    changed = [*OLD[:120], "changed", *OLD[121:]]
    add_day(place, "day-1.parquet", changed)
    service = Scripted()
    place.run(service)
    place.check(changed)
    assert service.billed == {"changed": 1}


def test_other_columns_are_never_stale(place):
    """A carried column that changed is in the new version, although no text did."""
    place.write(OLD, note=["a"] * 250)
    place.run()
    place.write(OLD, note=["b"] * 250)
    service = Scripted()
    place.run(service)
    assert {row["note"] for row in place.rows()} == {"b"}
    assert service.requests == 0


def test_parts_with_failed_rows_are_built_anew(place):
    """Failed rows are asked again when the source changes, wherever they are."""
    add_day(place, "day-1.parquet", OLD)
    place.run(Scripted(lambda number, texts: None), task=FailsOn("old 7"))
    assert [row["id"] for row in place.rows() if row["embedding"] is None] == [7]
    before = inodes(place)
    add_day(place, "day-2.parquet", ["new"])
    service = Scripted()
    summary = place.run(service)
    place.check([*OLD, "new"])
    assert service.billed == {"old 7": 1, "new": 1}
    assert inodes(place)["part-00001"] == before["part-00001"]
    assert (summary.embedded, summary.failed) == (2, 0)


def test_overwriting_takes_nothing_over(place):
    """With ``if_exists="overwrite"`` everything is asked and written anew."""
    add_day(place, "day-1.parquet", OLD)
    place.run()
    add_day(place, "day-2.parquet", ["new"])
    service = Scripted()
    place.run(service, reuse=False)
    place.check([*OLD, "new"])
    assert service.billed == dict.fromkeys([*OLD, "new"], 1)


def test_rows_that_are_asked_each_keep_their_own_answers(place):
    """Where equal rows may differ, a part is taken over with the answers it has, and nothing counts as removed."""
    add_day(place, "day-1.parquet", ["same"] * 250)
    task = Hashes(equal_rows_share=False)
    place.run(task=task)
    add_day(place, "day-2.parquet", ["same"] * 5)
    service = Scripted()
    summary = place.run(service, task=task)
    assert service.billed == {"same": 5}
    assert (summary.embedded, summary.reused, summary.removed) == (5, 250, 0)


@pytest.mark.parametrize("at", range(1, 5))
def test_a_try_that_dies_while_taking_over_is_finished_by_the_next(place, at):
    """However far it came, the next try ends with the same dataset and pays for the new row alone."""
    add_day(place, "day-1.parquet", OLD)
    place.run()
    before = inodes(place)
    add_day(place, "day-2.parquet", ["new"])
    with pytest.raises(StorageError, match="died"):
        place.run(storage=dying(at))
    service = Scripted()
    place.run(service)
    place.check([*OLD, "new"])
    assert service.billed == {"new": 1}
    assert {name: inodes(place)[name] for name in ("part-00000", "part-00001")} == {
        name: before[name] for name in ("part-00000", "part-00001")
    }


def dying(at):
    """A disk that goes away before its ``at``-th copy."""
    copies = iter(range(1, 100))

    class Dying(LocalStorage):
        async def copy(self, source, key):
            if next(copies) == at:
                raise StorageError("died")
            await super().copy(source, key)

    return Dying


def test_a_part_whose_keys_are_damaged_is_not_taken_over(place):
    """A part whose record is shorter than it says is built anew, and its rows are asked again."""
    add_day(place, "day-1.parquet", OLD)
    place.run()
    keys = next(iter(sorted(place.state.rglob("*/keys/*00000-*"))))
    content = keys.read_bytes()
    keys.unlink()
    keys.write_bytes(content[:-16])
    add_day(place, "day-2.parquet", ["new"])
    service = Scripted()
    place.run(service)
    place.check([*OLD, "new"])
    assert service.billed == dict.fromkeys([*OLD[:100], "new"], 1)


@pytest.mark.parametrize("what", ["parts", "keys"])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_part_that_is_missing_costs_its_own_rows(place, caplog, what, number):
    """Somebody removed one file of the state folder: it is named, its rows are asked again, and all others stay."""
    add_day(place, "day-1.parquet", OLD)
    place.run()
    (gone,) = place.state.rglob(f"*/{what}/*0000{number}-*")
    gone.unlink()
    add_day(place, "day-2.parquet", ["new"])
    service = Scripted()
    place.run(service)
    place.check([*OLD, "new"])
    assert service.billed == dict.fromkeys([*OLD[100 * number : 100 * number + 100], "new"], 1)
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == [
        f"{gone} is missing; its rows are asked again"
    ]


def test_a_part_that_is_missing_costs_its_own_rows_where_rows_are_asked_each(place):
    """The same where equal rows do not share answers, and nothing is taken over as a whole."""
    task = Hashes(equal_rows_share=False)
    add_day(place, "day-1.parquet", OLD)
    place.run(task=task)
    (gone,) = place.state.rglob("*/parts/*00001-*")
    gone.unlink()
    add_day(place, "day-0.parquet", ["new"])
    service = Scripted()
    place.run(service, task)
    assert service.billed == dict.fromkeys(["new", *OLD[100:200]], 1)


def test_vectors_of_another_length_are_not_mixed_with_parts_that_stay(place):
    """A model that changed behind the same settings stops the run; what readers see stays of one length."""
    add_day(place, "day-1.parquet", OLD)
    place.run()
    add_day(place, "day-2.parquet", ["new"])
    longer = Scripted(lambda number, texts: json.dumps([[*vector(text), 0.5] for text in texts]).encode())
    with pytest.raises(EndpointError, match="changed the form of its answers"):
        place.run(longer)
    place.check(OLD)


class FailsOn(Hashes):
    """Finds no use for the answer to one text."""

    def __init__(self, text):
        super().__init__()
        object.__setattr__(self, "text", text)

    def decode(self, answer, questions):
        decoded = super().decode(answer, questions)
        bad = {i: "no use" for i, question in enumerate(questions) if question.value == self.text}
        assert decoded.columns.column(0).to_pylist() == [vector(question.value) for question in questions]
        columns = decoded.columns.take(pa.array([None if i in bad else i for i in range(len(questions))], pa.int64()))
        return type(decoded)(columns, bad)


files = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from(["s1", "s2"])).map(lambda pair: (pair[0], pair[1])),
    min_size=1,
    max_size=8,
)


@given(files, files, st.integers(1, 30))
def test_equal_digests_hold_equal_rows(one, other, part_rows):
    """Two parts of two plans have one digest exactly if they hold the same rows of the same files."""

    def rows_of(listed):
        pinned = [
            InputFile(path=f"f{i}", size=rows, stamp=stamp, row_groups=(rows,))
            for i, (rows, stamp) in enumerate(listed)
        ]
        plan = make_plan(pinned, endpoint={}, settings={}, output={}, single_file=False, part_rows=part_rows)
        rows = [(file.path, file.size, file.stamp, row) for file in pinned for row in range(file.rows)]
        return [(part.digest, rows[part.first_row : part.end_row]) for part in plan.parts]

    for digest, rows in rows_of(one):
        for other_digest, other_rows in rows_of(other):
            assert (digest == other_digest) == (rows == other_rows)


def test_without_stamps_nothing_is_taken_over():
    """A store that tells neither a time nor an ETag leaves parts without a digest."""
    pinned = [InputFile(path="f", size=3, stamp="", row_groups=(3,))]
    plan = make_plan(pinned, endpoint={}, settings={}, output={}, single_file=False)
    assert [part.digest for part in plan.parts] == [""]
