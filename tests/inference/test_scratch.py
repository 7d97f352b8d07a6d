"""The local disk of a try: whoever leaves something there, the next one removes it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from airflow_provider_modelstudio.inference.engine.scratch import scratch_folder
from airflow_provider_modelstudio.inference.errors import StorageRefusedError

KILLED = """
import os, signal
from airflow_provider_modelstudio.inference.engine.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "much").write_bytes(bytes(1000))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_nothing_is_left(root):
    """A try that ends takes its folder with it."""
    with scratch_folder() as folder:
        (folder / "file").write_text("x")
        assert list(root.iterdir()) == [folder]
    assert list(root.iterdir()) == []


def test_what_killed_tries_left_is_removed_and_nothing_else(root):
    """The folder of a dead process goes; that of one that works, and those of others, stay."""
    (root / "modelstudio-of-somebody").mkdir()
    with scratch_folder() as working:
        (working / "file").write_text("x")
        subprocess.run([sys.executable, "-c", KILLED], env={**os.environ, "TMPDIR": str(root)}, check=False)
        assert len(list(root.glob("*/much"))) == 1
        with scratch_folder():
            assert list(root.glob("*/much")) == []
            assert (working / "file").read_text() == "x"
            assert (root / "modelstudio-of-somebody").is_dir()


def test_a_trap_is_not_waited_for(root):
    """A pipe or a link under the name of a lock holds nobody up, and what it leads to stays."""
    (root / "modelstudio-pipe").mkdir()
    os.mkfifo(root / "modelstudio-pipe" / "in-use")
    (root / "elsewhere").write_text("x")
    (root / "modelstudio-link").mkdir()
    (root / "modelstudio-link" / "in-use").symlink_to(root / "elsewhere")
    with scratch_folder():
        assert (root / "elsewhere").read_text() == "x"
        assert (root / "modelstudio-link").is_dir()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_space_is_told_with_what_to_do(root, number):
    """The folder is named, and TMPDIR."""
    with (
        pytest.raises(
            StorageRefusedError,
            match=rf"no space left in the worker's scratch folder {root}, [\d.]+ [MG]iB free.*TMPDIR",
        ),
        scratch_folder(),
    ):
        raise OSError(number, "Error writing bytes to file")


def test_a_folder_that_cannot_be_made_is_told(monkeypatch):
    """A place that takes no folder is named."""
    monkeypatch.setattr("tempfile.tempdir", "/sys/kernel")
    told = r"/sys/kernel cannot be written: .* \(in the worker's scratch folder\); give the worker's user write access"
    with pytest.raises(StorageRefusedError, match=told), scratch_folder():
        pass


def test_no_place_for_temporary_files_is_told(monkeypatch):
    """Where Python finds none at all, the message says how to name one."""
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: ["/sys/kernel"])
    with pytest.raises(StorageRefusedError, match="set TMPDIR"), scratch_folder():
        pass


def test_other_trouble_is_not_ours():
    """Only a disk that is full is explained."""
    with pytest.raises(PermissionError), scratch_folder():
        raise PermissionError(errno.EACCES, "no")
