"""A file that grows: what many answers have in common costs one sync, and neither a name nor a folder."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import threading
from typing import TYPE_CHECKING

from airflow_provider_modelstudio.inference.errors import StorageError

from . import ObjectMissingError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from . import Piece
    from .posix import Posix

__all__ = ["LocalLog"]

_GONE = frozenset({errno.ENOENT, errno.ESTALE})


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
        self._descriptor: int | None = descriptor
        """``None`` once it is closed."""
        self._told = told
        self._using = threading.Lock()
        """Who is cancelled leaves a thread that writes; closed under it, its descriptor might be another file's."""

    async def append(self, *content: Piece) -> None:
        """See :class:`~.Log`."""
        await asyncio.to_thread(self._append, content)

    async def close(self) -> None:
        """See :class:`~.Log`."""
        await asyncio.to_thread(self._close)

    def _append(self, content: tuple[Piece, ...]) -> None:
        with self._using, self._told(self._path):
            if self._descriptor is None:
                raise StorageError(f"{self._path} is closed; what comes next belongs into another log")
            try:
                self._disk.write(self._descriptor, content)
                self._disk.sync(self._descriptor)
                # Not how many names the file has: NFS and FUSE keep one for a file that is open, and some mounts show none.
                self._path.lstat()
            except OSError as error:
                if error.errno not in _GONE:
                    raise
                raise ObjectMissingError(f"{self._path} was removed while it was written") from error

    def _close(self) -> None:
        # What was acknowledged is synced: an error tells nothing, and the descriptor is given back all the same.
        with self._using, contextlib.suppress(OSError):
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                self._disk.close(descriptor)
