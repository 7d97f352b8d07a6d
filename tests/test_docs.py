"""What the documentation says is what the code does: names, defaults, messages and links are looked up."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import string
import subprocess
import tomllib
from dataclasses import fields
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules

import pytest
from airflow.sdk import DAG, BaseOperator

from airflow_provider_modelstudio import operators as package
from airflow_provider_modelstudio.get_provider_info import get_provider_info
from airflow_provider_modelstudio.inference.budget import Estimate
from airflow_provider_modelstudio.inference.dataset import WINDOW_ROWS
from airflow_provider_modelstudio.inference.engine import Progress
from airflow_provider_modelstudio.inference.plan import PART_ROWS
from airflow_provider_modelstudio.inference.summary import Summary
from airflow_provider_modelstudio.sandbox.__main__ import _parser

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "airflow_provider_modelstudio"
TEXTS = {
    str(path.relative_to(ROOT)): path.read_text("utf-8")
    for path in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")))
}
README = TEXTS["README.md"]
BLOCKS = [
    pytest.param(language, body, id=f"{name}-{number}")
    for name, text in TEXTS.items()
    for number, (language, body) in enumerate(re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE), 1)
]
OPERATORS = {
    name: getattr(module, name)
    for module in (import_module(found.name) for found in iter_modules(package.__path__, f"{package.__name__}."))
    for name in module.__all__
    if name.endswith("Operator")
}
GAP = "…"
"""In a message: what differs from one time to the next."""


def blocks(*languages):
    return [block for block in BLOCKS if block.values[0] in languages]


def without_blocks(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def section(text, heading):
    """From a heading to the next one of the same or a higher level."""
    level = len(heading) - len(heading.lstrip("#"))
    assert f"\n{heading}\n" in text, f"there is no heading {heading!r}"
    return re.split(rf"^#{{1,{level}}} ", text.split(f"\n{heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def table_rows(text):
    """The cells of all tables, without the lines of headings."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows if not set("".join(row)) <= set("- ")]


def named(text):
    """The names in backticks in the first column of the tables, with the rest of their row."""
    return {name: row[1:] for row in table_rows(text) for name in re.findall(r"`([^`]+)`", row[0])}


def own_parameters(operator):
    return {
        name: parameter
        for name, parameter in inspect.signature(operator.__init__).parameters.items()
        if name != "self" and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }


# -- examples


@pytest.mark.parametrize(("language", "body"), blocks("python"))
def test_python_compiles(language, body):
    """Each Python example is Python."""
    compile(body, language, "exec")


def test_the_dag_of_the_first_screen_is_a_dag():
    """The first example is at most 15 lines, and makes a Dag with the operator in it."""
    (dag_source,) = (block.values[1] for block in blocks("python") if "@dag" in block.values[1])
    assert len(dag_source.strip().splitlines()) <= 15
    namespace = {}
    exec(dag_source.replace("\nnightly_vectors()", "\nmade = nightly_vectors()"), namespace)  # noqa: S102 - our own example
    made = namespace["made"]
    assert isinstance(made, DAG)
    (task,) = made.tasks
    assert isinstance(task, OPERATORS["EmbedOperator"])


def test_the_first_screen():
    """Before the first heading: one sentence, three promises, two commands to try it, a Dag and a picture."""
    screen = README.split("\n## ", 1)[0]
    sentence = screen.split("\n\n")[1]
    assert re.fullmatch(r"[A-Z][^\n]*\.", sentence)
    assert len(re.findall(r"^- \*\*[^*]+\.\*\*", screen, re.MULTILINE)) == 3
    assert re.findall(r"^make (\w+)", screen, re.MULTILINE) == ["demo", "test"]
    assert re.findall(r"^```(\w+)$", screen, re.MULTILINE) == ["bash", "python", "text"]


