"""Rows that belong together stay together, from file to window to part; what is not together is refused."""

from __future__ import annotations

from itertools import accumulate

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_modelstudio.inference.dataset import open_source
from airflow_provider_modelstudio.inference.dataset.groups import group_rows
from airflow_provider_modelstudio.inference.errors import InputError
from airflow_provider_modelstudio.inference.plan import make_plan


def write(folder, ids, queries=None, *, files=1, row_group_size=50):
    folder.mkdir(exist_ok=True)
    queries = [f"query {one}" for one in ids] if queries is None else queries
    table = pa.table({"n": range(len(ids)), "id": ids, "query": pa.array(queries, pa.string())})
    size = -(-len(ids) // files) or 1
    for number in range(files):
        pq.write_table(table.slice(number * size, size), folder / f"{number}.parquet", row_group_size=row_group_size)
    return open_source(LocalFileSystem(), str(folder))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_windows_and_parts_hold_whole_groups_and_lose_no_row(tmp_path_factory, data):
    """Whatever the sizes of groups, files, row groups and parts."""
    lengths = data.draw(st.lists(st.integers(1, 700), max_size=12))
    files, group_size = data.draw(st.integers(1, 3)), data.draw(st.integers(30, 900))
    part_rows = data.draw(st.integers(700, 2000))
    ids = [group for group, length in enumerate(lengths) for _ in range(length)]
    source = write(tmp_path_factory.mktemp("groups") / "in", ids, files=files, row_group_size=group_size)
    grouped = group_rows(source, "id", "query", part_rows)
    plan = make_plan(
        grouped.files, endpoint={}, settings={}, output={}, single_file=False, part_starts=grouped.part_starts
    )
    bounds = {0, *accumulate(lengths)}
    assert [part.first_row for part in plan.parts] == [0, *grouped.part_starts]
    assert all(part.rows <= part_rows and {part.first_row, part.end_row} <= bounds for part in plan.parts)
    assert sum(part.rows for part in plan.parts) == len(ids)
    ranges = [(part.first_row, part.end_row) for part in plan.parts if part.rows]
    skipped = data.draw(st.sets(st.sampled_from(range(len(ranges))))) if ranges else set()
    wanted = [one for number, one in enumerate(ranges) if number not in skipped]
    windows = list(grouped.windows(wanted, data.draw(st.sampled_from([None, ["n"], ["n", "query", "id"]]))))
    assert [n for _, batch in windows for n in batch["n"].to_pylist()] == [n for one in wanted for n in range(*one)]
    for first, batch in windows:
        assert batch["n"][0].as_py() == first
        assert {first, first + batch.num_rows} <= bounds
    assert all(batch.num_rows < 1024 + 700 for _, batch in windows)


def test_a_group_may_go_over_files(tmp_path):
    """Groups are of the dataset, not of its files."""
    grouped = group_rows(write(tmp_path / "in", ["a"] * 5 + ["b"] * 5, files=5), "id", "query")
    assert [(first, batch.num_rows) for first, batch in grouped.windows([(0, 10)])] == [(0, 10)]


@pytest.mark.parametrize("ids", [["a", "b", "a"], [7, 8, 8, 7], [*range(300_000), 4]], ids=["text", "number", "many"])
def test_a_group_that_comes_back_is_refused(tmp_path, ids):
    """Both rows are named, and what to do; also where there are more ids than are matched at a time."""
    source = write(tmp_path / "in", ids, row_group_size=100_000)
    first = ids.index(ids[-1])
    with pytest.raises(InputError, match=f"rows {first} and {len(ids) - 1} of the source.*sort the source by 'id'"):
        group_rows(source, "id", "query")


def test_a_null_id_is_refused(tmp_path):
    """A row of no group cannot be ranked."""
    with pytest.raises(InputError, match="row 2 of the source has a null in column 'id'"):
        group_rows(write(tmp_path / "in", ["a", "a", None]), "id", "query")


def test_a_group_with_two_queries_is_refused_without_a_word_of_them(tmp_path):
    """The first row of the group and the one that differs are named, their texts are not."""
    source = write(tmp_path / "in", ["a", "b", "b", "b"], ["x", "canary", "canary", None])
    with pytest.raises(
        InputError, match="rows 1 and 3 of the source are equal in column 'id' and differ in column 'query'"
    ) as caught:
        group_rows(source, "id", "query")
    assert "canary" not in str(caught.value)


def test_a_group_without_end_is_refused(tmp_path):
    """A column with one value is the wrong column, and would have to be held in memory at once."""
    with pytest.raises(InputError, match="more than 100 rows, from row 3 of the source on"):
        group_rows(write(tmp_path / "in", [1, 2, 2, *[3] * 101]), "id", "query", 100)


def test_ids_and_queries_may_lie_in_structs(tmp_path):
    """Dotted paths, dictionaries and bytes are columns like others."""
    (tmp_path / "in").mkdir()
    of = pa.array([{"id": "a", "query": "q"}, {"id": "a", "query": "q"}, {"id": "b", "query": None}])
    pq.write_table(pa.table({"of": of, "n": [1, 2, 3]}), tmp_path / "in" / "a.parquet")
    grouped = group_rows(open_source(LocalFileSystem(), str(tmp_path / "in")), "of.id", "of.query", 2)
    assert grouped.part_starts == (2,)
    assert [batch.schema.names for _, batch in grouped.windows([(0, 2), (2, 3)], ["n"])] == [["of", "n"]] * 2
