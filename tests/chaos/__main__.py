"""``python -m tests.chaos``: kill the real operator in real Airflow task processes, and check every row and the bill."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.loop import run_loop
from tests.chaos.world import open_world


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="SIGKILLs in all, half on disk and half on S3")
    parser.add_argument("--terms", type=int, default=10, help="SIGTERMs in all")
    parser.add_argument("--pairs", type=int, default=4, help="zombies, and as many side-by-side runs")
    parser.add_argument("--orphans", type=int, default=4, help="tries whose supervisor is killed")
    parser.add_argument("--frozen", type=int, default=4, help="tries that are frozen together with their supervisor")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--keep", type=Path, help="folder to work in, which stays; else a temporary one")
    given = parser.parse_args()
    began = time.monotonic()
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        with open_world(given.keep or Path(temporary)) as world:
            report = run_loop(
                world,
                kills=given.kills,
                terms=given.terms,
                pairs=given.pairs,
                orphans=given.orphans,
                frozen=given.frozen,
                seed=given.seed,
                say=lambda line: print(f"[{time.monotonic() - began:4.0f} s] {line}", flush=True),
            )
        print(report.table())
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
