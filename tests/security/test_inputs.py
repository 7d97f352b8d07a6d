"""What a Dag author, or whoever triggers a run, may write into a parameter."""

from __future__ import annotations

import inspect

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_modelstudio.operators.completion import CompletionOperator
from airflow_provider_modelstudio.operators.model import CreateModelOperator, DeleteModelOperator
from airflow_provider_modelstudio.sandbox.ledger import fingerprint
from airflow_provider_modelstudio.sensors.model import ModelReadySensor
from tests.faults.bench import context_of
from tests.security.canaries import LANES
from tests.test_house import OPERATORS

NO_NUMBERS = [
    "abc", "-1", "NaN", "inf", "-inf", "0x10", "9" * 400, "[1]", "{}", "1;2", "{{ 1 }}", "$(id)", "\0", "1 000", "1,5",
    True, b"1", [1], {"a": 1}, "1e999",
]  # fmt: skip
NO_CHOICES = ["", "NULL", "ignore", "null ", None, 1, ["null"], "{{ x }}"]
NO_FLAGS = ["", "maybe", 2, None, "{{ x }}", ["true"]]
OR_NO_FLAGS = [one for one in NO_FLAGS if one is not None]
NO_MAPPINGS = ["{", "[]", "1", '"x"', [1], 5]
NO_IDS = [
    "",
    "..",
    "../x",
    "a/b",
    "a b",
    "a%2fb",
    "A?b",
    "a#b",
    "x" * 5000,
    "{{ x }}",
    "a\0b",
    "a\nb",
    None,
    5,
    ["a"],
    True,
]
NO_COLUMNS = ["nobody", "", "text.nobody", "a\0b", "{{ x }}", 5, ["text"], {"a": 1}, "../text", "x" * 5000]
NO_NAMES = ["", " ", 5, ["x"], None, {"a": 1}]
NO_PLACES = ["", "  ", "a\0b", "nosuch://bucket/o", None, 5, ["a/b"], {"a": 1}]
NO_MODELS = ["nobody", "../x", "x" * 5000, "{{ x }}", 5, ["x"], {"a": 1}]
NO_PROMPTS = ["{nobody}", "{", "}", "{text", "{0}", "{text!r}", "{text.__class__}", "{text:x}", "", 5, None, ["{text}"]]
NO_SCHEMAS = [
    *NO_MAPPINGS,
    {"type": "array"},
    {"type": "object"},
    {"type": "object", "properties": {"a": {"$ref": "http://x/"}}},
]
NO_TEXTS = [5, ["x"], {"a": 1}, True]
HOSTILE = {
    **dict.fromkeys(
        (
            "concurrency", "batch_size", "requests_per_minute", "tokens_per_minute", "max_error_rate", "max_rows", "max_requests",
            "max_total_tokens", "max_cost", "max_tokens", "dimensions", "top_n", "max_documents", "top_k", "max_image_bytes",
        ),
        NO_NUMBERS,
    ),
    **dict.fromkeys(("on_row_error", "if_exists", "on_empty", "on_too_long", "on_truncation", "vector_type"), NO_CHOICES),
    **dict.fromkeys(("dry_run", "errors_only", "deterministic", "return_documents"), NO_FLAGS),
    **dict.fromkeys(("scores_comparable", "independent"), OR_NO_FLAGS),
    "min_weight": [one for one in NO_NUMBERS if one != "-1"],
    "task_settings": NO_MAPPINGS,
    "response_schema": NO_SCHEMAS,
    "inference_id": NO_IDS,
    "modelstudio_conn_id": ["nobody", "", "../x", 5, None, "a b"],
    "source": [*NO_PLACES, "/nowhere", "/nowhere/*.parquet", "/"],
    "destination": [*NO_PLACES, "/", "/.."],
    "reuse_from": [one for one in NO_PLACES if one is not None],
    "image_root": [*(one for one in NO_PLACES if one is not None), "/"],
    "model": NO_MODELS,
    **dict.fromkeys(
        ("input_column", "query_column", "documents_column", "text_column", "image_column", "video_column",
         "multi_images_column"),
        NO_COLUMNS,
    ),
    "query_id_column": [one for one in NO_COLUMNS if one],
    "output_column": NO_NAMES,
    "prompt": NO_PROMPTS,
    "system": NO_TEXTS,
}  # fmt: skip


def parameters(operator_class):
    """Names of the parameters that our own classes take."""
    ours = [one for one in operator_class.__mro__ if one.__module__.startswith("airflow_provider_modelstudio")]
    return {
        name
        for one in ours
        if "__init__" in vars(one)
        for name, said in inspect.signature(one.__init__).parameters.items()
        if said.kind is inspect.Parameter.KEYWORD_ONLY
    }


