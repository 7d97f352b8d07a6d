"""Making and deleting endpoints against the sandbox, through the real hook and the official client."""

from __future__ import annotations

import json
import logging
import traceback

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException
from airflow.serialization.serialized_objects import DagSerialization

from airflow_provider_modelstudio.catalog import Catalog
from airflow_provider_modelstudio.catalog.wanted import every_model
from airflow_provider_modelstudio.hooks.modelstudio import ModelStudioHook
from airflow_provider_modelstudio.inference.errors import OutageError
from airflow_provider_modelstudio.operators.model import CreateModelOperator, DeleteModelOperator
from airflow_provider_modelstudio.sandbox.faults import Match, Refuse, Reset, Respond, Rule
from airflow_provider_modelstudio.sandbox.server import Sandbox
from tests.transport.loopback import Loopback, error, reply

KEY = "sk-canary-0123456789"
HOST = "https://dashscope.aliyuncs.com"
MODELS = len(every_model(Catalog.read()))
MANUAL = {"mode": "manual", "model": "text-embedding-v4"}
OWN = {
    "service": "sandbox",
    "service_settings": {"secret_parameters": {"key": "${model_studio_api_key}"}, "url": "${api_host}/x"},
    "task_settings": {"parameters": {"user": "a"}},
}


def saying(kind, reason, status=400, **more):
    """An answer of Elasticsearch's that the sandbox itself has no reason to give."""
    body = {"error": {"type": kind, "reason": reason, "root_cause": [], **more}, "status": status}
    return Respond(status=status, body=json.dumps(body), headers={"X-Elastic-Product": "Elasticsearch"})


UNKNOWN_SERVICE = saying("status_exception", "Unknown service [alibaba-cloud-custom-model]")


@pytest.fixture
def connect(monkeypatch):
    """Sets the connection to a server, with the account that is given."""

    def connect(server, **extra):
        account = extra or {"model_studio_api_key": KEY, "api_host": HOST}
        said = {"conn_type": "modelstudio", "host": server.url, "extra": account}
        monkeypatch.setenv("AIRFLOW_CONN_MODELSTUDIO_DEFAULT", json.dumps(said))

    return connect


@pytest.fixture
def sandbox(connect):
    with Sandbox(engine="hashed", dimensions=16) as server:
        connect(server)
        yield server


def create(**parameters):
    return CreateModelOperator(task_id="create", **parameters).execute({})


def delete(**parameters):
    return DeleteModelOperator(task_id="delete", **parameters).execute({})


def written(sandbox, since=0):
    """Requests that changed something or might have."""
    return [(one.operation, one.inference_id) for one in sandbox.calls[since:] if one.operation != "get"]


def refused_for(name, act):
    return Rule(act=act, match=Match(operation="create", inference_id=name))


# --------------------------------------------------------------------------------------------------------- one model


def test_manual_makes_one_endpoint(sandbox):
    """One model, by the documented template, with the length of vectors that was asked for; the key is not to be seen."""
    told = create(**MANUAL, inference_id="mine", dimensions="512")
    assert told["inference_id"] == "mine"
    assert told["created"] == ["mine"]
    (record,) = told["endpoints"]
    assert record == {
        "inference_id": "mine",
        "task_type": "text_embedding",
        "model": "text-embedding-v4",
        "service": "alibaba-cloud-custom-model",
        "template": "documented",
        "action": "created",
        "drift": [],
        "reason": "",
    }
    found = ModelStudioHook().get_endpoint("mine")
    assert found["service_settings"]["url"] == HOST
    assert found["task_settings"]["parameters"]["dimension"] == "512"
    assert KEY not in json.dumps(found)
    assert written(sandbox) == [("create", "mine")]


@pytest.mark.parametrize("on_existing", ["keep", "update", "replace", "fail"])
def test_same_settings_cost_nothing(sandbox, on_existing):
    """A second run makes no call that writes, whatever it would do about a difference."""
    create(**MANUAL)
    since = len(sandbox.calls)
    told = create(**MANUAL, on_existing=on_existing)
    assert told["kept"] == ["text-embedding-v4"]
    assert told["endpoints"][0]["drift"] == []
    assert written(sandbox, since) == []


def test_keep_shows_the_difference(sandbox):
    """An endpoint that differs is kept by default; the task succeeds and says what differs."""
    create(**MANUAL)
    since = len(sandbox.calls)
    told = create(**MANUAL, dimensions=256)
    assert told["endpoints"][0]["drift"] == ["task_settings.parameters.dimension: '1024' → '256'"]
    assert (told["kept"], written(sandbox, since)) == (["text-embedding-v4"], [])


