"""A database for Airflow, a sandbox, and the connection to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from airflow.utils.db import initdb

from airflow_provider_modelstudio.sandbox.server import Sandbox

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            # One process: each would have to make a database, which takes ten seconds.
            item.add_marker(pytest.mark.xdist_group("airflow"))
            # A whole Airflow loads dozens of packages, which warn about one another. Ours still must not.
            item.add_marker(pytest.mark.filterwarnings("ignore"))
            item.add_marker(pytest.mark.filterwarnings("error:::airflow_provider_modelstudio"))


@pytest.fixture(scope="session")
def database():
    """Airflow's tables, in the home that the outermost conftest chose."""
    initdb()


@pytest.fixture
def sandbox():
    with Sandbox(engine="hashed", user="tester", password="made-up-secret") as running:
        yield running


@pytest.fixture
def connection(sandbox):
    """``modelstudio_default``, as an environment variable gives it."""
    return connection_to(sandbox)


MADE_UP_PASSWORD, MADE_UP_KEY = "made-up-secret", "sk-made-up-0123456789"


def connection_to(sandbox, password=MADE_UP_PASSWORD, key=MADE_UP_KEY):
    extra = {"model_studio_api_key": key, "api_host": sandbox.url}
    login = {"login": "tester", "password": password}
    return json.dumps({"conn_type": "modelstudio", "host": sandbox.url, "extra": extra, **login})
