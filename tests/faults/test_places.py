"""Where rows come from and go to: inputs that change, links, tricks with paths, disks that refuse."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess

import pyarrow.parquet as pq
import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_modelstudio.inference.errors import InputChangedError, StorageError
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


def test_a_place_where_nothing_may_be_written_fails_before_any_call(bench):
    """A file system that refuses, even to root: the message says where, and nothing is asked."""
    bench.write(TEXTS)
    with pytest.raises(StorageError, match=r"/sys/kernel/_out\.inference cannot be written"):
        bench.run(destination="/sys/kernel/out")
    assert bench.server.requests == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_fails_before_any_call(bench):
    """The message says what to give, and the task can be tried again."""
    bench.write(TEXTS)
    closed = bench.folder / "closed"
    closed.mkdir(mode=0o555)
    with pytest.raises(StorageError, match="give the worker's user write access"):
        bench.run(destination=str(closed / "out"))
    assert bench.server.requests == 0


@contextlib.contextmanager
def longest_file(size):
    """Files may not grow beyond so many bytes, as under a quota."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_quota_that_is_reached_costs_nothing_twice(bench):
    """When the dataset does not fit, nothing half is visible, and with more room the next try asks nothing."""
    texts = [f"{i} " + os.urandom(3000).hex() for i in range(200)]
    bench.write(texts)
    with longest_file(300_000), pytest.raises(StorageError, match="File too large"):
        bench.run()
    assert not bench.destination.exists()
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


def test_a_full_disk_costs_nothing_twice(bench, small_disk):
    """No space left: the message says so, nothing half is visible, and with space the next try goes on."""
    texts = [f"{i} " + os.urandom(3000).hex() for i in range(400)]
    bench.write(texts)
    destination = small_disk / "out"
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1_000_000))
    first = start_task(bench, destination=str(destination)).outcome()
    assert first.kind == "StorageError"
    assert "o space left" in first.message
    assert not destination.exists()
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    bench.run(destination=str(destination))
    bench.destination = destination
    bench.check(texts)
    assert set(bench.paid().values()) == {1}


def test_a_disk_that_turns_read_only_keeps_what_was_paid(bench, small_disk):
    """In the middle of a run: the task can be tried again, and what was durable is not asked twice."""
    bench.write(TEXTS)
    bench.server.play([Rule(act=Delay(seconds=0.02))])
    destination = str(small_disk / "out")

    def freeze():
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

    first = start_task(bench, destination=destination, batch_size=1)
    first.when(lambda: bench.server.requests >= 10)
    freeze()
    outcome = first.outcome()
    assert outcome.kind == "StorageError"
    assert "Read-only file system" in outcome.message
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    bench.run(destination=destination, batch_size=1)
    bench.destination = small_disk / "out"
    bench.check(TEXTS)
    assert sum(bench.paid_for(TEXTS)) - len(TEXTS) <= 64
    assert pq.read_metadata(next(bench.destination.iterdir())).num_rows == 40
