"""Keep a dataset of embedded documentation up to date, night after night.

- **harvest** reads the documentation strings of everything that is installed beside Airflow into a Parquet file
- **embed** asks an inference endpoint for a vector of each text that is new or has changed since the last run
- **report** says what that took

It needs a connection `modelstudio_default` and an inference endpoint `bailian_embeddings`.
The first run asks for tens of thousands of texts; trigger it with `packages` or `max_rows` to begin with fewer.
Once nothing was installed, upgraded or removed since the last run, nothing is asked.

The data lies in `$REEMBED_DOCS_FOLDER`, or else in `$AIRFLOW_HOME/reembed_docs`; all workers must see that folder.
"""

from __future__ import annotations

import ast
import filecmp
import heapq
import os
import re
import warnings
import zlib
from datetime import timedelta
from importlib.metadata import Distribution, distributions
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pendulum
import pyarrow as pa
import pyarrow.parquet as pq
from airflow.sdk import Asset, Param, dag, task
from airflow.timetables.trigger import CronTriggerTimetable
from packaging.utils import canonicalize_name

from airflow_provider_modelstudio.operators.text_embedding import EmbedOperator

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

FOLDER = Path(
    os.environ.get("REEMBED_DOCS_FOLDER") or Path(os.environ.get("AIRFLOW_HOME", "~/airflow"), "reembed_docs")
)
SOURCE = FOLDER.expanduser().absolute() / "docs.parquet"
VECTORS = SOURCE.with_name("vectors")

SCHEMA = pa.schema([(name, pa.string()) for name in ("package", "module", "object", "kind", "text")])
ROW_GROUP_ROWS = 5_000
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
KINDS = {ast.Module: "module", ast.ClassDef: "class", ast.FunctionDef: "function", ast.AsyncFunctionDef: "function"}
MARKUP = re.compile(
    r"""\.\.\s | :\w                    # a directive or a field list of reStructuredText
      | [\w.]+\(.*\)(\s*->.*)?$         # a signature
      | (\S+\s){1,9}([=~*^-])\3{2,}$    # a heading and its line
      | \W*$                            # a line alone
    """,
    re.VERBOSE,
)


@dag(
    # Without a start date, unpausing the Dag starts no run for the night that is over: runs may cost money.
    # And not by default for one that is over for less than a tenth of a day, either.
    schedule=CronTriggerTimetable(
        "0 2 * * *", timezone=pendulum.timezone("Asia/Shanghai"), run_immediately=timedelta(0)
    ),
    catchup=False,
    max_active_runs=1,  # two would write the same files
    default_args={"retries": 2, "retry_delay": pendulum.duration(minutes=1)},
    params={
        "packages": Param(None, type=["null", "array"], description="Distributions to read; all, if not given"),
        "max_rows": Param(None, type=["null", "integer"], minimum=1, description="Take a sample, if there are more"),
        "max_chars": Param(1_000, type="integer", minimum=20, description="Cut longer texts, after a sentence"),
    },
    doc_md=__doc__,
    tags=["modelstudio", "example"],
)
def reembed_docs() -> None:
    """The three tasks."""

    @task
    def harvest(params: Mapping[str, Any]) -> dict[str, Any]:
        """Bring the Parquet file up to date."""
        rows = documentation(choose(params["packages"]), params["max_chars"])
        return write_if_changed(rows if params["max_rows"] is None else sample(rows, params["max_rows"]), SOURCE)

    embed = EmbedOperator(
        task_id="embed",
        inference_id="bailian_embeddings",
        source=str(SOURCE),
        destination=str(VECTORS),
        input_column="text",
        outlets=[Asset("embedded_docs", uri=VECTORS.as_uri())],  # each event carries the counts of the summary
    )

    @task
    def report(summary: Mapping[str, Any]) -> str:
        """Say what the run took; Airflow logs what a task returns."""
        said = "{rows} rows: {embedded} embedded, {reused} reused, {deduplicated} the same as others, {failed} failed"
        said = said.format_map(summary)
        return said if summary["requests"] else f"Nothing was asked. {said}"

    harvest() >> embed >> report(embed.output)