def test_update_changes_what_can_be_changed(sandbox):
    """task_settings are changed in place, once; the run after it finds nothing to do."""
    create(**MANUAL)
    since = len(sandbox.calls)
    assert create(**MANUAL, dimensions=256, on_existing="update")["updated"] == ["text-embedding-v4"]
    assert create(**MANUAL, dimensions=256, on_existing="update")["kept"] == ["text-embedding-v4"]
    assert written(sandbox, since) == [("update", "text-embedding-v4")]
    found = ModelStudioHook().get_endpoint("text-embedding-v4")
    assert found["task_settings"]["parameters"] == {"dimension": "256", "encoding_format": "float"}


def test_update_of_what_cannot_be_changed(sandbox, connect):
    """Another API host needs a new endpoint: the task fails with the difference and says how."""
    create(**MANUAL)
    connect(sandbox, model_studio_api_key=KEY, api_host="https://dashscope-intl.aliyuncs.com")
    with pytest.raises(AirflowFailException, match=r"on_existing='replace'; service_settings\.url: .*dashscope-intl"):
        create(**MANUAL, on_existing="update")
    assert written(sandbox) == [("create", "text-embedding-v4")]


def test_replace_tries_the_new_one_first(sandbox, connect):
    """A trial under another name comes before the deletion, and is gone at the end."""
    create(**MANUAL)
    connect(sandbox, model_studio_api_key=KEY, api_host="https://dashscope-intl.aliyuncs.com")
    since = len(sandbox.calls)
    told = create(**MANUAL, on_existing="replace")
    assert told["replaced"] == ["text-embedding-v4"]
    trial = "text-embedding-v4-modelstudio-trial"
    assert written(sandbox, since) == [
        ("delete", "text-embedding-v4"),  # a dry run: does anybody use it?
        ("create", trial),
        ("delete", trial),
        ("delete", "text-embedding-v4"),
        ("create", "text-embedding-v4"),
    ]
    found = ModelStudioHook().get_endpoint("text-embedding-v4")
    assert found["service_settings"]["url"] == "https://dashscope-intl.aliyuncs.com"
    assert ModelStudioHook().get_endpoint(trial) is None


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (Refuse(error="upstream_503_as_400"), OutageError),
        (Refuse(error="throttled"), OutageError),
        (Reset(at="before"), OutageError),
        (Refuse(error="upstream_404"), AirflowFailException),
        (Refuse(error="key_refused_at_creation"), AirflowFailException),
        (saying("status_exception", "Unknown service [x]"), AirflowFailException),
    ],
)
def test_replace_that_fails_at_the_very_end_says_so(sandbox, cause, kind):
    """The old endpoint is gone: the error says it and what to do, is retried where that helps, and a rerun creates."""
    create(**MANUAL)
    sandbox.play([refused_for("text-embedding-v4", cause)])
    with pytest.raises(kind, match=r"text-embedding-v4: the old endpoint is deleted.*run the task again") as caught:
        create(**MANUAL, dimensions=256, on_existing="replace")
    assert KEY not in str(caught.value)
    sandbox.play([])
    create(**MANUAL, dimensions=256, on_existing="replace")
    found = ModelStudioHook().get_endpoint("text-embedding-v4")
    assert found["task_settings"]["parameters"]["dimension"] == "256"


def test_replace_that_fails_at_the_very_end_among_others_says_so(sandbox):
    """A failure of one is not forgotten when a later one ends the task for all; the differences are told as well."""
    create(task_type="rerank")
    first, second = [one.inference_id for one in every_model(Catalog.read(), "rerank")][:2]
    gone = refused_for(first, Refuse(error="throttled"))
    sandbox.play([gone, refused_for(f"{second}-modelstudio-trial", Refuse(error="key_refused_at_creation"))])
    with pytest.raises(
        AirflowFailException, match=f"{first}: the old endpoint is deleted.*does not accept the API key"
    ):
        create(task_type="rerank", on_existing="replace", rotate_key=True)
    assert ModelStudioHook().get_endpoint(second) is not None


