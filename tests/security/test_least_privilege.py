"""What docs/security.md says is needed is enough, and each piece of it that is missing is named once."""

from __future__ import annotations

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_modelstudio.hooks.modelstudio import ModelStudioHook
from airflow_provider_modelstudio.inference.errors import StorageError
from airflow_provider_modelstudio.operators.model import CreateModelOperator, DeleteModelOperator
from airflow_provider_modelstudio.sandbox.faults import Match, Refuse, Rule
from airflow_provider_modelstudio.sensors.model import ModelReadySensor
from tests.faults.bench import context_of
from tests.security.canaries import LANES

SOURCE = "bucket/in"
BELOW = ("bucket/out", "bucket/_out.inference/")
READ = [
    *(("GET", place) for place in (SOURCE, *BELOW)),
    *(("HEAD", place) for place in (SOURCE, *BELOW)),
]
LIST = [("GET", f"bucket?list-type=2&prefix={prefix}") for prefix in ("in", "out", "_out.inference")]
PUT = [("PUT", place) for place in BELOW]
DELETE = [("DELETE", place) for place in BELOW]
RIGHTS = {"get": READ, "put": PUT, "list": LIST, "delete": DELETE}


@pytest.fixture
def bucket(bench, s3):
    """A source and a destination in a bucket."""
    bench.write(["one", "two", "a poisoned row"])
    filesystem = s3.filesystem()
    filesystem.put_file(str(bench.source), "bucket/in/a.parquet")
    rule = Rule(act=Refuse(error="invalid_parameter", message="no"), match=Match(contains="poisoned"))
    bench.server.play([rule])

    def run(number, **parameters):
        places = {"source": f"s3://{s3.conn_id}@bucket/in", "destination": f"s3://{s3.conn_id}@bucket/out"}
        return bench.run(**places, **parameters, context=context_of(run_id=f"run {number}"))

    return run


def test_four_rights_on_two_prefixes_are_enough(bucket, s3):
    """With everything else denied a dataset is made, brought up to date, asked anew, and its failed rows kept apart.

    s3fs looks at the top of the bucket, too, and does without it.
    """
    s3.allow(*READ, *LIST, *PUT, *DELETE)
    assert bucket(1)["embedded"] == 2
    assert bucket(2)["requests"] == 0
    assert bucket(3, errors_only=True)["reused"] == 2
    assert bucket(4, if_exists="overwrite", on_row_error="quarantine")["quarantined"] == 1


@pytest.mark.parametrize("missing", RIGHTS)
def test_a_right_that_is_missing_is_named(bucket, s3, missing):
    """Without get, put, list or delete: one error that says what the connection needs, or may not read."""
    s3.allow(*(right for name, rights in RIGHTS.items() if name != missing for right in rights))
    with pytest.raises(
        (StorageError, AirflowFailException), match=r"needs get, put, list and delete|permission to read it"
    ):
        bucket(1)
    assert s3.failed


@pytest.fixture
def limited(bench):
    """A server that refuses some operations to the user of the connection, as Elasticsearch words it."""
    bench.connect(bench.server.url, extra={"model_studio_api_key": "sk-made-up-0123456789", "region": "cn-shanghai"})

    def limit(*operations):
        bench.server.play([Rule(act=Refuse(error="403"), match=Match(operation=one)) for one in operations])
        return bench

    return limit


@pytest.mark.parametrize("name", LANES)
def test_monitor_inference_is_enough_to_ask(limited, name):
    """Each operator over a dataset runs through where endpoints may not be changed and the cluster may not be seen."""
    bench = limited("create", "update", "delete", "root")
    LANES[name].operator(bench, {}).execute(context_of() | {"outlet_events": _Any()})
    assert "infer" in {call.operation for call in bench.server.calls}


def test_monitor_inference_is_enough_for_the_rest(limited):
    """The sensor, the test of a connection, and looking at endpoints."""
    bench = limited("create", "update", "delete", "root")
    ready = ModelReadySensor(task_id="wait", inference_id="bailian_embeddings", free_only=False, deferrable=False)
    assert ready.poke(context_of()).is_done
    assert ModelStudioHook(bench.conn_id).test_connection()[0]
    assert ModelStudioHook(bench.conn_id).list_endpoints()


@pytest.mark.parametrize("missing", ["infer", "get"])
@pytest.mark.parametrize("name", LANES)
def test_without_monitor_inference_it_is_named(limited, name, missing):
    """One clear error, and nothing is paid."""
    bench = limited(missing)
    with pytest.raises(AirflowFailException, match="monitor_inference"):
        LANES[name].operator(bench, {}).execute(context_of())
    assert bench.server.bill == []


MANUAL = {"mode": "manual", "model": "text-embedding-v4", "inference_id": "mine"}


@pytest.mark.parametrize("missing", ["create", "update", "delete"])
def test_without_manage_inference_it_is_named(limited, missing):
    """Making, changing and deleting each name the privilege."""
    bench = limited()
    if missing != "create":
        CreateModelOperator(task_id="make", **MANUAL).execute(context_of())
    limited(missing)
    operator = {
        "create": CreateModelOperator(task_id="make", **MANUAL),
        "update": CreateModelOperator(task_id="make", **MANUAL, rotate_key=True, on_existing="update"),
        "delete": DeleteModelOperator(task_id="delete", inference_id="mine"),
    }[missing]
    with pytest.raises(AirflowFailException, match="manage_inference"):
        operator.execute(context_of())
    assert missing in {call.operation for call in bench.server.calls}


class _Any:
    """Takes what is told of an asset."""

    extra = None

    def __getitem__(self, outlet):
        return self
