"""``airflow modelstudio models``: catalog and cluster side by side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace

import pytest

from airflow_provider_modelstudio import cli
from airflow_provider_modelstudio.catalog import Catalog
from airflow_provider_modelstudio.operators.model import CreateModelOperator
from airflow_provider_modelstudio.sandbox.server import Sandbox

KEY = "sk-canary-0123456789"


def endpoint(inference_id, task_type="text_embedding", **service_settings):
    return {
        "inference_id": inference_id,
        "task_type": task_type,
        "service": "s",
        "service_settings": service_settings,
    }


def ids(rows):
    """Model and task type → names of endpoints."""
    return {(row["model"], row["task_type"]): row["inference_id"] for row in rows if row["inference_id"]}


def test_catalog_without_a_cluster():
    """One row for each model and task type, with lengths and prices where they are stated."""
    catalog = Catalog.read()
    rows = cli.side_by_side(catalog, [])
    assert len(rows) == sum(len(catalog.get(name).task_types) for name in catalog.names())
    assert rows[0] == {
        "model": "text-embedding-v4",
        "task_type": "text_embedding",
        "dimensions": "1024",
        "prices": "0.5 CNY/1M (cn), 0.07 USD/1M (intl)",
        "status": "documented",
        "inference_id": "",
        "service": "",
    }
    assert {row["task_type"] for row in cli.side_by_side(catalog, [], task_type="rerank")} == {"rerank"}
    assert (rows[1]["task_type"], rows[1]["dimensions"]) == ("sparse_embedding", "")
    (plus,) = [row for row in rows if row["model"] == "qwen-plus"]
    (eyes,) = [row for row in rows if row["model"] == "multimodal-embedding-v1"]
    assert eyes["prices"] == "0.7 CNY/1M, images and videos 0.9 (cn)"
    assert plus["prices"] == "0.8 CNY/1M, answers 2 (cn), 0.4 USD/1M, answers 1.2 (intl)"


@pytest.mark.parametrize(
    "found",
    [
        endpoint("text-embedding-v4"),
        endpoint("any", model_id="text-embedding-v4"),
        endpoint(
            "any", path={"/x": {"POST": {"request": {"content": '{ "model": "text-embedding-v4",\n "input": 1}'}}}}
        ),
        endpoint("text-embedding-v3", request='{"model":"text-embedding-v4"}'),
    ],
)
def test_endpoint_beside_its_model(found):
    """By the model that its settings name, or else by its own name."""
    rows = cli.side_by_side(Catalog.read(), [found])
    assert ids(rows) == {("text-embedding-v4", "text_embedding"): found["inference_id"]}


def test_endpoints_of_no_known_model():
    """They are listed at the end, with what the server tells of them; several for one model share its row."""
    others = [
        endpoint("bailian", dimensions=7),
        endpoint("v4", model="text-embedding-v4"),
        endpoint("text-embedding-v4"),
    ]
    rows = cli.side_by_side(Catalog.read(), others)
    assert ids(rows)["text-embedding-v4", "text_embedding"] == "v4, text-embedding-v4"
    assert rows[-1] == {
        "model": "",
        "task_type": "text_embedding",
        "dimensions": "7",
        "prices": "",
        "status": "not in the catalog",
        "inference_id": "bailian",
        "service": "s",
    }


@pytest.fixture
def sandbox(monkeypatch):
    with Sandbox(engine="hashed", dimensions=16) as server:
        said = {"conn_type": "modelstudio", "host": server.url, "extra": {"model_studio_api_key": KEY}}
        monkeypatch.setenv("AIRFLOW_CONN_MODELSTUDIO_DEFAULT", json.dumps(said))
        monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")
        yield server


def called(**options):
    said = {"conn_id": "modelstudio_default", "task_type": None, "catalog_only": False, "output": "json"}
    cli.models(Namespace(**{**said, "verbose": False, **options}))


def test_what_the_operator_made_is_found_again(sandbox, capsys):
    """Every endpoint of automatic provisioning stands beside its model, and the output is JSON and nothing else."""
    CreateModelOperator(task_id="create").execute({})
    capsys.readouterr()
    called()
    rows = json.loads(capsys.readouterr().out)
    known = [row for row in rows if row["model"]]
    assert all(row["inference_id"] for row in known)
    assert len(rows) == len(known) + 6  # those that the sandbox comes with


def test_the_connection_may_know_more(sandbox, capsys, monkeypatch):
    """Models and prices that the connection lays over the catalog are listed as it has them."""
    models = {"my-model": {"task_types": ["rerank"], "prices": {"cn": {"currency": "CNY", "per_million": 0.25}}}}
    said = {"conn_type": "modelstudio", "host": sandbox.url, "extra": {"models": models}}
    monkeypatch.setenv("AIRFLOW_CONN_MODELSTUDIO_DEFAULT", json.dumps(said))
    called(task_type="rerank")
    rows = {row["model"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["my-model"]["prices"] == "0.25 CNY/1M (cn)"
    assert "qwen3-rerank" in rows


@pytest.mark.parametrize("output", ["table", "json", "yaml"])
def test_forms(sandbox, capsys, output):
    """Each form names models and endpoints."""
    called(output=output, task_type="rerank")
    out = capsys.readouterr().out
    assert "qwen3-rerank" in out
    assert "bailian_rerank" in out
    assert "text-embedding-v4" not in out
    assert KEY not in out


def test_catalog_only_asks_no_cluster(sandbox, capsys):
    """The catalog is there without a connection."""
    called(catalog_only=True, conn_id="nowhere")
    assert "qwen3-rerank" in capsys.readouterr().out
    assert sandbox.calls == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"conn_id": "nowhere"},
            "there is no connection 'nowhere'\nGive a connection of type modelstudio with --conn-id",
        ),
        ({"task_type": "embedding"}, "There is no model and no endpoint for task type 'embedding'."),
    ],
)
def test_errors_that_help(sandbox, options, words):
    """A sentence and what to do, no traceback."""
    with pytest.raises(SystemExit, match=words):
        called(**options)


@pytest.mark.slow
def test_command_line(tmp_path):
    """Airflow itself has the command, and its help shows an example."""
    done = subprocess.run(
        [sys.executable, "-m", "airflow", "modelstudio", "models", "--help"],
        env={**os.environ, "AIRFLOW_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "airflow modelstudio models --conn-id modelstudio_default --output json" in " ".join(done.stdout.split())


def test_group_of_commands_is_light():
    """What every command of Airflow imports brings in neither client, Arrow nor catalog."""
    program = (
        "import sys; import airflow.cli.cli_config, airflow.utils.cli; before = set(sys.modules); "
        "from airflow_provider_modelstudio.cli import get_cli_commands; get_cli_commands(); "
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['airflow_provider_modelstudio']"