def test_replace_that_does_not_work_costs_nothing(sandbox):
    """When the trial fails, the old endpoint is still there."""
    create(**MANUAL)
    before = ModelStudioHook().get_endpoint("text-embedding-v4")
    sandbox.play([refused_for("text-embedding-v4-modelstudio-trial", Refuse(error="upstream_503_as_400"))])
    with pytest.raises(OutageError, match="text-embedding-v4"):
        create(**MANUAL, dimensions=256, on_existing="replace")
    assert ModelStudioHook().get_endpoint("text-embedding-v4") == before


@pytest.mark.parametrize("killed_at", ["create trial", "delete trial", "delete old"])
def test_replace_goes_on_after_a_crash(sandbox, killed_at):
    """Whatever a killed try left behind, the next one ends with the new endpoint alone."""
    trial = "text-embedding-v4-modelstudio-trial"
    create(**MANUAL)
    hook = ModelStudioHook()
    if killed_at != "delete old":
        hook.create_endpoint("text_embedding", trial, OWN)
    else:
        hook.delete_endpoint("text-embedding-v4")
    if killed_at == "delete trial":
        hook.delete_endpoint("text-embedding-v4")
    create(**MANUAL, dimensions=256, on_existing="replace")
    assert hook.get_endpoint("text-embedding-v4")["task_settings"]["parameters"]["dimension"] == "256"
    assert hook.get_endpoint(trial) is None


def test_fail_on_another_endpoint_of_that_name(sandbox):
    """The difference is in the message, and nothing is changed."""
    with pytest.raises(AirflowFailException, match="on_existing is 'fail'; service: 'sandbox' → "):
        create(**MANUAL, inference_id="bailian_embeddings", on_existing="fail")
    assert written(sandbox) == []


@pytest.mark.parametrize("on_existing", ["keep", "update"])
def test_endpoint_of_another_task_type_is_not_kept(sandbox, on_existing):
    """A rerank endpoint of that name cannot pass for one that embeds."""
    with pytest.raises(AirflowFailException, match=r"another task type.*task_type: 'rerank' → 'text_embedding'"):
        create(**MANUAL, inference_id="bailian_rerank", on_existing=on_existing)
    assert written(sandbox) == []


def test_rotated_key_is_sent_again(sandbox):
    """What cannot be compared is sent when told so, and only then."""
    create(**MANUAL)
    since = len(sandbox.calls)
    assert create(**MANUAL, on_existing="update", rotate_key=True)["updated"] == ["text-embedding-v4"]
    assert written(sandbox, since) == [("update", "text-embedding-v4")]
    with pytest.raises(AirflowFailException, match="rotate_key needs"):
        create(**MANUAL, rotate_key=True)


class _Store:
    """Airflow's store of task state, which stays from one try to the next."""

    def __init__(self, broken=()):
        self.kept = {}
        self.broken = broken

    def get(self, name):
        if "get" in self.broken:
            raise OSError("no answer")
        return json.loads(json.dumps(self.kept.get(name)))

    def set(self, name, value):
        if "set" in self.broken:
            raise OSError("no answer")
        self.kept[name] = value


def rotate(store, **parameters):
    operator = CreateModelOperator(task_id="create", task_type="rerank", rotate_key=True, **parameters)
    return operator.execute({} if store is None else {"task_state_store": store})


RERANKS = [one.inference_id for one in every_model(Catalog.read(), "rerank")]


@pytest.mark.parametrize("on_existing", ["update", "replace"])
def test_rotation_goes_on_where_an_earlier_try_failed(sandbox, on_existing):
    """One fails after others have the key: the error names it, and the retry sends the key to it and to no other."""
    create(task_type="rerank")
    first, last = RERANKS[0], RERANKS[-1]
    name = last if on_existing == "update" else f"{last}-modelstudio-trial"
    operation = "update" if on_existing == "update" else "create"
    failing = Rule(act=Refuse(error="throttled"), match=Match(operation=operation, inference_id=name))
    sandbox.play([failing])
    store = _Store()
    with pytest.raises(OutageError, match=f"1 of {len(RERANKS)} endpoints failed.*a retry does the rest: {last}"):
        rotate(store, on_existing=on_existing)
    sandbox.play([])
    since = len(sandbox.calls)
    told = rotate(store, on_existing=on_existing)
    assert told[f"{on_existing}d"] == [last]
    assert told["kept"] == RERANKS[:-1]
    assert told["endpoints"][0]["reason"] == "an earlier try of this task has sent the key"
    assert {one.removesuffix("-modelstudio-trial") for _, one in written(sandbox, since)} == {last}
    since = len(sandbox.calls)
    assert rotate(store, on_existing=on_existing)["kept"] == RERANKS
    assert written(sandbox, since) == []
    assert KEY not in json.dumps(store.kept)
    assert first in json.dumps(store.kept)


