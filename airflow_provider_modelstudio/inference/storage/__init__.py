"""Where objects live that must be whole or absent. One contract, one class a kind of store.

Every object is written whole and never seen half, but for a :class:`Log`, which grows.
Keys are relative, ``/``-separated, and stay below the root of the storage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

from airflow_provider_modelstudio.inference.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pyarrow as pa

__all__ = ["PUBLISHED", "Log", "ObjectExistsError", "ObjectMissingError", "Piece", "Storage"]

PUBLISHED = "published.json"
"""Key of the record that names the files readers see now."""


Piece: TypeAlias = bytes | memoryview
"""Part of the content of an object."""


class ObjectExistsError(StorageError):
    """Somebody else created this object first, with other bytes."""


class ObjectMissingError(StorageError):
    """There is no such object."""


class Log(Protocol):
    """An object that grows. Only who started it writes; who reads may find the last piece cut."""

    async def append(self, *content: Piece) -> None:
        """Add to the end, and return when that is durable. One at a time.

        :class:`ObjectMissingError` when somebody removed the object meanwhile, and this with it.
        After an error nobody knows how much was written: what comes next belongs into another log.
        """


class Storage(Protocol):
    """What the commit protocol needs of a store. All calls may raise :class:`~..errors.StorageError`, and
    :class:`~..errors.StorageRefusedError` where only somebody else can help.
    """

    async def create(self, key: str, *content: Piece) -> None:
        """Store a new object, made of pieces; :class:`ObjectExistsError` when another one is there.

        Creating the same bytes again is no error: the first answer may have been lost.
        """

    async def start_log(self, key: str) -> Log | None:
        """A new, empty object that grows; ``None`` where a store has no such thing.

        Raises :class:`ObjectExistsError` when there is an object under that key.
        """

    async def create_from(self, key: str, path: Path) -> None:
        """Store a new object from a local file, which is used up. The key must name the content."""

    async def copy(self, source: str, key: str) -> None:
        """Store the object ``source`` under another key, too. Both name the content, so doing it again changes nothing."""

    async def replace(self, key: str, content: bytes) -> None:
        """Store an object, whether or not there was one."""

    async def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """The object, or its bytes from ``start`` to ``end``; :class:`ObjectMissingError` when there is none."""

    async def open(self, key: str) -> pa.NativeFile:
        """A seekable reader of the object."""

    async def list_keys(self, prefix: str) -> list[str]:
        """Keys directly below the folder ``prefix``, sorted; empty when there is no such folder."""

    async def delete(self, *keys: str) -> None:
        """Return when none of the objects is there any more; no error where there was none."""

    async def delete_unless_grown(self, key: str, size: int) -> None:
        """Delete an object that has ``size`` bytes, and leave a log alone that has more by now."""

    @property
    def has_clock(self) -> bool:
        """Whether it stamps objects by a clock of its own, which no worker sets."""

    async def modified(self, key: str) -> float:
        """Seconds since the epoch by the clock of the store."""

    async def forget_folder(self, prefix: str) -> None:
        """Remove what is left of a prefix where it is a folder, if nothing lies below it."""

    async def published(self) -> dict[str, int] | None:
        """Files of the destination and their sizes in bytes; ``None`` when there is no destination."""

    async def publish(self, files: Mapping[str, str]) -> None:
        """Make ``files`` (name → key) the whole content of the destination, in one step where the store can.

        Where it cannot, files that the record :data:`PUBLISHED` names stay beside them until it names others.
        """

    async def scratch(self, folder: Path) -> Path:
        """Where files for :meth:`create_from` are built: ``folder``, or a place from which they need no copy."""

    @property
    def writers(self) -> int:
        """How many objects are worth being created at a time; 1 where there are logs."""

    @property
    def destination(self) -> str:
        """What readers open."""

    def locate(self, key: str) -> str:
        """The address of an object, for people."""
