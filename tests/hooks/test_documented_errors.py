"""Every error that Model Studio documents: the sandbox can be told to give it, and what is decided is what the page says.

Source of codes and of whether to ask again: https://help.aliyun.com/en/model-studio/error-code-start.
That 5xx of the model service arrive as 400 is Elasticsearch's doing.
"""

from __future__ import annotations

import json

import pytest

from airflow_provider_modelstudio.hooks.modelstudio import ModelStudioHook
from airflow_provider_modelstudio.inference.decide import Mark, Split, Stop, Wait, decide
from airflow_provider_modelstudio.inference.errors import RequestError
from airflow_provider_modelstudio.sandbox.faults import Match, Refuse, Rule
from airflow_provider_modelstudio.sandbox.server import Sandbox

BATCH = "Value error, batch size is invalid, it should not be larger than 10.: input.contents"

DOCUMENTED = [
    # name in a script, code and message, what to do about ten rows, about one
    ("throttled", "Throttling: Requests throttling triggered.", Wait, Wait),
    ("throttled", None, Wait, Wait),
    ("throttled", "limit_requests: You exceeded your current requests list.", Wait, Wait),
    ("throttled_burst", None, Wait, Wait),
    ("throttled_burst", "limit_burst_rate: Request rate increased too quickly.", Wait, Wait),
    ("throttled_tokens", None, Wait, Wait),
    ("throttled_tokens", "insufficient_quota: You exceeded your current quota.", Wait, Wait),
    ("not_purchased", None, Stop, Stop),
    ("overdue", "PrepaidBillOverdue: The prepaid bill is overdue.", Stop, Stop),
    ("overdue", None, Stop, Stop),
    ("free_quota_gone", None, Stop, Stop),
    ("upstream_403", "AllocationQuota.FreeTierOnly: The free tier of the model has been exhausted.", Stop, Stop),
    ("upstream_403", None, Stop, Stop),
    ("upstream_403", "Workspace.AccessDenied: Workspace access denied.", Stop, Stop),
    ("upstream_403", "App.AccessDenied: App access denied.", Stop, Stop),
    ("upstream_401", None, Stop, Stop),
    ("upstream_404", None, Stop, Stop),
    ("upstream_404", "WorkSpaceNotFound: WorkSpace can not be found.", Stop, Stop),
    ("upstream_404", "model_not_supported: Unsupported model for OpenAI compatibility mode.", Stop, Stop),
    ("invalid_parameter", None, Split, Mark),
    ("invalid_parameter", f"InvalidParameter: {BATCH}", Split, Mark),
    ("invalid_parameter", f"InternalError.Algo.InvalidParameter: {BATCH}", Split, Mark),
    ("arrears", None, Stop, Stop),
    ("data_inspection", None, Split, Mark),
    ("upstream_413", None, Split, Mark),
    ("upstream_500_as_400", None, Wait, Wait),
    ("upstream_500_as_400", "SystemError: System error, please try again later.", Wait, Wait),
    ("upstream_500_as_400", "ModelServiceFailed: Failed to request model service.", Wait, Wait),
    ("upstream_500_as_400", "RequestTimeOut: Request timed out, please try again later.", Wait, Wait),
    ("upstream_502_as_400", None, Wait, Wait),
    ("upstream_503_as_400", None, Wait, Wait),
    ("upstream_503_as_400", "ModelServingError: Too many requests. Your requests are being throttled.", Wait, Wait),
    ("upstream_504_as_400", None, Wait, Wait),
    # Elasticsearch's own
    ("401", None, Stop, Stop),
    ("403", None, Stop, Stop),
    ("404", None, Stop, Stop),
    ("503", None, Wait, Wait),
    ("queue_full", None, Wait, Wait),
    ("es_timeout_408", None, Wait, Wait),
    ("es_timeout_429", None, Wait, Wait),
]


@pytest.fixture(scope="module")
def server():
    with Sandbox(engine="hashed", dimensions=8) as running:
        yield running


@pytest.mark.parametrize(("name", "message", "of_ten", "of_one"), DOCUMENTED)
def test_each_is_reached_by_a_script_and_decided_as_documented(server, monkeypatch, name, message, of_ten, of_one):
    """The code comes through Elasticsearch's words, and a request that is worth asking again is told from one that is not."""
    connection = {"conn_type": "modelstudio", "host": server.url}
    monkeypatch.setenv("AIRFLOW_CONN_MODELSTUDIO_DEFAULT", json.dumps(connection))
    server.play([Rule(act=Refuse(error=name, message=message), match=Match(operation="infer"))])
    with pytest.raises(RequestError) as caught:
        ModelStudioHook().infer("text_embedding", "bailian_embeddings", ["a"])
    if message is not None:
        assert message.partition(":")[0] in caught.value.reason
    assert type(decide(caught.value, rows=10, attempts=0)) is of_ten
    assert type(decide(caught.value, rows=1, attempts=0)) is of_one
