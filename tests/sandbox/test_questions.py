"""Questions are checked as strictly as an 8.17 server checks them, and refused in its words."""

from __future__ import annotations

import json

import pytest

from tests.sandbox.loopback import COMPLETE, EMBED, MEDIA, RERANK, SPARSE, ask, infer

UPSTREAM = (
    "Received a bad request status code for request from inference entity id [{}] status [400]. Error message: [{}]"
)


@pytest.mark.parametrize(
    ("path", "body", "complaint"),
    [
        (EMBED, {}, "Field [input] cannot be null"),
        (EMBED, {"input": None}, "Field [input] cannot be null"),
        (EMBED, {"input": []}, "Field [input] cannot be an empty array"),
        (RERANK, {"input": ["a"]}, "Field [query] cannot be null for task type [rerank]"),
        (RERANK, {"input": ["a"], "query": ""}, "Field [query] cannot be empty for task type [rerank]"),
        ("/_inference/bailian_rerank", {"input": ["a"]}, "Field [query] cannot be null for task type [rerank]"),
    ],
)
def test_impossible_questions(sandbox, path, body, complaint):
    """400 in the wrapper that Elasticsearch validates with."""
    got = ask(sandbox, "POST", path, body)
    assert (got.status, got.error["type"]) == (400, "action_request_validation_exception")
    assert got.error["reason"] == f"Validation Failed: 1: {complaint};"


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({"input": "a", "input_type": "search"}, "unknown field [input_type]"),
        ({"input": "a", "top_n": 1}, "unknown field [top_n]"),
        ({"input": "a", "return_documents": True}, "unknown field [return_documents]"),
        ({"texts": ["a"]}, "unknown field [texts]"),
        ({"input": 1}, "failed to parse field [input]"),
        ({"input": ["a", None]}, "failed to parse field [input]"),
        ({"input": [["a"]]}, "failed to parse field [input]"),
        ({"input": {"text": "a"}}, "failed to parse field [input]"),
        ({"input": "a", "query": 1}, "query doesn't support values of type: VALUE_NUMBER"),
        ({"input": "a", "task_settings": []}, "task_settings doesn't support values of type: START_ARRAY"),
        ({"input": "\ud83d"}, "failed to parse field [input]"),
        ({"input": "a", "query": "\udc00"}, "failed to parse field [query]"),
        (["a"], "Expected START_OBJECT but was: START_ARRAY"),
        ("a", "Expected START_OBJECT but was: VALUE_STRING"),
        (b"null", "Expected START_OBJECT but was: VALUE_NULL"),
        ({"input": "a", "query": True}, "query doesn't support values of type: VALUE_BOOLEAN"),
        ({"input": "a", "query": {}}, "query doesn't support values of type: START_OBJECT"),
    ],
)
def test_bodies_are_parsed_strictly(sandbox, body, complaint):
    """A field that 8.17 does not know, or one of another type, is refused; so is half a surrogate pair."""
    got = ask(sandbox, "POST", EMBED, body)
    assert (got.status, got.error["type"]) == (400, "x_content_parse_exception")
    assert complaint in got.error["reason"]


@pytest.mark.parametrize("body", [b"{", b"{'input':'a'}", b"\xff", b'{"input":NaN}'])
def test_damaged_bodies(sandbox, body):
    """What is no JSON is refused with a position and without an echo."""
    got = ask(sandbox, "POST", EMBED, body)
    assert (got.status, got.error["type"]) == (400, "x_content_parse_exception")


def test_no_body_at_all(sandbox):
    """A question without a body has a refusal of its own."""
    got = ask(sandbox, "POST", EMBED)
    assert (got.status, got.error["type"], got.error["reason"]) == (400, "parse_exception", "request body is required")


@pytest.mark.parametrize(("path", "inference_id"), [(EMBED, "bailian_embeddings"), (SPARSE, "bailian_sparse_emb")])
def test_eleven_rows_are_too_many(sandbox, path, inference_id):
    """The very sentence that users of the model service search for, wrapped by Elasticsearch."""
    assert infer(sandbox, path, ["a"] * 10).status == 200
    got = infer(sandbox, path, ["a"] * 11)
    assert (got.status, got.error["type"]) == (400, "status_exception")
    assert got.error["reason"] == UPSTREAM.format(
        inference_id,
        "InternalError.Algo.InvalidParameter: Value error, batch size is invalid, it should not be larger than 10.: "
        "input.contents",
    )


def test_the_number_of_rows_can_be_set(start):
    """Models differ in what they take."""
    server = start(max_rows=2)
    assert infer(server, EMBED, ["a", "b"]).status == 200
    assert "larger than 2." in infer(server, EMBED, ["a"] * 3).error["reason"]


def test_limits_of_the_other_task_types(sandbox):
    """500 documents to rank, one prompt to complete, 20 elements of several media."""
    assert infer(sandbox, RERANK, ["a"] * 500, query="q").status == 200
    assert "larger than 500." in infer(sandbox, RERANK, ["a"] * 501, query="q").error["reason"]
    assert infer(sandbox, COMPLETE, ["a", "b"]).error["reason"] == "sandbox completion only accepts 1 input"
    assert infer(sandbox, MEDIA, ",".join(['{"text":"a"}'] * 20)).status == 200
    assert "larger than 20." in infer(sandbox, MEDIA, ",".join(['{"text":"a"}'] * 21)).error["reason"]


