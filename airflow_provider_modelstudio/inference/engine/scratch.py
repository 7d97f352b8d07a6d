"""Local disk that a try needs while it runs, and nobody afterwards."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_modelstudio.inference.disk import SCRATCH_FOLDER, refusal, room
from airflow_provider_modelstudio.inference.errors import StorageRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["scratch_folder"]

_PREFIX = "modelstudio-"
_LOCK = "in-use"


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder of this try. What tries that were killed have left is removed first.

    Raises :class:`~..errors.StorageRefusedError` where none can be made, or it has no space.
    """
    root = _root()
    _sweep(root)
    try:
        # After a stop a thread may still be reading for this folder.
        made = tempfile.TemporaryDirectory(prefix=_PREFIX, dir=root, ignore_cleanup_errors=True)
    except OSError as error:
        raise refusal(error, SCRATCH_FOLDER, root) from error
    try:
        with made as name:
            folder = Path(name)
            with (folder / "new").open("wb") as lock:
                with contextlib.suppress(OSError):  # where nothing can be locked, nothing is swept either
                    fcntl.flock(lock, fcntl.LOCK_EX)
                (folder / "new").rename(folder / _LOCK)  # nobody finds it unlocked
                yield folder
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise StorageRefusedError(
            f"no space left in {SCRATCH_FOLDER} {root}, {room(root)}: a run keeps the keys of its rows there, parts on their "
            "way to a store, and rows that wait for the first answer; make room there, or set TMPDIR to a folder that has "
            "some; what was answered is kept, and the task, cleared, goes on from there"
        ) from error


def _root() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise StorageRefusedError(
            f"{SCRATCH_FOLDER} cannot be written: none of the usual places for temporary files takes one; "
            "set TMPDIR to a folder in which the worker's user may write"
        ) from error


def _sweep(root: Path) -> None:
    """Remove folders whose process is gone: the system gives up its lock, whatever ended it."""
    for left in root.glob(f"{_PREFIX}*/{_LOCK}"):
        with (
            contextlib.suppress(OSError),
            os.fdopen(os.open(left, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)) as lock,
        ):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left.parent, ignore_errors=True)
