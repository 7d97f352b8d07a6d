"""What Airflow is told about this provider, and what Airflow makes of it."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
import tempfile
from importlib import metadata, resources
from pathlib import Path

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-"))

import jsonschema
import pytest
from airflow.sdk import task
from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime

from airflow_provider_modelstudio import get_provider_info as module
from airflow_provider_modelstudio.get_provider_info import get_provider_info
from airflow_provider_modelstudio.hooks.fields import _EXTRAS

INFO = get_provider_info()
(CONNECTION,) = INFO["connection-types"]
NAME = "airflow-provider-modelstudio"

MODULE_KINDS = ("hooks", "operators", "sensors", "triggers")
KEYS = {
    "package-name",
    "name",
    "description",
    "integrations",
    *MODULE_KINDS,
    "connection-types",
    "task-decorators",
    "cli",
}
CONNECTION_KEYS = {"connection-type", "hook-class-name", "hook-name", "ui-field-behaviour", "conn-fields"}
SCHEMA_KEYS = {"type", "format", "default", "enum", "examples", "minimum", "maximum"}


def schema(file: str) -> dict:
    return json.loads(resources.files("airflow").joinpath(file).read_text())


def test_fits_the_schema_that_airflow_checks():
    """Airflow refuses every provider's information when one does not fit."""
    jsonschema.validate(INFO, schema("provider_info.schema.json"))


def test_fits_the_schema_of_the_form():
    """The keys of the connection form are only described in the schema for provider authors."""
    jsonschema.validate(INFO["connection-types"], schema("provider.yaml.schema.json")["properties"]["connection-types"])


def test_no_key_is_misspelt():
    """Airflow ignores a key it does not know, so each one is held against a list."""
    assert set(INFO) <= KEYS
    assert set(CONNECTION) == CONNECTION_KEYS
    assert set(CONNECTION["ui-field-behaviour"]) <= {"hidden-fields", "relabeling", "placeholders"}
    standard = {"host", "port", "login", "password", "schema", "description", "extra"}
    assert set(CONNECTION["ui-field-behaviour"]["relabeling"]) <= standard
    assert set(CONNECTION["ui-field-behaviour"]["placeholders"]) <= standard
    for said in CONNECTION["conn-fields"].values():
        assert set(said) <= {"label", "description", "schema"}
        assert set(said["schema"]) <= SCHEMA_KEYS
        assert "null" in said["schema"]["type"], "the form stores null for an empty field"


def test_form_offers_what_the_hook_understands():
    """Every extra of the hook has its place in the form, and the form has nothing else."""
    assert set(CONNECTION["conn-fields"]) == set(_EXTRAS)


def test_secrets_are_typed_unseen():
    """Fields with a secret are of format password, and named so that Airflow masks them as well."""
    (secret,) = (name for name, said in CONNECTION["conn-fields"].items() if said["schema"].get("format") == "password")
    assert secret == "model_studio_api_key"


def test_imports_nothing():
    """An import in here could break the look-up of every provider."""
    tree = ast.parse(Path(module.__file__).read_text())
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [getattr(node, "module", None) for node in imported] == ["__future__"]


@pytest.mark.parametrize(
    "name", [name for kind in MODULE_KINDS for entry in INFO[kind] for name in entry["python-modules"]]
)
def test_modules_exist(name):
    """Every module that is listed can be imported."""
    assert importlib.import_module(name)


def test_integrations_are_declared():
    """Every module belongs to an integration that is described."""
    described = {entry["integration-name"] for entry in INFO["integrations"]}
    assert {entry["integration-name"] for kind in MODULE_KINDS for entry in INFO[kind]} <= described


def test_decorators_are_found_by_airflow():
    """Both names are there on ``task``, and lead to our functions."""
    assert {said["name"] for said in INFO["task-decorators"]} == {"modelstudio_embed", "modelstudio_completion"}
    for said in INFO["task-decorators"]:
        assert set(said) == {"name", "class-name"}
        path, _, name = said["class-name"].rpartition(".")
        assert getattr(task, said["name"]) is getattr(importlib.import_module(path), name)


def test_commands_are_found_by_airflow():
    """The function that is named gives a group with a command and a help text."""
    (path,) = INFO["cli"]
    module, _, name = path.rpartition(".")
    (group,) = getattr(importlib.import_module(module), name)()
    assert (group.name, [command.name for command in group.subcommands]) == ("modelstudio", ["models"])


def test_hook_is_what_it_says():
    """The class that is named has the connection type, and the attributes without which Airflow drops a hook."""
    path, _, name = CONNECTION["hook-class-name"].rpartition(".")
    hook = getattr(importlib.import_module(path), name)
    assert (hook.conn_type, hook.hook_name) == (CONNECTION["connection-type"], CONNECTION["hook-name"])
    assert hook.conn_name_attr == "modelstudio_conn_id"
    assert hook.default_conn_name == "modelstudio_default"


def test_distribution_is_found():
    """The installed distribution has the canonical name and leads Airflow to this function."""
    (point,) = (
        point
        for point in metadata.entry_points(group="apache_airflow_provider")
        if point.value.startswith("airflow_provider_modelstudio.")
    )
    assert point.load() is get_provider_info
    assert point.dist is not None
    assert point.dist.metadata["Name"] == INFO["package-name"] == NAME


def test_workers_find_the_hook():
    """The registry that tasks use knows the hook, the class behind it, and its connection parameter."""
    found = ProvidersManagerTaskRuntime().hooks["modelstudio"]
    assert found is not None
    assert (found.hook_class_name, found.connection_id_attribute_name) == (
        CONNECTION["hook-class-name"],
        "modelstudio_conn_id",
    )


def test_form_in_the_ui():
    """The API server offers the type with our labels and fields, the key hidden."""
    from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService  # noqa: PLC0415 - starts much

    (meta,) = (one for one in HookMetaService.hook_meta_data() if one.connection_type == "modelstudio")
    assert meta.hook_name == "Alibaba Cloud Model Studio"
    assert meta.standard_fields.password.title == "Password or API key"
    assert meta.standard_fields.url_schema.hidden
    assert set(meta.extra_fields) == set(_EXTRAS)
    assert meta.extra_fields["model_studio_api_key"]["schema"]["format"] == "password"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "expected"),
    [(["providers", "list"], NAME), (["providers", "hooks"], "modelstudio"), (["providers", "get", NAME], NAME)],
)
def test_command_line(tmp_path, words, expected):
    """Airflow's command line lists the provider and its hook."""
    done = subprocess.run(
        [sys.executable, "-m", "airflow", *words, "--output", "json"],
        env={**os.environ, "AIRFLOW_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert expected in done.stdout
