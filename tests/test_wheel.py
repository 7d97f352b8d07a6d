"""What users install: the wheel, built, unpacked, and used without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAME = "airflow_provider_modelstudio"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(wheel) as files:
        files.extractall(folder)
    return folder


def run(folder, *arguments):
    """A program in a fresh Python that finds the package in ``folder`` and nowhere else."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    return done.stdout


def test_everything_of_the_package_is_in_it(unpacked):
    """Modules, data, the mark of a typed package and the example Dags are there, and nothing of the checkout's rest."""
    package = ROOT / NAME
    kept = {path.relative_to(ROOT) for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    kept |= {Path(NAME) / path.relative_to(ROOT) for path in (ROOT / "example_dags").glob("*.py")}
    found = {path.relative_to(unpacked) for path in unpacked.rglob("*") if path.is_file()}
    assert {path for path in found if ".dist-info" not in path.parts[0]} == kept
    assert Path(NAME) / "py.typed" in found
    assert Path(NAME) / "example_dags" / "reembed_docs.py" in found


def test_airflow_is_led_to_it(unpacked):
    """The entry point by which Airflow finds a provider is written down, and so is the licence."""
    (info,) = unpacked.glob("*.dist-info")
    assert f"provider_info = {NAME}.get_provider_info:get_provider_info" in (info / "entry_points.txt").read_text()
    assert (info / "licenses" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_it_runs_without_the_checkout(unpacked):
    """The package, the catalog and the sandbox are taken from the wheel, and work."""
    where = run(unpacked, "-c", f"import {NAME}; print({NAME}.__file__)")
    assert Path(where.strip()).is_relative_to(unpacked)
    assert "--port" in run(unpacked, "-m", f"{NAME}.sandbox", "--help")
    models = run(unpacked, "-c", f"from {NAME}.catalog import Catalog; print(len(Catalog.read().names()))")
    assert int(models) > 0