def test_an_endpoint_made_by_an_earlier_try_has_the_key(sandbox):
    """What was created has the key already."""
    sandbox.play([refused_for(RERANKS[-1], Refuse(error="throttled"))])
    store = _Store()
    with pytest.raises(OutageError):
        rotate(store, on_existing="replace")
    sandbox.play([])
    told = rotate(store, on_existing="replace")
    assert (told["created"], told["kept"]) == ([RERANKS[-1]], RERANKS[:-1])


def test_another_key_is_another_rotation(sandbox, connect):
    """A key that was changed between two tries is sent to all; so is the same key in the next run."""
    create(task_type="rerank")
    store = _Store()
    assert rotate(store, on_existing="update")["updated"] == RERANKS
    connect(sandbox, model_studio_api_key=KEY[::-1], api_host=HOST)
    assert rotate(store, on_existing="update")["updated"] == RERANKS
    assert rotate(store, on_existing="update")["kept"] == RERANKS
    assert rotate(_Store(), on_existing="update")["updated"] == RERANKS


@pytest.mark.parametrize("store", [None, _Store(broken={"get"}), _Store(broken={"set"})], ids=["none", "get", "set"])
def test_without_a_memory_the_key_is_sent_again(sandbox, store):
    """Before Airflow 3.3, or when its store does not answer: never is an endpoint left without the key."""
    create(task_type="rerank")
    for _ in range(2):
        assert rotate(store, on_existing="update")["updated"] == RERANKS


def test_own_body_is_passed_through(sandbox):
    """A body of the user's own is sent as it is; the second run finds it in place."""
    parameters = {"mode": "manual", "endpoint_body": OWN, "task_type": "rerank", "inference_id": "own"}
    assert create(**parameters)["endpoints"][0]["template"] == "own"
    found = ModelStudioHook().get_endpoint("own")
    assert (found["task_type"], found["service_settings"]["url"]) == ("rerank", f"{HOST}/x")
    assert found["task_settings"] == OWN["task_settings"]
    assert create(**parameters)["kept"] == ["own"]
    assert written(sandbox) == [("create", "own")]


def test_endpoint_made_by_somebody_else_meanwhile(sandbox):
    """That it exists already is not a failure: what is there is compared with what is wanted."""
    create(**MANUAL)
    listing = Respond(status=200, body='{"endpoints": []}', headers={"X-Elastic-Product": "Elasticsearch"})
    sandbox.play([Rule(act=listing, match=Match(operation="get", inference_id="_all"))])
    assert create(**MANUAL)["kept"] == ["text-embedding-v4"]


def test_answer_that_got_lost(sandbox):
    """A creation that was not answered is an outage; the retry finds the endpoint that was made, and keeps it."""
    sandbox.play([Rule(act=Reset(at="before"), match=Match(operation="create", first=1))])
    with pytest.raises(OutageError, match="a retry does the rest"):
        create(**MANUAL)
    assert create(**MANUAL)["kept"] == ["text-embedding-v4"]


def test_upstream_service_where_the_vendors_is_unknown(sandbox):
    """A server that does not know the vendor's service gets upstream's, and is not asked twice in one operation."""
    sandbox.play([Rule(act=UNKNOWN_SERVICE, match=Match(operation="create", first=1))])
    told = create(task_type="rerank")
    assert {one["service"] for one in told["endpoints"]} == {"custom"}
    assert len(written(sandbox)) == len(told["created"]) + 1
    since = len(sandbox.calls)
    assert create(task_type="rerank")["created"] == []
    assert written(sandbox, since) == []


# ----------------------------------------------------------------------------------------------------- every model


def test_automatic_makes_all_models(sandbox, connect):
    """A key alone makes every model of the catalog; a second run writes nothing."""
    connect(sandbox, model_studio_api_key=KEY)
    told = create()
    assert len(told["created"]) == len(told["endpoints"]) == MODELS
    for task_type in ("text_embedding", "sparse_embedding", "rerank", "completion", "multi_modal_embedding"):
        made = [one["inference_id"] for one in told["endpoints"] if one["task_type"] == task_type]
        assert set(made) <= {one["inference_id"] for one in ModelStudioHook().list_endpoints(task_type)}
    since = len(sandbox.calls)
    assert len(create()["kept"]) == MODELS
    assert written(sandbox, since) == []
    assert len(sandbox.calls) == since + 1


