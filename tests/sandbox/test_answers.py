"""The five task types answer in the shapes of the product page."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from airflow_provider_modelstudio.sandbox.answering import SELF_INTRODUCTION
from airflow_provider_modelstudio.sandbox.ledger import fingerprint
from tests.sandbox.loopback import COMPLETE, EMBED, FUSED, MEDIA, RERANK, SPARSE, VND_CBOR, VND_JSON, ask, infer

POEM = ["风急天高猿啸哀", "渚清沙白鸟飞回", "无边落木萧萧下", "不尽长江滚滚来"]
DOCUMENTS = [
    "文本排序模型广泛用于搜索引擎和推荐系统中,它们根据文本相关性对候选文本进行排序",
    "量子计算是计算科学的一个前沿领域",
    "预训练语言模型的发展给文本排序模型带来了新的进展",
]
QUERY = "什么是文本排序模型"
CONTENTS = """
    {"text":"多模态向量模型"},
    {"image":"https://img.alicdn.com/imgextra/i3/O1CN01rdstgY1uiZWt8gqSL_!!6000000006071-0-tps-1970-356.jpg"},
    {"video":"https://help-static-aliyun-doc.aliyuncs.com/file-manage-files/zh-CN/20250107/lbcemt/new+video.mp4"},
    {"multi_images":[
      "https://img.alicdn.com/imgextra/i2/O1CN019eO00F1HDdlU4Syj5_!!6000000000724-2-tps-2476-1158.png",
      "https://img.alicdn.com/imgextra/i2/O1CN01dSYhpw1nSoamp31CD_!!6000000005089-2-tps-1765-1639.png"
    ]}
    """
PAGE = [
    (EMBED, {"input": POEM}),
    (SPARSE, {"input": POEM}),
    (RERANK, {"input": DOCUMENTS, "query": QUERY}),
    (MEDIA, {"input": CONTENTS}),
    (COMPLETE, {"input": "你是谁"}),
]


def vectors(got, task_type="text_embedding"):
    assert got.status == 200, got.raw
    return np.array([row["embedding"] for row in got.body[task_type]], np.float32)


def test_text_embedding_of_the_product_page(sandbox):
    """Four texts in, four unit vectors back, nothing else."""
    got = infer(sandbox, EMBED, POEM)
    assert set(got.body) == {"text_embedding"}
    assert all(set(row) == {"embedding"} for row in got.body["text_embedding"])
    assert np.linalg.norm(vectors(got), axis=1) == pytest.approx(np.ones(4), abs=1e-6)


def test_sparse_embedding_of_the_product_page(sandbox):
    """Features are numeric strings with positive weights, and each row says whether it was cut."""
    rows = infer(sandbox, SPARSE, POEM).body["sparse_embedding"]
    assert len(rows) == 4
    for row in rows:
        assert row["is_truncated"] is False
        assert 0 < len(row["embedding"]) <= 128
        assert all(token.isdigit() and weight > 0 for token, weight in row["embedding"].items())


def test_a_long_text_is_marked_as_truncated(sandbox):
    """The features are of the beginning, and the answer says so."""
    long = "".join(chr(0x4E00 + i) for i in range(9000))
    (row,) = infer(sandbox, SPARSE, long).body["sparse_embedding"]
    assert row["is_truncated"] is True
    assert len(row["embedding"]) == 128


def test_rerank_is_sorted_by_score(sandbox):
    """Every document once, best first; ties keep the order of the documents."""
    rows = infer(sandbox, RERANK, [*DOCUMENTS, DOCUMENTS[1]], query=QUERY).body["rerank"]
    assert sorted(row["index"] for row in rows) == [0, 1, 2, 3]
    scores = [row["relevance_score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)
    order = [row["index"] for row in rows]
    assert order.index(1) < order.index(3)


@pytest.mark.parametrize("settings", [{"top_n": 2}, {"parameters": {"top_n": 2}}])
def test_rerank_settings_go_through_task_settings(sandbox, settings):
    """``top_n`` cuts the list, plainly or among the parameters of a custom service."""
    rows = infer(sandbox, RERANK, DOCUMENTS, query=QUERY, task_settings=settings).body["rerank"]
    assert len(rows) == 2
    assert "text" not in rows[0]


def test_rerank_can_return_the_documents(sandbox):
    """``return_documents`` adds the text of each."""
    rows = infer(sandbox, RERANK, DOCUMENTS, query=QUERY, task_settings={"return_documents": True}).body["rerank"]
    assert [row["text"] for row in rows] == [DOCUMENTS[row["index"]] for row in rows]


def test_multi_modal_embedding_of_the_product_page(sandbox):
    """One vector for all elements, by the page's own name."""
    assert vectors(infer(sandbox, FUSED, CONTENTS), "multi_modal_embedding").shape == (1, 16)


