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
    """Runs ``make audit`` with tools that do nothing, but for one that finds what is given and ends with a code."""

    def audit(code, found="", *arguments):
        tools, known = tmp_path / "bin", tmp_path / "audit" / "known.txt"
        for folder in (tools, known.parent):
            folder.mkdir(exist_ok=True)
        (tmp_path / "uv.stamp").touch()
        known.write_text("an earlier one\n")
        stub = tools / "python"
        writes = f'printf "%s" "{found}" > {known};' if found else ""
        stub.write_text(
            '#!/bin/sh\ncase "$*" in\n*cyclonedx-py*) echo "listed" ;;\n'
            f'*pip-audit\\ --strict*--output\\ {known}*) echo "asked"; {writes} exit {code} ;;\nesac\n'
        )
        stub.chmod(0o755)
        # Nothing that make would make first is older than what it is made of.
        command = ["make", "--silent", f"VENV={tmp_path}", "--old-file=pyproject.toml", "audit", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    return audit


UNREACHED_PASSES = "NO_VERDICT=0"
"""What CI says."""


@pytest.mark.parametrize("arguments", [(), (UNREACHED_PASSES,)])
def test_what_is_known_to_be_vulnerable_fails(audit, arguments):
    """In CI as well as by hand; what it is stands there."""
    failed = audit(1, "jinja2 2.4.1 PYSEC-2014-8", *arguments)
    assert failed.stdout.split("\n")[:2] == ["listed", "asked"]
    assert "jinja2 2.4.1 PYSEC-2014-8" in failed.stdout
    assert failed.returncode != 0
    assert "Not passed: this is known to be vulnerable" in failed.stderr


def test_an_audit_without_an_answer_is_not_passed(audit):
    """Where the list of PyPI cannot be asked, ``make audit`` says that there is no verdict and fails; CI, which may run
    where nobody can reach it, says the same and goes on. It passes in silence only when the list was asked and is empty.
    """
    for arguments, passes in (((), False), ((UNREACHED_PASSES,), True)):
        unreached = audit(1, "", *arguments)
        assert "asked" in unreached.stdout
        assert "an earlier one" not in unreached.stdout
        assert "No verdict" in unreached.stderr
        assert (unreached.returncode == 0) is passes
    passed = audit(0)
    assert "asked" in passed.stdout
    assert (passed.returncode, passed.stderr) == (0, "")


def test_ci_asks_about_what_comes_with_the_package():
    """Each run of CI makes the list of all that is installed with the package, and asks about it."""
    steps = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert f"make audit {UNREACHED_PASSES}" in steps
    assert "set -euo pipefail" in steps