@pytest.mark.parametrize("path", [EMBED, SPARSE, COMPLETE])
def test_an_empty_text_is_refused_by_the_model(sandbox, path):
    """Upstream's answer to a text of length zero, for the whole request."""
    got = infer(sandbox, path, "")
    assert got.status == 400
    assert "Range of input length should be [1, 8192]" in got.error["reason"]


@pytest.mark.parametrize(
    "contents",
    [
        "",
        "plain text",
        '{"text":"a"',
        '[{"text":"a"}]',
        '{"text":"a"}{"text":"b"}',
        '{"text":"a"},',
        '{"text":1}',
        '{"text":""}',
        '{"text":"\\ud800"}',
        '{"text":"a","image":"b"}',
        '{"audio":"a"}',
        '{"multi_images":"a"}',
        '{"multi_images":[]}',
        '{"multi_images":[1]}',
        '{"image":["a"]}',
        "{}",
        "1",
    ],
)
def test_elements_that_cannot_be_read(sandbox, contents):
    """The one string lists JSON objects of one known field each; anything else is the model's 400."""
    got = infer(sandbox, MEDIA, contents)
    assert (got.status, got.error["type"]) == (400, "status_exception")
    assert "status [400]" in got.error["reason"]


def test_several_strings_of_elements_are_refused(sandbox):
    """Undocumented upstream, so not relied on here."""
    assert infer(sandbox, MEDIA, ['{"text":"a"}', '{"text":"b"}']).status == 400


def test_unknown_endpoint_and_task_type(sandbox):
    """404 and 400, as for administration."""
    assert infer(sandbox, "/_inference/text_embedding/nope", "a").status == 404
    assert "does not match" in infer(sandbox, "/_inference/sparse_embedding/bailian_mm", "a").error["reason"]


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        (EMBED + "?timeout=30", "failed to parse setting [timeout] with value [30] as a time value"),
        (EMBED + "?refresh=true", f"request [{EMBED}] contains unrecognized parameter: [refresh]"),
        (EMBED + "?b=1&a=1", f"request [{EMBED}] contains unrecognized parameters: [a], [b]"),
    ],
)
def test_query_parameters_are_checked(sandbox, target, complaint):
    """400, naming the parameter."""
    got = infer(sandbox, target, "a")
    assert (got.status, got.error["type"]) == (400, "illegal_argument_exception")
    assert complaint in got.error["reason"]


def test_a_flag_is_true_or_false(sandbox):
    """Anything else is refused before something is deleted."""
    got = ask(sandbox, "DELETE", "/_inference/bailian_mm?dry_run=yes")
    assert got.status == 400
    assert ask(sandbox, "GET", "/_inference/bailian_mm").status == 200


def test_elasticsearch_stops_waiting_before_the_model_does(start):
    """With a timeout shorter than the model takes the answer is 408, and the model is paid all the same."""
    server = start(latency=0.04)
    got = infer(server, EMBED + "?timeout=5ms", "a")
    assert (got.status, got.error["type"], got.error["reason"]) == (
        408,
        "status_exception",
        "Request timed out after [5ms]",
    )
    assert len(server.bill) == 1
    assert infer(server, EMBED + "?timeout=-1", "a").status == 200


def test_what_has_no_handler(sandbox):
    """Unknown paths are 400 with one sentence; a wrong method is 405 and names the right ones."""
    got = ask(sandbox, "GET", "/my-index/_search?q=a")
    assert (got.status, got.body) == (
        400,
        {"error": "no handler found for uri [/my-index/_search?q=a] and method [GET]"},
    )
    wrong = ask(sandbox, "PATCH", "/_inference/bailian_mm")
    assert wrong.status == 405
    assert wrong.headers["allow"] == "GET,PUT,POST,DELETE"
    assert wrong.body["error"].startswith("Incorrect HTTP method for uri [/_inference/bailian_mm] and method [PATCH]")
    assert ask(sandbox, "POST", "/_inference", {"input": "a"}).status == 405


def test_every_answer_carries_the_product_header(sandbox):
    """Successes and refusals of every kind, so that clients know whom they talk to."""
    for got in (
        ask(sandbox, "GET", "/"),
        ask(sandbox, "GET", "/nowhere/at/all/is"),
        ask(sandbox, "GET", "/", headers={"accept": "nonsense"}),
        infer(sandbox, EMBED, "a"),
        infer(sandbox, EMBED, []),
    ):
        assert got.headers["x-elastic-product"] == "Elasticsearch"


def test_the_root_introduces_the_server(sandbox):
    """Name, version and tagline as clients look for them; HEAD answers without a body."""
    told = ask(sandbox, "GET", "/").body
    assert told["version"]["number"] == "8.17.0"
    assert told["version"]["build_flavor"] == "default"
    assert told["tagline"] == "You Know, for Search"
    assert {"name", "cluster_name"} <= set(told)
    head = ask(sandbox, "HEAD", "/")
    assert (head.status, head.raw) == (200, b"")
    assert int(head.headers["content-length"]) == len(json.dumps(told, separators=(",", ":")))