def test_multi_modal_embedding_of_a_model_that_does_not_fuse(sandbox):
    """One vector for each element: the text's own, and others for media that are not looked at."""
    found = vectors(infer(sandbox, MEDIA, CONTENTS), "multi_modal_embedding")
    assert found.shape == (4, 16)
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(4), abs=1e-6)
    assert found[0] == pytest.approx(vectors(infer(sandbox, EMBED, "多模态向量模型"))[0])


def test_media_are_told_apart_and_stay_the_same(sandbox):
    """The same URL or bytes give the same vector, others another; like bytes give like vectors."""
    picture = base64.b64encode(bytes(range(256)) * 8).decode()
    nearly = base64.b64encode(bytes(range(256)) * 7 + bytes(range(255)) + b"\0").decode()
    contents = ",".join(
        json.dumps({"image": source})
        for source in (
            "https://a/1.png",
            "https://a/2.png",
            f"data:image/png;base64,{picture}",
            f"data:image/png;base64,{nearly}",
            "data:image/png;base64,***",
            "data:,plain",
        )
    )
    first, second, bytes_, like, odd, plain = vectors(infer(sandbox, MEDIA, contents), "multi_modal_embedding")
    again = vectors(infer(sandbox, MEDIA, '{"image":"https://a/1.png"}'), "multi_modal_embedding")[0]
    assert (first == again).all()
    assert first @ second < 0.9
    assert bytes_ @ like > 0.99
    assert np.isfinite([odd, plain]).all()


def test_elements_can_be_fused(sandbox):
    """With ``enable_fusion`` one vector stands for all elements, as models that fuse give it."""
    found = vectors(infer(sandbox, MEDIA, CONTENTS, task_settings={"enable_fusion": True}), "multi_modal_embedding")
    assert found.shape == (1, 16)


@pytest.mark.parametrize(
    ("prompt", "result"),
    [
        ("你是谁", SELF_INTRODUCTION),
        ("Who are you?", SELF_INTRODUCTION),
        ("Bananas are yellow. Paris is the capital of France. What colour are bananas?", "Bananas are yellow."),
        ("香蕉是黄色的。巴黎是法国的首都。香蕉是什么颜色的？", "香蕉是黄色的。"),
        ("Summarise: Only one sentence with pi as 3.14 in it.", "Only one sentence with pi as 3.14 in it."),
    ],
)
def test_completions_are_extracts(sandbox, prompt, result):
    """The sentence nearest to the question; without anything to extract, the truth about this endpoint."""
    assert infer(sandbox, COMPLETE, prompt).body == {"completion": [{"result": result}]}


def test_completions_are_json_where_the_prompt_asks_for_it(sandbox):
    """Sentences, numbers, choices and lists that the text names, in an object that fits; else a sentence."""
    schema = {
        "type": "object",
        "$defs": {"Kind": {"enum": ["lamp", "chair"]}},
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "price": {"type": "number", "minimum": 0},
            "weight_kg": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "kind": {"$ref": "#/$defs/Kind"},
            "colours": {"type": "array", "items": {"enum": ["red", "blue", "green"]}},
            "waterproof": {"type": "boolean"},
            "maker": {"type": "object", "properties": {"since": {"type": "integer", "minimum": 1000}}},
        },
    }
    asked = "Answer with one JSON object that is valid.\nJSON Schema: "
    text = "A chair in red and blue. Price 49.5, weight 7 kg, made since 1921. Waterproof."
    told = infer(sandbox, COMPLETE, f"{text}\n\n{asked}{json.dumps(schema)}").body["completion"][0]["result"]
    assert json.loads(told) == {
        "name": "A chair in r",
        "price": 49.5,
        "weight_kg": 7,
        "kind": "chair",
        "colours": ["red", "blue"],
        "waterproof": True,
        "maker": {"since": 1921},
    }
    words = infer(sandbox, COMPLETE, f"{text}\n\n{asked}no schema").body["completion"][0]["result"]
    assert not words.startswith("{")


