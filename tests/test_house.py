"""Rules of the house that no linter knows."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from airflow.sdk import BaseHook, BaseOperator
from airflow.triggers.base import BaseTrigger

import airflow_provider_modelstudio
from airflow_provider_modelstudio.get_provider_info import get_provider_info

ROOT = Path(__file__).parents[1]
NAME = "airflow_provider_modelstudio"
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(airflow_provider_modelstudio.__path__, f"{NAME}.")
    if not module.name.startswith(f"{NAME}.example_dags")
)
INFO = get_provider_info()


def listed(kind):
    return {name for entry in INFO.get(kind, ()) for name in entry["python-modules"]}


def public_classes(package, base):
    """Subclasses of ``base`` that modules of a package offer, by module."""
    found = {}
    for name in MODULES:
        if name.startswith(f"{NAME}.{package}."):
            module = importlib.import_module(name)
            offered = [getattr(module, one) for one in getattr(module, "__all__", ())]
            classes = {one for one in offered if inspect.isclass(one) and issubclass(one, base)}
            if classes:
                found[name] = classes
    return found


OPERATORS = sorted(
    {
        one
        for classes in public_classes("operators", BaseOperator).values()
        for one in classes
        if not inspect.isabstract(one)
    },
    key=lambda one: one.__name__,
)


@pytest.mark.parametrize(
    ("package", "base"),
    [("operators", BaseOperator), ("sensors", BaseOperator), ("hooks", BaseHook), ("triggers", BaseTrigger)],
)
def test_airflow_is_told_of_every_class(package, base):
    """Each operator, sensor, hook and trigger can be imported from a module that the provider information lists."""
    found = public_classes(package, base)
    told = set().union(*(found.get(name, set()) for name in listed(package)))
    assert told == set().union(*found.values())


@pytest.mark.parametrize("name", MODULES)
def test_what_a_module_offers(name):
    """``__all__`` is sorted (constants, classes, functions) and each name is there."""
    module = importlib.import_module(name)
    names = list(getattr(module, "__all__", ()))
    assert names == sorted(names, key=lambda one: (not one.isupper(), not one[0].isupper(), one))
    assert [one for one in names if not hasattr(module, one)] == []


def run(program):
    """Run a program of ours in a fresh Python that writes no byte code."""
    done = subprocess.run(
        [sys.executable, "-B", "-W", "ignore", "-c", textwrap.dedent(program)],
        cwd=ROOT,
        env={**os.environ, "MODULES": " ".join(MODULES)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_library_needs_no_airflow():
    """The engine, the catalog and the sandbox can be imported where Airflow is not installed."""
    out = run(
        """
        import importlib, os, sys

        class NoAirflow:
            def find_spec(self, name, path=None, target=None):
                if name == "airflow" or name.startswith("airflow."):
                    raise ModuleNotFoundError(f"{name} was asked for", name=name)

        sys.meta_path.insert(0, NoAirflow())
        count = 0
        for name in os.environ["MODULES"].split():
            if name.split(".")[1] in {"catalog", "get_provider_info", "inference", "sandbox"}:
                importlib.import_module(name)
                count += 1
        print(count)
        """
    )
    assert int(out) > 30


def test_importing_opens_nothing():
    """Importing the package makes no socket, starts no program and opens no file but its own code."""
    out = run(
        """
        import importlib, os, sys

        names = os.environ["MODULES"].split()
        for name in names:  # what others do when they are imported for the first time is theirs
            importlib.import_module(name)
        for name in [name for name in sys.modules if name.split(".")[0] == "airflow_provider_modelstudio"]:
            del sys.modules[name]
        seen = []

        def watch(event, arguments):
            if event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "shutil.")):
                seen.append((event, str(arguments)))
            elif event in {"os.mkdir", "os.remove", "os.rename", "os.link", "tempfile.mkstemp", "tempfile.mkdtemp"}:
                seen.append((event, str(arguments)))
            elif event == "open" and not str(arguments[0]).endswith((".py", ".pyc")):
                seen.append((event, str(arguments)))

        sys.addaudithook(watch)
        for name in names:
            importlib.import_module(name)
        print(seen)
        """
    )
    assert out.strip() == "[]"


def parameters(operator):
    """Names of the parameters that are ours."""
    return [
        name
        for cls in inspect.getmro(operator)
        if cls.__module__.startswith(NAME)
        for name, parameter in inspect.signature(cls.__init__).parameters.items()
        if name != "self" and parameter.kind is not parameter.VAR_KEYWORD
    ]


def templated(operator):
    """The parameter that each template field holds."""
    made = operator(task_id="any", **{name: f"value of {name}" for name in parameters(operator)})
    return {field: getattr(made, field).removeprefix("value of ") for field in operator.template_fields}


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda one: one.__name__)
def test_template_fields_can_be_set(operator):
    """Each template field holds a parameter as it was given, unchecked: templates are rendered later."""
    fields = templated(operator)
    assert set(fields.values()) <= set(parameters(operator))
    assert len(set(fields.values())) == len(operator.template_fields)
    other_names = {name for field, name in fields.items() if field != name}
    assert all(hasattr(BaseOperator, name) for name in other_names), "only a name that Airflow has taken is changed"


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda one: one.__name__)
def test_docstrings_say_what_is_templated(operator):
    """A parameter is said to be templated when it is, and only then."""
    said = dict(re.findall(r":param (\w+):(.*?)(?=\n\s*:param|\Z)", operator.__doc__, re.DOTALL))
    told = {name for name, words in said.items() if "(templated)" in words}
    assert told == set(templated(operator).values()) & set(said)


def test_the_version_is_written_once():
    """One module has the version; packaging reads it from there."""
    quoted = re.compile(rf"""["']{re.escape(airflow_provider_modelstudio.__version__)}["']""")
    written = [
        str(path.relative_to(ROOT))
        for folder in (NAME, "example_dags", "demo")
        for path in (ROOT / folder).rglob("*.py")
        if quoted.search(path.read_text("utf-8"))
    ]
    assert written == [f"{NAME}/__init__.py"]
    packaging = (ROOT / "pyproject.toml").read_text()
    assert 'dynamic = ["version"]' in packaging
    assert not quoted.search(packaging)
