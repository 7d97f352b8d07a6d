"""The bench of the fault tests, with a connection full of canaries, and everything that is logged."""

from __future__ import annotations

import logging

import pytest

from tests.failing_s3 import s3  # noqa: F401  # a fixture
from tests.faults.bench import Bench
from tests.faults.conftest import _quiet, bench, start  # noqa: F401  # fixtures
from tests.security.canaries import MODEL_KEY, PASSWORD


@pytest.fixture
def guard(tmp_path, start, monkeypatch):  # noqa: F811  # the fixture
    """Makes benches whose connections are full of canaries."""

    def make(name="", password=PASSWORD):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        extra = {"model_studio_api_key": MODEL_KEY, "region": "cn-shanghai"}
        conn_id = f"guarded_{name.replace(' ', '_')}"
        server = start(user="elastic", password=password)
        return Bench(folder, server, monkeypatch, conn_id, login="elastic", password=password, extra=extra)

    return make


@pytest.fixture
def guarded(guard):
    return guard()


@pytest.fixture
def logs(caplog, capfd):
    """Everything that any logger says, at DEBUG, the client's own included, and what is printed."""
    names = (
        "",
        "elastic_transport.node",
        "elastic_transport.transport",
        "elasticsearch",
        "airflow_provider_modelstudio",
    )
    for name in names:
        caplog.set_level(logging.DEBUG, name)
    node = logging.getLogger("elastic_transport.node")
    node.addHandler(caplog.handler)

    def said():
        for record in caplog.records:
            yield record.name, repr(vars(record))
        yield "log", caplog.text
        for text in capfd.readouterr():
            yield "print", text

    yield said
    node.removeHandler(caplog.handler)
