"""The catalog of models: every number stated with its source, overrides checked, nothing guessed."""

from __future__ import annotations

import datetime as dt
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

import airflow_provider_modelstudio
from airflow_provider_modelstudio.catalog import Catalog, Model, Price
from airflow_provider_modelstudio.catalog.secrecy import conceal, secrets_in
from airflow_provider_modelstudio.inference.errors import ConfigurationError

PACKAGE = Path(airflow_provider_modelstudio.__file__).parent
FILE = PACKAGE / "catalog" / "models.toml"
NAMES = Catalog.read().names()
NEW = {"task_types": ["text_embedding"]}


@pytest.mark.parametrize("name", NAMES)
def test_each_model_says_where_its_numbers_stand(name):
    """A source on the vendor's pages, and the day it was read or written."""
    model = Catalog.read().get(name)
    assert model is not None
    assert model.name == name
    assert model.source is not None
    assert model.source.startswith(("https://www.alibabacloud.com/help/", "https://help.aliyun.com/"))
    assert model.date is not None
    assert model.date >= dt.date(2025, 1, 1)


@pytest.mark.parametrize("name", NAMES)
def test_each_model_has_the_limits_of_its_task(name):
    """Vectors have dimensions, largest first and each once; rerank has documents; only multimodal is fused or not; texts have a limit but prompts."""
    model = Catalog.read().get(name)
    dense = {"text_embedding", "multi_modal_embedding"} & set(model.task_types)
    assert bool(model.dimensions) == bool(dense)
    assert list(model.dimensions) == sorted(set(model.dimensions), reverse=True)
    assert (model.documents_per_request is not None) == ("rerank" in model.task_types)
    assert (model.vectors is not None) == ("multi_modal_embedding" in model.task_types)
    assert (model.tokens_per_row is None) == (model.task_types == ("completion",))


def test_the_file_says_what_each_field_means():
    """No field without a line of explanation at the head of the file."""
    head = FILE.read_text("utf-8").partition("\n[")[0]
    for field in fields(Model):
        assert field.name in head or field.name in {
            "name",
            "dimensions",
            "default_dimensions",
            "source",
            "date",
            "note",
        }


def test_the_documented_numbers_of_the_default_model():
    """What the text embedding page states, read back."""
    model = Catalog.read().get("text-embedding-v4")
    assert (model.rows_per_request, model.tokens_per_row, model.default_dimensions) == (10, 8192, 1024)
    assert model.price("cn") == Price(currency="CNY", per_million=0.5)
    assert model.status == "documented"


def test_what_a_model_writes_has_a_price_of_its_own():
    """It is stated beside the price of the prompt, and no estimate counts it; where no page has a price, none is made up."""
    catalog = Catalog.read()
    plus = catalog.get("qwen-plus")
    assert plus.price("intl") == Price(currency="USD", per_million=0.4, output_per_million=1.2)
    assert plus.estimate_cost(1_000_000, "intl") == (0.4, "USD")
    assert catalog.get("qwen-max").price("cn") is None
    assert "No price for the Chinese mainland" in catalog.get("qwen-max").note


def test_each_sample_of_the_product_page_has_a_model():
    """All five task types, and for the completion sample a DeepSeek model, of which no price is known."""
    catalog = Catalog.read()
    kinds = ("text_embedding", "sparse_embedding", "rerank", "multi_modal_embedding", "completion")
    assert all(map(catalog.names, kinds))
    deepseek = [catalog.get(name) for name in catalog.names("completion") if name.startswith("deepseek-")]
    assert [model.status for model in deepseek] == ["unverified", "unverified"]
    assert not any(model.prices for model in deepseek)


