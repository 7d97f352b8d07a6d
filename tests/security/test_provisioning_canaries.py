"""No secret leaves where endpoints are made, changed, awaited and deleted, whatever fails at whichever call."""

from __future__ import annotations

import json
import urllib.parse

import pytest

from airflow_provider_modelstudio.hooks.modelstudio import ModelStudioHook
from airflow_provider_modelstudio.operators.model import CreateModelOperator, DeleteModelOperator
from airflow_provider_modelstudio.sandbox.faults import (
    BadGzip,
    Garbage,
    HtmlPage,
    Huge,
    Match,
    Redirect,
    Refuse,
    Reset,
    Respond,
    Rule,
    Truncate,
    WrongLength,
)
from airflow_provider_modelstudio.sensors.model import ModelReadySensor
from tests.faults.bench import context_of
from tests.security.canaries import MODEL_KEY, PASSWORD, Store, elasticsearch, everything_shown, shapes, shown_of

ASCII_PASSWORD = PASSWORD.replace("ä", "a")
OWN_KEY = "own-c4nary+key/0123456789"
SECRETS = shapes(ASCII_PASSWORD) | shapes(MODEL_KEY) | shapes(OWN_KEY)
ECHO = f"refused elastic:{ASCII_PASSWORD} with {MODEL_KEY}"
OWN_ECHO = f"{ECHO} and {OWN_KEY}"

MANUAL = {"mode": "manual", "model": "text-embedding-v4", "inference_id": "mine"}
OWN = {
    "mode": "manual",
    "task_type": "rerank",
    "inference_id": "mine",
    "endpoint_body": {
        "service": "sandbox",
        "service_settings": {"secret_parameters": {"a": "${model_studio_api_key}", "b": OWN_KEY}, "url": "${api_host}/x"},
    },
}  # fmt: skip
ROTATION = {"rotate_key": True, "on_existing": "update"}
REPLACEMENT = {"on_existing": "replace", "dimensions": 512}
ASKED = {
    "make": (CreateModelOperator, MANUAL, ("get", "create")),
    "make all": (CreateModelOperator, {"task_type": "rerank"}, ("get", "create")),
    "make of an own body": (CreateModelOperator, OWN, ("get", "create")),
    "rotate": (CreateModelOperator, {**MANUAL, **ROTATION}, ("get", "update")),
    "rotate an own body": (CreateModelOperator, {**OWN, **ROTATION}, ("get", "update")),
    "replace": (CreateModelOperator, {**MANUAL, **REPLACEMENT}, ("get", "create", "delete")),
    "delete": (DeleteModelOperator, {"inference_id": "mine"}, ("get", "delete")),
    "delete by force": (DeleteModelOperator, {"inference_id": "mine", "force": True}, ("get", "delete")),
    "await": (ModelReadySensor, {"inference_id": "mine", "free_only": False, "deferrable": False}, ("get", "infer")),
}
"""What is done, and the calls it makes, each of which may fail."""


def acts(echo):
    """What goes wrong, with what the server says of it."""
    return {
        **{
            f"echo in a {status}": elasticsearch(status, echo)
            for status in (400, 401, 403, 404, 405, 409, 413, 429, 500, 503)
        },
        "key refused": Refuse(error="key_refused_at_creation"),
        "echo of a key": Refuse(error="upstream_401", message=echo),
        "echo of an account": Refuse(error="overdue", message=echo),
        "echo in a page": HtmlPage(text=echo),
        "echo in a page with 403": HtmlPage(status=403, text=echo),
        "echo in a page with 200": HtmlPage(status=200, text=echo),
        "echo in a redirect": Redirect(location="https://example.com/?" + urllib.parse.quote(echo)),
        "echo in a media type": Respond(status=200, content_type="text/x-echo", body=echo),
        "echo instead of an answer": Respond(status=200, body=json.dumps({"endpoints": echo})),
        "bytes after the end": Garbage(text=echo),
        "reset": Reset(at="middle"),
        "cut": Truncate(),
        "wrong length": WrongLength(by=50),
        "no gzip": BadGzip(),
        "endless": Huge(size_bytes=64 << 20),
    }


ACTS = acts(ECHO)
OWN_ACTS = acts(OWN_ECHO)


def do(bench, operator_class, parameters):
    """Do it; all that can be seen of it."""
    operator = operator_class(task_id="do", modelstudio_conn_id=bench.conn_id, **parameters)
    store = Store()
    context = context_of(task_state_store=store)
    try:
        result = operator.poke(context) if operator_class is ModelReadySensor else operator.execute(context)
        yield "result", repr(vars(result) if hasattr(result, "xcom_value") else result)
    except Exception as error:  # noqa: BLE001  # whatever comes is looked at
        for text in everything_shown(error):
            yield "exception", text
    yield "store", repr(store.values)
    yield "operator", repr(operator)
    yield "rendered fields", repr({name: getattr(operator, name) for name in operator.template_fields})


def test_every_operator_fails_in_twenty_ways():
    """As many as were promised, at each call that it makes."""
    assert len(ACTS) >= 20


@pytest.mark.parametrize("what", ASKED)
@pytest.mark.parametrize("act", [None, *ACTS])
def test_nothing_is_shown_whatever_call_fails(guard, logs, what, act):
    """Done, or failed at any of its calls: no secret in seven shapes anywhere."""
    operator_class, parameters, operations = ASKED[what]
    for operation in operations if act else operations[-1:]:
        bench = guard(operation, password=ASCII_PASSWORD)
        if "make" not in what:
            list(do(bench, CreateModelOperator, OWN if "own" in what else MANUAL))
        before = len(bench.server.calls)
        thrown = (OWN_ACTS if "own" in what else ACTS)[act] if act else None
        bench.server.play([Rule(act=thrown, match=Match(operation=operation))] if act else [])
        assert shown_of([*do(bench, operator_class, parameters), *logs()], SECRETS) == [], operation
        assert operation in {call.operation for call in bench.server.calls[before:]}
    assert "endpoint_body" not in CreateModelOperator.template_fields


@pytest.mark.parametrize("act", ["echo in a 400", "echo in a page", "key refused"])
def test_nothing_is_shown_of_a_password_that_is_not_ascii(guard, logs, act):
    """The same for a password with an umlaut, which the transport sends and the client does not."""
    bench = guard()
    bench.server.play([Rule(act=ACTS[act], match=Match(operation="create"))])
    assert shown_of([*do(bench, CreateModelOperator, MANUAL), *logs()], shapes(PASSWORD) | shapes(MODEL_KEY)) == []
    assert "create" in {call.operation for call in bench.server.calls}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("operation", ["root", "get"])
def test_nothing_is_shown_by_the_test_of_a_connection(guard, logs, operation, act):
    """What stands in the form after a click on Test has neither a secret nor a word of the server's that may hold one."""
    bench = guard(password=ASCII_PASSWORD)
    bench.server.play([Rule(act=ACTS[act], match=Match(operation=operation))])
    told = ModelStudioHook(bench.conn_id).test_connection()
    assert shown_of([("form", repr(told)), *logs()], SECRETS) == []
