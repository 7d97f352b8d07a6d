"""A file that grows: what many answers have in common costs one sync, and neither a name nor a folder."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

from . import ObjectMissingError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from . import Piece
    from .posix import Posix

__all__ = ["LocalLog"]


class LocalLog:
    """See :class:`~.Log`.

    The file is opened for each piece: some network disks only keep what was written once it is closed, and one that
    was removed cannot be opened.
    """

    def __init__(self, disk: Posix, path: Path, told: Callable[[Path], AbstractContextManager[None]]) -> None:
        """:param path: of an empty file.
        :param told: says what the disk refused.
        """
        self._disk = disk
        self._path = path
        self._told = told

    async def append(self, *content: Piece) -> None:
        """See :class:`~.Log`."""
        await asyncio.to_thread(self._append, content)

    def _append(self, content: tuple[Piece, ...]) -> None:
        with self._told(self._path):
            try:
                descriptor = self._disk.reopen(self._path)
                try:
                    self._disk.write(descriptor, content)
                    self._disk.sync(descriptor)
                finally:
                    self._disk.close(descriptor)
                # Not how many names the file has: NFS and FUSE keep one for a file that is open, and some mounts show none.
                self._path.lstat()
            except OSError as error:
                if error.errno != errno.ENOENT and not (error.errno == errno.ESTALE and self._is_gone()):
                    raise
                raise ObjectMissingError(f"{self._path} was removed while it was written") from error

    def _is_gone(self) -> bool:
        try:
            self._path.lstat()
        except FileNotFoundError:
            return True
        return False
