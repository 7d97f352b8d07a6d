"""The engine against a scripted service: what comes out, what was paid, what happens when things break."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import os
import shutil
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_provider_modelstudio.inference.engine import Options, StopSignal, served
from airflow_provider_modelstudio.inference.errors import (
    DestinationError,
    EndpointError,
    Fault,
    InterruptedRunError,
    OutageError,
    RequestError,
    RowsRefusedError,
    StorageError,
    SupersededError,
)
from airflow_provider_modelstudio.inference.governor import Limits
from airflow_provider_modelstudio.inference.storage.local import LocalStorage
from airflow_provider_modelstudio.inference.tasks import RequestLimits
from airflow_provider_modelstudio.inference.vault.journal import read_segments
from tests.inference.fakes import Hashes, Scripted, http, vector
from tests.inference.virtual_time import run_in_virtual_time

TEXTS = [f"row number {i}" for i in range(357)]
DAMAGED = "files of the state were damaged or missing, and their rows were asked again"


def test_every_row_comes_out_once_in_order_with_its_vector(place):
    """A run over several files, row groups and parts gives each row its own vector, asking ten a time."""
    place.write(TEXTS)
    service = Scripted()
    summary = place.run(service)
    place.check(TEXTS)
    assert service.billed == dict.fromkeys(TEXTS, 1)
    assert service.sizes == [10] * 35 + [7]
    assert (summary.rows, summary.embedded, summary.failed, summary.requests) == (357, 357, 0, 36)
    assert summary.files == 4
    assert service.most_in_flight > 1


def test_the_output_has_the_declared_form(place):
    """All input columns, a fixed-size vector, a nullable error column; pages carry checksums."""
    place.write(TEXTS[:5])
    place.run()
    schema = pq.read_schema(next(place.destination.iterdir()))
    assert schema.names == ["id", "text", "embedding", "embedding_error"]
    assert str(schema.field("embedding").type) == "fixed_size_list<element: float>[4]"
    assert str(schema.field("embedding_error").type) == "string"


def test_a_finished_run_asks_nothing(place):
    """The same run again makes no call and says that nothing was asked."""
    place.write(TEXTS)
    place.run(owner="first")
    service = Scripted()
    summary = place.run(service, owner="second")
    assert service.requests == 0
    assert summary.up_to_date
    assert (summary.embedded, summary.reused, summary.rows) == (0, 357, 357)
    place.check(TEXTS)


def test_a_retry_after_success_gives_the_same_summary(place):
    """When the success was not recorded by Airflow, the retry returns what the first try would have."""
    place.write(TEXTS)
    first = place.run(owner="one run")
    again = place.run(owner="one run")
    assert (again.embedded, again.reused, again.up_to_date) == (first.embedded, first.reused, False)
    assert again.requests == 0


def test_only_new_and_changed_rows_are_asked(place):
    """A nightly run pays for the difference alone, and books what left."""
    place.write(TEXTS)
    place.run()
    changed = ["new row", *TEXTS[:100], "changed row", *TEXTS[102:]]
    place.write(changed)
    service = Scripted()
    summary = place.run(service)
    place.check(changed)
    assert service.billed == {"new row": 1, "changed row": 1}
    assert (summary.embedded, summary.reused, summary.removed) == (2, 355, 2)


def test_another_setting_asks_everything_anew(place):
    """Answers of another model or setting are never reused."""
    place.write(TEXTS)
    place.run()
    service = Scripted()
    place.run(service, Hashes(setting="b"))
    assert service.billed == dict.fromkeys(TEXTS, 1)


def test_equal_texts_are_asked_once(place):
    """Equal texts anywhere in the dataset are paid once and answered everywhere."""
    texts = [f"text {i % 23}" for i in range(400)]
    place.write(texts)
    service = Scripted()
    summary = place.run(service)
    place.check(texts)
    assert service.billed == {f"text {i}": 1 for i in range(23)}
    assert (summary.embedded, summary.deduplicated) == (23, 377)


def test_equal_rows_are_asked_each_where_answers_differ(place):
    """A task whose answers are not deterministic asks each row, and reuses each answer once."""
    texts = ["same"] * 30
    place.write(texts)
    service = Scripted()
    task = Hashes(equal_rows_share=False)
    place.run(service, task)
    assert service.billed == {"same": 30}
    place.write([*texts, "same", "same"])
    service = Scripted()
    summary = place.run(service, task)
    assert service.billed == {"same": 2}
    assert (summary.reused, summary.embedded) == (30, 2)


def test_empty_texts_are_never_sent(place):
    """Null and empty texts keep their place with a reason, and cost nothing."""
    texts = ["a", None, "", "b", None] * 40
    place.write(texts)
    service = Scripted()
    summary = place.run(service)
    place.check(texts)
    assert set(service.billed) == {"a", "b"}
    assert summary.failed == 120
    assert summary.errors == {"empty text": 120}


@pytest.mark.parametrize("texts", [[], [None] * 250, ["", None]])
def test_a_dataset_without_a_question_has_the_full_schema(place, texts):
    """Zero rows, or rows that ask nothing, give a valid dataset and no request."""
    place.write(texts)
    service = Scripted()
    place.run(service)
    assert service.requests == 0
    place.check(texts)
    assert pq.read_schema(next(place.destination.iterdir())).names == ["id", "text", "embedding", "embedding_error"]


def test_one_bad_row_fails_alone(place):
    """A refused request is halved down to the row that is to blame; all others get their vector, once."""

    def refuse(number, texts):
        return http(400, "data_inspection_failed", upstream=400) if "row number 77" in texts else None

    place.write(TEXTS)
    service = Scripted(refuse)
    summary = place.run(service)
    place.check(TEXTS, failed={"row number 77"})
    assert summary.failed == 1
    assert "row number 77" not in service.billed
    assert max(service.billed.values()) == 1


def test_a_failed_row_is_not_paid_again_by_a_retry(place):
    """The reason of a refused row is durable: a retry of the run does not ask for it."""
    asked = []

    def refuse(number, texts):
        asked.append(texts)
        if number > 25:
            return http(401, kind="security_exception")
        return http(400, "data_inspection_failed", upstream=400) if "row number 11" in texts else None

    place.write(TEXTS)
    with pytest.raises(EndpointError):
        place.run(Scripted(refuse))
    service = Scripted()
    place.run(service)
    assert "row number 11" not in service.billed
    place.check(TEXTS, failed={"row number 11"})


def test_fail_on_row_error_stops_and_keeps_what_was_paid(place):
    """on_row_error='fail' fails the task at the first refused row; nothing that was answered is asked again."""

    def refuse(number, texts):
        return http(400, "data_inspection_failed", upstream=400) if "row number 200" in texts else None

    place.write(TEXTS)
    first = Scripted(refuse)
    with pytest.raises(RowsRefusedError, match="row 200"):
        place.run(first, on_row_error="fail")
    second = Scripted()
    place.run(second)
    assert max((first.billed + second.billed).values()) == 1


def test_max_error_rate_stops_the_run(place):
    """More rows refused by the service than allowed fail the task and publish nothing."""
    place.write(TEXTS)
    service = Scripted(lambda number, texts: http(400) if any(text.endswith("7") for text in texts) else None)
    with pytest.raises(RowsRefusedError, match=r"\d+ of 357 rows failed, more than max_error_rate=0\.05 allows"):
        place.run(service, max_error_rate=0.05)
    assert not place.destination.exists()


def test_rows_that_cannot_be_asked_count_before_anything_is_paid(place):
    """More rows without a question than max_error_rate allows: nothing is asked, and the reason of most is named."""
    place.write([*["a", ""] * 150, None])
    service = Scripted()
    words = r"151 of 301 rows cannot be asked, more than max_error_rate=0\.5 allows; most often: empty"
    with pytest.raises(RowsRefusedError, match=words):
        place.run(service, max_error_rate=0.5)
    assert service.requests == 0
    assert not place.destination.exists()
    place.run(service, max_error_rate=0.51)
    place.check([*["a", ""] * 150, None])


def test_a_row_that_only_ever_fails_does_not_hold_up_the_others(place):
    """A row on which the service breaks each time, while it answers the others, is marked, and the run ends."""
    place.write(TEXTS[:60])
    service = Scripted(lambda number, texts: http(503) if "row number 33" in texts else None)
    place.run(service)
    place.check(TEXTS[:60], failed={"row number 33"})


def test_an_outage_that_lasts_stops_the_task(place):
    """When nothing succeeds for the time we are patient, the task fails with a message and spoils no row."""
    place.write(TEXTS[:30])
    with pytest.raises(OutageError, match="the next try goes on"):
        place.run(Scripted(lambda number, texts: http(503)))
    assert not place.destination.exists()
    place.run()
    place.check(TEXTS[:30])


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (http(401, kind="security_exception"), "."),
        (http(404, "Inference endpoint not found [endpoint]", kind="resource_not_found_exception"), "."),
        (http(429, "Free allocated quota exceeded.", upstream=429), "."),
    ],
)
def test_what_only_somebody_else_can_mend_stops_the_task(place, error, words):
    """A bad key, a missing endpoint, an account in arrears: the task stops, paid answers are kept."""
    place.write(TEXTS)
    first = Scripted(lambda number, texts: error if number > 12 else None)
    with pytest.raises(EndpointError, match=words):
        place.run(first)
    second = Scripted()
    place.run(second)
    place.check(TEXTS)
    assert (first.billed + second.billed) == dict.fromkeys(TEXTS, 1)


def test_the_limit_that_the_server_names_is_kept(place):
    """'should not be larger than 4' lowers the request size for the whole run, after as few refusals as were in flight."""

    def refuse(number, texts):
        if len(texts) > 4:
            return http(
                400, "Value error, batch size is invalid, it should not be larger than 4.: input.contents", upstream=400
            )
        return None

    place.write(TEXTS)
    service = Scripted(refuse)
    place.run(service)
    place.check(TEXTS)
    assert sum(size > 4 for size in service.sizes) <= 8
    assert service.billed == dict.fromkeys(TEXTS, 1)


def test_a_wrong_count_is_never_zipped(place):
    """An answer with a vector missing is thrown away and asked again."""
    place.write(TEXTS[:40])
    service = Scripted(
        lambda number, texts: json.dumps([vector(t) for t in texts[:-1]]).encode() if number == 2 else None
    )
    place.run(service)
    place.check(TEXTS[:40])


def test_an_endpoint_whose_answers_are_never_of_use_is_not_paid_to_the_end(place):
    """Where each answer has the wrong form, the run stops after what was in flight instead of paying for all rows twice."""
    texts = [f"row number {i}" for i in range(3000)]
    place.write(texts)
    service = Scripted(lambda number, texts: json.dumps([vector(t) for t in [*texts, "more"]]).encode())
    with pytest.raises(EndpointError, match="no answer of the endpoint is of use"):
        place.run(service)
    assert sum(service.billed.values()) < len(texts) / 2


def test_rows_without_a_question_do_not_pile_up_before_the_first_answer(place):
    """A source that begins with thousands of empty texts is written as it is read, where the form of answers is known."""
    texts = [""] * 40_000 + ["a text"]
    place.write(texts)
    open_windows = []

    class Watched(Scripted):
        async def infer(self, *args, **kwargs):
            written = sum(path.stat().st_size for path in place.state.rglob(".tmp-parts/*.parquet"))
            open_windows.append(written)
            return await super().infer(*args, **kwargs)

    place.run(Watched(), dimensions=4, part_rows=100_000)
    place.check(texts)
    assert open_windows[0] > 0, "nothing was written before the first answer"


@pytest.mark.parametrize("refused_first", [0, 30])
def test_rows_without_an_answer_wait_on_disk_where_nobody_knows_the_length_of_a_vector(place, refused_first):
    """Before the first answer, 90 MB of rows that ask nothing or are refused are not held in memory, and none is lost."""
    odd = [f"odd {i}" for i in range(refused_first)]
    texts = [""] * 20_000
    texts[100 : 100 + 300 * refused_first : 300] = odd
    texts += ["a text"]
    place.write(texts, page=pa.array([f"{i:05d}" * 900 for i in range(len(texts))]))
    held = []

    class Watched(Scripted):
        async def infer(self, *args, **kwargs):
            if pa.total_allocated_bytes() - before > 40e6:
                gc.collect()  # an exception holds what its frames held
            held.append(pa.total_allocated_bytes() - before)
            return await super().infer(*args, **kwargs)

    def refuse(number, texts):
        return http(400, reason="refused") if set(texts) & set(odd) else None

    before = pa.total_allocated_bytes()
    place.run(Watched(refuse), part_rows=100_000)
    place.check(texts, failed=set(odd))
    assert [row["page"][:5] for row in place.rows()] == [f"{i:05d}" for i in range(len(texts))]
    assert max(held) < 40e6, max(held)


@pytest.mark.parametrize("stopped", [False, True])
def test_a_run_that_ends_by_itself_waits_for_what_it_has_paid_for(place, stopped):
    """One request is refused for good while others take half a minute: their answers are kept, and not paid again.

    Asked to stop meanwhile, the run has 3 s and no more.
    """
    place.write(TEXTS)
    stop, ended = StopSignal(), []

    async def slow(number):
        await asyncio.sleep(30)

    def one_refused(number, texts):
        return http(401, kind="security_exception") if number == 4 else slow(number)

    async def all_of_it():
        loop = asyncio.get_running_loop()
        if stopped:
            loop.call_later(5, stop.request)
        began = loop.time()
        with pytest.raises(EndpointError, match="refuses the login"):
            await place.start(first, stop=stop)
        ended.append(loop.time() - began)

    first, second = Scripted(one_refused), Scripted()
    run_in_virtual_time(all_of_it())
    assert ended[0] == pytest.approx(8 if stopped else 30, abs=1)
    assert bool(first.billed) is not stopped
    place.run(second)
    place.check(TEXTS)
    assert max((first.billed + second.billed).values()) == 1


def test_what_was_paid_in_vain_and_what_is_strange_is_told(place):
    """Answers that got lost or were of no use are counted, free refusals are not, and vectors of zeros are taken."""
    acts = {
        2: RequestError("x", fault=Fault.TIMEOUT, maybe_billed=True),
        3: b"[[1, 2, 3, 4]]",
        5: http(429, retry_after=0.01),
        6: http(503),
    }

    def script(number, texts):
        if number in acts:
            return acts[number]
        return json.dumps([[0] * 4 if t == TEXTS[7] else vector(t) for t in texts]).encode()

    place.write(TEXTS[:100])
    summary = place.run(Scripted(script))
    assert summary.warnings == {
        "rows have a vector of nothing but zeros": 1,
        "requests brought nothing of use, and may have been paid for": 2,
    }
    again = place.run(owner="the next day")
    assert again.warnings == {"rows have a vector of nothing but zeros": 1}


def test_a_run_that_is_killed_when_readers_see_it_is_on_record(place):
    """Whoever dies right after the dataset was shown was done, and a retry needs nobody to know that."""

    class Dies(LocalStorage):
        async def replace(self, key, content):
            await super().replace(key, content)
            if key == "published.json":
                raise RuntimeError

    place.write(TEXTS)
    with pytest.raises(RuntimeError):
        place.run(storage=Dies, errand="mine")
    storage = LocalStorage(place.state, place.destination, single_file=False)
    assert run_in_virtual_time(served(storage, Options(errand="mine", owner="me"))).embedded == len(TEXTS)
    assert run_in_virtual_time(served(storage, Options(errand="yours", owner="me"))) is None


def test_a_part_that_is_finished_while_we_look_is_not_paid_again(place, tmp_path):
    """A try that was given up for dead seals a part, and removes its answers, between two looks at what is on record."""

    class Fails(LocalStorage):
        async def create(self, key, *content):
            if "/seals/" in key:
                raise StorageError("not now")
            await super().create(key, *content)

    class Commits(LocalStorage):
        async def create(self, key, *content):
            if key.endswith("manifest.json"):
                raise StorageError("not now")
            await super().create(key, *content)

    class Meanwhile(LocalStorage):
        async def list_keys(self, prefix):
            found = await super().list_keys(prefix)
            if prefix.endswith("/seals") and not found:
                shutil.copytree(finished / "_out.inference", place.state, dirs_exist_ok=True)
                for path in list(place.state.glob("*/journal/*.seg")):
                    path.unlink()
            return found

    place.write(TEXTS[:40])
    first, second = Scripted(), Scripted()
    with pytest.raises(StorageError):
        place.run(first, storage=Fails)
    there = place.state, place.destination
    finished = tmp_path / "finished"
    shutil.copytree(place.state, finished / "_out.inference")
    place.state, place.destination = finished / "_out.inference", finished / "out"
    with pytest.raises(StorageError):
        place.run(second, storage=Commits)
    assert second.requests == 0
    place.state, place.destination = there
    for left in ("epoch", "lease"):
        shutil.rmtree(finished / "_out.inference" / left)
    with contextlib.suppress(StorageError):  # the answers may be gone when they are wanted
        place.run(second, storage=Meanwhile)
    place.run(second)
    place.check(TEXTS[:40])
    assert second.requests == 0


def test_free_refusals_cost_nothing(place):
    """A request that is refused for going too fast and asked again is counted once in the estimate."""
    place.write(TEXTS[:40])
    refused = Scripted(lambda number, texts: http(429, upstream=429, retry_after=0.01) if number <= 3 else None)
    undisturbed = sum(max(1, len(text) // 4) for text in TEXTS[:40])
    assert place.run(refused).tokens_estimated == undisturbed


def test_a_value_that_is_no_number_spoils_its_row_only(place):
    """A row whose vector cannot be used has a reason; its neighbours keep their vectors."""

    def broken(number, texts):
        if "row number 5" in texts:
            return json.dumps([None if t == "row number 5" else vector(t) for t in texts]).encode()
        return None

    place.write(TEXTS[:20])
    place.run(Scripted(broken))
    place.check(TEXTS[:20], failed={"row number 5"})


def test_other_dimensions_in_the_middle_stop_the_run(place):
    """Vectors of another length never reach the dataset."""
    place.write(TEXTS)
    with pytest.raises(EndpointError, match="changed the form"):
        place.run(Scripted(lambda n, texts: json.dumps([[1.0] * 5 for _ in texts]).encode() if n == 20 else None))
    assert not place.destination.exists()


@pytest.mark.parametrize("answered", [1, 4, 12])
@pytest.mark.parametrize("concurrency", [1, 8])
def test_other_dimensions_than_in_the_journal_stop_the_next_try(place, answered, concurrency):
    """Answers of a try that finished no part are remembered with their length: nothing of another one lies beside them."""
    place.write(TEXTS)
    refused = http(401, kind="security_exception")
    with pytest.raises(EndpointError):
        place.run(
            Scripted(lambda n, texts: refused if n > answered else None),
            part_rows=500,
            limits=Limits(max_concurrency=1),
        )
    assert not list(place.state.glob("*/runs/*/seals/*"))
    longer = Scripted(lambda n, texts: json.dumps([[1.0] * 5 for _ in texts]).encode())
    with pytest.raises(EndpointError, match="changed the form"):
        place.run(longer, part_rows=500, limits=Limits(max_concurrency=concurrency))
    assert not place.destination.exists()
    place.run(part_rows=500)
    place.check(TEXTS)


def test_a_stop_keeps_the_answers_in_flight(place):
    """Asked to stop, the run sends nothing more, waits for what is in flight, and pays for none of it again."""
    place.write(TEXTS)
    stop = StopSignal()

    def slow(number, texts):
        async def wait():
            if number == 15:
                stop.request()
            await asyncio.sleep(0.05)

        return wait()

    first = Scripted(slow)
    with pytest.raises(InterruptedRunError):
        place.run(first, stop=stop)
    assert 15 <= first.requests < 30
    second = Scripted()
    place.run(second)
    place.check(TEXTS)
    assert first.billed + second.billed == dict.fromkeys(TEXTS, 1)


def test_strange_files_are_never_touched(place):
    """A destination with files of somebody else is refused before anything is asked."""
    place.write(TEXTS)
    place.destination.mkdir()
    (place.destination / "mine.parquet").write_bytes(b"precious")
    service = Scripted()
    with pytest.raises(DestinationError, match=r"mine\.parquet"):
        place.run(service)
    assert service.requests == 0
    assert (place.destination / "mine.parquet").read_bytes() == b"precious"


def test_a_destination_that_was_removed_is_published_again(place):
    """The dataset comes back from the state, without a call."""
    place.write(TEXTS)
    place.run()
    for file in place.destination.iterdir():
        file.unlink()
    place.destination.rmdir()
    service = Scripted()
    place.run(service)
    assert service.requests == 0
    place.check(TEXTS)


def test_a_single_file_holds_everything(place):
    """A destination that ends in .parquet is one file with all rows."""
    place.write(TEXTS)
    place.run(single_file=True)
    rows = place.rows(place.folder / "out.parquet")
    assert [row["embedding"] for row in rows] == [vector(text) for text in TEXTS]


def test_requests_keep_the_size_limits(place):
    """Tokens bound a request as well as rows do."""
    place.write(TEXTS)
    service = Scripted()
    place.run(service, Hashes(limits=RequestLimits(rows=10, tokens=9)))
    assert set(service.sizes) == {3}


def test_progress_is_told_while_it_runs(place):
    """Reports come while the run goes on, and the last one says that all is done."""
    place.write(TEXTS)

    def slow(number, texts):
        return asyncio.sleep(0.01)

    place.run(Scripted(slow))
    assert len(place.reports) > 2
    assert place.reports[-1].rows_done == 357
    assert [r.rows_done for r in place.reports] == sorted(r.rows_done for r in place.reports)


def test_a_damaged_segment_is_asked_again_never_guessed(place):
    """A journal object with a flipped byte costs its rows again, and nothing wrong is written."""
    place.write(TEXTS)
    with pytest.raises(EndpointError):
        place.run(Scripted(lambda number, texts: http(401, kind="security_exception") if number > 8 else None))
    objects = sorted(place.state.glob("*/journal/*.seg"))
    assert objects
    for path in objects:
        content = bytearray(path.read_bytes())
        for at, _ in read_segments(path.name, bytes(content)).segments:
            content[(at.start + at.end) // 2] ^= 0x40
        path.write_bytes(content)
    service = Scripted()
    summary = place.run(service)
    place.check(TEXTS)
    assert service.billed == dict.fromkeys(TEXTS, 1)
    assert summary.warnings == {DAMAGED: len(objects)}


def stopped_half_way(place):
    """A try that ended with answers in its journal: the log, and the segments in it."""
    place.write(TEXTS)
    with pytest.raises(EndpointError):
        place.run(
            Scripted(lambda number, texts: http(401, kind="security_exception") if number > 9 else None),
            part_rows=1000,
            limits=Limits(max_concurrency=1),
        )
    (log,) = place.state.glob("*/journal/*.seg")
    reading = read_segments(log.name, log.read_bytes())
    assert len(reading.segments) == 9
    return log, reading.segments


def texts_of(segments):
    return {TEXTS[row] for _, segment in segments for row in segment.rows.to_pylist()}


@pytest.mark.parametrize("flipped", ["magic", "checksum", "size", "answers"])
def test_damage_to_one_segment_costs_its_own_rows(place, caplog, flipped):
    """One byte in the middle of a log: what comes before and after it is used, and the log says which file it was."""
    log, segments = stopped_half_way(place)
    lost = segments[len(segments) // 2]
    at = lost[0].start + {"magic": 0, "checksum": 4, "size": 9, "answers": 300}[flipped]
    content = bytearray(log.read_bytes())
    content[at] ^= 0x40
    log.write_bytes(content)
    kept = texts_of(one for one in segments if one is not lost)
    service = Scripted()
    summary = place.run(service, part_rows=1000)
    place.check(TEXTS)
    assert service.billed == dict.fromkeys(set(TEXTS) - kept, 1)
    assert summary.warnings == {DAMAGED: 1}
    assert [r.message for r in caplog.records if r.levelname == "WARNING"] == [
        f"{log} is damaged; its rows are asked again"
    ]


@pytest.mark.parametrize("left", [1, 15, 16, 100, -1])
def test_killed_in_the_middle_of_a_write_a_try_leaves_no_damage(place, caplog, left):
    """The end of the log is cut: each whole segment is used, the rest is asked, and the log tells it as what it is."""
    log, segments = stopped_half_way(place)
    cut = segments[-1][0]
    os.truncate(log, (cut.end if left < 0 else cut.start) + left)
    kept = texts_of(segments[:-1])
    service = Scripted()
    caplog.set_level("INFO")
    summary = place.run(service, part_rows=1000)
    place.check(TEXTS)
    assert service.billed == dict.fromkeys(set(TEXTS) - kept, 1)
    assert summary.warnings == {}
    assert [r.levelname for r in caplog.records if str(log) in r.getMessage()] == ["INFO"]
    assert f"{log} ends in the middle of an answer that was being written when a try ended" in caplog.messages
    assert list(place.state.glob("*/journal/*.seg")) == []


def test_the_journal_is_empty_after_the_commit(place):
    """Answers that are in the dataset are not kept twice."""
    place.write(TEXTS)
    place.run()
    assert list(place.state.glob("*/journal/*.seg")) == []


def test_replaced_versions_are_removed_from_the_state(place):
    """After a new version is shown, the one before takes no space; a run that did not finish keeps what was paid."""
    place.write(TEXTS)
    place.run()
    place.write([*TEXTS, "one more"])
    place.run()
    assert len(list(place.state.glob("*/runs/*/manifest.json"))) == 1
    place.write([*TEXTS, *(f"later {i}" for i in range(300))])
    with pytest.raises(EndpointError):
        place.run(Scripted(lambda number, texts: http(401, kind="security_exception") if number > 15 else None))
    place.write([*TEXTS, "one more", "and another"])
    place.run()
    place.write([*TEXTS, *(f"later {i}" for i in range(300))])
    service = Scripted()
    place.run(service)
    assert sum(service.billed.values()) < 300


def test_a_superseded_try_does_not_commit(place):
    """When Airflow says that this try does not count any more, nothing is published; the next one asks nothing."""
    place.write(TEXTS)

    def fence():
        raise SupersededError("given up")

    with pytest.raises(SupersededError):
        place.run(fence=fence)
    assert not place.destination.exists()
    service = Scripted()
    place.run(service)
    assert service.requests == 0
    place.check(TEXTS)


@pytest.mark.parametrize("outages", [1, 5, 6, 1000])
def test_an_airflow_that_does_not_answer_is_asked_for_half_a_minute(place, outages):
    """Whether a try still counts is worth waiting for, and a run that nobody vouches for commits nothing; the answers stay,
    to the byte, and the next try commits without asking.
    """
    place.write(TEXTS)
    asked = []

    def fence():
        asked.append(asyncio.get_running_loop().time())
        if len(asked) <= outages:
            raise OutageError("nobody there")

    if outages <= 5:
        place.run(fence=fence)
        assert len(asked) == outages + 1
        place.check(TEXTS)
        return
    with pytest.raises(OutageError, match="nobody there"):
        place.run(fence=fence)
    pauses = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert pauses == pytest.approx([1, 2, 4, 8, 15], abs=0.1)
    assert not place.destination.exists()
    assert list(place.state.glob("*/runs/*/manifest.json")) == []
    seals = {path: path.read_bytes() for path in place.state.glob("*/runs/*/seals/*")}
    assert seals
    service = Scripted()
    place.run(service)
    assert service.requests == 0
    place.check(TEXTS)


def test_a_stop_is_heard_while_airflow_does_not_answer(place):
    """Half a minute is long: who is told to stop meanwhile stops, and nothing is committed."""
    place.write(TEXTS)
    stop = StopSignal()

    def fence():
        stop.request()
        raise OutageError("nobody there")

    with pytest.raises(InterruptedRunError):
        place.run(stop=stop, fence=fence)
    assert list(place.state.glob("*/runs/*/manifest.json")) == []
    service = Scripted()
    place.run(service)
    assert service.requests == 0


def test_fail_on_row_error_holds_for_retries_and_for_unusable_answers(place):
    """A row whose reason is on record, and a row with a value that is no number, fail the task as well."""

    def refuse(number, texts):
        return http(400, "data_inspection_failed", upstream=400) if "row number 5" in texts else None

    place.write(TEXTS[:40])
    for _ in range(2):
        with pytest.raises(RowsRefusedError, match="row 5"):
            place.run(Scripted(refuse), on_row_error="fail")

    def broken(number, texts):
        return json.dumps([None if t == "row number 5" else vector(t) for t in texts]).encode()

    with pytest.raises(RowsRefusedError, match="not a number"):
        place.run(Scripted(broken), Hashes(setting="b"), on_row_error="fail")


@pytest.mark.parametrize("spoilt", [False, True])
def test_a_row_that_ends_the_run_costs_no_answer(place, spoilt):
    """The first good answer tells that it was the rows and not the endpoint; it is kept before that ends the run, and so is
    what is known of each row.
    """

    async def answer(texts):
        await asyncio.sleep(600.0)
        return json.dumps([None if spoilt else vector(t) for t in texts]).encode()

    def script(number, texts):
        return b"[]" if set(texts) & {"row number 4", "row number 5"} else answer(texts)

    place.write(TEXTS[2:6])
    task, first, second = Hashes(limits=RequestLimits(rows=1)), Scripted(script), Scripted()
    with pytest.raises(RowsRefusedError, match="not a number" if spoilt else r"row [23] .* no usable answer"):
        place.run(first, task, on_row_error="fail")
    place.run(second, task)
    assert not second.billed


def dying_after(requests, *, refused=frozenset()):
    """A service that answers so many requests, each answer another one, and then nobody any more."""
    numbers = itertools.count(1)

    def script(number, texts):
        if number > requests:
            return http(401, kind="security_exception")
        if refused & set(texts):
            return http(400, "data_inspection_failed", upstream=400)
        return json.dumps([[float(next(numbers)), *vector(text)[1:]] for text in texts]).encode()

    return Scripted(script)


@pytest.mark.parametrize("requests", [4, 9, 13, 18])
def test_equal_rows_that_are_asked_each_keep_their_own_answers(place, requests):
    """Killed between parts, with answers of an earlier run at hand: each row is paid once, whatever the crashes."""
    task = Hashes(equal_rows_share=False, limits=RequestLimits(rows=1))
    place.write(["same"] * 6)
    place.run(dying_after(1000), task, part_rows=5)
    texts = ["same", "other"] * 12
    place.write(texts)
    billed = Counter()
    for most in (requests, 3, 1000):
        service = dying_after(most)
        try:
            place.run(service, task, part_rows=5)
        except EndpointError:
            billed += service.billed
            continue
        billed += service.billed
        break
    assert billed == {"same": 6, "other": 12}
    assert [row["text"] for row in place.rows()] == texts


@pytest.mark.parametrize("requests", [3, 6, 9, 12, 15])
def test_no_answer_of_an_earlier_run_is_given_to_two_rows(place, requests):
    """The earlier run's six answers, each another one, are in six different rows after any crash."""
    task = Hashes(equal_rows_share=False, limits=RequestLimits(rows=1))
    place.write(["same"] * 6)
    place.run(dying_after(1000), task, part_rows=5)
    earlier = [row["embedding"] for row in place.rows()]
    place.write(["same", "other"] * 12)
    with pytest.raises(EndpointError):
        place.run(dying_after(requests), task, part_rows=5)
    place.run(Scripted(), task, part_rows=5)
    now = [row["embedding"] for row in place.rows()]
    assert [now.count(answer) for answer in earlier if answer != vector("same")] == [1] * 6