def test_models_are_found_by_task_type():
    """In the order of the file; a model may serve two task types."""
    catalog = Catalog.read()
    assert catalog.names("text_embedding")[0] == catalog.names("sparse_embedding")[0] == "text-embedding-v4"
    assert set(catalog.names("rerank")) == {"gte-rerank-v2", "qwen3-rerank", "qwen3-vl-rerank"}
    assert catalog.names("no_such_task") == ()
    assert set(catalog.names()) == set(tomllib.loads(FILE.read_text("utf-8")))


def test_an_unknown_model_is_none_and_a_near_name_is_suggested():
    """The catalog does not know all models there are."""
    catalog = Catalog.read()
    assert catalog.get("text-embedding-v9") is None
    assert catalog.suggest("text-embeding-v4") == "text-embedding-v4"
    assert catalog.suggest("gte-rerank") == "gte-rerank-v2"
    assert catalog.suggest("zzz") is None


def test_costs_are_estimated_only_where_a_price_is_stated():
    """Amount and currency; nothing for a region without a price, zero for no tokens."""
    model = Catalog.read().get("text-embedding-v4")
    assert model.estimate_cost(3_000_000, "cn") == (1.5, "CNY")
    assert model.estimate_cost(1_000_000, "intl") == (0.07, "USD")
    assert model.estimate_cost(0, "cn") == (0.0, "CNY")
    assert model.estimate_cost(1, "mars") is None
    assert model.price("mars") is None


def test_overrides_lie_over_the_file():
    """A field replaces its own, prices region by region; everything else stays."""
    catalog = Catalog.read(
        {
            "text-embedding-v4": {"rows_per_request": 25, "prices": {"hk": {"currency": "USD", "per_million": 0.07}}},
            "mine": NEW,
        }
    )
    model, known = catalog.get("text-embedding-v4"), Catalog.read().get("text-embedding-v4")
    assert model.rows_per_request == 25
    assert set(model.prices) == {"cn", "intl", "hk"}
    assert model.dimensions == known.dimensions
    assert catalog.get("mine").task_types == ("text_embedding",)
    assert catalog.names()[-1] == "mine"
    assert known.rows_per_request == 10


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({}, "missing required field `task_types`"),
        ({"task_types": []}, "$.task_types"),
        ({"task_types": ["embedding"]}, "$.task_types[0]"),
        ({"task_types": "rerank"}, "$.task_types"),
        ({**NEW, "rows_per_request": 0}, "$.rows_per_request"),
        ({**NEW, "rows_per_request": "10"}, "$.rows_per_request"),
        ({**NEW, "rows_per_request": True}, "$.rows_per_request"),
        ({**NEW, "rows_per_request": 1.5}, "$.rows_per_request"),
        ({**NEW, "dimensions": [0]}, "$.dimensions[0]"),
        ({**NEW, "dimensions": [8], "default_dimensions": 9}, "default_dimensions is 9"),
        ({**NEW, "vectors": "some"}, "$.vectors"),
        ({**NEW, "status": "sure"}, "$.status"),
        ({**NEW, "source": "http://a.example/x"}, "$.source"),
        ({**NEW, "source": "https://a.example"}, "$.source"),
        ({**NEW, "date": "yesterday"}, "$.date"),
        ({**NEW, "prices": {"cn": {"currency": "yuan", "per_million": 1}}}, "currency"),
        ({**NEW, "prices": {"cn": {"currency": "CNY"}}}, "per_million"),
        ({**NEW, "prices": {"cn": {"currency": "CNY", "per_million": -1}}}, "per_million"),
        ({**NEW, "prices": {"cn": {"currency": "CNY", "per_million": float("nan")}}}, "per_million"),
        ({**NEW, "prices": 7}, "prices is of type int"),
        ({**NEW, "rows": 7}, "no field 'rows', but 'rows_per_request'"),
        ({**NEW, "name": "other"}, "no field 'name'"),
        (7, "is of type int"),
    ],
)
def test_overrides_that_make_no_sense_are_named(entry, words):
    """The message has the model and the field."""
    with pytest.raises(ConfigurationError) as caught:
        Catalog.read({"mine": entry})
    assert "'mine'" in str(caught.value)
    assert words in str(caught.value)


