"""Images in files below one folder, for rows that name them by path. Blocks: for threads, never for the event loop."""

from __future__ import annotations

import errno
import os
import posixpath
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from fsspec.implementations.local import LocalFileSystem

from airflow_provider_modelstudio.inference.errors import OutageError
from airflow_provider_modelstudio.inference.tasks.media import too_large

from . import WINDOW_BYTES, Source
from .trouble import name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow as pa
    from fsspec import AbstractFileSystem

__all__ = ["ImageFiles", "SourceWithImages"]

Found = TypeVar("Found")

OUTSIDE = "image file lies outside of image_root"
MISSING = "image file is missing"
FORBIDDEN = "image file may not be read"
_AT_A_TIME = 16
_NO_FILE = frozenset({errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.ENXIO})
"""What a store says to a path that can be no file; anything else it says is its own trouble."""


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """The files below a folder; nothing outside of it is read, whatever a row says and wherever a link leads."""

    filesystem: AbstractFileSystem
    root: str
    """Normalised path of the folder."""
    most_bytes: int
    """Larger files are not read."""

    def __str__(self) -> str:
        return str(self.filesystem.unstrip_protocol(self.root))

    def read(self, paths: Sequence[str]) -> list[bytes | str]:
        """For each path the content of the file, or why there is none.

        A path is relative to the folder, or whole and leads below it.
        Raises :class:`~..errors.OutageError` when the store is in trouble, which is no fault of a row.
        """
        return self._each(self._read, paths)

    def sizes(self, paths: Sequence[str]) -> list[int]:
        """Bytes that :meth:`read` would read of each file. Raises what it raises."""
        return self._each(self._size, paths)

    def _each(self, look: Callable[[str], Found], paths: Sequence[str]) -> list[Found]:
        if len(paths) == 1:
            return [look(paths[0])]
        with ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="images") as pool:
            return list(pool.map(look, paths))

    def _read(self, path: str) -> bytes | str:
        place = self._locate(path)
        if place is None:
            return OUTSIDE
        try:
            if self._file_size(place) > self.most_bytes:
                return too_large("image", self.most_bytes)
            with self.filesystem.open(place, "rb") as file:
                content: bytes = file.read(self.most_bytes + 1)
        except Exception as error:  # noqa: BLE001  # each client of a store has its own family of errors
            return self._reason(error)
        return content if len(content) <= self.most_bytes else too_large("image", self.most_bytes)

    def _size(self, path: str) -> int:
        place = self._locate(path)
        try:
            size = 0 if place is None else self._file_size(place)
        except Exception as error:  # noqa: BLE001  # each client of a store has its own family of errors
            self._reason(error)
            return 0
        return size if size <= self.most_bytes else 0

    def _file_size(self, place: str) -> int:
        info = self.filesystem.info(place)
        if info["type"] != "file":  # a folder; or a pipe, which would be waited for
            raise FileNotFoundError
        return int(info["size"])

    def _locate(self, path: str) -> str | None:
        """Where a row's path leads; ``None`` when that is not below the folder."""
        scheme, has_scheme, rest = path.partition("://")
        if "\0" in path or (has_scheme and scheme not in self._protocols):
            return None
        whole = rest if has_scheme else path
        if not has_scheme and not path.startswith("/"):
            whole = posixpath.join(self.root, path)
        return self._within(whole)

    def _within(self, whole: str) -> str | None:
        root, place = self.root, posixpath.normpath(whole)
        if isinstance(self.filesystem, LocalFileSystem):
            root, place = os.path.realpath(root), os.path.realpath(place)
        return place if place.startswith(root.rstrip("/") + "/") else None

    @property
    def _protocols(self) -> tuple[str, ...]:
        protocol = self.filesystem.protocol
        return (protocol,) if isinstance(protocol, str) else tuple(protocol)

    def _reason(self, error: Exception) -> str:
        """Why a row has no image. Raises when it is not because of its path."""
        if isinstance(error, PermissionError):
            return FORBIDDEN
        if isinstance(error, FileNotFoundError) or (isinstance(error, OSError) and error.errno in _NO_FILE):
            return MISSING
        if isinstance(error, MemoryError):
            raise error  # of this machine
        raise OutageError(
            f"images below {self} cannot be read ({name_of(error)}); what was answered is kept, "
            "and the next try goes on from there"
        ) from None  # what a store says may hold an address that is signed


@dataclass(frozen=True, slots=True)
class SourceWithImages(Source):
    """A source whose rows name files: windows are cut by the bytes that these bring into memory."""

    weigh: Callable[[pa.RecordBatch], Sequence[int]]
    """Bytes of the files of each row."""

    @property
    def names_files(self) -> bool:
        """See ``Source``."""
        return True

    def windows(
        self, ranges: Sequence[tuple[int, int]], columns: Sequence[str] | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """See ``Source``; a row whose files are larger than a window has one for itself."""
        for first, batch in Source.windows(self, ranges, columns):
            start, held = 0, 0
            for at, size in enumerate(self.weigh(batch)):
                if at > start and held + size > WINDOW_BYTES:
                    yield first + start, batch.slice(start, at - start)
                    start, held = at, 0
                held += size
            yield first + start, batch.slice(start)
