"""Where the CPU of one run goes: py-spy beside embed_once.py, its samples by thread, by module and by function.

    python benchmarks/profile_once.py --py-spy .venv/bench/bin/py-spy [--rows 200000] [--top 25] [flags of embed_once.py]

A sample is a moment at which a thread was running; those before the operator is executed are left out.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

RATE = 250
OURS = "airflow_provider_modelstudio/"
ROOMS = ("inference/", "operators/", "hooks/")
WAITING = {"_worker", "EpollSelector.select", "select", "wait", "Condition.wait"}
"""Functions that wait; py-spy takes some of them for running."""
_FRAME = re.compile(r"^(?P<function>.*) \((?P<file>[^()]*?)(:\d+)?\)$")
_THREAD = re.compile(r"^thread \([^)]*\)(: (?P<name>.*))?$")


def short(frame: str) -> tuple[str, str]:
    """Module and function of a frame."""
    found = _FRAME.match(frame)
    if found is None:
        return "", frame
    path = found["file"]
    where = path[path.index(OURS) + len(OURS) :] if OURS in path else path.rpartition("site-packages/")[2]
    return where, found["function"]


def tables(lines: list[str], top: int) -> str:
    """Samples as tables of shares. Raises ``SystemExit`` when there are none of the operator."""
    threads: Counter[str] = Counter()
    modules: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        thread, *frames = stack.split(";")
        named = [short(frame) for frame in frames]
        main = any(where == "embed_once.py" for where, _ in named)
        if not named or named[-1][1] in WAITING or (main and not any(function == "execute" for _, function in named)):
            continue
        samples = int(count)
        name = _THREAD.match(thread)
        threads[re.sub(r"[_-]\d+$", "", (name and name["name"]) or "without a name")] += samples
        ours = [where for where, _ in named if where.startswith(ROOMS)]
        modules[ours[-1] if ours else named[-1][0].partition("/")[0]] += samples
        functions[" ".join(reversed(named[-1])).strip()] += samples
    total = sum(threads.values())
    if not total:
        raise SystemExit("no sample of the operator; was the run too short?")
    parts = []
    for title, counter in (
        ("thread", threads),
        ("innermost module of ours, else package", modules),
        ("function", functions),
    ):
        body = "\n".join(f"| `{name}` | {count / total:.1%} |" for name, count in counter.most_common(top))
        parts.append(f"| {title} | share of {total} samples |\n|---|---|\n{body}")
    return "\n\n".join(parts)


def main() -> None:
    """Run under the profiler and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--py-spy", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--top", type=int, default=25)
    asked, others = parser.parse_known_args()
    program: list[str | Path] = [
        sys.executable,
        Path(__file__).with_name("embed_once.py"),
        "--rows",
        str(asked.rows),
        *others,
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "samples"
        spy: list[str | Path] = [
            asked.py_spy,
            "record",
            "--rate",
            str(RATE),
            "--format",
            "raw",
            "--threads",
            "--output",
            path,
        ]
        done = subprocess.run([*spy, "--", *program], check=False, capture_output=True, text=True)
        if not path.exists():
            raise SystemExit(f"py-spy made no samples:\n{done.stderr[-2000:]}")
        print(tables(path.read_text(encoding="utf-8").splitlines(), asked.top))
    print("\n" + "\n".join(line for line in done.stdout.splitlines() if line.startswith("{")))


if __name__ == "__main__":
    main()
