"""Objects on a POSIX file system: written aside, synced, and given their name in one step."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import stat
import uuid
from typing import TYPE_CHECKING

import pyarrow as pa

from airflow_provider_modelstudio.inference.disk import DESTINATION, STATE_FOLDER, refusal, unreadable
from airflow_provider_modelstudio.inference.errors import DestinationError, StorageError

from . import ObjectExistsError, ObjectMissingError
from .log import LocalLog
from .posix import TEMPORARY, Posix

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from . import Piece

__all__ = ["LocalStorage"]

log = logging.getLogger(__name__)

_ROOT_USER = 0


class LocalStorage:
    """Objects on a POSIX file system.

    A new object is written to a temporary file, synced, and linked to its name: ``link`` fails when the name is taken,
    and nobody ever sees a part of the bytes. A log is written under its name from the start, and grows.
    Folders are synced after each change, so that what was acknowledged survives a power cut.

    :param root: folder of the objects; made when the first object is created.
    :param destination: file or folder that readers open; on the same file system as ``root``.
    :param disk: through which everything is changed.
    """

    def __init__(self, root: Path, destination: Path, *, single_file: bool, disk: Posix | None = None) -> None:
        self._disk = disk or Posix()
        self._root = root
        self._destination = destination
        self._single_file = single_file
        self._made: set[Path] = set()
        self._is_safe = False
        """Whether the root was there and nobody else may put files into it."""

    @property
    def writers(self) -> int:
        return 1  # each of them waits for the same disk

    @property
    def destination(self) -> str:
        return str(self._destination)

    def locate(self, key: str) -> str:
        return str(self._path(key))

    async def create(self, key: str, *content: Piece) -> None:
        await asyncio.to_thread(self._create, key, content)

    async def start_log(self, key: str) -> LocalLog:
        return await asyncio.to_thread(self._start_log, key)

    async def create_from(self, key: str, path: Path) -> None:
        await asyncio.to_thread(self._create_from, key, path)

    async def copy(self, source: str, key: str) -> None:
        await asyncio.to_thread(self._copy, source, key)

    async def scratch(self, folder: Path) -> Path:
        folder = self._root / f"{TEMPORARY}parts"
        await asyncio.to_thread(self._make_folder, folder)
        return folder

    async def replace(self, key: str, content: bytes) -> None:
        await asyncio.to_thread(self._replace, key, content)

    async def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        return await asyncio.to_thread(self._read, key, start, end)

    async def open(self, key: str) -> pa.NativeFile:
        return await asyncio.to_thread(self._open, key)

    async def list_keys(self, prefix: str) -> list[str]:
        return await asyncio.to_thread(self._list_keys, prefix)

    async def delete(self, *keys: str) -> None:
        await asyncio.to_thread(self._delete, keys)

    async def delete_unless_grown(self, key: str, size: int) -> None:
        await asyncio.to_thread(self._delete_unless_grown, key, size)

    async def forget_folder(self, prefix: str) -> None:
        """See :class:`~.Storage`."""
        await asyncio.to_thread(self._forget_folder, prefix)

    @property
    def has_clock(self) -> bool:
        """See :class:`~.Storage`. A disk takes the time of the machine, which somebody may set."""
        return False

    async def modified(self, key: str) -> float:
        path = self._path(key)
        try:
            return (await asyncio.to_thread(path.stat)).st_mtime
        except FileNotFoundError as error:
            raise ObjectMissingError(f"{path} is missing") from error
        except OSError as error:
            raise unreadable(error, self._place(path), path) from error

    async def published(self) -> dict[str, int] | None:
        return await asyncio.to_thread(self._published)

    async def publish(self, files: Mapping[str, str]) -> None:
        await asyncio.to_thread(self._publish, files)

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if key.startswith("/") or any(part in {"", ".", ".."} for part in parts):
            raise StorageError(f"the key {key!r} leaves the state folder")
        self._check_root()
        return self._root.joinpath(*parts)

    def _check_root(self) -> None:
        """Refuse a state folder that somebody else may have filled: whoever writes there decides what the rows are."""
        if self._is_safe:
            return
        try:
            found = self._root.lstat()
        except OSError:  # there is none, or the disk will say what is wrong with it
            return
        if not stat.S_ISDIR(found.st_mode):
            return
        mine = (
            found if found.st_uid in {os.geteuid(), _ROOT_USER} and not found.st_mode & stat.S_IWOTH else self._probe()
        )
        shows_modes = not mine.st_mode & stat.S_IWOTH
        if not shows_modes:
            log.warning(
                "the disk of the state folder %s shows one mode for everything, so nobody can tell who may write there",
                self._root,
            )
        elif found.st_mode & stat.S_IWOTH:
            raise DestinationError(
                f"anybody may write to the state folder {self._root}, and with it change answers; look whether its files "
                f"are yours, then take that away: chmod o-w {self._root}"
            )
        if found.st_uid not in {os.geteuid(), _ROOT_USER, mine.st_uid}:
            raise DestinationError(
                f"the state folder {self._root} belongs to user {found.st_uid}, and this task runs as user "
                f"{os.geteuid()}; run it as that user, or look whether its files are yours and make it your own: "
                f"chown -R {os.geteuid()} {self._root}"
            )
        if shows_modes:
            self._warn_of_open_parents()
        self._is_safe = True

    def _warn_of_open_parents(self) -> None:
        """Say that the state folder may be replaced as a whole. No refusal: volumes of Kubernetes are made so."""
        for folder in self._root.parents:
            with contextlib.suppress(OSError):
                mode = folder.stat().st_mode
                if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
                    log.warning(
                        "anybody may write to the folder %s, so whoever has an account or a container that sees it may put "
                        "another folder in place of the state folder %s, and with it other answers; unless all of them are "
                        "yours, let others not replace what is not theirs: chmod +t %s",
                        folder,
                        self._root,
                        folder,
                    )
                    return

    def _probe(self) -> os.stat_result:
        """What the disk shows of a folder of ours: mounts of SMB, NFS and FUSE may show one mode or one user for all."""
        probe = self._root / f"{TEMPORARY}{uuid.uuid4().hex}"
        with self._told(probe):
            self._disk.make_folder(probe, 0o750)
            try:
                return probe.lstat()
            finally:
                self._disk.remove_folder(probe)

    def _make_folder(self, folder: Path) -> None:
        if folder in self._made and folder.is_dir():  # another run may have removed it with what was in it
            return
        self._check_root()
        ours = folder.is_relative_to(self._root)
        if ours and folder != self._root:
            self._make_folder(folder.parent)
        with self._told(folder):
            if ours and folder.is_symlink():
                raise StorageError(f"{folder} is a symbolic link, and state is not written through one; remove it")
            is_new = not folder.is_dir()
        if is_new:
            if folder.parent != folder:
                self._make_folder(folder.parent)
            with self._told(folder), contextlib.suppress(FileExistsError):
                self._disk.make_folder(folder, 0o750)
        if is_new or ours:  # whoever made it may have died before it was durable
            with self._told(folder):
                self._sync(folder.parent)
        self._made.add(folder)

    def _write_temporary(self, folder: Path, content: Sequence[Piece]) -> Path:
        self._make_folder(folder)
        temporary = folder / f"{TEMPORARY}{uuid.uuid4().hex}"
        with self._told(temporary):
            descriptor = self._disk.create(temporary)
            try:
                self._disk.write(descriptor, content)
                self._disk.sync(descriptor)
            except OSError:
                with contextlib.suppress(OSError):  # a full disk has no room for what nobody will read
                    self._disk.unlink(temporary)
                raise
            finally:
                self._disk.close(descriptor)
        return temporary

    def _sync(self, path: Path) -> None:
        descriptor = self._disk.open(path)
        try:
            self._disk.sync(descriptor)
        finally:
            self._disk.close(descriptor)

    def _link(self, temporary: Path, path: Path) -> bool:
        """Give the file its name; ``False`` when the name is taken."""
        try:
            self._disk.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            self._disk.unlink(temporary)
            self._sync(path.parent)  # a name that is taken, too: who gave it may have been killed before the sync
        return True

    def _create(self, key: str, content: Sequence[Piece]) -> None:
        path = self._path(key)
        temporary = self._write_temporary(path.parent, content)
        with self._told(path):
            made = self._link(temporary, path)
        if not made and self._read(key) != b"".join(content):
            raise ObjectExistsError(f"{path} exists already")

    def _start_log(self, key: str) -> LocalLog:
        path = self._path(key)
        self._make_folder(path.parent)
        with self._told(path):
            try:
                self._disk.close(self._disk.create(path))
            except FileExistsError as error:
                raise ObjectExistsError(f"{path} exists already") from error
            self._sync(path.parent)
        return LocalLog(self._disk, path, self._told)

    def _create_from(self, key: str, source: Path) -> None:
        path = self._path(key)
        self._make_folder(path.parent)
        with self._told(path):
            self._sync(source)
            size = source.stat().st_size
            try:
                taken = not self._link(source, path)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                raise StorageError(f"{source.parent} and {path.parent} are on different file systems") from error
        if taken and path.stat().st_size != size:
            raise ObjectExistsError(f"{path} exists already with another size")

    def _name(self, key: str, name: Path) -> None:
        """Give an object another name."""
        try:
            self._disk.link(self._path(key), name)
        except FileNotFoundError as error:
            raise ObjectMissingError(f"{self._path(key)} is missing") from error

    def _copy(self, source: str, key: str) -> None:
        path = self._path(key)
        self._make_folder(path.parent)
        with self._told(path):
            with contextlib.suppress(FileExistsError):
                self._name(source, path)
            self._sync(path.parent)

    def _replace(self, key: str, content: bytes) -> None:
        path = self._path(key)
        temporary = self._write_temporary(path.parent, [content])
        with self._told(path):
            try:
                self._disk.rename(temporary, path)
            except OSError:
                with contextlib.suppress(OSError):
                    self._disk.unlink(temporary)
                raise
            self._sync(path.parent)

    def _delete(self, keys: Sequence[str]) -> None:
        folders = set()
        for path in map(self._path, keys):
            with self._told(path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
                self._disk.unlink(path)
                folders.add(path.parent)
        for folder in folders:
            with self._told(folder):
                self._sync(folder)

    def _delete_unless_grown(self, key: str, size: int) -> None:
        path = self._path(key)
        with self._told(path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if path.lstat().st_size <= size:
                self._delete([key])

    def _forget_folder(self, prefix: str) -> None:
        folder = self._path(prefix)
        if not folder.is_dir():
            return
        with self._told(folder):  # somebody who was killed may have removed objects without saying so to the disk
            self._sync(folder)
        with contextlib.suppress(OSError):  # something is in it
            self._disk.remove_folder(folder)
            self._made.discard(folder)

    def _read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        path = self._path(key)
        try:
            # A pipe in place of a file would be waited for, for ever.
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise _no_file(path)
                file.seek(start)
                return file.read(-1 if end is None else end - start)
        except FileNotFoundError as error:
            raise ObjectMissingError(f"{path} is missing") from error
        except OSError as error:
            raise unreadable(error, self._place(path), path) from error

    def _open(self, key: str) -> pa.NativeFile:
        path = self._path(key)
        try:
            if path.is_symlink():
                raise StorageError(f"{path} is a symbolic link, and none is followed here; remove it")
            if path.exists() and not path.is_file():
                raise _no_file(path)
            return pa.OSFile(str(path))
        except FileNotFoundError as error:
            raise ObjectMissingError(f"{path} is missing") from error
        except OSError as error:
            raise unreadable(error, self._place(path), path) from error

    def _list_keys(self, prefix: str) -> list[str]:
        folder = self._path(prefix)
        try:
            if folder.is_symlink():
                raise StorageError(f"{folder} is a symbolic link, and state is not read through one; remove it")
            names = [path.name for path in folder.iterdir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise unreadable(error, self._place(folder), folder) from error
        return [f"{prefix}/{name}" for name in sorted(names) if not name.startswith(TEMPORARY)]

    def _published(self) -> dict[str, int] | None:
        try:
            if self._destination.is_symlink():  # it cannot be swapped for a folder in one step
                raise DestinationError(f"the destination {self._destination} is a symbolic link; name what it leads to")
            if self._single_file:
                return {self._destination.name: self._destination.stat().st_size}
            with os.scandir(self._destination) as entries:
                return {entry.name: entry.stat().st_size for entry in entries}
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            raise DestinationError(
                f"the destination {self._destination} is a file; name a folder, or a file that ends in .parquet"
            ) from error
        except OSError as error:
            raise unreadable(error, DESTINATION, self._destination) from error

    def _publish(self, files: Mapping[str, str]) -> None:
        parent = self._destination.parent
        stage = self._root / f"{TEMPORARY}{uuid.uuid4().hex}"
        with self._told(self._destination):
            if self._single_file:
                ((_, key),) = files.items()
                self._name(key, stage)
                self._disk.rename(stage, self._destination)
                self._sync(parent)
                return
            self._disk.make_folder(stage, 0o755)
            for name, key in files.items():
                self._name(key, stage / name)
            self._sync(stage)
            if self._destination.exists():
                self._disk.exchange(stage, self._destination)
                self._sync(parent)
                with contextlib.suppress(OSError):  # on a network disk a reader may still hold an old file
                    for old in stage.iterdir():
                        self._disk.unlink(old)
                    self._disk.remove_folder(stage)
            else:
                self._disk.rename(stage, self._destination)
                self._sync(parent)

    def _place(self, path: Path) -> str:
        return STATE_FOLDER if path.is_relative_to(self._root) else DESTINATION

    @contextlib.contextmanager
    def _told(self, path: Path) -> Iterator[None]:
        """Say what the disk refused in words that help."""
        try:
            yield
        except OSError as error:
            raise refusal(error, self._place(path), path) from error


def _no_file(path: Path) -> StorageError:
    return StorageError(f"{path} is no file; remove what stands there")
