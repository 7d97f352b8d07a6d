"""Where rows come from and go to: inputs that change, links, tricks with paths, disks that refuse."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import subprocess

import pyarrow.parquet as pq
import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_modelstudio.inference.errors import InputChangedError, StorageError
from airflow_provider_modelstudio.inference.vault.journal import read_segments
from airflow_provider_modelstudio.operators.text_embedding import EmbedOperator
from airflow_provider_modelstudio.sandbox.faults import Delay, Match, Refuse, Rule
from tests.faults.bench import context_of
from tests.faults.processes import start_task

TEXTS = [f"text number {i}" for i in range(40)]


class Meddling(EmbedOperator):
    """Does something to the world once the source was planned and before the first row is asked."""

    def make_task(self):
        task, meddle = super().make_task(), self.meddle

        class Task(type(task)):
            def encode(self, questions):
                if meddle:
                    meddle.pop()()
                return super().encode(questions)

        return Task(**{name: getattr(task, name) for name in task.__dataclass_fields__})


def meddle(bench, act, **parameters):
    operator = bench.operator(EmbedOperator, **parameters)
    operator.__class__ = Meddling
    operator.meddle = [act]
    return operator.execute(context_of())


CHANGES = {
    "replaced": lambda bench: bench.write([f"other text {i}" for i in range(40)]),
    "longer": lambda bench: bench.write([*TEXTS, "one more"]),
    "shorter": lambda bench: bench.write(TEXTS[:7]),
    "emptied": lambda bench: bench.source.write_bytes(b""),
    "removed": lambda bench: bench.source.unlink(),
    "touched": lambda bench: os.utime(bench.source, ns=(1, 1)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_source_that_changes_under_the_task_is_noticed(bench, change):
    """Nothing is published from a mixture; the next try plans anew and pays for no row again."""
    bench.write(TEXTS)
    with pytest.raises(InputChangedError, match=r"in\.parquet was (changed|removed) while the task was reading it"):
        meddle(bench, lambda: CHANGES[change](bench))
    assert not bench.destination.exists()
    bench.write(TEXTS)
    bench.run()
    bench.check(TEXTS)
    assert set(bench.paid_for(TEXTS)) == {1}


def test_a_file_that_comes_late_waits_for_the_next_run(bench):
    """A file that is added while the task runs is no part of its plan, and is asked for by the next run alone."""
    bench.write(TEXTS, "in/a.parquet")
    source = str(bench.folder / "in")
    meddle(bench, lambda: bench.write(["late"], "in/b.parquet"), source=source)
    bench.check(TEXTS)
    summary = bench.run(source=source)
    assert (summary["embedded"], summary["reused"]) == (1, 40)
    bench.check([*TEXTS, "late"])


def test_links_to_sources_are_followed(bench):
    """A file, a folder and a file in a folder may be links; a folder that holds itself is read once."""
    real = bench.write(TEXTS, "real/a.parquet")
    bench.source.symlink_to(real)
    bench.run()
    bench.check(TEXTS)
    folder = bench.folder / "in"
    folder.mkdir()
    (folder / "a.parquet").symlink_to(real)
    (folder / "self").symlink_to(folder)
    (bench.folder / "link").symlink_to(folder)
    for source in (folder, bench.folder / "link"):
        assert bench.run(source=str(source))["rows"] == 40


def test_a_link_to_nowhere_is_named(bench):
    """In a folder, and as the source itself."""
    bench.write(TEXTS, "in/a.parquet")
    (bench.folder / "in" / "b.parquet").symlink_to("/nowhere/at/all")
    with pytest.raises(AirflowFailException, match=r"in/b\.parquet: not a readable Parquet file"):
        bench.run(source=str(bench.folder / "in"))
    bench.source.symlink_to("/nowhere/at/all")
    with pytest.raises(AirflowFailException, match="no such file or folder"):
        bench.run()
    assert bench.server.requests == 0


def test_signs_of_globs_may_be_in_names(bench):
    """A file that is called like a pattern is that file; a pattern that is no file is a pattern."""
    bench.write(["one"], "in[1].parquet")
    bench.run(source=str(bench.folder / "in[1].parquet"))
    bench.check(["one"])
    bench.write(["two"], "in1.parquet")
    bench.run(source=str(bench.folder / "in?.parquet"))
    bench.check(["two"])


ACCEPTED = {
    "{folder}/a/../o": "o",
    "{folder}/o/": "o",
    "{folder}//o//": "o",
    "file://{folder}/o": "o",
    "{folder}/new\nline": "new\nline",
    "{folder}/%2e%2e": "%2e%2e",
    "{folder}/数据 {{{{ 7*7 }}}}": "数据 {{ 7*7 }}",
    "{folder}/deeper/and/deeper": "deeper",
}
REFUSED = {
    "": "destination is empty",
    "  ": "destination is empty",
    "/": "has no name",
    "/..": "has no name",
    "{folder}/nul\0": "destination holds a NUL",
    "{folder}/in.parquet": "lies inside the source",
    "{folder}/in.parquet/o": "lies inside the source",
    "{folder}/x/../in.parquet/../in.parquet/o": "lies inside the source",
    "nosuch://bucket/o": "nosuch",
}


@pytest.mark.parametrize("destination", ACCEPTED)
def test_paths_mean_what_they_say(bench, destination):
    """Dots are resolved, odd names are names, and nothing but the dataset and its state appears."""
    bench.write(["a"])
    bench.run(destination=destination.format(folder=bench.folder))
    name = ACCEPTED[destination]
    state = {f"_{name}.inference"} if name != "deeper" else set()
    assert {path.name for path in bench.folder.iterdir()} == {"in.parquet", name} | state


@pytest.mark.parametrize("destination", REFUSED)
def test_paths_that_lead_astray_are_refused(bench, destination):
    """Before any call, with a sentence."""
    bench.write(["a"])
    with pytest.raises(AirflowFailException, match=REFUSED[destination]):
        bench.run(destination=destination.format(folder=bench.folder))
    assert bench.server.requests == 0
    assert {path.name for path in bench.folder.iterdir()} == {"in.parquet"}


@pytest.mark.parametrize("name", ["x" * 300, "y/" * 2000 + "o"])
def test_names_too_long_for_the_disk_fail_before_any_call(bench, name):
    """The disk's own refusal is told."""
    bench.write(["a"])
    with pytest.raises(StorageError, match="File name too long"):
        bench.run(destination=str(bench.folder / name))
    assert bench.server.requests == 0


