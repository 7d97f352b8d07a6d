"""Everything that is measured, side by side in one go: numbers as JSON, a page with tables, plots.

    python benchmarks/bench.py --peers .venv/bench/bin/python [--page docs/benchmarks.md] [--large] [--only at_once,tasks]

Fixed counts, loopback only. Each program checks its output before it prints a number; a program that does not find its rows
ends the whole. Rounds of programs that are compared take turns, and the median by CPU counts.
Ratios are printed and are no tests: what a machine does beside it changes all seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cases import Case, command, make_cases
from page import write_page
from rows import make_files

SHOWN = ("rows_per_second", "cpu_seconds_per_1000_rows", "peak_memory_mib")
ROOT = Path(__file__).parents[1]


def measure(case: Case, peers: Path | None) -> dict[str, Any]:
    """What one run of a case took."""
    with tempfile.TemporaryDirectory() as folder:
        flags = dict(case.flags)
        if case.files:
            flags["source"] = make_files(Path(folder) / "source", case.files, flags["rows"])
        if case.again is not None:
            flags["keep"] = folder
        took = _run(case, flags, peers)
        if case.again is not None:
            took = _run(case, {**flags, **case.again}, peers)
        return took


def _run(case: Case, flags: dict[str, Any], peers: Path | None) -> dict[str, Any]:
    told = [text for name, value in flags.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    environment = {**os.environ, "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR"}
    done = subprocess.run(
        [*command(case.who, peers), *told], capture_output=True, text=True, check=False, env=environment
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines or not lines[-1].startswith("{"):
        raise SystemExit(f"{case.key} failed with {done.returncode}:\n{done.stderr[-3000:]}")
    took: dict[str, Any] = json.loads(lines[-1])
    return took


def measure_group(cases: list[Case], peers: Path | None) -> dict[str, dict[str, Any]]:
    """Result by key. Rounds take turns."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for number in range(max(case.rounds for case in cases)):
        for case in cases:
            if number < case.rounds:
                took = measure(case, peers)
                runs.setdefault(case.key, []).append(took)
                shown = ", ".join(f"{took[name]} {name}" for name in SHOWN)
                print(f"{case.key}: {shown}", file=sys.stderr, flush=True)
    return {key: _median(took) for key, took in runs.items()}


def _median(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The run with the median CPU, with the median of all rounds' rows a second."""
    ordered = sorted(runs, key=lambda took: took["cpu_seconds_per_1000_rows"])
    middle = ordered[len(ordered) // 2]
    return {**middle, "rows_per_second": round(statistics.median(took["rows_per_second"] for took in runs))}


def machine(peers: Path | None) -> dict[str, str]:
    """Where this ran, without a name."""
    models = [line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if "model name" in line]
    told = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{len(os.sched_getaffinity(0))} cores ({models[0].partition(':')[2].strip() if models else 'unknown'})",
        "Python": platform.python_version(),
        **{name: version(name) for name in ("apache-airflow", "pyarrow", "numpy", "uvloop", "httptools")},
    }
    if peers is not None:
        program = "import importlib.metadata as m, json; print(json.dumps({n: m.version(n) for n in ('daft', 'elasticsearch')}))"
        told |= json.loads(subprocess.run([peers, "-c", program], capture_output=True, check=True).stdout)
    return told


def main() -> None:
    """Measure, and write down what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, help="Python of the environment with daft, elasticsearch and matplotlib")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "benchmarks" / "results.json")
    parser.add_argument("--only", default="", help="groups, with commas between; results of others are kept")
    parser.add_argument("--scale", type=float, default=1.0, help="of all counts; for trying out")
    parser.add_argument("--note", default="", help="a sentence for the page, such as what else the machine did")
    parser.add_argument("--rounds", type=int, default=3, help="most rounds of a program")
    parser.add_argument(
        "--large", action="store_true", help="also 10 million rows (50 GB of disk), a million requests, 100,000 files"
    )
    asked = parser.parse_args()
    began = time.monotonic()
    cases = make_cases(scale=asked.scale, rounds=asked.rounds, large=asked.large)
    groups = asked.only.split(",") if asked.only else list(dict.fromkeys(case.group for case in cases))
    cases = [case for case in cases if case.group in groups and (case.who in {"ours", "floor", "loop"} or asked.peers)]
    asked.results.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(asked.results.read_text(encoding="utf-8")) if asked.only and asked.results.exists() else None
    if before is not None and before["scale"] != asked.scale:
        raise SystemExit(
            f"{asked.results} was measured with --scale {before['scale']}; results of two scales are no page"
        )
    kept = before["results"] if before is not None else {}
    results = {"about": machine(asked.peers), "scale": asked.scale, "note": asked.note, "results": kept}
    for group in dict.fromkeys(case.group for case in cases):
        kept |= measure_group([case for case in cases if case.group == group], asked.peers)
        asked.results.write_text(json.dumps(results, indent=1), encoding="utf-8")  # what is measured is not lost
    page = write_page(results, asked.page, plots=asked.peers is not None)
    if asked.peers is not None:
        subprocess.run(
            [asked.peers, Path(__file__).with_name("plots.py"), asked.results, asked.page.parent], check=True
        )
    print(page)
    print(f"{time.monotonic() - began:.0f} s; written to {asked.page}", file=sys.stderr)


if __name__ == "__main__":
    main()
