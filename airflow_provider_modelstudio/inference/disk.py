"""What a disk refuses, in words that help: which kind of place it is, how much room it has, and what to do."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from airflow_provider_modelstudio.inference.errors import StorageError, StorageRefusedError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DESTINATION", "SCRATCH_FOLDER", "STATE_FOLDER", "refusal", "room", "unreadable"]

STATE_FOLDER = "the state folder"
DESTINATION = "the destination"
SCRATCH_FOLDER = "the worker's scratch folder"

_KEPT = "what was answered is kept, and the task, cleared, goes on from there"
_CLOSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def refusal(error: OSError, place: str, path: Path) -> StorageError | StorageRefusedError:
    """Why nothing can be written. A disk that is full or closed stays so until somebody does something.

    :param place: which kind of place ``path`` is in.
    """
    why = f"{_words(error)} (in {place})"
    match error.errno:
        case errno.ENOSPC:
            return StorageRefusedError(f"no space left in {place} for {path}, {room(path)}; make room there; {_KEPT}")
        case errno.EDQUOT:
            return StorageRefusedError(
                f"no space left in {place} for {path}: the quota of the worker's user is used up, whatever the disk has "
                f"({room(path)}); make room or raise the quota; {_KEPT}"
            )
        case errno.EFBIG:
            return StorageRefusedError(
                f"{path} cannot be written: {why}; files may not be so long for the worker (ulimit -f) or on this disk, "
                f"whatever it has ({room(path)}); raise that limit; {_KEPT}"
            )
        case number if number in _CLOSED:
            return StorageRefusedError(f"{path} cannot be written: {why}; give the worker's user write access; {_KEPT}")
    return StorageError(
        f"{path} cannot be written: {why}; what was answered is kept, and the next try goes on from there"
    )


def unreadable(error: OSError, place: str, path: Path) -> StorageError | StorageRefusedError:
    """Why something cannot be read."""
    why = f"{_words(error)} (in {place})"
    if error.errno in _CLOSED:
        return StorageRefusedError(f"{path} cannot be read: {why}; give the worker's user read access; {_KEPT}")
    return StorageError(f"{path} cannot be read: {why}")


def _words(error: OSError) -> str:
    """What the system said, or the library that asked it."""
    return error.strerror or (str(error).splitlines() or [type(error).__name__])[0]


def room(path: Path) -> str:
    """How much is free where the path is, or would be."""
    try:
        disk = os.statvfs(next(folder for folder in (path, *path.parents) if folder.is_dir()))
    except (OSError, StopIteration):
        return "nobody can tell how much is free"
    if disk.f_files and not disk.f_favail:
        return "no file more fits, however small"
    return f"{_size(disk.f_bavail * disk.f_frsize)} free"


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