def choose(packages: Iterable[str] | None) -> dict[str, Distribution]:
    """What is installed under these names, or everything; of two with one name, the one that Python imports."""
    found: dict[str, Distribution] = {}
    for distribution in distributions():
        found.setdefault(canonicalize_name(distribution.name), distribution)
    names = found.keys() if packages is None else {canonicalize_name(name) for name in packages}
    if missing := names - found.keys():
        raise ValueError(f"not installed: {', '.join(sorted(missing))}")
    return {name: found[name] for name in sorted(names)}


def documentation(packages: Mapping[str, Distribution], max_chars: int) -> Iterator[dict[str, str]]:
    """A row for each public module, class and function with a documentation string, always in the same order.

    Files are parsed, never imported: no code of a package runs.
    """
    for package, distribution in packages.items():
        for file in sorted(str(path) for path in distribution.files or () if path.suffix == ".py"):
            *folders, name = file.removesuffix(".py").split("/")
            if {"tests", "test", ".."}.isdisjoint(folders):
                module = ".".join(folders if name == "__init__" else [*folders, name])
                for kind, qualified_name, text in documented(Path(str(distribution.locate_file(file)))):
                    if shown := prose(text, max_chars):
                        row = (package, module, qualified_name, kind, shown)
                        yield dict(zip(SCHEMA.names, row, strict=True))


def documented(path: Path) -> Iterator[tuple[str, str, str]]:
    """Kind, qualified name and documentation string of what a source file defines for others."""
    try:
        with warnings.catch_warnings(action="ignore"):  # they concern whoever wrote the file
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return  # not there, or not for this Python
    left: list[tuple[str, ast.Module | Definition]] = [("", tree)]
    while left:
        name, node = left.pop()
        if text := ast.get_docstring(node):
            yield KINDS[type(node)], name, text
        if not isinstance(node, ast.Module | ast.ClassDef):
            continue  # what is defined in a function is nobody else's
        left.extend(
            (f"{name}.{child.name}".lstrip("."), child)
            for child in reversed(node.body)
            if isinstance(child, Definition) and not child.name.startswith("_")
        )


def prose(text: str, max_chars: int) -> str:
    """A documentation string from its first paragraph of prose on, in one line, cut after a sentence."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text)]
    while paragraphs and MARKUP.match(paragraphs[0]):
        del paragraphs[0]
    line = " ".join(paragraphs).encode(errors="replace").decode()  # half a surrogate pair cannot be sent
    if len(line) <= max_chars:
        return line
    line = line[:max_chars]
    sentence = line.rfind(". ") + 1
    return line[:sentence] if sentence else line.rpartition(" ")[0] or line


def sample(rows: Iterable[dict[str, str]], size: int) -> list[dict[str, str]]:
    """At most ``size`` rows from everywhere, in their order; mostly the same ones when a few come or go."""
    drawn = ((zlib.crc32("\0".join(row.values()).encode()), number, row) for number, row in enumerate(rows))
    chosen = heapq.nsmallest(size, drawn, key=lambda draw: draw[:2])
    return [row for _, _, row in sorted(chosen, key=lambda draw: draw[1])]


def write_if_changed(rows: Iterable[dict[str, str]], path: Path) -> dict[str, Any]:
    """Write a Parquet file, a row group at a time, and put it in place in one step, unless it is there already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    remaining, count = iter(rows), 0
    with pq.ParquetWriter(new, SCHEMA, compression="zstd") as writer:
        while group := list(islice(remaining, ROW_GROUP_ROWS)):
            writer.write_table(pa.Table.from_pylist(group, SCHEMA))
            count += len(group)
    changed = not path.exists() or not filecmp.cmp(new, path, shallow=False)
    if changed:
        new.replace(path)
    else:
        new.unlink()
    return {"rows": count, "changed": changed, "path": str(path)}


reembed_docs()
