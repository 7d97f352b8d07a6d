"""An Airflow of its own for each test process, set up before anything can import Airflow.

No database is made here: most tests need none, those in ``tests/airflow`` make it.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import tempfile
from functools import partial
from pathlib import Path

import pytest
import uvloop
from hypothesis import settings

from tests.names import Names

_HOME = Path(tempfile.mkdtemp(prefix="airflow-provider-modelstudio-"))
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)

for _name in [name for name in os.environ if name.startswith("AIRFLOW")]:
    del os.environ[_name]
os.environ.update(
    AIRFLOW_HOME=str(_HOME),
    AIRFLOW__CORE__DAGS_FOLDER=str(Path(__file__).parents[1] / "example_dags"),
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__UNIT_TEST_MODE="False",
    AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{_HOME}/airflow.db",
    NO_PROXY="127.0.0.1,localhost",
    no_proxy="127.0.0.1,localhost",
)

settings.register_profile("everywhere", deadline=None)  # shared machines stall; the time limit of a test is pytest's
settings.load_profile("everywhere")


@pytest.fixture
def names(monkeypatch):
    """Which names lead where, on this machine."""
    told = Names(socket.getaddrinfo)

    async def look_up(loop, *args, **options):
        return await loop.run_in_executor(None, partial(told.look_up, *args, **options))

    monkeypatch.setattr(socket, "getaddrinfo", told.look_up)
    monkeypatch.setattr(uvloop.Loop, "getaddrinfo", look_up)  # it asks the system by itself
    return told
