"""What a Dag author, or whoever triggers a run, may write into a parameter."""

from __future__ import annotations

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_modelstudio.operators.completion import CompletionOperator
from airflow_provider_modelstudio.sandbox.ledger import fingerprint

NO_NUMBERS = [
    "abc", "-1", "NaN", "inf", "-inf", "0x10", "9" * 400, "[1]", "{}", "1;2", "{{ 1 }}", "$(id)", "\0", "1 000", "1,5",
    True, b"1", [1], {"a": 1}, "1e999",
]  # fmt: skip
NUMBERS = (
    "concurrency", "batch_size", "requests_per_minute", "tokens_per_minute", "max_error_rate", "max_rows", "max_requests", "max_total_tokens",
    "max_cost", "max_tokens",
)  # fmt: skip
NO_CHOICES = ["", "NULL", "ignore", "null ", None, 1, ["null"], "{{ x }}"]
CHOICES = ("on_row_error", "if_exists", "on_empty", "on_too_long")
CASES = [
    *((name, value) for name in NUMBERS for value in NO_NUMBERS),
    *((name, value) for name in CHOICES for value in NO_CHOICES),
    *(("dry_run", value) for value in ("", "maybe", 2, None, "{{ x }}")),
    *(("task_settings", value) for value in ("{", "[]", "1", '"x"', [1], 5)),
    ("concurrency", 0),
    ("concurrency", 513),
    ("concurrency", "1.5"),
    ("batch_size", 0),
    ("batch_size", 2049),
    ("max_error_rate", 1.01),
    ("max_tokens", 0),
]


def test_there_are_two_hundred():
    """As many as were promised."""
    assert len(CASES) >= 200


def test_no_hostile_value_is_accepted(bench):
    """Each is refused with a sentence that names the parameter; nothing is asked and nothing is written."""
    bench.write(["a"])
    for name, value in CASES:
        with pytest.raises(AirflowFailException, match=name):
            bench.run(**{name: value})
    assert bench.server.bill == []
    assert not bench.destination.exists()


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