def test_an_answer_in_a_part_and_in_the_journal_counts_once(place):
    """An earlier run was killed between its commit and the end of its journal: each of its answers is in one row."""

    class Killed(LocalStorage):
        async def delete(self, *keys):
            await super().delete(*(key for key in keys if "/journal/" not in key))

    task = Hashes(equal_rows_share=False, limits=RequestLimits(rows=1))
    place.write(["same"] * 6)
    place.run(dying_after(1000), task, part_rows=5, storage=Killed)
    assert list(place.state.glob("*/journal/*.seg"))
    earlier = [row["embedding"] for row in place.rows()]
    place.write(["same", "other"] * 12)
    place.run(Scripted(), task, part_rows=5)
    now = [row["embedding"] for row in place.rows()]
    assert [now.count(answer) for answer in earlier if answer != vector("same")] == [1] * 6


@pytest.mark.parametrize("requests", range(1, 24, 2))
def test_a_refused_text_of_several_parts_is_asked_once(place, requests):
    """Whenever the run dies, a text that was refused, and stands in each part, is not asked again by its retry."""
    texts = [f"row {i}" if i % 10 else "refused" for i in range(100)]
    place.write(texts)
    task = Hashes(limits=RequestLimits(rows=5))
    asked = Counter()

    def counting(most):
        script = dying_after(most, refused={"refused"}).script

        def script_that_counts(number, them):
            said = script(number, them)
            asked.update(them if isinstance(said, Exception) and said.status == 400 and len(them) == 1 else ())
            return None if isinstance(said, bytes) else said

        return Scripted(script_that_counts)

    for most in (requests, 2, 1000):
        try:
            place.run(counting(most), task, part_rows=20)
        except EndpointError:
            continue
        break
    assert asked == {"refused": 1}
    place.check(texts, failed={"refused"})


