"""Formats and versions are agreed on by the rules of an 8.x server."""

from __future__ import annotations

import cbor2
import pytest

from tests.sandbox.loopback import EMBED, VND_CBOR, VND_JSON, ask

VND = "application/vnd.elasticsearch+json; compatible-with="
QUESTION = {"input": "a"}


def test_a_9x_client_is_refused_before_anything_else(sandbox):
    """The very words that users of a 9.x client on an 8.x cluster search for."""
    got = ask(sandbox, "GET", "/", headers={"accept": VND + "9"})
    assert got.status == 400
    assert got.error["type"] == "media_type_header_exception"
    assert got.error["reason"] == "Invalid media-type value on headers [Accept, Content-Type]"
    assert got.error["caused_by"] == {
        "type": "status_exception",
        "reason": "Accept version must be either version 8 or 7, but found 9. "
        "Accept=application/vnd.elasticsearch+json; compatible-with=9",
    }


@pytest.mark.parametrize(
    ("accept", "content_type", "complaint"),
    [
        (VND + "8", VND + "9", "Content-Type version must be either version 8 or 7, but found 9."),
        (VND + "8", VND + "7", "and the compatible versions must match."),
        (VND + "8", "application/json", "if either one has requested a compatible version."),
        ("application/json", VND + "8", "if either one has requested a compatible version."),
        ("application/cbor", VND + "8", "if either one has requested a compatible version."),
        (VND + "6", VND + "6", "Accept version must be either version 8 or 7, but found 6."),
        ("nonsense", "application/json", "invalid media-type [nonsense]"),
        (VND + "eight", VND + "8", "invalid media-type"),
        ("application/json; =", "application/json", "invalid media-type"),
    ],
)
def test_versions_that_do_not_fit_are_refused(sandbox, accept, content_type, complaint):
    """With a body both headers carry the same version, 8 or 7, or none."""
    got = ask(sandbox, "POST", EMBED, QUESTION, {"accept": accept, "content-type": content_type})
    assert (got.status, got.error["type"]) == (400, "media_type_header_exception")
    assert complaint in got.error["caused_by"]["reason"]


@pytest.mark.parametrize(
    ("accept", "content_type", "answered"),
    [
        (VND + "8", VND + "8", "application/vnd.elasticsearch+json;compatible-with=8"),
        (VND + "7", VND + "7", "application/vnd.elasticsearch+json;compatible-with=7"),
        (VND_CBOR, VND_JSON, "application/vnd.elasticsearch+cbor;compatible-with=8"),
        ("application/json", "application/json", "application/json"),
        ("application/cbor", "application/json", "application/cbor"),
        ("*/*", "application/json", "application/json"),
        ("text/html, */*;q=0.8", "application/json; charset=utf-8", "application/json"),
        ("text/html", "application/json", "application/json"),
    ],
)
def test_the_answer_is_what_accept_asks_for(sandbox, accept, content_type, answered):
    """The content type of the answer repeats what was agreed on; an unknown wish falls back to the body's format."""
    got = ask(sandbox, "POST", EMBED, QUESTION, {"accept": accept, "content-type": content_type})
    assert (got.status, got.headers["content-type"]) == (200, answered)
    assert len(got.body["text_embedding"]) == 1


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/yaml"])
def test_a_body_of_an_unknown_type_is_not_acceptable(sandbox, content_type):
    """406, in one sentence, as Elasticsearch says it."""
    got = ask(sandbox, "POST", EMBED, QUESTION, {"content-type": content_type})
    assert (got.status, got.body) == (
        406,
        {"error": f"Content-Type header [{content_type}] is not supported", "status": 406},
    )


def test_questions_may_be_cbor(sandbox):
    """A CBOR body asks the same as a JSON body; without Accept the answer is CBOR too."""
    body = cbor2.dumps({"input": ["猿"]})
    got = ask(sandbox, "POST", EMBED, body, {"content-type": "application/cbor"})
    same = ask(sandbox, "POST", EMBED, {"input": ["猿"]})
    assert got.headers["content-type"] == "application/cbor"
    assert got.body["text_embedding"][0]["embedding"] == pytest.approx(same.body["text_embedding"][0]["embedding"])


def test_the_format_parameter_wins_over_accept(sandbox):
    """``?format=cbor`` as Elasticsearch has it."""
    got = ask(sandbox, "GET", "/?format=cbor", headers={"accept": "application/json"})
    assert got.headers["content-type"] == "application/cbor"
    assert got.body["version"]["number"] == "8.17.0"


def test_errors_come_in_the_format_asked_for(sandbox):
    """A client that asked for CBOR reads its refusals as CBOR."""
    got = ask(sandbox, "GET", "/_inference/nothing", headers={"accept": VND_CBOR})
    assert got.headers["content-type"] == "application/vnd.elasticsearch+cbor;compatible-with=8"
    assert got.body["error"]["reason"] == "Inference endpoint not found [nothing]"