def test_models_of_the_connection_are_made_too(sandbox, connect):
    """What the extra models adds to the catalog or changes in it is provisioned by its numbers."""
    own = {
        "my-embedding": {"task_types": ["text_embedding"], "dimensions": [48], "default_dimensions": 48},
        "text-embedding-v4": {"default_dimensions": 256},
    }
    connect(sandbox, model_studio_api_key=KEY, models=own)
    told = create(task_type="text_embedding")
    assert {"my-embedding", "text-embedding-v4"} <= set(told["created"])
    hook = ModelStudioHook()
    made = [hook.get_endpoint(name)["task_settings"]["parameters"] for name in own]
    assert [one["dimension"] for one in made] == ["48", "256"]


def test_partial_failure_keeps_the_rest_and_a_retry_does_it(sandbox):
    """Two fail, all others are made; the error names the two and why; the retry makes these two and nothing else."""
    sandbox.play(
        [
            refused_for("gte-rerank-v2", Refuse(error="upstream_503_as_400")),
            refused_for("qwen-plus", Refuse(error="throttled")),
        ]
    )
    with pytest.raises(OutageError) as caught:
        create()
    said = str(caught.value)
    assert f"2 of {MODELS} endpoints failed, {MODELS - 2} are there and kept, a retry does the rest" in said
    assert "gte-rerank-v2: " in said
    assert "ModelUnavailable" in said
    assert "qwen-plus: " in said
    sandbox.play([])
    since = len(sandbox.calls)
    told = create()
    assert told["created"] == ["gte-rerank-v2", "qwen-plus"]
    assert len(told["kept"]) == MODELS - 2
    assert written(sandbox, since) == [("create", "gte-rerank-v2"), ("create", "qwen-plus")]


def test_failure_that_a_retry_does_not_mend(sandbox):
    """Settings that are refused for good fail the task without more tries."""
    sandbox.play([refused_for("qwen-max", saying("validation_exception", "Validation Failed: 1: no;"))])
    with pytest.raises(AirflowFailException, match=f"1 of {MODELS} endpoints failed.*qwen-max: .*Validation Failed"):
        create()


def test_models_the_server_does_not_accept(sandbox):
    """What server, account or model service do not have is reported, and is no failure."""
    sandbox.play(
        [
            refused_for("qwen3-vl-embedding", saying("status_exception", "Unknown task_type [multi_modal_embedding]")),
            refused_for("qwen-max", saying("status_exception", "model_not_supported: not for this API")),
            refused_for("qwen-plus", Refuse(error="upstream_404")),
        ]
    )
    told = create()
    assert set(told["unsupported"]) == {"qwen3-vl-embedding", "qwen-max", "qwen-plus"}
    assert len(told["created"]) == MODELS - 3
    assert all(one["reason"] for one in told["endpoints"] if one["action"] == "unsupported")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("AllocationQuota.FreeTierOnly: The free tier of the model has been exhausted.", "free quota is used up"),
        ("Arrearage: Access denied, please make sure your account is in good standing.", "put the account in order"),
        ("AccessDenied: Access denied.", "grant it access"),
        ("Model.AccessDenied: Model access denied.", "grant it access"),
        ("Workspace.AccessDenied: Workspace access denied.", "grant it access"),
    ],
)
def test_an_account_that_may_not_is_a_failure(sandbox, said, words):
    """What the account may not do or has not paid for fails the task and says what to do; a rerun does the rest."""
    reason = f"Received an unsuccessful status code for request from inference entity id [x] status [403]. {said}"
    sandbox.play([refused_for("qwen-max", saying("status_exception", reason, 403))])
    with pytest.raises(AirflowFailException, match=f"1 of {MODELS} endpoints failed.*qwen-max: .*{words}"):
        create()
    sandbox.play([])
    told = create()
    assert (told["created"], told["unsupported"]) == (["qwen-max"], [])


def test_server_that_knows_neither_service(sandbox):
    """Nothing accepted at all is a failure; each service was asked for once."""
    sandbox.play([Rule(act=saying("status_exception", "Unknown service [x]"), match=Match(operation="create"))])
    with pytest.raises(AirflowFailException, match="accepts no model of the catalog"):
        create()
    assert len(written(sandbox)) == 2


