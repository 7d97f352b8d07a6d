"""Protections, and what happens when one is switched off: a test must fail.

    python tests/mutants.py [NAME …]

Each mutant is one change of one file, and the tests that have to notice it.
Works on a copy; prints a line for each mutant, and fails if one survives.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = "airflow_provider_modelstudio/inference"
HISTORIES = "tests/simulation/test_histories.py"
ENGINE = "tests/inference/test_engine.py"
STORAGE = "tests/inference/test_storage.py"


@dataclass(frozen=True)
class Mutant:
    """A protection that is switched off."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTANTS = (
    Mutant(
        "the permit is given back before the answer is durable",
        f"{PACKAGE}/engine/sender.py",
        "                await self._keep(batch, replace(",
        "                self.governor.released(self._loop.time(), permit)\n                await self._keep(batch, replace(",
        (HISTORIES,),
    ),
    Mutant(
        "an attempt does not wait for earlier ones",
        f"{PACKAGE}/vault/lease.py",
        "for epoch in await self._epochs() if epoch < self.epoch}",
        "for epoch in []}",
        (HISTORIES,),
    ),
    Mutant(
        "the lease is not checked before sending",
        f"{PACKAGE}/engine/sender.py",
        "        self._lease.check()\n",
        "",
        (HISTORIES,),
    ),
    Mutant(
        "the own bytes are not recognised after a lost answer",
        "tests/simulation/world.py",
        "            if await self.read(key) != content:\n                raise",
        "            raise",
        (HISTORIES,),
    ),
    Mutant(
        "parts are not named by their content",
        f"{PACKAGE}/vault/__init__.py",
        '''f"part-{part.index:05d}-{sha256[:16]}.parquet"''',
        '''f"part-{part.index:05d}.parquet"''',
        (HISTORIES, ENGINE),
    ),
    Mutant(
        "a part is sealed before it is stored",
        f"{PACKAGE}/vault/__init__.py",
        "        await self.storage.create_from(key, path)\n",
        "        asyncio.get_running_loop().call_later(0.05, lambda: asyncio.ensure_future(self.storage.create_from(key, path)))\n",
        (HISTORIES,),
    ),
    Mutant(
        "the journal is not read",
        f"{PACKAGE}/survey/recall.py",
        "            for key in await self._vault.journal.segments():",
        "            for key in []:",
        (HISTORIES, ENGINE),
    ),
    Mutant(
        "a damaged segment is believed",
        f"{PACKAGE}/vault/journal.py",
        "zlib.crc32(body) != checksum",
        "False",
        (ENGINE,),
    ),
    Mutant(
        "answers of another form are mixed in",
        f"{PACKAGE}/engine/windows.py",
        "        elif not columns.schema.equals(self.answer_schema):",
        "        elif False:",
        (ENGINE,),
    ),
    Mutant(
        "files of somebody else are overwritten",
        f"{PACKAGE}/vault/publication.py",
        "        if strangers:",
        "        if False:",
        (ENGINE,),
    ),
    Mutant(
        "equal rows are asked each",
        f"{PACKAGE}/survey/__init__.py",
        "match = _match_shared if share else _match_single",
        "match = _match_single",
        (ENGINE,),
    ),
    Mutant(
        "a part of a changed file is taken over",
        f"{PACKAGE}/plan.py",
        "pieces.append((file.path, file.size, file.stamp, ",
        "pieces.append((file.path, file.size, ",
        ("tests/inference/test_adoption.py",),
    ),
    Mutant(
        "a part with failed rows is taken over",
        f"{PACKAGE}/vault/__init__.py",
        "if seal.digest and not seal.counts.failed",
        "if seal.digest",
        ("tests/inference/test_adoption.py",),
    ),
    Mutant(
        "two creators of one object both win",
        f"{PACKAGE}/storage/local.py",
        "            os.link(temporary, path)\n        except",
        "            os.replace(temporary, path)\n            temporary.touch()\n        except",
        (STORAGE,),
    ),
    Mutant(
        "keys may leave the state folder",
        f"{PACKAGE}/storage/local.py",
        '        if key.startswith("/") or any(part in {"", ".", ".."} for part in parts):',
        "        if False:",
        (STORAGE,),
    ),
    Mutant(
        "float32 answers are asked again when they are wanted smaller",
        f"{PACKAGE}/survey/recall.py",
        "        if self._wider is not None:\n",
        "        if False:\n",
        ("tests/operators/test_vector_type.py",),
    ),
    Mutant(
        "smaller vectors pass for float32 ones",
        f"{PACKAGE}/tasks/text_embedding.py",
        'form = {} if self.vector_type == "float32" else {"vector_type": self.vector_type}',
        "form: dict[str, str] = {}",
        ("tests/operators/test_vector_type.py", "tests/tasks/test_vector_types.py"),
    ),
)


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
