"""How endpoints are described to Elasticsearch: bodies from the catalog, with the connection's key and host."""

from __future__ import annotations

import json
import re
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_modelstudio.catalog import Catalog
from airflow_provider_modelstudio.catalog.drift import drift
from airflow_provider_modelstudio.catalog.hosts import SHARED_HOSTS, choose_host, region_of
from airflow_provider_modelstudio.catalog.templates import SERVICES, fill, find_template
from airflow_provider_modelstudio.catalog.wanted import every_model, one_model
from airflow_provider_modelstudio.inference.errors import ConfigurationError

KEY = "sk-canary-0123456789"
HOST = "https://ws-1.cn-beijing.maas.aliyuncs.com"
TASK_TYPES = ("text_embedding", "sparse_embedding", "rerank", "completion", "multi_modal_embedding")
PLACES = [(service, task_type) for service, task_type in product(SERVICES, TASK_TYPES)]
TEMPLATES = [place for place in PLACES if find_template(*place)]
OURS = re.compile(r"<[a-z ]+>|\$\{api_host\}")


def texts(value, path=()):
    if isinstance(value, dict):
        for name, one in value.items():
            yield from texts(one, (*path, name))
    elif isinstance(value, list):
        for one in value:
            yield from texts(one, path)
    else:
        yield path, value


def content(body):
    """The request that Elasticsearch will send, as it is written in the body."""
    settings = body["service_settings"]
    if isinstance(settings.get("request"), str):
        return settings["request"]
    ((_, methods),) = settings["path"].items()
    return methods["POST"]["request"]["content"]


def test_every_task_type_has_a_template():
    """Only upstream's service lacks one: it knows no multimodal task type."""
    assert set(PLACES) - set(TEMPLATES) == {("custom", "multi_modal_embedding")}


def test_only_what_a_page_shows_is_called_documented():
    """One body stands on a page as it is; each of the others says where its parts stand."""
    documented = [place for place in TEMPLATES if find_template(*place).status == "documented"]
    assert documented == [("alibaba-cloud-custom-model", "text_embedding")]
    for place in TEMPLATES:
        template = find_template(*place)
        assert template.source.startswith(("https://help.aliyun.com/", "https://www.alibabacloud.com/help/"))
        assert template.note


@pytest.mark.parametrize("dimensions", [None, 512])
@pytest.mark.parametrize("place", TEMPLATES)
def test_body_is_whole(place, dimensions):
    """Rendered with a key, a body is JSON, names the model, and has none of our marks left in it."""
    service, task_type = place
    body = fill(find_template(*place).make_body("some-model.v4", dimensions), KEY, HOST)
    assert json.loads(json.dumps(body)) == body
    assert body["service"] == service
    assert not [value for _, value in texts(body) if isinstance(value, str) and OURS.search(value)]
    assert body["service_settings"]["url"].startswith(HOST)
    said = {
        "input": '["a"]',
        "query": "b" if '"${query}"' in content(body) else '"b"',
        "dimension": 512,
        "dimensions": 512,
    }
    said["encoding_format"] = "float"
    if task_type == "multi_modal_embedding":
        said["input"] = '{"text":"a"}'
    asked = json.loads(re.sub(r"\$\{(\w+)\}", lambda found: str(said[found[1]]), content(body)))
    assert asked["model"] == "some-model.v4"


@pytest.mark.parametrize("place", TEMPLATES)
def test_references_of_a_request_are_defined(place):
    """Each ``${…}`` that Elasticsearch will fill in is a parameter, a secret, or built in."""
    for dimensions in (None, 512):
        body = find_template(*place).make_body("m", dimensions)
        known = {"input", "query", *body["service_settings"]["secret_parameters"]}
        known |= set(body.get("task_settings", {}).get("parameters", {}))
        asked = {name for _, value in texts(body) for name in re.findall(r"\$\{(\w+)\}", str(value))}
        assert asked <= known | {"api_host"}


@pytest.mark.parametrize("place", TEMPLATES)
def test_the_key_is_where_elasticsearch_hides_it(place):
    """The key stands below secret_parameters and nowhere else; headers refer to it by name."""
    body = fill(find_template(*place).make_body("m", 512), KEY, HOST)
    found = [path for path, value in texts(body) if KEY in str(value)]
    assert found == [("service_settings", "secret_parameters", "model_studio_api_key")]
    assert "Bearer ${model_studio_api_key}" in [value for _, value in texts(body)]