def test_key_of_another_region(sandbox, connect):
    """A key that Model Studio refuses stops everything at the first model, with the host, its region and the fields."""
    connect(sandbox, model_studio_api_key=KEY, region="us-east-1")
    sandbox.play([Rule(act=Refuse(error="key_refused_at_creation"), match=Match(operation="create"))])
    with pytest.raises(AirflowFailException) as caught:
        create()
    said = str(caught.value)
    assert "https://dashscope-us.aliyuncs.com (region us-east-1) does not accept the API key" in said
    assert "model_studio_api_key, api_host and region" in said
    assert KEY not in said
    assert len(written(sandbox)) == 1


def test_login_without_the_privilege(sandbox):
    """A user who may not manage endpoints is told which privilege is missing, once."""
    sandbox.play([Rule(act=Refuse(error="403"), match=Match(operation="create"))])
    with pytest.raises(AirflowFailException, match="cluster privilege manage_inference"):
        create()
    assert len(written(sandbox)) == 1


def test_cluster_that_is_gone(connect):
    """Without a connection nothing is made, and a retry may help."""
    with Sandbox(engine="hashed") as server:
        pass
    connect(server)
    with pytest.raises(OutageError, match="Connection refused"):
        create()


# -------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"mode": "auto"}, "mode must be one of 'automatic', 'manual'"),
        ({"on_existing": "skip"}, "on_existing must be one of"),
        ({"model": "x"}, "model is for mode 'manual'"),
        ({"inference_id": "x"}, "inference_id is for mode 'manual'"),
        ({"endpoint_body": {}}, "endpoint_body is for mode 'manual'"),
        ({"dimensions": 5}, "dimensions is for mode 'manual'"),
        ({"task_type": "embedding"}, "task_type is 'embedding'"),
        ({"service": "openai"}, "service must be one of"),
        ({"mode": "manual"}, "model is empty"),
        ({"mode": "manual", "model": "qwen3-reranker"}, "but 'qwen3-rerank' is"),
        ({**MANUAL, "dimensions": "many"}, "dimensions must be a whole number"),
        ({**MANUAL, "dimensions": 100}, "dimensions is 100"),
        ({**MANUAL, "inference_id": "../x"}, "inference_id must be"),
        ({**MANUAL, "inference_id": 7}, "inference_id must be a text, not int"),
        ({"mode": "manual", "model": 7}, "model must be a text, not int"),
        ({"task_type": 7}, "task_type must be a text, not int"),
        ({"mode": "manual", "endpoint_body": OWN}, "needs task_type and inference_id"),
        ({"mode": "manual", "endpoint_body": "{}", "task_type": "rerank", "inference_id": "x"}, "dictionary, not str"),
        (
            {"mode": "manual", "endpoint_body": OWN, "task_type": "rerank", "inference_id": "x", "service": "custom"},
            "stand in endpoint_body itself",
        ),
        (
            {"mode": "manual", "endpoint_body": {"a": {1}}, "task_type": "rerank", "inference_id": "x"},
            "body of a request",
        ),
        ({"modelstudio_conn_id": "nowhere"}, "no connection 'nowhere'"),
    ],
)
def test_parameters_that_make_no_sense(sandbox, parameters, words):
    """The message names the parameter; nothing is written; no retry."""
    with pytest.raises(AirflowFailException, match=words):
        create(**parameters)
    assert written(sandbox) == []


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"api_host": HOST}, "model_studio_api_key is empty"),
        ({"model_studio_api_key": KEY}, "api_host of the connection is empty"),
        ({"model_studio_api_key": KEY, "api_host": HOST, "region": "us-east-1"}, "belongs to 'cn-beijing'"),
        ({"model_studio_api_key": KEY, "region": "eu-central-1"}, "no host that all workspaces share"),
    ],
)
def test_account_that_makes_no_sense(sandbox, connect, extra, words):
    """Key, host and region are held against each other before anything is sent."""
    connect(sandbox, **extra)
    with pytest.raises(AirflowFailException, match=words):
        create(**MANUAL)
    assert sandbox.calls == []


