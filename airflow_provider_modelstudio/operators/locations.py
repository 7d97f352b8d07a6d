"""Where rows come from and go to: a local path or an object storage URI, opened."""

from __future__ import annotations

import logging
import posixpath
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.sdk import ObjectStoragePath
from fsspec.implementations.local import LocalFileSystem

from airflow_provider_modelstudio.inference.dataset import open_source
from airflow_provider_modelstudio.inference.dataset.images import ImageFiles
from airflow_provider_modelstudio.inference.errors import ConfigurationError
from airflow_provider_modelstudio.inference.storage.local import LocalStorage
from airflow_provider_modelstudio.inference.storage.object_storage import SCHEMES, ObjectStorage

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

    from airflow_provider_modelstudio.inference.dataset import Source
    from airflow_provider_modelstudio.inference.storage import Storage

__all__ = ["open_images", "open_locations", "open_state"]


_CLIENTS = ("adlfs", "aiobotocore", "azure", "botocore", "gcsfs", "google", "oss2", "ossfs", "s3fs", "urllib3")
"""Loggers of what reaches a store."""


def open_locations(source: str | ObjectStoragePath, destination: str | ObjectStoragePath) -> tuple[Source, Storage]:
    """The files of the source, and the storage of the destination with its state folder beside it."""
    read_from, read_path = _resolve("source", source)
    write_to, write_path = _resolve("destination", destination)
    if read_from.protocol == write_to.protocol and _within(write_path, read_path):
        raise ConfigurationError(
            f"the destination {write_path} lies inside the source {read_path}: its files would be read as input next "
            "time; choose a folder beside it"
        )
    return open_source(read_from, read_path, exclude=(_state(write_path),)), _storage(write_to, write_path)


def open_state(destination: str | ObjectStoragePath) -> Storage:
    """The storage of another destination, to read what is on record there."""
    return _storage(*_resolve("reuse_from", destination))


def open_images(image_root: str | ObjectStoragePath, most_bytes: int) -> ImageFiles:
    """The files below a folder, for rows that name them."""
    filesystem, root = _resolve("image_root", image_root)
    if root.strip("/") in {"", "."}:
        raise ConfigurationError("image_root is the top of a disk or store; name the folder that holds the images")
    return ImageFiles(filesystem, root, most_bytes)


def _storage(filesystem: AbstractFileSystem, path: str) -> Storage:
    state, single = _state(path), path.endswith(".parquet")
    if isinstance(filesystem, LocalFileSystem):
        return LocalStorage(Path(state), Path(path), single_file=single)
    if _scheme(filesystem) not in SCHEMES:
        raise ConfigurationError(
            f"destination {path!r}: a store of kind {_scheme(filesystem)!r} cannot be written to; "
            f"use a local path or one of {', '.join(sorted(SCHEMES))}"
        )
    return ObjectStorage(filesystem, _scheme(filesystem), state, path, single_file=single)


def _state(path: str) -> str:
    """The state folder of a destination, beside it."""
    parent, _, name = path.rpartition("/")
    if not name or not parent:
        raise ConfigurationError(f"the destination {path!r} has no name; name a folder, or a file .parquet")
    return f"{parent}/_{name.removesuffix('.parquet')}.inference"


def _resolve(name: str, location: str | ObjectStoragePath) -> tuple[AbstractFileSystem, str]:
    """File system and path of a rendered location."""
    if not isinstance(location, (str, ObjectStoragePath)):
        raise ConfigurationError(
            f"{name} must be a path or the URI of an object storage, not {type(location).__name__}"
        )
    if isinstance(location, str) and not location.strip():
        raise ConfigurationError(f"{name} is empty")
    if "\0" in str(location):
        raise ConfigurationError(f"{name} holds a NUL character, which no path has")
    if isinstance(location, str) and "://" not in location:
        return LocalFileSystem(), posixpath.normpath(str(Path(location).expanduser().absolute()))
    try:
        path = location if isinstance(location, ObjectStoragePath) else ObjectStoragePath(location)
        if path.protocol in {"file", "local"}:
            return LocalFileSystem(), posixpath.normpath(path.path)
        _quiet_clients()
        return path.fs, posixpath.normpath(path.path)
    except ValueError as error:
        scheme = str(location).partition(":")[0]
        raise ConfigurationError(
            f"{name}: Airflow has no file system for {scheme!r}; install the provider for it, or use a local path"
        ) from error


def _quiet_clients() -> None:
    """From here on clients of stores do not log at DEBUG: there they quote what a store says, which may hold an address that
    is signed, and addresses that are.
    """
    for name in _CLIENTS:
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.getEffectiveLevel(), logging.INFO))


def _scheme(filesystem: AbstractFileSystem) -> str:
    protocol = filesystem.protocol
    return protocol if isinstance(protocol, str) else str(protocol[0])


def _within(destination: str, source: str) -> bool:
    return destination == source or destination.startswith(source.rstrip("/") + "/")