OVER_ROWS = ("embed", "sparse", "rerank", "flat rerank", "completion", "multimodal with addresses")
"""Lanes of all operators over a dataset."""
CASES = [
    (lane, name, value)
    for lane in OVER_ROWS
    for name in sorted(parameters(LANES[lane].make) & HOSTILE.keys())
    for value in HOSTILE[name]
]  # fmt: skip
OTHERS = {
    CreateModelOperator: {
        "mode": NO_CHOICES,
        "model": [5, ["x"], {"a": 1}, "nobody at all"],
        "task_type": [5, ["x"], {"a": 1}, "no_such_type"],
        "inference_id": ["..", "../x", "a/b", "a b", "a%2fb", "A?b", "a\0b", 5, ["a"], {"a": 1}],
        "dimensions": NO_NUMBERS,
        "service": ["x", "../x", "{{ x }}", 5, ["custom"], {"a": 1}],
        "endpoint_body": ["{}", 5, [1], True],
        "on_existing": NO_CHOICES,
        "rotate_key": NO_FLAGS,
        "modelstudio_conn_id": HOSTILE["modelstudio_conn_id"],
    },
    DeleteModelOperator: {
        "inference_id": NO_IDS,
        "task_type": ["..", "../x", "a/b", "a b", 5, ["x"], {"a": 1}],
        "dry_run": NO_FLAGS,
        "force": NO_FLAGS,
        "missing_ok": NO_FLAGS,
        "modelstudio_conn_id": HOSTILE["modelstudio_conn_id"],
    },
    ModelReadySensor: {
        "inference_id": NO_IDS,
        "task_type": [5, ["x"], {"a": 1}],
        "free_only": NO_FLAGS,
        "deferrable": NO_FLAGS,
        "modelstudio_conn_id": HOSTILE["modelstudio_conn_id"],
    },
}


def test_every_parameter_has_hostile_values():
    """A parameter that is new, of any operator or sensor, has to be thought of here."""
    assert {LANES[lane].make for lane in OVER_ROWS} | OTHERS.keys() == {*OPERATORS, ModelReadySensor}
    for operator_class in OPERATORS:
        known = OTHERS.get(operator_class, HOSTILE)
        assert parameters(operator_class) - known.keys() == set(), operator_class
    assert parameters(ModelReadySensor) == OTHERS[ModelReadySensor].keys()


def test_there_are_two_hundred():
    """As many as were promised, for each operator over a dataset."""
    for lane in OVER_ROWS:
        assert len([case for case in CASES if case[0] == lane]) >= 200


def names(error, name, value):
    """Whether a sentence names the parameter, or quotes what stood there."""
    said = str(error)
    return any(one in said for one in (name, repr(value), str(value)) if one)


def test_no_hostile_value_is_accepted(bench):
    """Each is refused with a sentence that names it; nothing is asked and nothing is written."""
    for lane, name, value in CASES:
        bench.write(LANES[lane].table)
        with pytest.raises(AirflowFailException) as refused:
            bench.run(LANES[lane].make, **{**LANES[lane].parameters, name: value})
        assert names(refused.value, name, value), (lane, name, value, refused.value)
    assert bench.server.bill == []
    assert not bench.destination.exists()


@pytest.mark.parametrize("operator_class", OTHERS)
def test_no_hostile_value_touches_an_endpoint(bench, operator_class):
    """The same where endpoints are made, deleted and awaited: nothing is changed and nothing is asked."""
    bench.connect(bench.server.url, extra={"model_studio_api_key": "sk-made-up-0123456789", "region": "cn-shanghai"})
    given = {"mode": "manual", "model": "text-embedding-v4"} if operator_class is CreateModelOperator else {}
    for name, values in OTHERS[operator_class].items():
        for value in values:
            own = {"inference_id": "mine", "modelstudio_conn_id": bench.conn_id, **given, name: value}
            if name == "endpoint_body":
                own["task_type"] = "rerank"
            operator = operator_class(task_id="do", **own)
            with pytest.raises(AirflowFailException) as refused:
                operator.poke(context_of()) if operator_class is ModelReadySensor else operator.execute(context_of())
            assert names(refused.value, name, value), (name, value, refused.value)
    assert {call.operation for call in bench.server.calls} <= {"get"}


TEMPLATES = [
    "{{ 7*7 }}",
    "{0.__class__}",
    "%(x)s",
    "$x ${x}",
    "{text}",
    "{{text}}",
    "}{",
    "{self.__init__.__globals__}",
]


def test_no_row_is_a_template(bench):
    """Rows full of placeholders go into a prompt as they are, once, and nothing of them is evaluated."""
    bench.write(TEMPLATES)
    bench.run(CompletionOperator, prompt="Say: {text} {{text}} {text}")
    paid = bench.paid()
    assert [paid[fingerprint(f"Say: {text} {{text}} {text}")] for text in TEMPLATES] == [1] * len(TEMPLATES)
