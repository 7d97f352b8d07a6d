"""The calls that change a disk, one method each. What a power cut may undo, it undoes between two of them."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from . import Piece

__all__ = ["TEMPORARY", "Posix"]

TEMPORARY = ".tmp-"
"""What names begin with that nobody has to keep."""
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2
_AT_CWD = -100
_MOST_PIECES = 512
"""In one call; POSIX systems take 1,024."""


class Posix:
    """The disk of this machine."""

    def create(self, path: Path) -> int:
        """A descriptor of a new, empty file."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o640)

    def reopen(self, path: Path) -> int:
        """A descriptor of a file that is there, to :meth:`write` at its end."""
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)

    def open(self, path: Path) -> int:
        """A descriptor of a file or folder that is there, to :meth:`sync` it."""
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)

    def write(self, descriptor: int, content: Sequence[Piece]) -> None:
        """Append to a file."""
        pieces = [memoryview(piece).cast("B") for piece in content if len(piece)]
        while pieces:
            written = os.writev(descriptor, pieces[:_MOST_PIECES])
            while pieces and written >= len(pieces[0]):
                written -= len(pieces.pop(0))
            if written:
                pieces[0] = pieces[0][written:]

    def sync(self, descriptor: int) -> None:
        """Return when what is in the file, or which names are in the folder, survives a power cut."""
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        """Give a descriptor back."""
        os.close(descriptor)

    def link(self, path: Path, name: Path) -> None:
        """Give a file another name; ``FileExistsError`` when that is taken.

        Where a disk has no hard links (SMB, FUSE), the other name gets a copy.
        """
        try:
            self.hard_link(path, name)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._copy(path, name)

    def hard_link(self, path: Path, name: Path) -> None:
        """Give the same bytes another name."""
        os.link(path, name, follow_symlinks=False)

    def _copy(self, path: Path, name: Path) -> None:
        aside = name.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
        with path.open("rb") as source:
            descriptor = self.create(aside)
            try:
                with os.fdopen(descriptor, "wb", closefd=False) as target:
                    shutil.copyfileobj(source, target, 1024 * 1024)
                self.sync(descriptor)
                if not _renamed(aside, name, _RENAME_NOREPLACE):
                    # Nothing better here: of two that give one name at the same moment the last one stays.
                    if name.exists():
                        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(name))
                    self.rename(aside, name)
            except OSError:
                aside.unlink(missing_ok=True)
                raise
            finally:
                self.close(descriptor)

    def unlink(self, path: Path) -> None:
        """Take a name away."""
        path.unlink()

    def rename(self, path: Path, name: Path) -> None:
        """Give a file or folder another name, also one that is taken by a file or an empty folder."""
        path.replace(name)

    def exchange(self, a: Path, b: Path) -> None:
        """Swap two folders in one step, so that readers see the old or the new one and never none."""
        if _renamed(a, b, _RENAME_EXCHANGE):
            return
        # No exchange here (another system, or a network file system): the old folder steps aside for a moment.
        aside = a.with_name(f"{a.name}-old")
        self.rename(b, aside)
        self.rename(a, b)
        self.rename(aside, a)

    def make_folder(self, folder: Path, mode: int) -> None:
        """Make a folder."""
        folder.mkdir(mode=mode)

    def remove_folder(self, folder: Path) -> None:
        """Remove an empty folder."""
        folder.rmdir()


def _renamed(path: Path, name: Path, flag: int) -> bool:
    """Linux's rename with a flag; ``False`` where that is not known (another system, some network file systems)."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_CWD, os.fsencode(path), _AT_CWD, os.fsencode(name), flag) == 0:
        return True
    code = ctypes.get_errno()
    if code in {errno.ENOSYS, errno.EINVAL}:
        return False
    raise OSError(code, os.strerror(code), str(name))