def test_models_are_named_nowhere_else():
    """No program text knows a model by name: limits and prices are read, not remembered."""
    for path in [*PACKAGE.glob("inference/**/*.py"), *PACKAGE.glob("catalog/*.py"), *PACKAGE.glob("hooks/*.py")]:
        text = path.read_text("utf-8")
        assert not [name for name in NAMES if name in text], path


@pytest.mark.parametrize(
    ("value", "shown", "secrets"),
    [
        ({"X-Auth-Token": "abc"}, {"X-Auth-Token": "***"}, ["abc"]),
        ({"Ocp-Key": ["a", {"b": 7}]}, {"Ocp-Key": ["***", {"b": "***"}]}, ["a"]),
        ([["access_token", "abc"], ["v", "1"]], [["access_token", "***"], ["v", "1"]], ["abc"]),
        ([{"name": "X-Key", "value": "abc"}], [{"name": "***", "value": "***"}], ["X-Key", "abc"]),
        ({"Authorization": "Bearer abc"}, {"Authorization": "***"}, ["Bearer abc", "abc"]),
        ({"Authorization": "Bearer ${api_key}"}, {"Authorization": "Bearer ${api_key}"}, []),
        ("https://me:password1@h/?v=1&token=abcdefgh", "https://***@h/?v=1&token=***", ["abcdefgh", "password1"]),
        ('{"password": "two words", "input": ${input}}', '{"password": "***", "input": ${input}}', ["two words"]),
        ('{\\"token\\": \\"abcdefgh\\"}', '{\\"token\\": \\"***\\"}', ["abcdefgh"]),
        (
            "https://h/x?OSSAccessKeyId=LTAIexample&Expires=1&Signature=a%2Fb%3D12345&security-token=abcdefghi",
            "https://h/x?OSSAccessKeyId=***&Expires=1&Signature=***&security-token=***",
            ["LTAIexample", "a%2Fb%3D12345", "abcdefghi"],
        ),
        ("https://h/x?sv=2024&sig=abcdefgh&se=1", "https://h/x?sv=2024&sig=***&se=1", ["abcdefgh"]),
        (
            "https://h/x?X-Amz-Credential=AKIAEXAMPLE/s3&X-Amz-Date=1&X-Amz-Signature=0123456789",
            "https://h/x?X-Amz-Credential=***&X-Amz-Date=1&X-Amz-Signature=***",
            ["AKIAEXAMPLE/s3", "0123456789"],
        ),
        (
            {"X-Acs-Sig": "abc", "pwd": "d", "proxy-auth": "e"},
            {"X-Acs-Sig": "***", "pwd": "***", "proxy-auth": "***"},
            ["abc", "d", "e"],
        ),
        ([["signature", "abc"], ["user", "me"]], [["signature", "***"], ["user", "me"]], ["abc"]),
        ('{"pwd":"12345678","a":${input}}', '{"pwd":"***","a":${input}}', ["12345678"]),
        (
            {"design": "a", "signature_version": "4", "auth_type": "b"},
            {"design": "a", "signature_version": "4", "auth_type": "b"},
            [],
        ),
        ("design=abcdefgh&author=somebody", "design=abcdefgh&author=somebody", []),
        ({"max_tokens": 5, "v": "max_new_tokens=512"}, {"max_tokens": 5, "v": "max_new_tokens=512"}, []),
        ({"dimension": "1024", "key": "${api_key}"}, {"dimension": "1024", "key": "${api_key}"}, []),
    ],
)
def test_secrets_are_known_by_their_names_wherever_they_stand(value, shown, secrets):
    """Members, headers, pairs, addresses and texts show none; numbers and references are shown as they are."""
    assert conceal(value) == shown
    assert list(secrets_in(value)) == secrets
