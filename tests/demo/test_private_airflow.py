"""What a private Airflow takes from its surroundings."""

from __future__ import annotations

import socket

import pytest

from demo.__main__ import CannotStartError, _tell_story
from demo.private_airflow import PrivateAirflow, port_is_free
from demo.screen import Screen
from demo.sessions import Sessions


def test_settings_of_another_airflow_stay_out(tmp_path, monkeypatch):
    """Neither settings nor connections of an Airflow around us reach ours, and proxies are not asked for this machine."""
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql://somewhere/else")
    monkeypatch.setenv("AIRFLOW_CONN_MODELSTUDIO_DEFAULT", "modelstudio://paid")
    monkeypatch.setenv("HOME_OF_OTHERS", "kept")
    airflow = PrivateAirflow(
        Sessions(tmp_path), dags=tmp_path, port=18_080, settings={"AIRFLOW__CORE__PARALLELISM": "1"}
    )
    assert airflow.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == f"sqlite:///{tmp_path}/airflow/airflow.db"
    assert "AIRFLOW_CONN_MODELSTUDIO_DEFAULT" not in airflow.environment
    assert airflow.environment["HOME_OF_OTHERS"] == "kept"
    assert airflow.environment["AIRFLOW__CORE__PARALLELISM"] == "1"
    assert "127.0.0.1" in airflow.environment["NO_PROXY"]


def test_port_is_free():
    """A port is taken while somebody listens there, and not afterwards."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert not port_is_free(port)
    assert port_is_free(port)


@pytest.mark.parametrize("which", ["sandbox_port", "airflow_port"])
def test_a_taken_port(tmp_path, which):
    """Before anything is started the demo says which port is taken, and what to type to have another one."""
    with socket.socket() as listener, socket.socket() as other, Sessions(tmp_path) as sessions:
        for one in (listener, other):
            one.bind(("127.0.0.1", 0))
        listener.listen()
        taken, free = listener.getsockname()[1], other.getsockname()[1]
        other.close()
        ports = {"sandbox_port": free, "airflow_port": free, which: taken}
        with pytest.raises(CannotStartError) as caught:
            _tell_story(Screen(), sessions, **ports)
        assert not sessions.members()
    said, _, command = str(caught.value).partition(" Try: ")
    assert said == f"Port {taken} is taken by another program."
    assert command.startswith(f"make demo {which.upper()}=")
    assert port_is_free(int(command.rpartition("=")[2]))
