"""``on_row_error="quarantine"``: rows without an answer leave the dataset, and are lost nowhere."""

from __future__ import annotations

import random

import pyarrow.parquet as pq
import pytest

from airflow_provider_modelstudio.inference.errors import EndpointError, RowsRefusedError
from airflow_provider_modelstudio.inference.storage.object_storage import ObjectStorage
from tests.inference.fakes import Scripted, http, vector

TEXTS = [f"row number {i}" for i in range(357)]
BAD = {"row number 3", "row number 120", "row number 121", "row number 356"}


def refusing(bad, stop_after=None):
    """A service that refuses some texts, and everybody after so many requests."""

    def script(number, texts):
        if stop_after is not None and number > stop_after:
            return http(401, kind="security_exception")
        return http(400, "data_inspection_failed", upstream=400) if bad & set(texts) else None

    return Scripted(script)


def check(place, texts, bad):
    """Dataset and quarantine together are the source, each row once and in order, and each in its place."""
    good = [(i, text) for i, text in enumerate(texts) if text and text not in bad]
    rows = place.rows()
    assert [(row["id"], row["text"]) for row in rows] == good
    assert all(row["embedding"] == vector(row["text"]) and row["embedding_error"] is None for row in rows)
    apart = quarantine(place)
    assert [(row["id"], row["text"]) for row in apart] == [pair for pair in enumerate(texts) if pair not in good]
    assert all(row["embedding"] is None and row["embedding_error"] for row in apart)


def quarantine(place):
    """Rows in quarantine, as somebody finds them who was told where they are."""
    return pq.read_table(place.summary.quarantine).to_pylist() if place.summary.quarantine else []


def run(place, service=None, **options):
    place.summary = place.run(service, on_row_error="quarantine", **options)
    return place.summary


def test_rows_without_an_answer_leave_the_dataset(place):
    """Refused rows and rows that ask nothing lie in the quarantine with all columns and their reason; the books balance."""
    texts = [*TEXTS[:200], None, "", *TEXTS[200:]]
    place.write(texts)
    summary = run(place, refusing(BAD))
    check(place, texts, BAD)
    assert (summary.rows, summary.embedded, summary.failed, summary.quarantined) == (359, 353, 6, 6)
    assert summary.quarantine is not None
    assert not summary.quarantine.startswith(str(place.destination))
    assert {row["embedding_error"] for row in quarantine(place)} >= {"empty text"}


def test_without_a_failed_row_there_is_no_quarantine(place):
    """Nothing failed: there is no place to look at."""
    place.write(TEXTS)
    summary = run(place)
    assert (summary.quarantined, summary.quarantine) == (0, None)
    assert list(place.state.rglob("quarantine")) == []


@pytest.mark.parametrize("texts", [[], [None] * 250, [*[None] * 150, "a"]])
def test_parts_that_lose_all_their_rows(place, texts):
    """A part of which every row fails is a file without rows, with the schema of the others."""
    place.write(texts)
    run(place)
    check(place, texts, set())
    schemas = {str(pq.read_schema(file)) for file in place.destination.iterdir()}
    assert len(schemas) == 1


def test_a_single_file_has_its_quarantine_beside_it(place):
    """A destination that is one file loses its failed rows, too."""
    place.write(TEXTS)
    run(place, refusing(BAD), single_file=True)
    rows = place.rows(place.folder / "out.parquet")
    assert [row["text"] for row in rows] == [text for text in TEXTS if text not in BAD]
    assert {row["text"] for row in quarantine(place)} == BAD


def test_a_second_run_asks_nothing_and_tells_the_same(place):
    """A finished run with rows in quarantine is finished."""
    place.write(TEXTS)
    first = run(place, refusing(BAD))
    service = Scripted()
    again = run(place, service)
    assert service.requests == 0
    assert (again.quarantined, again.quarantine) == (first.quarantined, first.quarantine)
    check(place, TEXTS, BAD)


def test_a_changed_source_asks_again_for_what_failed_and_for_what_is_new(place):
    """Rows that stay are not paid again although rows above them left the dataset; the old quarantine goes with its version."""
    place.write(TEXTS)
    before = run(place, refusing(BAD)).quarantine
    texts = ["new", *TEXTS]
    place.write(texts)
    service = refusing({"row number 120"})
    summary = run(place, service)
    check(place, texts, {"row number 120"})
    assert service.billed == dict.fromkeys({"new", *BAD} - {"row number 120"}, 1)
    assert (summary.reused, summary.embedded, summary.failed) == (353, 4, 1)
    assert summary.quarantine != before
    assert not [file for file in place.state.rglob("*.parquet") if before in str(file)]


def test_rows_that_share_an_answer_fail_together(place):
    """Equal texts are asked once, and are all in quarantine when that is refused."""
    texts = [f"text {i % 5}" for i in range(300)]
    place.write(texts)
    summary = run(place, refusing({"text 2"}))
    check(place, texts, {"text 2"})
    assert (summary.embedded, summary.deduplicated, summary.quarantined) == (4, 236, 60)


def test_a_bound_on_errors_counts_them(place):
    """max_error_rate holds for rows in quarantine as well, and then nothing is published."""
    place.write(["a", None] * 150)
    with pytest.raises(RowsRefusedError, match="max_error_rate"):
        run(place, max_error_rate=0.1)
    assert not place.destination.exists()


@pytest.mark.parametrize("seed", range(12))
def test_a_crash_anywhere_leaves_one_quarantine(place, seed):
    """However many tries it takes, each row is in one of the two, and no row that was answered is asked again."""
    dice = random.Random(seed)  # noqa: S311  # the same each time
    place.write(TEXTS)
    bad = set(dice.sample(TEXTS, 30))
    billed = Scripted().billed
    for _ in range(3):
        service = refusing(bad, stop_after=dice.randrange(1, 40))
        try:
            run(place, service, part_rows=50)
        except EndpointError:
            billed += service.billed
            continue
        billed += service.billed
        break
    else:
        service = refusing(bad)
        run(place, service, part_rows=50)
        billed += service.billed
    check(place, TEXTS, bad)
    assert set(billed.values()) == {1}


def test_a_file_that_a_dead_try_left_is_no_part_of_the_quarantine(place):
    """A part that was set apart and never sealed is removed before the dataset is shown."""
    place.write(TEXTS)
    with pytest.raises(EndpointError):
        run(place, refusing(BAD, stop_after=5))
    (work,) = place.state.glob("*/runs/*")
    (work / "quarantine").mkdir()
    stray = work / "quarantine" / "part-00000-0123456789abcdef.parquet"
    pq.write_table(pq.read_table(place.source).slice(0, 1), stray)
    run(place, refusing(BAD))
    assert not stray.exists()
    check(place, TEXTS, BAD)


def test_on_an_object_store_the_quarantine_is_there_before_the_dataset(place, s3):
    """The same on S3: a listing of the place that the summary names has each row that the dataset lacks, once."""
    place.write(TEXTS)
    root = f"bucket/{place.folder.name}"

    def storage(state, destination, *, single_file):
        return ObjectStorage(s3, "s3", f"{root}/_out.inference", f"{root}/out", single_file=single_file)

    summary = run(place, refusing(BAD), storage=storage)
    s3.invalidate_cache()
    apart = pq.read_table(summary.quarantine.removeprefix("s3://"), filesystem=s3).to_pylist()
    assert [row["text"] for row in apart] == [text for text in TEXTS if text in BAD]
    rows = pq.read_table(f"{root}/out", filesystem=s3).to_pylist()
    assert [row["text"] for row in rows] == [text for text in TEXTS if text not in BAD]
