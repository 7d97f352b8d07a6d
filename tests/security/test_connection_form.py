"""What Airflow shows of a connection: in its form and API, and on its command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.security.canaries import MODEL_KEY, PASSWORD, shapes, shown_of

SAID = {
    "conn_type": "modelstudio",
    "host": "https://es.example.com",
    "login": "elastic",
    "password": PASSWORD,
    "extra": {"model_studio_api_key": MODEL_KEY, "region": "cn-shanghai"},
}
HIDDEN = shapes(PASSWORD) | shapes(MODEL_KEY)


def stored():
    """The connection as Airflow's server has it."""
    from airflow.models import Connection  # noqa: PLC0415  # starts much

    return Connection(conn_id="guarded", **{**SAID, "extra": json.dumps(SAID["extra"])})  # noqa: AIR311  # the server's own


def test_the_answer_of_the_api_hides_both_secrets():
    """What the form, the page and the REST API get of a stored connection has stars for password and key, and no other."""
    from airflow.api_fastapi.core_api.datamodels.connections import ConnectionResponse  # noqa: PLC0415  # starts much

    shown = ConnectionResponse.model_validate(stored(), from_attributes=True).model_dump_json()
    assert shown_of([("answer", shown)], HIDDEN) == []
    told = json.loads(shown)
    assert told["password"] == "***"
    assert json.loads(told["extra"]) == {"model_studio_api_key": "***", "region": "cn-shanghai"}


def test_hiding_on_the_command_line_leaves_the_address():
    """``airflow connections list --show-values --hide-sensitive`` hides password and extras, and then shows both in the column
    ``get_uri``: a flaw of Airflow's that docs/security.md names; this test tells when it is mended.
    """
    from airflow.cli.commands.connection_command import ConnectionDisplayMapper  # noqa: PLC0415  # starts much

    told = ConnectionDisplayMapper.masked_sensitive(stored())
    address = told.pop("get_uri")
    assert shown_of([("columns", repr(told))], HIDDEN) == []
    assert shown_of([("get_uri", address)], HIDDEN) != []


@pytest.mark.slow
def test_the_command_line_shows_all_to_whoever_may_use_it(tmp_path):
    """``airflow connections get`` prints secrets, by Airflow's design and of every provider's connections: docs/security.md
    says so, and this test tells when it changes.
    """
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path), "AIRFLOW_CONN_GUARDED": json.dumps(SAID)}
    done = subprocess.run(
        [sys.executable, "-m", "airflow", "connections", "get", "guarded", "--output", "json"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    (told,) = json.loads(done.stdout[done.stdout.index("[{") :])
    assert told["password"] == PASSWORD
    assert told["extra_dejson"]["model_studio_api_key"] == MODEL_KEY
    assert shown_of([("errors", done.stderr)], HIDDEN) == []
