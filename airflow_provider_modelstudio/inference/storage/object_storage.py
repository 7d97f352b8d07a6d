"""Objects on S3, OSS, GCS and Azure, through their fsspec file systems.

An object store has no rename and no ``link``; it has "create unless it exists", which each one spells differently.
A call whose answer was lost may have been done or not: it is asked again, and what is there then is compared.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from airflow_provider_modelstudio.inference.errors import StorageError, StorageRefusedError

from . import PUBLISHED, ObjectExistsError, ObjectMissingError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from fsspec import AbstractFileSystem

    from . import Piece

__all__ = ["SCHEMES", "ObjectStorage", "UnansweredError", "again"]

log = logging.getLogger(__name__)

_CREATE: Mapping[str, Mapping[str, Any]] = {
    "s3": {"mode": "create"},
    "s3a": {"mode": "create"},
    "gs": {"mode": "create"},
    "gcs": {"mode": "create"},
    "abfs": {"overwrite": False},
    "abfss": {"overwrite": False},
    "az": {"overwrite": False},
    "oss": {"headers": {"x-oss-forbid-overwrite": "true"}},
}
"""How each kind of store is told to create an object only if there is none."""
SCHEMES = frozenset(_CREATE)
"""Kinds of stores that can hold a dataset."""
_PASSING = frozenset({"ExpiredToken", "RequestTimeTooSkewed"})
"""Codes of S3 that s3fs takes for a refusal; a new try has new credentials, or another clock."""
_REFUSED = frozenset({errno.EACCES, errno.EPERM})
TRIES = 8
"""Of a call that was not answered; pauses grow from 0.1 s to 5 s."""


class ObjectStorage:
    """Objects below a prefix of a bucket.

    Publishing copies part by part and removes old files last: there is no step that swaps a folder.
    Between the first copy and the last removal a reader that lists the folder sees files of both versions;
    ``published.json`` in the state folder always names the files of one, and they are there.

    A store that cannot create an object only if there is none is found out by a probe, and told in the log.
    Objects are then looked at before they are written.
    Two tries that write one at the same moment may both succeed, and the last one stays; whoever may spend does not
    rest on that, see :class:`~..vault.lease.Lease`.

    :param root: bucket and prefix of the objects, without a scheme.
    :param destination: bucket and prefix (or object) that readers open.
    """

    def __init__(
        self, filesystem: AbstractFileSystem, scheme: str, root: str, destination: str, *, single_file: bool
    ) -> None:
        self._fs = filesystem
        self._scheme = scheme
        self._root = root.rstrip("/")
        self._destination = destination.rstrip("/")
        self._single_file = single_file
        self._creates: bool | None = None
        """Whether the store creates only once, as told; ``None`` before it was tried."""

    @property
    def writers(self) -> int:
        """See :class:`~.Storage`. A request takes as long as one to the model may."""
        return 8

    @property
    def destination(self) -> str:
        """What readers open."""
        return f"{self._scheme}://{self._destination}"

    def locate(self, key: str) -> str:
        """The address of an object, for people."""
        return f"{self._scheme}://{self._path(key)}"

    async def scratch(self, folder: Path) -> Path:
        """See :class:`~.Storage`."""
        return folder

    async def create(self, key: str, *content: Piece) -> None:
        """See :class:`~.Storage`."""
        if self._creates is None:
            self._creates = await self._probe()
        await (self._create if self._creates else self._put_if_absent)(key, b"".join(content))

    async def start_log(self, key: str) -> None:
        """See :class:`~.Storage`. Objects do not grow."""

    async def create_from(self, key: str, path: Path) -> None:
        """See :class:`~.Storage`. The key names the content, so that writing it again changes nothing."""
        size = (await asyncio.to_thread(path.stat)).st_size
        if await self._size(key) is None:
            await self._ask(key, self._fs.put_file, str(path), self._path(key))
        stored = await self._size(key)
        if stored != size:
            raise ObjectExistsError(f"{self.locate(key)} has {stored} bytes instead of {size}")
        await asyncio.to_thread(path.unlink)

    async def copy(self, source: str, key: str) -> None:
        """See :class:`~.Storage`."""
        size = await self._size(source)
        if size is None:
            raise ObjectMissingError(f"{self.locate(source)} is missing")
        if await self._size(key) != size:
            await self._ask(key, self._fs.cp_file, self._path(source), self._path(key))

    async def replace(self, key: str, content: bytes) -> None:
        """See :class:`~.Storage`."""
        await self._ask(key, self._fs.pipe_file, self._path(key), content)

    async def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """See :class:`~.Storage`."""
        wanted = {} if (start, end) == (0, None) else {"start": start, "end": end}
        content: bytes = await self._ask(key, self._fs.cat_file, self._path(key), **wanted)
        return content if end is None else content[: end - start]  # ossfs takes the end for part of it

    async def open(self, key: str) -> pa.NativeFile:
        """See :class:`~.Storage`."""
        return pa.PythonFile(await self._ask(key, self._fs.open, self._path(key), "rb"), mode="r")

    async def list_keys(self, prefix: str) -> list[str]:
        """See :class:`~.Storage`."""
        folder = self._path(prefix)
        return [f"{prefix}/{name}" for name in sorted(await self._names(folder))]

    async def delete(self, *keys: str) -> None:
        """See :class:`~.Storage`."""
        for key in keys:
            with contextlib.suppress(ObjectMissingError):
                await self._ask(key, self._fs.rm_file, self._path(key))

    async def delete_unless_grown(self, key: str, size: int) -> None:  # noqa: ARG002  # nothing grows here
        """See :class:`~.Storage`."""
        await self.delete(key)

    async def forget_folder(self, prefix: str) -> None:
        """See :class:`~.Storage`. There are no folders."""

    @property
    def has_clock(self) -> bool:
        """See :class:`~.Storage`."""
        return True

    async def modified(self, key: str) -> float:
        """See :class:`~.Storage`."""
        info = await self._info(key)
        stamp = next(info[name] for name in ("LastModified", "last_modified", "updated", "mtime") if name in info)
        if isinstance(stamp, str):  # of GCS
            stamp = datetime.fromisoformat(stamp)
        return float(stamp.timestamp() if isinstance(stamp, datetime) else stamp)

    async def published(self) -> dict[str, int] | None:
        """See :class:`~.Storage`."""
        folder, _, name = self._destination.rpartition("/")
        if self._single_file:
            sizes = await self._names(folder)
            return {name: sizes[name]} if name in sizes else None
        return await self._names(self._destination) or None

    async def publish(self, files: Mapping[str, str]) -> None:
        """See :class:`~.Storage`. Each copy is retried on its own; nothing that is there already is copied."""
        if self._single_file:
            ((_, key),) = files.items()
            await self._ask(key, self._fs.cp_file, self._path(key), self._destination)
            return
        shown = await self.published() or {}
        sizes = {
            key: size
            for folder in {key.rpartition("/")[0] for key in files.values()}
            for key, size in (await self._sizes(folder)).items()
        }
        for name, key in files.items():
            if key not in sizes:
                raise ObjectMissingError(f"{self.locate(key)} is missing")
            if shown.get(name) != sizes[key]:
                await self._ask(key, self._fs.cp_file, self._path(key), f"{self._destination}/{name}")
        for name in sorted(set(shown) - set(files) - await self._named()):
            with contextlib.suppress(ObjectMissingError):
                await self._ask(name, self._fs.rm_file, f"{self._destination}/{name}")

    async def _named(self) -> set[str]:
        """Files that somebody who reads by the record may be about to open."""
        try:
            return set(json.loads(await self.read(PUBLISHED))["files"])
        except ObjectMissingError:
            return set()

    def _path(self, key: str) -> str:
        if key.startswith("/") or any(part in {"", ".", ".."} for part in key.split("/")):
            raise StorageError(f"the key {key!r} leaves the state folder")
        return f"{self._root}/{key}"

    async def _create(self, key: str, content: bytes) -> None:
        try:
            await self._ask(key, self._fs.pipe_file, self._path(key), content, **_CREATE[self._scheme])
        except ObjectExistsError:
            if await self.read(key) != content:
                raise

    async def _put_if_absent(self, key: str, content: bytes) -> None:
        with contextlib.suppress(ObjectMissingError):
            if await self.read(key) != content:
                raise ObjectExistsError(f"{key} exists already")
            return
        # Not looked at again, even if the answer is lost: somebody may build on what was written for a moment.
        await self._ask(key, self._fs.pipe_file, self._path(key), content)

    async def _probe(self) -> bool:
        """Whether two contents under one key are refused. Some stores ignore the order, some do not know it."""
        key = f"probe/{uuid.uuid4().hex}"
        try:
            await self._create(key, json.dumps({"first": key}).encode())
            await self._create(key, json.dumps({"second": key}).encode())
        except ObjectExistsError:
            return True
        except _UnknownOrderError:
            pass
        finally:
            await self.delete(key)
        log.warning(
            "the store of %s does not create objects only once, although it is told to (on OSS that is so while "
            "versioning is on); rows are safe and datasets whole, and two tries that run at the same time may both write "
            "the same object, of which the last one stays",
            self.destination,
        )
        return False

    async def _size(self, key: str) -> int | None:
        try:
            return int((await self._info(key))["size"])
        except ObjectMissingError:
            return None

    async def _info(self, key: str) -> dict[str, Any]:
        self._fs.invalidate_cache()
        info: dict[str, Any] = await self._ask(key, self._fs.info, self._path(key))
        return info

    async def _sizes(self, prefix: str) -> dict[str, int]:
        """Keys directly below a prefix and the sizes of their objects."""
        return {f"{prefix}/{name}": size for name, size in (await self._names(self._path(prefix))).items()}

    async def _names(self, folder: str) -> dict[str, int]:
        """Objects directly below a folder and their sizes."""
        self._fs.invalidate_cache()
        try:
            entries = await self._ask(folder, self._fs.ls, folder, detail=True)
        except ObjectMissingError:
            return {}
        found = {entry["name"].rstrip("/").rpartition("/")[2]: int(entry.get("size") or 0) for entry in entries}
        return {name: size for name, size in found.items() if name != folder.rpartition("/")[2] or size}

    async def _ask(self, what: str, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call the file system in a thread, again while it does not answer."""
        return await again(lambda: asyncio.to_thread(_translated, what, call, args, options))


