"""Waiting for an endpoint, on a worker and in the triggerer, against the sandbox."""

from __future__ import annotations

import asyncio
import importlib
import json
import threading
import time

import pytest
from airflow.sdk.bases.operator import TriggerFailureReason
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout, AirflowSkipException, TaskDeferred

from airflow_provider_modelstudio.hooks.modelstudio import ModelStudioHook
from airflow_provider_modelstudio.sandbox.faults import Delay, Match, Refuse, Reset, Rule
from airflow_provider_modelstudio.sandbox.server import Sandbox
from airflow_provider_modelstudio.sensors.model import ModelReadySensor
from airflow_provider_modelstudio.triggers.model import ModelReadyTrigger, NotYet, Ready, look

READY = {"inference_id": "bailian_rerank", "task_type": "rerank", "service": "sandbox"}
TASK_TYPES = {
    "bailian_embeddings": "text_embedding",
    "bailian_sparse_emb": "sparse_embedding",
    "bailian_rerank": "rerank",
    "bailian_mm": "multi_modal_embedding",
    "bailian_deepseek": "completion",
}


@pytest.fixture
def sandbox(monkeypatch):
    with Sandbox(engine="hashed", dimensions=16) as server:
        said = json.dumps({"conn_type": "modelstudio", "host": server.url})
        monkeypatch.setenv("AIRFLOW_CONN_MODELSTUDIO_DEFAULT", said)
        yield server


def sensor(**parameters):
    return ModelReadySensor(task_id="wait", poke_interval=0.01, **{"inference_id": "bailian_rerank", **parameters})


def make(inference_id="new", task_type="rerank"):
    ModelStudioHook().create_endpoint(task_type, inference_id, {"service": "sandbox"})


async def fired(trigger):
    """The one event of a trigger."""
    return [event.payload async for event in trigger.run()]


def test_endpoint_that_is_there(sandbox):
    """The sensor returns what the endpoint is, and asked for nothing that costs."""
    assert sensor(task_type="rerank").execute({}) == READY
    assert sensor().execute({}) == READY
    assert [one.operation for one in sandbox.calls] == ["get", "get"]


@pytest.mark.parametrize(("inference_id", "task_type"), TASK_TYPES.items())
def test_model_that_is_to_answer(sandbox, inference_id, task_type):
    """When it need not be free, the model of each task type is asked one short question."""
    hook = ModelStudioHook()
    assert look(hook, inference_id, task_type, free_only=False) == Ready(inference_id, task_type, "sandbox")
    assert len(sandbox.bill) == 1
    assert sandbox.bill[0].count == 1


def test_sensor_waits_for_what_is_to_come(sandbox):
    """It looks again and again until somebody makes the endpoint."""
    waiting = threading.Timer(0.04, make)
    waiting.start()
    assert sensor(inference_id="new").execute({})["task_type"] == "rerank"
    waiting.join()
    assert sum(one.status == 404 for one in sandbox.calls) >= 1


def test_sensor_gives_up(sandbox):
    """After its timeout the sensor fails as every sensor does."""
    with pytest.raises(AirflowSensorTimeout):
        sensor(inference_id="new", timeout=0.02).execute({})


@pytest.mark.parametrize(
    ("operation", "act"),
    [
        ("get", Refuse(error="503")),
        ("get", Reset(at="before")),
        ("infer", Refuse(error="upstream_503_as_400")),
        ("infer", Refuse(error="throttled")),
    ],
)
def test_outages_are_waited_out(sandbox, operation, act):
    """While cluster or model are out of order it is not ready; afterwards it is."""
    sandbox.play([Rule(act=act, match=Match(operation=operation, first=1))])
    hook = ModelStudioHook()
    first = look(hook, "bailian_rerank", None, free_only=False)
    assert isinstance(first, NotYet)
    assert isinstance(look(hook, "bailian_rerank", None, free_only=False), Ready)


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize(
    ("rules", "parameters", "words"),
    [
        ([], {"task_type": "completion"}, "is for rerank, not for completion"),
        ([], {"inference_id": "_all"}, "inference_id must be"),
        ([], {"inference_id": None}, "inference_id must be a text, not NoneType"),
        ([], {"inference_id": 7}, "inference_id must be a text, not int"),
        ([Rule(act=Refuse(error="401"), match=Match(operation="get"))], {}, "401"),
        ([Rule(act=Refuse(error="upstream_401"))], {"free_only": False}, "InvalidApiKey"),
        ([], {"modelstudio_conn_id": "nowhere"}, "no connection 'nowhere'"),
    ],
)
def test_what_waiting_does_not_mend(sandbox, deferrable, rules, parameters, words):
    """A wrong task type, a refused login or key, and a missing connection fail at once."""
    sandbox.play(rules)
    with pytest.raises(AirflowFailException, match=words):
        sensor(deferrable=deferrable, **parameters).execute({})


