"""The calls that change a disk, one method each. What a power cut may undo, it undoes between two of them."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from . import Piece

__all__ = ["Posix"]


class Posix:
    """The disk of this machine."""

    def create(self, path: Path) -> int:
        """A descriptor of a new, empty file."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o640)

    def open(self, path: Path) -> int:
        """A descriptor of a file or folder that is there, to :meth:`sync` it."""
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)

    def write(self, descriptor: int, content: Sequence[Piece]) -> None:
        """Append to a file."""
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.writelines(content)

    def sync(self, descriptor: int) -> None:
        """Return when what is in the file, or which names are in the folder, survives a power cut."""
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        """Give a descriptor back."""
        os.close(descriptor)

    def link(self, path: Path, name: Path) -> None:
        """Give a file another name; ``FileExistsError`` when that is taken."""
        os.link(path, name, follow_symlinks=False)

    def unlink(self, path: Path) -> None:
        """Take a name away."""
        path.unlink()

    def rename(self, path: Path, name: Path) -> None:
        """Give a file or folder another name, also one that is taken by a file or an empty folder."""
        path.replace(name)

    def exchange(self, a: Path, b: Path) -> None:
        """Swap two folders in one step, so that readers see the old or the new one and never none."""
        if sys.platform == "linux":
            at_cwd, rename_exchange = -100, 2
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.renameat2(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), rename_exchange) == 0:
                return
            code = ctypes.get_errno()
            if code not in {errno.ENOSYS, errno.EINVAL}:
                raise OSError(code, os.strerror(code), str(b))
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