def test_a_run_that_is_committed_keeps_what_another_one_paid_for(place):
    """Answers of a run that did not finish stay in the journal when another version is finished first."""
    longer = [*TEXTS, *(f"later {i}" for i in range(60))]
    place.write(longer)
    first = Scripted(lambda number, texts: http(401, kind="security_exception") if number > 40 else None)
    with pytest.raises(EndpointError):
        place.run(first, part_rows=1000)
    place.write([f"quite another {i}" for i in range(30)])
    place.run(part_rows=1000)
    assert list(place.state.glob("*/journal/*.seg"))
    place.write(longer)
    second = Scripted()
    place.run(second, part_rows=1000)
    place.check(longer)
    assert (first.billed + second.billed) == dict.fromkeys(longer, 1)
    for trace, left in (("plan.json", True), ("spent/*", False)):  # planned, and then last seen, eight days ago
        for path in place.state.glob(f"*/runs/*/{trace}"):
            os.utime(path, (path.stat().st_mtime - 8 * 24 * 3600,) * 2)
        place.write(TEXTS[: 5 + left])
        place.run(part_rows=1000)
        assert bool(list(place.state.glob("*/journal/*.seg"))) is left


def too_large(limit):
    """A service, or a proxy in front of it, that takes so many characters, and does not say how many."""
    return Scripted(lambda number, texts: http(413) if sum(map(len, texts)) > limit else None)


@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_size_that_is_refused_without_a_number_is_found_out(place, concurrency):
    """Later requests are packed below it: a few refusals, not one for each request."""
    texts = [f"{i:04d} {'x' * 95}" for i in range(2000)]
    place.write(texts)
    service = too_large(650)
    place.run(service, limits=Limits(max_concurrency=concurrency))
    place.check(texts)
    assert service.billed == dict.fromkeys(texts, 1)
    assert sum(size > 6 for size in service.sizes) <= 6 * concurrency
    assert service.sizes[-100:].count(6) > 90


def test_one_row_that_is_too_large_leaves_the_other_requests_as_they_are(place):
    """It is marked, and requests stay at ten rows."""
    texts = [f"row {i}" if i % 100 else f"{i} {'x' * 5000}" for i in range(600)]
    place.write(texts)
    service = too_large(2000)
    place.run(service)
    place.check(texts, failed={text for text in texts if len(text) > 2000})
    assert service.sizes.count(10) == 60
