"""What is measured: programs, and with which counts each of them runs."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rows import TASKS

HERE = Path(__file__).parent
TAIL = 6.68
"""Two answers in a hundred take so many times the latency: then p99 is 6 times the mean."""
SLOW_SHARE = 0.02
LATENCY = 0.1
MEDIA = ("json", "cbor")
PEERS = ("loop", "daft", "embed_text")


@dataclass(frozen=True)
class Case:
    """One program, run some times with the same flags."""

    group: str
    """Cases of a group are selected together."""
    who: str
    """``ours``, ``floor``, or one of :data:`PEERS`."""
    name: str
    flags: dict[str, Any] = field(default_factory=dict)
    rounds: int = 1
    again: dict[str, Any] | None = None
    """Not the run itself is what counts, but one after it, into the same folder, with these flags on top."""
    files: int = 0
    """Of the source; one file in the folder of the run if 0."""

    @property
    def key(self) -> str:
        """Name of the result."""
        return f"{self.group}/{self.who}/{self.name}"


def command(who: str, peers: Path | None) -> list[str]:
    """How a program is started; peers have an environment of their own."""
    programs = {
        "ours": "embed_once.py",
        "floor": "floor.py",
        "loop": "peers/elasticsearch_loop.py",
        "daft": "peers/daft_once.py",
        "embed_text": "peers/daft_once.py",
    }
    python = str(peers) if who in PEERS and peers is not None else sys.executable
    return [python, str(HERE / programs[who])]


def make_cases(*, scale: float, rounds: int, large: bool) -> list[Case]:
    """All cases; ``scale`` makes them smaller, ``rounds`` is how often what is compared runs, ``large`` adds those that take half an hour and more."""

    def rows(count: int) -> int:
        return max(20, round(count * scale))

    def ours(group: str, name: str, rounds: int = 1, again: Any = None, files: int = 0, **flags: Any) -> Case:
        return Case(group, "ours", name, flags, rounds, again, files)

    whole = rows(100_000)
    cases = []
    for media in MEDIA:
        cases.append(ours("at_once", media, rounds, rows=whole, media=media))
        cases.append(Case("at_once", "floor", media, {"rows": whole, "media": media}, rounds))
    cases += [Case("at_once", who, "json", {"rows": whole}, rounds) for who in ("loop", "daft")]
    cases.append(Case("at_once", "embed_text", "json", {"rows": rows(20_000), "api": "embed_text"}))
    for flight in (32, 128):
        flags: dict[str, Any] = {"rows": whole, "latency": LATENCY, "concurrency": flight}
        cases += [ours("latency", f"{media}-{flight}", **flags, media=media) for media in MEDIA]
        cases += [Case("latency", who, f"json-{flight}", flags) for who in ("loop", "daft")]
        cases.append(Case("latency", "floor", f"cbor-{flight}", {**flags, "media": "cbor"}))
    long: dict[str, Any] = {"rows": rows(500_000), "latency": LATENCY, "concurrency": 128}
    cases += [ours("latency", f"{media}-128-long", **long, media=media) for media in MEDIA]
    tail: dict[str, Any] = {"rows": whole, "latency": LATENCY, "tail": TAIL, "concurrency": 128}
    cases += [ours("tail", media, **tail, media=media) for media in MEDIA]
    cases += [ours("rows", f"{count}", rows=rows(count)) for count in (10_000, 100_000, 1_000_000)]
    cases.append(ours("again", "finished", again={"run_id": "again"}, rows=whole))
    cases.append(ours("again", "one in a hundred changed", again={"run_id": "again", "changed": 100}, rows=whole))
    for task in TASKS:
        count = rows(100_000 if task in {"text_embedding", "sparse_embedding"} else 20_000)
        cases += [ours("tasks", f"{task}-{media}", task=task, rows=count, media=media) for media in MEDIA]
    for vector_type in ("float16", "int8"):
        # A row's number is in its vector, to be checked: float16 ends at 65,504.
        few = rows(60_000)
        cases.append(ours("tasks", f"text_embedding as {vector_type}-cbor", rows=few, vector_type=vector_type))
    small: dict[str, Any] = {"dimensions": 8, "batch_size": 1}
    cases += [ours("requests", f"{count}", rows=rows(count), **small) for count in (1_000, 10_000, 100_000)]
    for files in (1, 10, 100, 1_000, 10_000):
        count = max(1, round(files * scale)) if files > 1 else 1
        cases.append(ours("files", f"{files}", files=count, rows=10 * count, dimensions=8))
    soon: dict[str, Any] = {"rows": rows(10_000), "latency": 0.01}
    cases += [ours("concurrency", f"{count}", **soon, concurrency=count) for count in (1, 2, 8, 32, 128, 512)]
    if large:
        cases.append(ours("rows", "10000000", rows=rows(10_000_000)))
        cases.append(ours("requests", "1000000", rows=rows(1_000_000), **small))
        cases.append(ours("files", "100000", files=rows(100_000), rows=10 * rows(100_000), dimensions=8))
    return cases
