"""Numbers as a page in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cases import LATENCY, SLOW_SHARE, TAIL

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

WHO = {
    "ours": "EmbedOperator",
    "loop": "elasticsearch-py loop",
    "daft": "Daft, a function",
    "embed_text": "Daft, `embed_text`",
    "floor": "floor",
}
GROWTH = {
    "rows": "Rows, 1,024 values each",
    "requests": "Requests, one row of 8 values each",
    "files": "Files, 10 rows of 8 values each",
    "concurrency": "Requests in flight, at 10 ms",
}
REQUEST = 10
TAIL_MEAN = LATENCY * (1 - SLOW_SHARE + SLOW_SHARE * TAIL)
ROWS_PER_FILE = 10


class Results:
    """Results by group, who and name."""

    def __init__(self, results: dict[str, dict[str, Any]]) -> None:
        self._results = results

    def get(self, key: str, name: str) -> float | None:
        """A number, or ``None`` where it was not measured."""
        found = self._results.get(key, {}).get(name)
        return None if found is None else float(found)

    def took(self, key: str) -> dict[str, Any]:
        """All numbers of a run."""
        return self._results[key]

    def names(self, prefix: str) -> list[str]:
        """What was measured below a prefix, in order."""
        return [key.removeprefix(prefix) for key in self._results if key.startswith(prefix)]


def write_page(measured: dict[str, Any], path: Path, *, plots: bool) -> str:
    """Write the page, with plots where they are made beside it; returns it."""
    results = Results(measured["results"])
    about = ", ".join(f"{name} {value}" if name != "machine" else value for name, value in measured["about"].items())
    sections = [
        "# Benchmarks",
        _introduction(about, measured["scale"], measured["note"]),
        _goals(results),
        _side_by_side(results, plots=plots),
        _flights(results),
        _again(results),
        _tasks(results),
        _growth(results, plots=plots),
    ]
    page = "\n\n".join(section for section in sections if section) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return page


def _introduction(about: str, scale: float, note: str) -> str:
    smaller = (
        ""
        if scale == 1
        else f"Only {scale:.0%} of the usual counts were run, which makes the start of a run weigh more.\n"
    )
    return (
        f"What `make bench` measured: {about}.\n"
        "Server on loopback and on the other core, 1,024 float32 a row, 10 rows a request where the task type allows it.\n"
        "The real operators, with journal, pacing, content keys, checksums and commit.\n"
        f"{smaller}"
        "Each program's output was read back and checked, row by row, before its number was taken.\n"
        "Seconds depend on the machine and on what else it does: compare within the page."
        + (f"\n{note}" if note else "")
    )


def table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """Markdown."""
    columns = list(head)
    rows = ["| " + " | ".join(line) + " |" for line in [columns, ["---"] * len(columns), *lines]]
    return "\n".join(rows)


def amount(group: str, key: str, took: dict[str, Any]) -> int:
    """How much of what may grow there was in a run."""
    match group:
        case "concurrency":
            return int(key.rpartition("/")[2])
        case "files":
            return int(took["rows"]) // ROWS_PER_FILE
        case _:
            return int(took[group])


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _ratio(value: float | None, base: float | None) -> str:
    return "–" if value is None or not base else f"{value / base:.1f}"


def _goals(results: Results) -> str:
    """What we set out to reach, and what came out here."""

    def shares(keys: str, ideal: float) -> str:
        """Of whole runs, and between their start and end."""

        def pair(name: str) -> str:
            rates = [results.get(keys.format(media), name) for media in ("json", "cbor")]
            return " / ".join("–" if rate is None else f"{rate / ideal:.0%}" for rate in rates)

        return f"{pair('rows_per_second')}; {pair('middle_rows_per_second')} between"

    def both(name: str, form: str) -> str:
        return " / ".join(_number(results.get(f"at_once/ours/{media}", name), form) for media in ("json", "cbor"))

    memory = [results.get(f"rows/ours/{name}", "peak_memory_mib") for name in results.names("rows/ours/")]
    lines = [
        ["CPU s for 1,000 rows, JSON / CBOR", "0.05 / 0.03", both("cpu_seconds_per_1000_rows", ".4f")],
        ["rows/s, answered at once, JSON / CBOR", "15,000 / 25,000", both("rows_per_second", ",.0f")],
        *(
            [
                f"share of what {flight} in flight at 100 ms allow{more}, JSON / CBOR",
                "93 %",
                shares(f"latency/ours/{{}}-{name}", flight * REQUEST / LATENCY),
            ]
            for flight, name, more in (
                (32, "32", ""),
                (128, "128", ""),
                (128, "128-long", ", five times as many rows"),
            )
        ),
        ["the same with a heavy tail, JSON / CBOR", "90 %", shares("tail/ours/{}", 128 * REQUEST / TAIL_MEAN)],
        ["peak memory, MiB, by rows", "150", ", ".join(_number(one, ",.0f") for one in memory) or "–"],
        *(
            [
                f"rows/s of a run again, {name}",
                "200,000",
                _number(results.get(f"again/ours/{name}", "rows_per_second"), ",.0f"),
            ]
            for name in results.names("again/ours/")
        ),
        [
            f"seconds to the first request, {_files(results)}",
            "2",
            _number(results.get("files/ours/1000", "seconds_before_first_request"), ".1f"),
        ],
    ]
    return "## Goals\n\n" + table(("", "goal", "here"), lines)


def _side_by_side(results: Results, *, plots: bool) -> str:
    keys = results.names("at_once/")
    if not keys:
        return ""
    ours = results.get("at_once/ours/json", "cpu_seconds_per_1000_rows")
    lines = []
    for key in keys:
        who, media = key.split("/")
        cpu = results.get(f"at_once/{key}", "cpu_seconds_per_1000_rows")
        floor = results.get(f"at_once/floor/{media}", "cpu_seconds_per_1000_rows")
        lines.append(
            [
                f"{WHO[who]}, {media.upper()}",
                _number(cpu, ".4f"),
                _ratio(cpu, ours),
                _ratio(cpu, floor),
                _number(results.get(f"at_once/{key}", "rows_per_second"), ",.0f"),
                _number(results.get(f"at_once/{key}", "peak_memory_mib"), ",.0f"),
            ]
        )
    head = ("", "CPU s for 1,000 rows", "× ours, JSON", "× floor", "rows/s", "peak memory, MiB over the start")
    return (
        "## Answered at once\n\n"
        "The loop is a thread pool over the official client, as one writes it by hand.\n"
        "Daft runs an asynchronous function over the same client, or its own `embed_text`, which speaks OpenAI's API with answers "
        "of the same size; it does not keep the order of rows.\n"
        "None of them has a journal, pacing, refused rows or a second run that asks less.\n"
        "The floor is sockets, a decoder and a Parquet writer, and nothing else.\n\n"
        + ("![CPU of each program](benchmarks-peers.svg)\n\n" if plots else "")
        + table(head, lines)
    )


def _flights(results: Results) -> str:
    lines = []
    for group, mean in (("latency", LATENCY), ("tail", TAIL_MEAN)):
        for key in results.names(f"{group}/"):
            who, name = key.split("/")
            media, flight, *_ = [*name.split("-"), "128"]
            ideal = int(flight) * REQUEST / mean
            rate = results.get(f"{group}/{key}", "rows_per_second")
            middle = results.get(f"{group}/{key}", "middle_rows_per_second")
            told = "100 ms" if group == "latency" else "heavy tail"
            share, between = ("–" if one is None else f"{one / ideal:.0%}" for one in (rate, middle))
            rows = _number(results.get(f"{group}/{key}", "rows"), ",.0f")
            cpu = _number(results.get(f"{group}/{key}", "cpu_seconds_per_1000_rows"), ".4f")
            lines.append(
                [
                    f"{WHO[who]}, {media.upper()}",
                    told,
                    flight,
                    rows,
                    _number(rate, ",.0f"),
                    f"{ideal:,.0f}",
                    share,
                    between,
                    cpu,
                ]
            )
    if not lines:
        return ""
    head = ("", "answer after", "in flight", "rows", "rows/s", "possible", "share", "between", "CPU s for 1,000 rows")
    return (
        "## Answered later\n\n"
        "Possible is requests in flight × 10 rows / mean latency.\n"
        "With the heavy tail two answers in a hundred take 0.67 s, so that the 99th percentile is six times the mean.\n"
        "A run counts from its first to its last second: reading footers, finding the pace, the last slow answer and the commit are in it.\n"
        "Between is what the server saw from a tenth of our questions to nine tenths: the pace of a long run.\n\n"
        + table(head, lines)
    )


def _files(results: Results) -> str:
    rows = results.get("files/ours/1000", "rows")
    return "1,000 small files" if rows is None else f"{rows / ROWS_PER_FILE:,.0f} small files"


def _again(results: Results) -> str:
    names = results.names("again/ours/")
    if not names:
        return ""
    lines = [
        [
            f"run again, {name}",
            _number(results.get(f"again/ours/{name}", "asked"), ",.0f"),
            _number(results.get(f"again/ours/{name}", "seconds"), ".2f"),
            _number(results.get(f"again/ours/{name}", "rows_per_second"), ",.0f"),
        ]
        for name in names
    ]
    start = results.get("files/ours/1000", "seconds_before_first_request")
    note = "" if start is None else f"\n\nA run over {_files(results)} sent its first request after {start:.1f} s."
    rows = _number(results.get(f"again/ours/{names[0]}", "rows"), ",.0f")
    return f"## The second run\n\n{rows} rows.\n\n" + table(("", "rows asked", "seconds", "rows/s"), lines) + note


def _tasks(results: Results) -> str:
    lines = []
    for name in results.names("tasks/ours/"):
        task, _, media = name.rpartition("-")
        key = f"tasks/ours/{name}"
        asked = results.get(key, "asked")
        requests = results.get(key, "requests")
        cpu = results.get(key, "cpu_seconds_per_1000_rows")
        each = None if cpu is None or not asked or not requests else cpu * asked / requests
        lines.append(
            [
                f"`{task}`" if " " not in task else task,
                media.upper(),
                _number(cpu, ".4f"),
                _number(each, ".3f"),
                _number(results.get(key, "rows_per_second"), ",.0f"),
                _number(results.get(key, "peak_memory_mib"), ",.0f"),
            ]
        )
    if not lines:
        return ""
    head = ("task type", "answers", "CPU s for 1,000 rows", "CPU ms a request", "rows/s", "peak memory, MiB")
    return (
        "## Each task type\n\n"
        "Vectors of 1,024 values; 201 tokens a sparse row; 16 documents a ranking; 1,500 characters a completion.\n"
        "`rerank`, `completion` and `multi_modal_embedding` send one row a request.\n\n" + table(head, lines)
    )


def _growth(results: Results, *, plots: bool) -> str:
    sections = []
    for group, title in GROWTH.items():
        names = results.names(f"{group}/ours/")
        if not names:
            continue
        lines = []
        for name in names:
            key = f"{group}/ours/{name}"
            cpu, rows = results.get(key, "cpu_seconds_per_1000_rows"), results.get(key, "rows")
            lines.append(
                [
                    f"{amount(group, key, results.took(key)):,}",
                    _number(rows, ",.0f"),
                    _number(cpu, ".4f"),
                    _number(results.get(key, "rows_per_second"), ",.0f"),
                    _number(results.get(key, "peak_memory_mib"), ",.0f"),
                ]
            )
        head = (title.split(",")[0].lower(), "rows", "CPU s for 1,000 rows", "rows/s", "peak memory, MiB")
        sections.append(f"### {title}\n\n" + table(head, lines))
    if not sections:
        return ""
    return (
        "## Growth\n\nNothing should grow faster than its work: CPU for a row, request or file stays level or falls.\n\n"
        + ("![CPU by rows, requests, files and requests in flight](benchmarks-growth.svg)\n\n" if plots else "")
        + "\n\n".join(sections)
    )