def occupied_by_a_file(bench):
    bench.destination.write_text("precious")


def occupied_by_a_folder(bench):
    (bench.destination / "precious").mkdir(parents=True)


def linked_folder(bench):
    (bench.folder / "precious").mkdir()
    bench.destination.symlink_to(bench.folder / "precious")


def linked_nowhere(bench):
    bench.destination.symlink_to(bench.folder / "precious")


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (occupied_by_a_file, "is a file"),
        (occupied_by_a_folder, "'precious'"),
        (linked_folder, "is a symbolic link"),
        (linked_nowhere, "is a symbolic link"),
    ],
)
def test_a_destination_that_is_not_ours_is_left_alone(bench, prepare, words):
    """Somebody's file, folder or link is refused before any call, and stays as it was."""
    bench.write(["a"])
    prepare(bench)
    before = sorted((path.name, path.is_symlink()) for path in bench.folder.rglob("*") if "inference" not in str(path))
    with pytest.raises(AirflowFailException, match=words):
        bench.run()
    after = sorted((path.name, path.is_symlink()) for path in bench.folder.rglob("*") if "inference" not in str(path))
    assert after == before
    assert bench.server.requests == 0


def test_a_single_file_that_is_a_link_is_left_alone(bench):
    """What a link leads to is never written through it."""
    bench.write(["a"])
    (bench.folder / "precious").write_text("precious")
    (bench.folder / "o.parquet").symlink_to(bench.folder / "precious")
    with pytest.raises(AirflowFailException, match="is a symbolic link"):
        bench.run(destination=str(bench.folder / "o.parquet"))
    assert (bench.folder / "precious").read_text() == "precious"