def test_deferral(sandbox):
    """A deferrable sensor looks once, leaves the rest to its trigger, and takes over what that saw."""
    assert sensor(deferrable=True).execute({}) == READY
    with pytest.raises(TaskDeferred) as caught:
        sensor(inference_id="new", task_type="rerank", deferrable=True, timeout=77).execute({})
    deferred = caught.value
    assert isinstance(deferred.trigger, ModelReadyTrigger)
    assert deferred.timeout.total_seconds() == 77
    make()
    (event,) = asyncio.run(fired(deferred.trigger))
    done = getattr(sensor(), deferred.method_name)({}, event=event)
    assert done == {"inference_id": "new", "task_type": "rerank", "service": "sandbox"}
    with pytest.raises(AirflowFailException, match="why"):
        sensor().execute_complete({}, {"status": "failed", "reason": "why"})


WRONG_TYPE = {"status": "failed", "reason": "endpoint bailian_rerank is for rerank, not for completion"}
TIMED_OUT = {"error": TriggerFailureReason.TRIGGER_TIMEOUT}


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize("policy", ["soft_fail", "never_fail"])
def test_soft_fail_skips_at_the_first_look(sandbox, capsys, deferrable, policy):
    """What would fail skips instead, also before anything was deferred; why is in the log."""
    with pytest.raises(AirflowSkipException):
        sensor(task_type="completion", deferrable=deferrable, **{policy: True}).execute({})
    assert "is for rerank, not for completion" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("method", "given", "kind", "words"),
    [
        ("execute_complete", {"event": WRONG_TYPE}, AirflowFailException, "is for rerank, not for completion"),
        ("__fail__", TIMED_OUT, AirflowSensorTimeout, "(?i)trigger.timeout"),
    ],
)
def test_soft_fail_holds_after_deferral(sandbox, capsys, method, given, kind, words):
    """What the trigger saw and the timeout of the triggerer fail the task, or skip it where it may."""
    with pytest.raises(kind, match=words):
        sensor(deferrable=True).resume_execution(method, given, {})
    with pytest.raises(AirflowSkipException):
        sensor(deferrable=True, soft_fail=True).resume_execution(method, given, {})
    assert method == "__fail__" or words in capsys.readouterr().out


def test_trigger_survives_serialization(sandbox):
    """What the triggerer makes from the name and the JSON is the same trigger, and it works."""
    said = {
        "inference_id": "bailian_rerank",
        "task_type": "rerank",
        "free_only": False,
        "poke_interval": 0.01,
        "modelstudio_conn_id": "modelstudio_default",
    }
    path, kept = ModelReadyTrigger(**said).serialize()
    assert kept == said
    module, _, name = path.rpartition(".")
    again = getattr(importlib.import_module(module), name)(**json.loads(json.dumps(kept)))
    assert again.serialize() == (path, said)
    assert asyncio.run(fired(again)) == [{"status": "ready", "endpoint": READY}]


def test_trigger_waits_and_fails(sandbox):
    """It fires once the endpoint is there, and at once for what never will be."""

    async def wait():
        waiting = asyncio.create_task(fired(ModelReadyTrigger(inference_id="new", poke_interval=0.01)))
        await asyncio.sleep(0.03)
        assert not waiting.done()
        await asyncio.to_thread(make)
        return await waiting

    assert asyncio.run(wait())[0]["status"] == "ready"
    (event,) = asyncio.run(fired(ModelReadyTrigger(inference_id="new", task_type="completion")))
    assert event == {"status": "failed", "reason": "endpoint new is for rerank, not for completion"}


def test_trigger_does_not_hold_up_the_loop(sandbox):
    """While the cluster takes its time to answer, other triggers go on."""
    sandbox.play([Rule(act=Delay(seconds=0.05), match=Match(operation="get"))])

    async def longest_pause():
        waiting = asyncio.create_task(fired(ModelReadyTrigger(inference_id="bailian_rerank")))
        await asyncio.sleep(0)
        ticks = 0
        while not waiting.done():
            await asyncio.sleep(0.001)
            ticks += 1
        return ticks

    began = time.monotonic()
    ticks = asyncio.run(longest_pause())
    assert time.monotonic() - began >= 0.05
    assert ticks > 5