class UnansweredError(StorageError):
    """Done or not done, nobody knows."""


class _UnknownOrderError(StorageError):
    """The store, or its client, does not know how to create only once."""


async def again(attempt: Callable[[], Awaitable[Any]]) -> Any:
    """Ask until there is an answer; after that many tries, what the last one said."""
    pause = 0.1
    for _ in range(TRIES - 1):
        try:
            return await attempt()
        except UnansweredError:
            await asyncio.sleep(pause)
            pause = min(2 * pause, 5.0)
    return await attempt()


def _refused(what: str) -> StorageRefusedError:
    return StorageRefusedError(
        f"{what}: the store refuses access; the connection needs get, put, list and delete; "
        "what was answered is kept, and the task, cleared, goes on from there"
    )


def _translated(what: str, call: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    try:
        return call(*args, **options)
    except Exception as error:  # noqa: BLE001  # each client has its own family of time-outs and server errors
        failed = _in_our_words(what, error)
    # Outside of the handler: a store's words may hold an address that is signed, and Airflow logs all that is chained.
    raise failed


def _in_our_words(what: str, error: Exception) -> StorageError | StorageRefusedError:
    match error:
        case FileNotFoundError():
            return ObjectMissingError(f"{what} is missing")
        case OSError() if isinstance(error, FileExistsError) or "FileAlreadyExists" in str(error):  # so ossfs
            return ObjectExistsError(f"{what} exists already")
        case OSError() if _code_of(error) in _PASSING:
            return UnansweredError(f"{what}: the store did not take the credentials ({_code_of(error)})")
        case OSError() if isinstance(error, PermissionError) or error.errno in _REFUSED:
            return _refused(what)
        case _ if (
            isinstance(error, NotImplementedError) or getattr(error, "errno", None) == errno.ENOSYS
        ):  # so s3fs: 501
            return _UnknownOrderError(f"{what}: the store does not know what it was told to do")
        case _:
            return UnansweredError(f"{what}: the store did not answer ({type(error).__name__})")


def _code_of(error: Exception) -> str:
    """The code of an answer of S3, as botocore has it below what s3fs makes of it."""
    answer = getattr(error.__cause__, "response", None)
    return str(answer.get("Error", {}).get("Code", "")) if isinstance(answer, dict) else ""