def test_a_dataset_that_exists_is_brought_up_to_date(bench):
    """The old version is readable until the swap, whatever happens before; then there is the new one, whole."""
    bench.write(TEXTS)
    bench.run()
    bench.server.play([Rule(act=Refuse(error="404"), match=Match(nth=tuple(range(2, 9))))])
    changed = [f"changed {i}" for i in range(40)]
    bench.write(changed)
    with pytest.raises(AirflowFailException):
        bench.run(context=context_of(run_id="b"))
    bench.check(TEXTS)
    bench.server.play([])
    bench.run(context=context_of(run_id="b", try_number=2))
    bench.check(changed)
    assert set(bench.paid().values()) == {1}


def journal(state):
    """Objects of the journal and what is in them."""
    return {path.name: path.read_bytes() for path in state.glob("*/journal/*.seg")}


def check_nothing_half(destination, before):
    """Nothing is shown, nothing half-written lies around but at the end of a log, and the journal has what it had, to the byte,
    at least.
    """
    state = destination.parent / f"_{destination.name}.inference"
    assert not destination.exists()
    left = [path for path in state.rglob("*") if path.is_file() and ".tmp-" in str(path.relative_to(state))]
    assert left == []
    after = journal(state)
    assert before.items() <= after.items()
    assert not any(read_segments(key, content).damaged for key, content in after.items())
    for record in state.rglob("*.json"):
        json.loads(record.read_bytes())


def test_a_place_where_nothing_may_be_written_fails_before_any_call(bench):
    """A file system that refuses, even to root: the message says where, nothing is asked, and Airflow stops trying."""
    bench.write(TEXTS)
    words = r"/sys/kernel/_out\.inference cannot be written: .* \(in the state folder\); give the worker's user write access"
    with pytest.raises(AirflowFailException, match=words):
        bench.run(destination="/sys/kernel/out")
    assert bench.server.requests == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize(("mode", "access"), [(0o555, "write"), (0o000, "read")])
def test_a_folder_without_permission_fails_before_any_call(bench, mode, access):
    """The message says what to give, and the task, cleared, goes through."""
    bench.write(TEXTS)
    closed = bench.folder / "closed"
    closed.mkdir(mode=mode)
    with pytest.raises(AirflowFailException, match=f"give the worker's user {access} access"):
        bench.run(destination=str(closed / "out"))
    assert bench.server.requests == 0
    closed.chmod(0o755)
    bench.run(destination=str(closed / "out"))


@contextlib.contextmanager
def longest_file(size):
    """Files may not grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_limit_on_files_that_is_reached_costs_nothing_twice(bench):
    """When the dataset does not fit, the task stops, nothing half is visible, and with more room nothing is asked."""
    texts = [f"{i} " + os.urandom(3000).hex() for i in range(200)]
    bench.write(texts)
    words = r"cannot be written: File too large \(in the state folder\).*\d [MG]iB free.*ulimit -f|ulimit -f.*\d [MG]iB free"
    with longest_file(300_000), pytest.raises(AirflowFailException, match=words):
        bench.run()
    check_nothing_half(bench.destination, {})
    before = journal(bench.state)
    with longest_file(300_000), pytest.raises(AirflowFailException, match="ulimit -f"):
        bench.run()
    check_nothing_half(bench.destination, before)
    bench.run()
    bench.check(texts)
    assert set(bench.paid().values()) == {1}


@pytest.fixture
def small_disk(tmp_path):
    """Two megabytes, where the machine lets us have a file system of our own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this machine lets us mount nothing")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def unfinished(bench, small_disk):
    """A run onto the small disk that somebody else's mistake has stopped half-way, with answers in its journal."""
    texts = [f"{i} " + os.urandom(3000).hex() for i in range(400)]
    bench.write(texts)
    bench.destination, bench.state = small_disk / "out", small_disk / "_out.inference"
    bench.server.play([Rule(act=Refuse(error="404"), match=Match(nth=tuple(range(12, 100))))])
    with pytest.raises(AirflowFailException, match="no such inference endpoint"):
        bench.run()
    bench.server.play([])
    assert journal(bench.state)
    return texts


