"""Texts of every kind: sent byte for byte, refused alone, or never sent; never changed and never a crash."""

from __future__ import annotations

import json
import unicodedata

import pyarrow as pa
import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_modelstudio.operators.completion import CompletionOperator
from airflow_provider_modelstudio.operators.multi_modal_embedding import MultiModalEmbedOperator
from airflow_provider_modelstudio.operators.rerank import RerankOperator
from airflow_provider_modelstudio.operators.sparse_embedding import SparseEmbedOperator
from airflow_provider_modelstudio.sandbox.ledger import fingerprint

ODD = [
    "\0",
    "a\0b",
    "\ufeffwith a mark",
    "\u202eright to left\u202c",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 🏳️‍🌈",
    unicodedata.normalize("NFC", "é"),
    unicodedata.normalize("NFD", "é"),
    "\u200b",
    "\u0085x",
    "\U0010ffff",
    "\ufffd",
    "\r\n\t x",
    '"\\/\b\f',
    "</script>&amp;%00",
    "{{ 7*7 }} {0.__class__} %(x)s $x ${x} {text}",
    "\u2028\u2029.",
    "　全角　",
    "ß İ ı ſ",
    "e" + "\u0301" * 500,
    "؀ۏ܀",
]


@pytest.mark.parametrize("media", ["cbor", "json"])
def test_odd_texts_are_sent_byte_for_byte(bench, media):
    """What the service was asked is what the file has, to the byte; nothing is normalised, stripped or replaced."""
    bench.connect(bench.server.url, extra={"media_type": media})
    bench.write(ODD)
    summary = bench.run()
    assert summary["failed"] == 0
    bench.check(ODD)
    assert set(bench.paid_for(ODD)) == {1}


@pytest.mark.parametrize("operator", [SparseEmbedOperator, CompletionOperator, RerankOperator, MultiModalEmbedOperator])
def test_odd_texts_are_sent_byte_for_byte_by_each_operator(bench, operator):
    """The same for sparse vectors, prompts, queries with documents, and multimodal texts."""
    table = pa.table({"text": ODD, "query": ODD, "documents": [ODD] * len(ODD)})
    parameters = {
        CompletionOperator: {"prompt": "{text}"},
        MultiModalEmbedOperator: {"text_column": "text"},
    }
    bench.write(table)
    summary = bench.run(operator, **parameters.get(operator, {}))
    assert summary["failed"] == 0
    asked = set(ODD) if operator is not MultiModalEmbedOperator else [json_element(text) for text in ODD]
    paid = bench.paid()
    assert all(paid[fingerprint(one)] for one in asked)
    if operator is RerankOperator:
        assert {one.query for one in bench.server.bill} == {fingerprint(text) for text in ODD}


def json_element(text):
    return json.loads(json.dumps({"text": text}))


def test_bytes_that_are_no_utf8_refuse_their_row_alone(bench):
    """Half a surrogate pair, latin-1 and a cut character have a reason; their neighbours have vectors."""
    texts = [b"good", b"\xed\xa0\x80", b"caf\xe9", "好".encode()[:2], b"fine", b"\xff\xfe"]
    bench.write(pa.table({"text": pa.array(texts, pa.binary())}))
    summary = bench.run()
    assert [row["embedding"] is not None for row in bench.rows()] == [True, False, False, False, True, False]
    assert [row["text"] for row in bench.rows()] == texts
    assert summary["errors"] == {"text is not valid UTF-8": 4}
    assert bench.paid_for(["good", "fine"]) == [1, 1]


def test_a_string_column_with_wrong_bytes_refuses_the_row_alone(bench):
    """Arrow does not look into string columns; we do, and the bytes come out as they were."""
    raw = pa.array([b"good", b"\xed\xa0\x80", b"fine"], pa.binary())
    bench.write(pa.table({"text": raw.cast(pa.binary()).view(pa.string())}))
    bench.run()
    out = bench.table()
    assert out["text"].type == pa.string()
    assert out["text"].combine_chunks().view(pa.binary()).equals(raw)
    assert out["embedding"].is_null().to_pylist() == [False, True, False]


def test_texts_without_a_character_are_never_sent(bench):
    """Null, empty and blank texts keep their place with a reason each, for each of the operators that take texts."""
    nothing = [None, "", " ", "\t\n", "\u3000"]
    bench.write(pa.table({"text": [*nothing, "x"]}))
    summary = bench.run()
    assert [row["embedding_error"] for row in bench.rows()] == ["null text", "empty text", *["blank text"] * 3, None]
    assert sum(bench.paid().values()) == 1
    assert summary["failed"] == 5
    with pytest.raises(AirflowFailException, match="row 0 of the source cannot be asked: null text; nothing was sent"):
        bench.run(on_empty="fail", if_exists="overwrite")
    assert sum(bench.paid().values()) == 1


def test_texts_that_are_too_long(bench):
    """Beyond the limit a text is kept with a reason, cut and marked, or fails the task before anything is sent."""
    long, short = "long " * 500, "short"
    bench.write([long, short])
    bench.run(max_tokens=100)
    bench.check([long, short], {long: "longer than 100 tokens"})
    assert bench.paid_for([long, short]) == [0, 1]
    bench.run(max_tokens=100, on_too_long="truncate", destination=str(bench.folder / "cut"))
    bench.destination = bench.folder / "cut"
    assert [row["embedding_is_truncated"] for row in bench.rows()] == [True, False]
    assert [row["text"] for row in bench.rows()] == [long, short]
    before = bench.server.requests
    with pytest.raises(AirflowFailException, match=r"row 0 .* longer than 100 tokens; nothing was sent"):
        bench.run(max_tokens=100, on_too_long="fail", destination=str(bench.folder / "fail"))
    assert bench.server.requests == before


def test_a_huge_cell_is_carried_along_and_not_sent(bench):
    """A text of 20 MB fits in no request: it keeps its place with a reason, whole."""
    huge = "y" * 20_000_000
    bench.write(["x", huge, "z"])
    bench.run()
    assert [len(row["text"]) for row in bench.rows()] == [1, 20_000_000, 1]
    assert bench.rows()[1]["embedding_error"] == "text is larger than 8388608 bytes"
    assert bench.paid_for(["x", "z"]) == [1, 1]
