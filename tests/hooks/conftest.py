"""Connections as Airflow finds them, without an Airflow database."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from typing import TYPE_CHECKING, Any

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-"))

import pytest

from airflow_provider_modelstudio.hooks.modelstudio import ModelStudioHook
from tests.transport.loopback import Handler, Loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def serve() -> Iterator[Callable[..., Loopback]]:
    """Starts a scripted server; all are stopped at the end."""
    with contextlib.ExitStack() as stack:

        def start(handler: Handler, **options: Any) -> Loopback:
            return stack.enter_context(Loopback(handler, **options))

        yield start


@pytest.fixture
def hook_to(monkeypatch) -> Iterator[Callable[..., ModelStudioHook]]:
    """A hook whose connection says what the test wants; Airflow reads it from the environment."""
    made: list[ModelStudioHook] = []

    def make(host: str | Loopback, *, extra: object = None, **fields: Any) -> ModelStudioHook:
        url = host if isinstance(host, str) else host.url
        said = {"conn_type": "modelstudio", "host": url, "extra": extra or {}, **fields}
        monkeypatch.setenv("AIRFLOW_CONN_MODELSTUDIO_DEFAULT", json.dumps(said))
        made.append(ModelStudioHook())
        return made[-1]

    yield make
    for hook in made:
        if "conn" in vars(hook):
            hook.conn.close()