def test_own_body_is_sent_as_it_is():
    """Nothing but references to the connection is touched, and those only where they belong; the original stays."""
    own = {
        "service": "s",
        "service_settings": {
            "secret_parameters": {
                "a": "${model_studio_api_key}",
                "b": "other",
                "c": {"d": "x ${model_studio_api_key}"},
            },
            "url": "${api_host}/v9",
            "headers": {"Authorization": "Bearer ${model_studio_api_key}", "X": "${api_host}"},
            "request": "<model> <dimensions> ${input}",
        },
        "anything": [1, None, True],
    }
    before = json.dumps(own)
    filled = fill(own, KEY, HOST)
    assert json.dumps(own) == before
    assert filled["service_settings"]["secret_parameters"] == {"a": KEY, "b": "other", "c": {"d": f"x {KEY}"}}
    assert filled["service_settings"]["url"] == f"{HOST}/v9"
    for name in ("headers", "request"):
        assert filled["service_settings"][name] == own["service_settings"][name]
    assert filled["anything"] == own["anything"]
    assert fill({"service": "s"}, None, HOST) == {"service": "s"}
    with pytest.raises(ConfigurationError, match="model_studio_api_key"):
        fill(own, None, HOST)


@pytest.mark.parametrize("model", ["", "a b", 'x","input":"', "${input}", "模型", "a" * 300])
def test_names_that_no_model_has(model):
    """What could break out of the request is refused."""
    with pytest.raises(ConfigurationError, match="model must be"):
        find_template("custom", "rerank").make_body(model, None)


def test_regions_of_hosts():
    """A host tells its region; hosts of others tell none."""
    assert region_of("https://dashscope-intl.aliyuncs.com:443") == "ap-southeast-1"
    assert region_of("ws-1.eu-central-1.maas.aliyuncs.com") == "eu-central-1"
    assert [region_of(url) for url in SHARED_HOSTS.values()] == list(SHARED_HOSTS)
    assert region_of("https://proxy.example.com") is None
    assert region_of("https://dashscope.aliyuncs.com.evil.example") is None


@pytest.mark.parametrize(
    ("api_host", "region", "automatic", "expected"),
    [
        (None, None, True, "https://dashscope.aliyuncs.com"),
        (None, "ap-southeast-1", True, "https://dashscope-intl.aliyuncs.com"),
        (None, "cn-shanghai", False, "https://dashscope.aliyuncs.com"),
        (None, "cn-hongkong", False, "https://cn-hongkong.dashscope.aliyuncs.com"),
        ("https://dashscope.aliyuncs.com:443", "cn-beijing", False, "https://dashscope.aliyuncs.com"),
        ("https://dashscope.aliyuncs.com:443", "cn-shanghai", False, "https://dashscope.aliyuncs.com"),
        ("https://ws.us-east-1.maas.aliyuncs.com:443", None, False, "https://ws.us-east-1.maas.aliyuncs.com"),
        ("https://proxy.example.com:8443", "us-east-1", False, "https://proxy.example.com:8443"),
        ("http://127.0.0.1:443", None, False, "http://127.0.0.1:443"),
    ],
)
def test_host_for_a_new_endpoint(api_host, region, automatic, expected):
    """The host of the connection, or the one that all workspaces of its region share."""
    assert choose_host(api_host, region, automatic=automatic) == expected


@pytest.mark.parametrize(
    ("api_host", "region", "words"),
    [
        (None, None, "api_host of the connection is empty"),
        (None, "eu-central-1", "no host that all workspaces share"),
        ("https://dashscope.aliyuncs.com:443", "us-east-1", "'us-east-1', but its api_host dashscope.aliyuncs.com"),
        ("https://w.ap-southeast-1.maas.aliyuncs.com:443", "cn-beijing", "'ap-southeast-1'"),
        ("https://cn-hongkong.dashscope.aliyuncs.com:443", "cn-shanghai", "'cn-hongkong'"),
    ],
)
def test_host_and_region_that_do_not_go_together(api_host, region, words):
    """The message names both, before anything is sent."""
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        choose_host(api_host, region, automatic=False)


def test_automatic_names():
    """Each model and task type of the catalog has one endpoint, of a name of its own that Elasticsearch takes."""
    catalog = Catalog.read()
    wanted = every_model(catalog)
    names = [one.inference_id for one in wanted]
    assert len(set(names)) == len(names) == sum(len(catalog.get(name).task_types) for name in catalog.names())
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9_.-]*[a-z0-9]", name) for name in names)
    assert {one.task_type for one in every_model(catalog, "rerank")} == {"rerank"}
    with pytest.raises(ConfigurationError, match="task_type"):
        every_model(catalog, "reranking")


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"model": "text-embeding-v4"}, "'text-embedding-v4' is"),
        ({"model": "text-embedding-v4", "task_type": "rerank"}, "not for 'rerank'"),
        ({"model": "text-embedding-v4", "dimensions": 100}, "can have 2048"),
        ({"model": "qwen3-rerank", "dimensions": 64}, "no vectors"),
    ],
)
def test_models_that_make_no_sense(parameters, words):
    """The message names the parameter and what would do."""
    asked = {"task_type": None, "inference_id": None, "dimensions": None, **parameters}
    with pytest.raises(ConfigurationError, match=words):
        one_model(Catalog.read(), **asked)


