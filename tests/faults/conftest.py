"""A server that can be scripted, and a bench beside it."""

from __future__ import annotations

import pytest

from airflow_provider_modelstudio.sandbox.server import Sandbox
from tests.failing_s3 import s3  # noqa: F401  # a fixture
from tests.faults.bench import DIMENSIONS, Bench


@pytest.fixture(autouse=True)
def _quiet(recwarn):
    """Outside of a task runner Airflow says so."""


@pytest.fixture
def start():
    """Starts servers; all are stopped at the end."""
    servers = []

    def start(**options):
        server = Sandbox(**{"engine": "hashed", "dimensions": DIMENSIONS, **options})
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def bench(tmp_path, start, monkeypatch):
    return Bench(tmp_path, start(), monkeypatch)
