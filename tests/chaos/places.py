"""Where sources and destinations are, as somebody sees them who has nothing to do with the operator."""

from __future__ import annotations

import contextlib
import io
import json
import os
from typing import TYPE_CHECKING, Literal, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_provider_modelstudio.inference.vault.journal import read_segments

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

__all__ = ["Bucket", "Disk", "Place", "Sight", "segments"]

Sight = Literal["nothing", "whole", "half", "moved"]
"""What a reader found. ``moved``: another version took the place during the look, so that it says nothing."""


class Place(Protocol):
    """A store, from outside."""

    name: str
    pause: float
    """Seconds between two looks at the state, so that looking costs the task little."""

    def address(self, name: str) -> str:
        """What the operator is told."""

    def write(self, name: str, table: pa.Table) -> None:
        """Put a source there, or replace it."""

    def state(self, destination: str) -> frozenset[str]:
        """Keys in the state folder of a destination."""

    def read_state(self, destination: str, key: str) -> bytes:
        """One object of the state folder; ``FileNotFoundError`` when there is none."""

    def rows(self, destination: str) -> pa.Table:
        """What a reader gets."""

    def look(self, destination: str) -> Sight:
        """What a reader would find right now."""


def segments(place: Place, destination: str, epoch: int) -> int:
    """How many segments an attempt has written to its journal, at least."""
    mine = [key for key in place.state(destination) if f"/journal/e{epoch:08d}-" in key]
    last = max(mine, key=lambda key: key[-12:-4], default=None)
    if last is None:
        return 0
    try:
        content = place.read_state(destination, last)
    except FileNotFoundError:  # its part was finished meanwhile
        content = b""
    return int(last[-12:-4]) - 1 + len(read_segments(last, content).segments)


def state_name(destination: str) -> str:
    return f"_{destination.removesuffix('.parquet')}.inference"


class Manifests:
    """Datasets that were ever committed: file names → rows. A reader may see these and nothing else."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._rows: dict[tuple[str, frozenset[tuple[str, int]]], int] = {}

    def rows(self, destination: str, files: dict[str, int]) -> int | None:
        """Rows of the dataset with these files and sizes; ``None`` when no such dataset was committed."""
        wanted = (destination, frozenset(files.items()))
        if wanted not in self._rows:
            for key in self._place.state(destination):
                if key.endswith("/manifest.json"):
                    with contextlib.suppress(FileNotFoundError):
                        self._add(destination, json.loads(self._place.read_state(destination, key)))
        return self._rows.get(wanted)

    def _add(self, destination: str, manifest: dict[str, Any]) -> None:
        single = destination.endswith(".parquet")
        files = {destination if single else part["name"]: part["bytes"] for part in manifest["parts"]}
        self._rows[destination, frozenset(files.items())] = manifest["rows"]


class Disk:
    """A folder of this machine."""

    name = "disk"
    pause = 0.004

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir(parents=True)
        self._manifests = Manifests(self)

    def address(self, name: str) -> str:
        return str(self._folder / name)

    def write(self, name: str, table: pa.Table) -> None:
        beside = self._folder / f".{name}"
        pq.write_table(table, beside)
        beside.rename(self._folder / name)

    def state(self, destination: str) -> frozenset[str]:
        root = self._folder / state_name(destination)
        keys = []
        for folder, folders, names in os.walk(root):
            folders[:] = [name for name in folders if not name.startswith(".tmp-")]
            below = os.path.relpath(folder, root)
            keys += [name if below == "." else f"{below}/{name}" for name in names if not name.startswith(".tmp-")]
        return frozenset(keys)

    def read_state(self, destination: str, key: str) -> bytes:
        return (self._folder / state_name(destination) / key).read_bytes()

    def rows(self, destination: str) -> pa.Table:
        path = self._folder / destination
        files = [path] if path.is_file() else sorted(path.iterdir())
        return pa.concat_tables([pq.read_table(file) for file in files])

    def look(self, destination: str) -> Sight:
        path = self._folder / destination
        before = _identity(path)
        if before is None:
            return "nothing"
        try:
            files = [path] if path.is_file() else [path / name for name in os.listdir(path)]  # noqa: PTH208  # one call
            sizes = {file.name: file.stat().st_size for file in files}
            rows = sum(pq.read_metadata(file).num_rows for file in files)
        except OSError:
            sizes, rows = {}, -1
        if _identity(path) != before:
            return "moved"
        return "whole" if self._manifests.rows(destination, sizes) == rows else "half"


class Bucket:
    """A bucket with an S3 API."""

    name = "s3"
    pause = 0.02

    def __init__(self, client: Any, bucket: str, conn_id: str) -> None:
        self._client = client
        self._bucket = bucket
        self._conn_id = conn_id
        self._manifests = Manifests(self)
        client.create_bucket(Bucket=bucket)

    def address(self, name: str) -> str:
        return f"s3://{self._conn_id}@{self._bucket}/{name}"

    def write(self, name: str, table: pa.Table) -> None:
        sink = io.BytesIO()
        pq.write_table(table, sink)
        self._client.put_object(Bucket=self._bucket, Key=name, Body=sink.getvalue())

    def state(self, destination: str) -> frozenset[str]:
        root = f"{state_name(destination)}/"
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=root)
        return frozenset(entry["Key"].removeprefix(root) for page in pages for entry in page.get("Contents", ()))

    def read_state(self, destination: str, key: str) -> bytes:
        return self._read(f"{state_name(destination)}/{key}")

    def rows(self, destination: str) -> pa.Table:
        files = [destination]
        if not destination.endswith(".parquet"):
            shown = json.loads(self.read_state(destination, "published.json"))
            files = [f"{destination}/{name}" for name in sorted(shown["files"])]
        return pa.concat_tables([pq.read_table(io.BytesIO(self._read(file))) for file in files])

    def look(self, destination: str) -> Sight:
        """A folder of an object store cannot be swapped; its readers go by ``published.json``."""
        if destination.endswith(".parquet"):
            return self._look_at_file(destination)
        shown = self._shown(destination)
        if shown is None:
            return "nothing"
        record = json.loads(shown)
        try:
            heads = {
                name: self._client.head_object(Bucket=self._bucket, Key=f"{destination}/{name}")
                for name in record["files"]
            }
            sizes = {name: head["ContentLength"] for name, head in heads.items()}
        except self._client.exceptions.ClientError:
            sizes = {}
        if self._shown(destination) != shown:
            return "moved"
        return "whole" if self._manifests.rows(destination, sizes) == record["rows"] else "half"

    def _look_at_file(self, destination: str) -> Sight:
        try:
            content = self._read(destination)
        except FileNotFoundError:
            return "nothing"
        rows = pq.read_metadata(io.BytesIO(content)).num_rows
        return "whole" if self._manifests.rows(destination, {destination: len(content)}) == rows else "half"

    def _shown(self, destination: str) -> bytes | None:
        try:
            return self.read_state(destination, "published.json")
        except FileNotFoundError:
            return None

    def _read(self, key: str) -> bytes:
        try:
            content: bytes = self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        except self._client.exceptions.NoSuchKey as error:
            raise FileNotFoundError(key) from error
        return content


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_dev, stat.st_ino