def test_model_that_is_new():
    """A model that the catalog does not know is taken at its word when its task type is given."""
    wanted = one_model(Catalog.read(), "New-Model", "text_embedding", None, 77)
    assert (wanted.inference_id, wanted.task_type, wanted.dimensions) == ("new-model", "text_embedding", 77)


ENDPOINT = {"inference_id": "x", "task_type": "rerank", "service": "s"}


@pytest.mark.parametrize(
    ("wanted", "now"),
    [
        ({"service_settings": {"url": "u"}}, {}),
        ({"service_settings": {"secret_parameters": {"k": "v"}}}, {"service_settings": {"secret_parameters": {}}}),
        ({"service_settings": {"api_key": "v"}}, {"service_settings": {"model_id": "m"}}),
        ({"task_settings": {"parameters": {"n": "1024"}}}, {"task_settings": {"parameters": {"n": 1024, "more": 1}}}),
        ({"task_settings": {"flag": "true", "x": 1.0}}, {"task_settings": {"flag": True, "x": "1"}}),
        (
            {"service_settings": {"headers": {"Authorization": "k"}}},
            {"service_settings": {"headers": {"Authorization": "***"}}},
        ),
        ({"service_settings": {"headers": {"Authorization": "k"}}}, {"service_settings": {"headers": {}}}),
        ({"service_settings": {"q": [["a", 1]]}}, {"service_settings": {"q": [["a", "1"]]}}),
    ],
)
def test_no_difference_that_can_be_seen(wanted, now):
    """Secrets, what the server keeps to itself, what it adds, and numbers as text are no differences."""
    assert drift({"service": "s", **wanted}, {**ENDPOINT, **now}, "rerank") == ()


@pytest.mark.parametrize(
    ("wanted", "now", "shown", "updatable"),
    [
        ({"service": "t"}, {}, "service: 's' → 't'", False),
        (
            {"service_settings": {"url": "u"}},
            {"service_settings": {"url": "v"}},
            "service_settings.url: 'v' → 'u'",
            False,
        ),
        ({"task_settings": {"a": {"b": 1}}}, {}, "task_settings.a: nothing → {'b': 1}", True),
        ({"task_settings": {"a": {"b": 1}}}, {"task_settings": {"a": {}}}, "task_settings.a.b: nothing → 1", True),
        (
            {"service_settings": {"q": [1]}},
            {"service_settings": {"q": [1, 2]}},
            "service_settings.q: [1, 2] → [1]",
            False,
        ),
        (
            {"service_settings": {"headers": {"Authorization": KEY}}},
            {"service_settings": {"headers": {"Authorization": "Bearer ${k}"}}},
            "service_settings.headers.Authorization: 'Bearer ${k}' → '***'",
            False,
        ),
        (
            {"service_settings": {"headers": {"Authorization": KEY}}},
            {"service_settings": {"headers": "none"}},
            "service_settings.headers: 'none' → {'Authorization': '***'}",
            False,
        ),
        (
            {"service_settings": {"url": f"u?{KEY}"}},
            {"service_settings": {"url": "u"}},
            "service_settings.url: 'u' → 'u?***'",
            False,
        ),
    ],
)
def test_differences_are_shown_without_secrets(wanted, now, shown, updatable):
    """Path, what is there and what should be; the key and whatever has the name of a secret is hidden."""
    (change,) = drift({"service": "s", **wanted}, {**ENDPOINT, **now}, "rerank")
    assert (change.show(frozenset({KEY})), change.updatable) == (shown, updatable)


def test_endpoint_of_another_task_type():
    """That is the one difference that matters."""
    (change,) = drift({"service": "t"}, ENDPOINT, "completion")
    assert change.show(frozenset()) == "task_type: 'rerank' → 'completion'"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=8), one, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=4), st.dictionaries(st.text(max_size=8), JSON, max_size=4))
def test_an_endpoint_does_not_differ_from_itself(service_settings, task_settings):
    """Whatever a body holds: an endpoint that shows it all is as wanted, also when it shows more."""
    body = {"service": "s", "service_settings": service_settings, "task_settings": task_settings}
    assert drift(body, {**ENDPOINT, **body}, "rerank") == ()
    assert drift(body, {**ENDPOINT, **body, "chunking_settings": {"a": 1}}, "rerank") == ()