@pytest.mark.parametrize(("language", "body"), blocks("bash"))
def test_shell_examples_are_shell(language, body):
    """Each shell example can be parsed by a shell."""
    assert language == "bash"
    done = subprocess.run(["bash", "-n"], input=body, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert shlex.split(body, comments=True)


def test_make_targets_exist():
    """Every ``make …`` that is named can be made."""
    makefile = (ROOT / "Makefile").read_text()
    known = set(re.findall(r"^([a-z]+):.*##", makefile, re.MULTILINE))
    told = {
        target for text in TEXTS.values() for target in re.findall(r"(?:`|^)make ([a-z]+)\b", text, flags=re.MULTILINE)
    }
    assert {"demo", "test"} <= told <= known


def test_programs_exist():
    """Every module that is run with ``python -m`` is there, and the sandbox knows the options that are named."""
    told = {name for text in TEXTS.values() for name in re.findall(r"python -m ([\w.]+)", text)}
    assert all(find_spec(name) for name in told)
    options = {action for one in _parser()._actions for action in one.option_strings}
    assert set(re.findall(r"(?<!\w)--[a-z-]+", section(README, "## Sandbox"))) <= options


def test_paths_in_the_repository_exist():
    """A file or folder of the repository that is named is there."""
    told = {
        path
        for text in TEXTS.values()
        for path in re.findall(
            r"`((?:airflow_provider_modelstudio|tests|inference|catalog|example_dags|demo)/[^`\s]*)`", text
        )
    }
    assert told
    told = {path.partition("::")[0] for path in told}  # a test in a file
    assert [path for path in sorted(told) if not ((ROOT / path).exists() or (PACKAGE / path).exists())] == []


# -- names


@pytest.mark.parametrize("name", OPERATORS)
def test_every_parameter_is_in_the_table(name):
    """The table of an operator has its own parameters, no other ones, and their defaults."""
    told = named(section(README, f"### `{name}`"))
    parameters = own_parameters(OPERATORS[name])
    assert set(told) == set(parameters)
    for parameter in parameters.values():
        default = "required" if parameter.default is parameter.empty else f"`{parameter.default!r}`"
        assert told[parameter.name][0] == default, parameter.name


@pytest.mark.parametrize("name", OPERATORS)
def test_every_parameter_is_in_the_docstring(name):
    """The docstring of an operator has its own parameters and no other ones."""
    operator = OPERATORS[name]
    assert issubclass(operator, BaseOperator)
    assert set(re.findall(r"^\s*:param (\w+):", operator.__doc__, re.MULTILINE)) == set(own_parameters(operator))


def test_every_field_of_the_form_is_in_the_readme():
    """The README has each extra of the connection, no other ones, and the labels of the form."""
    (connection,) = get_provider_info()["connection-types"]
    told = section(README, "### 4. Tell Airflow")
    extras = told.split("| extra | default | meaning |", 1)[1]
    assert set(re.findall(r"^\| `(\w+)`", extras, re.MULTILINE)) == set(connection["conn-fields"])
    for label in ("Elasticsearch endpoint", "Password or API key"):
        assert label in connection["ui-field-behaviour"]["relabeling"].values()
        assert f"| {label} |" in told


def test_every_field_of_the_summary_is_in_the_readme():
    """The README has each field of the summary and of a dry run."""
    written = section(README, "## What is written where")
    told = named(written.split("The summary:", 1)[1])
    assert set(told) == {field.name for field in fields(Summary)}
    dry = written.split("A dry run returns", 1)[1].split("\n", 1)[0]
    assert set(re.findall(r"`(\w+)`", dry)) == {field.name for field in fields(Estimate)}


def test_every_field_of_the_progress_is_told():
    """The page on operations has each field of the progress, and each word for what holds a run back."""
    told = section(TEXTS["docs/operations.md"], "## Progress and logs")
    assert set(named(told)) == {field.name for field in fields(Progress)}
    why = re.search(r"^Why = Literal\[(.*)\]", (PACKAGE / "inference/governor/__init__.py").read_text(), re.MULTILINE)
    words = set(ast.literal_eval(f"({why[1]})"))
    assert words <= set(named(section(TEXTS["docs/operations.md"], "## Quotas and pools")))


def test_sizes_are_those_of_the_code():
    """Sizes of parts and windows stand in the text as they are in the code."""
    assert f"Parts have {PART_ROWS:,} rows; windows and row groups {WINDOW_ROWS:,}" in TEXTS["DESIGN.md"]
    assert f"windows of {WINDOW_ROWS:,} rows" in TEXTS["docs/operations.md"]
    assert f"of {PART_ROWS:,} rows" in section(README, "## What is written where")


def test_the_floors_are_those_that_are_enforced():
    """DESIGN.md draws the layers of pyproject.toml."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    drawn = re.search(r"```text\n(.*?)```", section(TEXTS["DESIGN.md"], "## Floors"), re.DOTALL)[1]
    assert drawn.split("\n")[:-1] == [layer.replace("airflow_provider_modelstudio.", "") for layer in layers]


# -- messages


def words(node):
    """A message with one gap for the values that are put in at a place; ``None`` for what is no text."""
    match node:
        case ast.Constant(value=str(text)):
            try:
                pieces = [
                    literal if field is None else literal + GAP for literal, field, *_ in string.Formatter().parse(text)
                ]
            except ValueError:  # braces that are no places for values
                pieces = [text]
        case ast.JoinedStr(values=values):
            pieces = [value.value if isinstance(value, ast.Constant) else GAP for value in values]
        case _:
            return None
    return re.sub(rf"{GAP}(?:\s*{GAP})*", GAP, "".join(pieces))


@cache
def messages():
    """All texts in the package's code."""
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        found |= {words(node) for node in ast.walk(ast.parse(path.read_text("utf-8")))}
    return found - {None, ""}


def quoted():
    """The errors in the tables, and where."""
    pages = {"README.md": section(README, "## Troubleshooting"), "docs/errors.md": TEXTS["docs/errors.md"]}
    return [
        pytest.param(text, id=f"{page}: {text}")
        for page, told in pages.items()
        for row in table_rows(told)
        for text in re.findall(r"^`([^`]+)`$", row[0])
    ]


@pytest.mark.parametrize("text", quoted())
def test_every_error_can_happen(text):
    """An error in the tables is in the package's code, word for word."""
    assert any(text in message for message in messages())


def test_every_reason_to_stop_is_told():
    """The page on errors has each error that the table of rules can end a run with."""
    told = [param.values[0] for param in quoted()]
    for node in ast.walk(ast.parse((PACKAGE / "inference/decide/rules.py").read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_stop":
            message = words(node.args[0])
            assert any(text in message for text in told), message


# -- form


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name):
    """A link to a file of the repository leads to a file, and one to a heading leads to a heading."""
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[name]):
        path, _, anchor = target.partition("#")
        if path.startswith("https://"):
            continue
        page = (ROOT / name).parent / path if path else ROOT / name
        assert page.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", without_blocks(page.read_text("utf-8")), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}, (
                target
            )


@pytest.mark.parametrize("name", TEXTS)
def test_one_sentence_a_line(name):
    """A line of prose ends where its sentence does, so that a change is a change of one line."""
    for line in without_blocks(TEXTS[name]).splitlines():
        if not re.match(r"[|#]|- |\d+\. |\*\w+:\*", line):  # tables, headings, entries of lists, pros and cons
            assert not re.search(r"[a-z)`]\. [A-Z]", line), line


@pytest.mark.parametrize("name", TEXTS)
def test_words_that_say_nothing(name):
    """No promises without content, nothing unfinished, no path of somebody's machine."""
    empty = r"\b(?:simply|seamless\w*|blazing\w*|leverag\w+|robust\w*|powerful|effortless\w*|cutting-edge|state-of-the-art)\b"
    unfinished = r"\b(?:TODO|FIXME|TBD|XXX|lorem)\b"
    private = r"(?<![\w.$~])/(?:home|root|Users|tmp|work)/"
    found = re.search(f"{empty}|{unfinished}|{private}", TEXTS[name], re.IGNORECASE)
    assert found is None, found
