"""Protections, and what happens when one is switched off: a test must fail.

    python tests/mutants.py [NAME …]

They stand in ``tests/protections.py``: each mutant is one change of one file, and the tests that have to notice it.
Works on a copy; prints a line for each mutant, and fails if one survives.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.protections import MUTANTS, Mutant  # noqa: E402  # this is a program, and its folder is not the project's


def survives(mutant: Mutant, folder: Path) -> bool:
    """Whether the tests pass although the protection is off."""
    path = folder / mutant.file
    before = path.read_text()
    if before.count(mutant.old) < 1:
        raise SystemExit(f"{mutant.name}: {mutant.file} does not hold the text any more; bring the list up to date")
    path.write_text(before.replace(mutant.old, mutant.new))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-p", "no:cacheprovider", *mutant.tests],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        path.write_text(before)
    if done.returncode not in {0, 1}:
        raise SystemExit(f"{mutant.name}: the tests did not run\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 0


def main() -> None:
    """Run the mutants named, or all."""
    chosen = [m for m in MUTANTS if not sys.argv[1:] or any(word in m.name for word in sys.argv[1:])]
    survivors = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "copy"
        shutil.copytree(
            ROOT,
            folder,
            ignore=shutil.ignore_patterns(".git", ".venv", ".demo", ".airflow", "*.egg-info", "__pycache__"),
        )
        healthy = Mutant(
            "nothing", chosen[0].file, chosen[0].old, chosen[0].old, tuple({t for m in chosen for t in m.tests})
        )
        if not survives(healthy, folder):
            raise SystemExit("the tests fail without any change; mend them first")
        for mutant in chosen:
            alive = survives(mutant, folder)
            survivors += [mutant.name] if alive else []
            print(f"{'SURVIVED' if alive else 'noticed '}  {mutant.name}", flush=True)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} noticed")
    sys.exit(1 if survivors else 0)


if __name__ == "__main__":
    main()
