"""Numbers as plots: who takes how much CPU, and whether anything grows. Runs where matplotlib is.

python benchmarks/plots.py results.json docs
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt
from page import GROWTH, WHO, amount

INK, OURS, OTHERS = "#333333", "#ff6a00", "#9aa5b1"


def plot_peers(results: dict[str, dict[str, Any]], path: Path) -> None:
    """A bar for each program."""
    keys = [key for key in results if key.startswith("at_once/")]
    if not keys:
        return
    keys.sort(key=lambda key: -results[key]["cpu_seconds_per_1000_rows"])
    values = [results[key]["cpu_seconds_per_1000_rows"] for key in keys]
    names = [f"{WHO[key.split('/')[1]].replace('`', '')}, {key.split('/')[2].upper()}" for key in keys]
    figure, axes = plt.subplots(figsize=(7, 0.4 * len(keys) + 0.8), layout="constrained")
    bars = axes.barh(names, values, color=[OURS if "/ours/" in key else OTHERS for key in keys])
    axes.bar_label(bars, fmt="%.3f", padding=3, color=INK)
    axes.set_xlabel("CPU seconds for 1,000 rows of 1,024 float32")
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def plot_growth(results: dict[str, dict[str, Any]], path: Path) -> None:
    """A panel for each thing that may grow."""
    groups = [group for group in GROWTH if any(key.startswith(f"{group}/ours/") for key in results)]
    if not groups:
        return
    figure, panels = plt.subplots(2, 2, figsize=(8, 5.5), layout="constrained", squeeze=False)
    for axes, group in zip(panels.flat, groups, strict=False):
        points = sorted(
            (amount(group, key, took), took["cpu_seconds_per_1000_rows"])
            for key, took in results.items()
            if key.startswith(f"{group}/ours/")
        )
        axes.plot(*zip(*points, strict=True), "o-", color=OURS)
        axes.set_xscale("log")
        axes.set_ylim(0, 1.15 * max(value for _, value in points))
        axes.set_xlabel(GROWTH[group])
        axes.set_ylabel("CPU s for 1,000 rows")
        axes.spines[["top", "right"]].set_visible(False)
    for axes in list(panels.flat)[len(groups) :]:
        axes.remove()
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, format="svg", metadata={"Date": None})
    text = path.read_text(encoding="utf-8")
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")


def main() -> None:
    """Read the numbers and draw."""
    mpl.rcParams["svg.hashsalt"] = "benchmarks"
    results = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["results"]
    folder = Path(sys.argv[2])
    plot_peers(results, folder / "benchmarks-peers.svg")
    plot_growth(results, folder / "benchmarks-growth.svg")


if __name__ == "__main__":
    main()
