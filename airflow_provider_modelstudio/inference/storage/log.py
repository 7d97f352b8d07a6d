"""A file that grows: what many answers have in common costs one sync, and neither a name nor a folder."""

from __future__ import annotations

import asyncio
import os
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
    """See :class:`~.Log`."""

    def __init__(
        self, disk: Posix, path: Path, descriptor: int, told: Callable[[Path], AbstractContextManager[None]]
    ) -> None:
        """:param descriptor: of the new file, to be closed by this object.
        :param told: says what the disk refused.
        """
        self._disk = disk
        self._path = path
        self._descriptor = descriptor
        self._told = told
        self._counts_names = self._names() > 0
        """Whether the disk knows how many names a file has. Some mounts show none, ever."""

    async def append(self, *content: Piece) -> None:
        """See :class:`~.Log`."""
        await asyncio.to_thread(self._append, content)

    async def close(self) -> None:
        """See :class:`~.Log`."""
        await asyncio.to_thread(self._disk.close, self._descriptor)

    def _append(self, content: tuple[Piece, ...]) -> None:
        with self._told(self._path):
            self._disk.write(self._descriptor, content)
            self._disk.sync(self._descriptor)
            if self._counts_names and not self._names():
                raise ObjectMissingError(f"{self._path} was removed while it was written")

    def _names(self) -> int:
        return os.fstat(self._descriptor).st_nlink
