"""No program that was started here outlives its folder."""

from __future__ import annotations

import os
import sys
import time

import psutil
import pytest

from demo.sessions import ProgramEndedError, Sessions, last_lines

FAMILY = """
import os, signal, sys, time
if os.fork() == 0:
    os.setpgid(0, 0)  # like the processes of Airflow's tasks
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        time.sleep(0.05)
    print("up", flush=True)
    time.sleep(60)
sys.exit() if "--orphan" in sys.argv else time.sleep(60)
"""
"""A program whose child has a process group of its own, does not hear SIGTERM, and has a child itself."""


@pytest.fixture
def sessions(tmp_path):
    with Sessions(tmp_path, polite_seconds=0.1) as sessions:
        yield sessions


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def start_family(sessions, *arguments):
    sessions.start("family", [sys.executable, "-c", FAMILY, *arguments], os.environ)
    wait_for(lambda: last_lines(sessions.logs / "family.log").count("up") == 2)


def alive(processes):
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def test_whole_families_end(sessions):
    """Children end too: with a group of their own, deaf to SIGTERM, or orphaned."""
    start_family(sessions)
    family = sessions.members()
    assert len(family) == 3
    sessions.stop()
    assert not alive(family)


def test_orphans_end(sessions):
    """A program that has ended leaves nothing, though its children outlived it."""
    start_family(sessions, "--orphan")
    wait_for(lambda: len(sessions.members()) == 2)
    family = sessions.members()
    sessions.stop()
    assert not alive(family)


def test_what_a_killed_run_left_is_ended(sessions, tmp_path):
    """The next run in the same folder ends what the last one could not."""
    start_family(sessions)
    family = sessions.members()
    with Sessions(tmp_path, polite_seconds=0.1):
        assert not alive(family)


def test_strangers_are_left_alone(sessions, tmp_path):
    """A number that a killed run wrote down, and that now means a program of somebody else, is not touched."""
    start_family(sessions)
    (tmp_path / "elsewhere").mkdir()
    with Sessions(tmp_path / "elsewhere") as others:
        (others.folder / "sessions.json").write_text((tmp_path / "sessions.json").read_text())
        with Sessions(tmp_path / "elsewhere"):
            assert len(alive(sessions.members())) == 3


def test_a_program_that_ends_is_noticed(sessions):
    """The error names the program and its log, which has what it said last."""
    sessions.start("short", [sys.executable, "-c", "import sys; print('this is why'); sys.exit(3)"], os.environ)
    with pytest.raises(ProgramEndedError, match="short ended with code 3") as caught:
        wait_for(sessions.check)
    assert last_lines(caught.value.log) == ["this is why"]