def test_a_full_disk_costs_nothing_twice(bench, small_disk, unfinished):
    """No space left: the task stops and says how much is free, what was paid stays to the byte, and with space a task
    that is cleared goes on from there.
    """
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1_700_000))
    before = journal(bench.state)
    outcome = start_task(bench, concurrency=4).outcome()
    assert outcome.kind == "AirflowFailException"
    told = rf"no space left in the state folder for {small_disk}/_out\.inference/\S+, \d\.\d MiB free; make room there"
    assert re.search(told, outcome.message)
    assert not any(text in outcome.message for text in unfinished)
    check_nothing_half(bench.destination, before)
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    bench.run()
    bench.check(unfinished)
    assert sum(bench.paid().values()) - len(unfinished) <= 4 * 10


def test_a_disk_that_is_full_from_the_start_costs_nothing(bench, small_disk, unfinished):
    """Not a byte is free: nothing is asked, and the journal is as it was."""
    before, paid = journal(bench.state), len(bench.server.bill)
    with contextlib.suppress(OSError), (small_disk / "ballast").open("wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(4096))
    with pytest.raises(AirflowFailException, match=r"no space left in the state folder for \S+, 0\.0 MiB free"):
        bench.run()
    assert len(bench.server.bill) == paid
    check_nothing_half(bench.destination, before)
    assert journal(bench.state) == before


def test_a_scratch_folder_that_is_full_costs_nothing(bench, small_disk, monkeypatch):
    """The disk of the worker is another one than that of the dataset: it is named, nothing is asked, and with space the
    task goes through.
    """
    bench.write(TEXTS * 400)
    monkeypatch.setattr("tempfile.tempdir", str(small_disk))
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2_000_000))
    words = rf"no space left in the worker's scratch folder {small_disk}, \d\.\d MiB free.*TMPDIR"
    with pytest.raises(AirflowFailException, match=words):
        bench.run()
    assert bench.server.bill == []
    check_nothing_half(bench.destination, {})
    ballast.unlink()
    bench.run()
    bench.check(TEXTS * 400)
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_turns_read_only_keeps_what_was_paid(bench, small_disk):
    """In the middle of a run: the task stops, and once it is cleared, what was durable is not asked twice."""
    bench.write(TEXTS)
    bench.destination, bench.state = small_disk / "out", small_disk / "_out.inference"
    bench.server.play([Rule(act=Refuse(error="404"), match=Match(nth=tuple(range(12, 100))))])
    with pytest.raises(AirflowFailException, match="no such inference endpoint"):
        bench.run(batch_size=1)
    bench.server.play([Rule(act=Delay(seconds=1.0))])
    before, asked = journal(bench.state), bench.server.requests
    assert before

    def freeze():  # a system refuses that while a file is open for writing; a disk that breaks asks nobody
        return not subprocess.run(
            ["mount", "-o", "remount,ro", str(small_disk)], check=False, capture_output=True
        ).returncode

    first = start_task(bench, batch_size=1, concurrency=4)
    first.when(lambda: bench.server.requests > asked and freeze())
    outcome = first.outcome()
    assert outcome.kind == "AirflowFailException"
    assert "Read-only file system (in the state folder); give the worker's user write access" in outcome.message
    assert journal(bench.state) == before
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    bench.server.play([])
    bench.run(batch_size=1)
    bench.check(TEXTS)
    assert sum(bench.paid_for(TEXTS)) - len(TEXTS) <= 4
    assert pq.read_metadata(next(bench.destination.iterdir())).num_rows == 40
