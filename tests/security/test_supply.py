"""What the package is made of."""

from __future__ import annotations

import ast
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "airflow_provider_modelstudio").rglob("*.py"))
MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "marshal",
    "shelve",
    "joblib",
    "jinja2",
    "yaml",
    "zipfile",
    "tarfile",
}
CALLS = {"eval", "exec", "compile", "__import__", "system", "popen"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_executes_data(path):
    """No module that runs or unpacks what it reads, no eval, no shell, no trust in remote code."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not {one.name.partition(".")[0] for one in node.names} & MODULES
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] not in MODULES
        if isinstance(node, ast.Call):
            function = node.func
            name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
            owner = getattr(getattr(function, "value", None), "id", "")
            assert name not in CALLS or owner in {"re", "platform"}
            assert {"shell", "trust_remote_code"}.isdisjoint(one.arg for one in node.keywords)


def test_dependencies_are_few_and_have_a_range():
    """Each names the oldest version it was tried with, and nothing is run at installation."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    dependencies = project["project"]["dependencies"]
    assert len(dependencies) <= 15
    assert all(">=" in one or "==" in one for one in dependencies)
    assert project["build-system"]["build-backend"] == "hatchling.build"
    assert "hooks" not in project["tool"].get("hatch", {}).get("build", {})
    assert not (ROOT / "setup.py").exists()


@pytest.fixture
def audit(tmp_path):
    """Runs ``make audit`` with tools that do nothing, but for one whose exit code is given."""

    def audit(code):
        tools = tmp_path / "bin"
        tools.mkdir(exist_ok=True)
        (tmp_path / "uv.stamp").touch()
        stub = tools / "python"
        stub.write_text(f'#!/bin/sh\ncase "$*" in *pip-audit\\ --strict*) echo "asked" ; exit {code} ;; esac\n')
        stub.chmod(0o755)
        # Nothing that make would make first is older than what it is made of.
        command = ["make", "--silent", f"VENV={tmp_path}", "--old-file=pyproject.toml", "audit"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    return audit


def test_an_audit_without_an_answer_is_not_passed(audit):
    """Where something is vulnerable, or the list of PyPI cannot be asked, ``make audit`` fails and says which of the two it
    may be; it passes only when the list was asked and is empty.
    """
    failed = audit(1)
    assert "asked" in failed.stdout
    assert failed.returncode != 0
    assert "without it there is no verdict" in failed.stderr
    passed = audit(0)
    assert "asked" in passed.stdout
    assert (passed.returncode, passed.stderr) == (0, "")


def test_ci_writes_what_comes_with_the_package():
    """Each run of CI makes the list of all that is installed with the package."""
    steps = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert "make sbom" in steps
    assert "set -euo pipefail" in steps