@pytest.mark.parametrize(("path", "body"), PAGE)
def test_cbor_says_what_json_says(sandbox, path, body):
    """The same question has the same answer in both formats, floats to the last bit."""
    in_json = ask(sandbox, "POST", path, body, {"accept": VND_JSON, "content-type": VND_JSON})
    in_cbor = ask(sandbox, "POST", path, body, {"accept": VND_CBOR, "content-type": VND_JSON})
    assert in_cbor.headers["content-type"] == "application/vnd.elasticsearch+cbor;compatible-with=8"
    assert _as_float32(in_cbor.body) == _as_float32(in_json.body)


def _as_float32(value):
    match value:
        case dict():
            return {name: _as_float32(one) for name, one in value.items()}
        case list():
            return [_as_float32(one) for one in value]
        case float():
            return np.float32(value)
        case _:
            return value


def test_answers_of_models_come_in_chunks(sandbox):
    """As Elasticsearch streams them: no length up front."""
    got = infer(sandbox, EMBED, "a")
    assert got.headers["transfer-encoding"] == "chunked"
    assert got.headers["content-length"] is None


def test_one_text_may_stand_without_a_list(sandbox):
    """A string asks the same as a list of one string."""
    assert infer(sandbox, EMBED, "猿").raw == infer(sandbox, EMBED, ["猿"]).raw


def test_settings_of_the_request_win_over_those_of_the_endpoint(start):
    """Both kinds of parameters are merged, field by field."""
    server = start()
    made = {"service": "sandbox", "task_settings": {"parameters": {"top_n": 1, "other": 1}}}
    ask(server, "PUT", "/_inference/rerank/one", made)
    assert len(infer(server, "/_inference/one", ["a", "b"], query="a").body["rerank"]) == 1
    more = infer(server, "/_inference/one", ["a", "b"], query="a", task_settings={"parameters": {"top_n": 2}})
    assert len(more.body["rerank"]) == 2


def test_the_bill_names_every_text_that_was_paid_for(start):
    """Tests compare each row with it; refused questions are not on it."""
    server = start()
    infer(server, EMBED, ["a", "b"])
    infer(server, EMBED, ["x"] * 11)
    infer(server, RERANK, ["d"], query="q")
    infer(server, MEDIA, '{"text":"t"}, {"image":"https://a"}')
    embedded, ranked, media = server.bill
    assert (embedded.inputs, embedded.query, embedded.count) == ((fingerprint("a"), fingerprint("b")), None, 2)
    assert (ranked.inputs, ranked.query) == ((fingerprint("d"),), fingerprint("q"))
    assert media.inputs == (fingerprint({"text": "t"}), fingerprint({"image": "https://a"}))
    assert [paid.task_type for paid in server.bill] == ["text_embedding", "rerank", "multi_modal_embedding"]
    assert server.requests == 4
    assert [(call.operation, call.status, call.inputs) for call in server.calls] == [
        ("infer", 200, 2),
        ("infer", 400, 11),
        ("infer", 200, 1),
        ("infer", 200, 2),
    ]


def test_the_books_can_be_left_out(start):
    """A server that runs for days only counts."""
    server = start(keep_books=False)
    infer(server, EMBED, "a")
    assert (server.requests, server.bill, server.calls) == (1, [], [])


class Broken:
    """An engine that fails with a text in its exception."""

    dimensions = 2
    description = "broken"

    def embed(self, texts, *, query):
        raise RuntimeError(f"could not embed {texts}")


def test_a_failure_of_our_own_is_an_answer_too(start, caplog):
    """500 without a word of the texts, in the log neither; nothing is billed, and the server goes on."""
    server = start(engine=Broken(), dimensions=None)
    got = infer(server, EMBED, "a private text")
    assert (got.status, got.error["reason"]) == (500, "the sandbox itself failed")
    assert "RuntimeError" in caplog.text
    assert "private" not in caplog.text + got.raw.decode()
    assert server.bill == []
    assert ask(server, "GET", "/").status == 200