@pytest.mark.parametrize("place", ["url", "host"])
def test_own_body_that_asks_for_a_host_gets_none_by_guess(sandbox, connect, place):
    """A key is never sent to a host nobody named; where a region is named, its host is taken."""
    own = {"service": "sandbox", "service_settings": {place: "${api_host}/x"}}
    mine = {"mode": "manual", "endpoint_body": own, "task_type": "rerank", "inference_id": "own"}
    connect(sandbox, model_studio_api_key=KEY)
    with pytest.raises(AirflowFailException, match="extra api_host of the connection is empty"):
        create(**mine)
    assert sandbox.calls == []
    elsewhere = {"service": "sandbox", "service_settings": {place: "https://models.example/x"}}
    assert create(**{**mine, "endpoint_body": elsewhere, "inference_id": "other"})["created"] == ["other"]
    connect(sandbox, model_studio_api_key=KEY, region="us-east-1")
    create(**mine)
    found = ModelStudioHook().get_endpoint("own")["service_settings"]
    assert found[place] == "https://dashscope-us.aliyuncs.com/x"


# ---------------------------------------------------------------------------------------------------------- deletion


def test_delete(sandbox):
    """A dry run deletes nothing; the deed deletes; once more is fine, unless it must have been there."""
    create(**MANUAL, inference_id="mine")
    nobody = {"inference_id": "mine", "pipelines": [], "indices": []}
    assert delete(inference_id="mine", dry_run=True) == {**nobody, "action": "unused"}
    assert ModelStudioHook().get_endpoint("mine") is not None
    assert delete(inference_id="mine", task_type="text_embedding") == {**nobody, "action": "deleted"}
    assert delete(inference_id="mine") == {**nobody, "action": "missing"}
    with pytest.raises(AirflowFailException, match="no endpoint mine, and missing_ok is False"):
        delete(inference_id="mine", missing_ok=False)


@pytest.mark.parametrize("inference_id", [None, "", 7, "_all", "*", ["a"]])
@pytest.mark.parametrize("how", [{}, {"force": True}, {"dry_run": True}])
def test_what_names_no_endpoint_deletes_none(sandbox, inference_id, how):
    """Elasticsearch would take nothing for all: it is never asked."""
    with pytest.raises(AirflowFailException, match="inference_id must be"):
        delete(inference_id=inference_id, **how)
    assert sandbox.calls == []


def test_delete_by_another_task_type(sandbox):
    """An endpoint of another task type is left alone."""
    with pytest.raises(AirflowFailException, match="another task type"):
        delete(inference_id="bailian_rerank", task_type="completion")
    assert ModelStudioHook().get_endpoint("bailian_rerank") is not None


class _InUse:
    """A cluster where a pipeline and an index use the endpoint."""

    def __init__(self):
        self.deleted = 0

    async def __call__(self, received, writer):
        used = {"acknowledged": False, "pipelines": ["ingest-docs"], "indexes": ["docs-v1", "docs-v2"]}
        told = {"inference_id": "x", "task_type": "rerank", "service": "s", "service_settings": {}}
        if received.method == "GET":
            writer.write(reply(200, {"endpoints": [told]}))
        elif "dry_run=true" in received.target:
            writer.write(reply(200, used))
        elif "force=true" in received.target:
            self.deleted += 1
            writer.write(reply(200, {**used, "acknowledged": True}))
        else:
            writer.write(error(409, "Inference endpoint x is referenced by pipelines: [ingest-docs]."))


@pytest.fixture
def in_use(connect):
    cluster = _InUse()
    with Loopback(cluster) as server:
        connect(server)
        yield cluster


def test_endpoint_in_use_is_not_deleted(in_use):
    """The refusal says who uses it; a dry run says so without failing."""
    with pytest.raises(AirflowFailException, match="in use by pipelines ingest-docs and indices docs-v1, docs-v2"):
        delete(inference_id="x")
    told = delete(inference_id="x", dry_run=True)
    assert (told["action"], told["pipelines"], told["indices"]) == ("in use", ["ingest-docs"], ["docs-v1", "docs-v2"])
    assert in_use.deleted == 0


def test_endpoint_in_use_is_deleted_by_force(in_use):
    """Forced, it is deleted, and the record says who is left without it."""
    told = delete(inference_id="x", force=True)
    assert (told["action"], told["pipelines"], in_use.deleted) == ("deleted", ["ingest-docs"], 1)


def test_endpoint_in_use_is_not_replaced(in_use):
    """Replacing means deleting, so that it is refused as well."""
    with pytest.raises(AirflowFailException, match="in use by pipelines ingest-docs"):
        create(mode="manual", model="qwen3-rerank", inference_id="x", on_existing="replace")
    assert in_use.deleted == 0


# -------------------------------------------------------------------------------------------------------- no secrets


def test_key_is_nowhere_to_be_seen(sandbox, connect, caplog, capsys):
    """Not in a log at any level, a result, an error and its causes, a rendered field, a serialized Dag, or a repr."""
    literal = "literal-secret-4711"
    own = {**OWN, "service_settings": {"secret_parameters": {"a": literal, "b": "${model_studio_api_key}"}}}
    mine = {"mode": "manual", "endpoint_body": own, "task_type": "rerank", "inference_id": "own"}
    seen = []
    with caplog.at_level(logging.DEBUG):
        seen += [create(), create(**mine), create(**mine, on_existing="update", rotate_key=True)]
        for secret, parameters in (
            (KEY, {"task_type": "rerank", "on_existing": "replace", "rotate_key": True}),
            (KEY, {**MANUAL, "inference_id": "other"}),
            (f"{KEY} {literal}", {**mine, "inference_id": "other"}),
            (f"{KEY} {literal}", {**mine, "on_existing": "update", "rotate_key": True}),
        ):
            echo = saying("status_exception", f"refused: {secret}")
            sandbox.play([Rule(act=echo, match=Match(operation=one)) for one in ("create", "update")])
            with pytest.raises(AirflowFailException) as caught:
                create(**parameters)
            seen += ["".join(traceback.format_exception(caught.value)), repr(caught.value)]
    with DAG("dag", schedule=None) as dag:
        operator = CreateModelOperator(task_id="create", **mine)
    seen += [repr(operator), [getattr(operator, name) for name in operator.template_fields]]
    seen.append(DagSerialization.to_dict(dag))
    seen += [caplog.text, *capsys.readouterr()]
    shown = json.dumps(seen, default=str)
    assert "other" in shown
    assert KEY not in shown
    assert literal not in shown


def secretive(canary):
    """A body with a secret wherever one may stand that Elasticsearch does not keep to itself."""
    return {
        "service": "sandbox",
        "service_settings": {
            "url": f"https://user:{canary}-a@host/x?access_token={canary}-b&v=1&sig={canary}-l&X-Amz-Signature={canary}-m",
            "headers": {"X-Auth-Token": f"{canary}-c", "Ocp-Key": f"{canary}-d", "Proxy": f"Bearer {canary}-e"},
            "query_parameters": [["access_token", f"{canary}-f"], ["Signature", f"{canary}-n"], ["v", "1"]],
            "request": json.dumps({"credential": f"{canary}-g h", "input": "${input}"}),
            "extra": {"name": "X-Token", "value": f"{canary}-i"},
            "login": {"password": {"of": [f"{canary}-j"]}},
        },
        "task_settings": {
            "parameters": {"authorization": f"{canary}-k", "max_tokens": "5" if "old" in canary else "6"}
        },
    }


@pytest.mark.parametrize("on_existing", ["keep", "update", "replace", "fail"])
def test_drift_shows_no_secret_of_either_side(sandbox, caplog, capsys, on_existing):
    """Neither what an endpoint has nor what it should have is in a log, a record or an error, wherever it stands."""
    mine = {"mode": "manual", "task_type": "rerank", "inference_id": "own"}
    old, new = secretive("canary-old"), secretive("canary-new")
    seen = []
    with caplog.at_level(logging.DEBUG):
        create(**mine, endpoint_body=old)
        echo = saying("status_exception", f"no: {json.dumps(new)}")
        if on_existing == "replace":
            sandbox.play([refused_for("own-modelstudio-trial", echo)])
        try:
            seen.append(create(**mine, endpoint_body=new, on_existing=on_existing))
        except AirflowFailException as error:
            seen += ["".join(traceback.format_exception(error)), repr(error)]
    shown = json.dumps([*seen, caplog.text, *capsys.readouterr()], default=str, ensure_ascii=False)
    if on_existing == "replace":
        assert "no: {" in shown
    else:
        assert "headers.X-Auth-Token: '***' → '***'" in shown
        assert "max_tokens: '5' → '6'" in shown
    assert "canary" not in shown


def test_parameters_survive_the_dag(sandbox):
    """What Airflow renders are attributes of the operators, and templates are rendered."""
    with DAG("dag", schedule=None):
        made = CreateModelOperator(
            task_id="create", mode="manual", model="{{ 'qwen' }}3-rerank", task_type="rer{{ 'ank' }}"
        )
        gone = DeleteModelOperator(task_id="delete", inference_id="{{ 'qwen3-rerank' }}")
    made.render_template_fields({})
    gone.render_template_fields({})
    assert made.execute({})["created"] == ["qwen3-rerank"]
    assert gone.execute({})["action"] == "deleted"
