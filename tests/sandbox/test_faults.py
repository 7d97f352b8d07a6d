"""Scripted faults do to an answer what they say, seen from outside."""

from __future__ import annotations

import json
import math
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_modelstudio.sandbox.faults import (
    ACTS,
    BadGzip,
    Delay,
    Distort,
    Drip,
    FaultFileError,
    Garbage,
    HtmlPage,
    Huge,
    Match,
    NoProductHeader,
    Occasion,
    Redirect,
    Refuse,
    Reset,
    Respond,
    Rule,
    Script,
    Truncate,
    WrongLength,
    load_rules,
    read_rules,
)
from airflow_provider_modelstudio.sandbox.named_refusals import BILLED, NAMES
from tests.sandbox.loopback import COMPLETE, EMBED, RERANK, SPARSE, VND_CBOR, VND_JSON, ask, exchange, infer

TEXTS = ["a", "b"]


def always(act):
    return Rule(act=act)


def occasion(**given):
    return Occasion(**{"operation": "infer", "task_type": "t", "inference_id": "i", "texts": (), "now": 0.0, **given})


# --- which requests a rule acts on


@pytest.mark.parametrize(
    ("match", "hits"),
    [
        (Match(), [1, 2, 3, 4, 5, 6]),
        (Match(nth=(2, 5)), [2, 5]),
        (Match(every=3), [3, 6]),
        (Match(first=2), [1, 2]),
        (Match(first=4, every=2), [2, 4]),
        (Match(probability=0), []),
    ],
)
def test_which_of_the_candidates_are_hit(match, hits):
    """Counted from 1, and all conditions hold together."""
    script = Script([Rule(act=Delay(seconds=0), match=match)])
    assert [number for number in range(1, 7) if script.acts(occasion())] == hits


@pytest.mark.parametrize(
    ("match", "fits", "does_not"),
    [
        (Match(task_type="rerank"), {"task_type": "rerank"}, {}),
        (Match(inference_id="x"), {"inference_id": "x"}, {}),
        (Match(contains="bad"), {"texts": ("ok", "a bad row")}, {"texts": ("ok",)}),
        (Match(window=(1, 2)), {"now": 1.0}, {"now": 2.0}),
        (Match(operation="create"), {"operation": "create"}, {}),
    ],
)
def test_only_candidates_are_counted(match, fits, does_not):
    """A request that a rule does not look at does not move its count."""
    script = Script([Rule(act=Delay(seconds=0), match=Match(**{**_fields(match), "nth": (2,)}))])
    assert [bool(script.acts(occasion(**one))) for one in (fits, does_not, fits, fits)] == [False, False, True, False]


def _fields(match):
    return {name: getattr(match, name) for name in ("operation", "task_type", "inference_id", "contains", "window")}


@settings(deadline=None)  # a busy machine is no failure
@given(st.floats(0, 1), st.integers())
def test_probability_plays_the_same_each_time(probability, seed):
    """The seed decides, so a failing test can be run again."""
    match = Match(probability=probability, seed=seed)
    first, second = (Script([Rule(act=Delay(seconds=0), match=match)]) for _ in range(2))
    assert [bool(first.acts(occasion())) for _ in range(20)] == [bool(second.acts(occasion())) for _ in range(20)]


def test_probability_is_about_right():
    """A share of 0.3 hits about three of ten."""
    script = Script([Rule(act=Delay(seconds=0), match=Match(probability=0.3))])
    assert sum(bool(script.acts(occasion())) for _ in range(2000)) == pytest.approx(600, abs=90)


def test_delays_add_up_and_one_other_act_follows():
    """Every delay acts; of the other acts the first that matches."""
    reset, page = Reset(), HtmlPage()
    script = Script([always(Delay(seconds=1)), always(reset), always(page), always(Delay(seconds=2))])
    assert script.acts(occasion()) == [Delay(seconds=1), reset, Delay(seconds=2)]


# --- rules from JSON


def test_rules_are_read_from_json(tmp_path):
    """Every act and every field of a match can be written down."""
    path = tmp_path / "faults.json"
    path.write_text(
        json.dumps(
            [
                {
                    "act": {"kind": "refuse", "error": "throttled", "retry_after": 2},
                    "match": {"nth": [1, 3], "window": [0, 9]},
                },
                {"act": {"kind": "reset", "at": "after"}},
                {"act": {"kind": "distort", "how": "nan"}, "match": {"task_type": "rerank"}},
            ]
        )
    )
    assert load_rules(path) == (
        Rule(act=Refuse(error="throttled", retry_after=2), match=Match(nth=(1, 3), window=(0, 9))),
        Rule(act=Reset(at="after")),
        Rule(act=Distort(how="nan"), match=Match(task_type="rerank")),
    )


@pytest.mark.parametrize("kind", sorted(ACTS))
def test_every_act_has_a_kind(kind):
    """An act that needs nothing can be asked for by its kind alone."""
    needed = {
        "delay": {"seconds": 1},
        "refuse": {"error": "404"},
        "respond": {"status": 500},
        "distort": {"how": "nan"},
    }
    (rule,) = read_rules([{"act": {"kind": kind, **needed.get(kind, {})}}])
    assert isinstance(rule.act, ACTS[kind])


@pytest.mark.parametrize(
    ("rules", "complaint"),
    [
        ({}, "the rules are a list"),
        ([1], "rule 1: a rule is an object with an act"),
        ([{"act": {"kind": "reset"}}, {"match": {}}], "rule 2: a rule is an object with an act"),
        ([{"act": {"kind": "explode"}}], "rule 1: kind is 'explode', known kinds are"),
        ([{"act": {"kind": "delay"}}], "rule 1: .*seconds"),
        ([{"act": {"kind": "delay", "minutes": 1}}], "rule 1: Delay has no minutes; it has seconds"),
        ([{"act": {"kind": "refuse", "error": "nope"}}], "rule 1: error is 'nope', known errors are"),
        ([{"act": {"kind": "distort", "how": "badly"}}], "rule 1: how is 'badly', known values are"),
        ([{"act": {"kind": "reset", "at": "middle", "billed": False}}], "rule 1: a reset middle"),
        ([{"act": {"kind": "reset"}, "match": {"probability": 2}}], "rule 1: probability is between 0 and 1"),
        ([{"act": {"kind": "reset"}, "match": {"every": 0}}], "rule 1: every is at least 1"),
        ([{"act": {"kind": "reset"}, "match": {"window": [1]}}], "rule 1:"),
        ([{"act": {"kind": "reset"}, "match": []}], "rule 1: \\[\\] is no object"),
    ],
)
def test_rules_that_make_no_sense(rules, complaint):
    """The sentence names the rule and what is wrong with it."""
    with pytest.raises(FaultFileError, match=complaint):
        read_rules(rules)


def test_a_file_that_is_no_json(tmp_path):
    """The sentence names the file."""
    path = tmp_path / "faults.json"
    path.write_text("[")
    with pytest.raises(FaultFileError, match=r"faults\.json is no JSON file"):
        load_rules(path)


# --- refusals by name


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_named_refusal_has_the_form_of_an_error(start, name):
    """Status and body agree, and only errors after the model are billed."""
    server = start(always(Refuse(error=name)))
    got = infer(server, EMBED, TEXTS)
    assert got.status >= 400
    assert got.body["status"] == got.status
    assert got.error["root_cause"][0]["reason"] == got.error["reason"]
    assert len(server.bill) == (1 if name in BILLED else 0)


@pytest.mark.parametrize(
    ("name", "status", "kind", "said"),
    [
        (
            "throttled",
            429,
            "status_exception",
            "Received a rate limit status code for request from inference entity id",
        ),
        ("upstream_500_as_400", 400, "status_exception", "status [500]. Error message: [InternalError:"),
        ("upstream_502_as_400", 400, "status_exception", "status [502]"),
        (
            "es_timeout_429",
            429,
            "timeout_exception",
            "Request timed out after [30s] for inference id [bailian_embeddings]",
        ),
        ("es_timeout_408", 408, "status_exception", "Request timed out after [30s]"),
        ("data_inspection", 400, "status_exception", "DataInspectionFailed"),
        ("arrears", 400, "status_exception", "Arrearage"),
        ("queue_full", 429, "es_rejected_execution_exception", "queue is full"),
        ("upstream_401", 401, "status_exception", "Received an authentication error status code"),
        ("401", 401, "security_exception", "unable to authenticate user [elastic]"),
        ("403", 403, "security_exception", "is unauthorized for user [elastic]"),
        ("404", 404, "resource_not_found_exception", "Inference endpoint not found [bailian_embeddings]"),
    ],
)
def test_what_the_named_refusals_say(start, name, status, kind, said):
    """Status, type and words of the most important ones."""
    got = infer(start(always(Refuse(error=name))), EMBED, TEXTS)
    assert (got.status, got.error["type"]) == (status, kind)
    assert said in got.error["reason"]


@pytest.mark.parametrize("wait", ["7", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_retry_after_is_sent_as_it_is(start, wait):
    """Seconds or a date; without it there is no header."""
    server = start(
        Rule(act=Refuse(error="throttled", retry_after=wait), match=Match(first=1)), always(Refuse(error="throttled"))
    )
    assert infer(server, EMBED, TEXTS).headers["retry-after"] == wait
    assert infer(server, EMBED, TEXTS).headers["retry-after"] is None


def test_the_message_of_the_model_service_can_be_chosen(start):
    """For words that nobody has seen yet."""
    got = infer(start(always(Refuse(error="data_inspection", message="SomethingNew"))), EMBED, TEXTS)
    assert got.error["reason"].endswith("status [400]. Error message: [SomethingNew]")


def test_one_bad_row_spoils_its_request_alone(start):
    """The moderation of the model service, found by a marker in the text."""
    server = start(Rule(act=Refuse(error="data_inspection"), match=Match(contains="forbidden")))
    assert infer(server, EMBED, ["fine", "a forbidden one"]).status == 400
    assert infer(server, EMBED, ["fine"]).status == 200
    assert infer(server, RERANK, ["d"], query="forbidden").status == 400


def test_administration_has_faults_too(start):
    """A key that the model service refuses when the endpoint is created; a model that vanishes for GET."""
    server = start(
        Rule(act=Refuse(error="key_refused_at_creation"), match=Match(operation="create")),
        Rule(act=Refuse(error="es_timeout_429"), match=Match(operation="get", nth=(2,))),
    )
    made = ask(server, "PUT", "/_inference/rerank/x", {"service": "sandbox"})
    assert made.status == 400
    assert made.error["reason"].startswith("Could not complete inference endpoint creation")
    assert "status [401]" in made.error["caused_by"]["reason"]
    assert [ask(server, "GET", "/_inference/bailian_mm").status for _ in range(3)] == [200, 429, 200]
    assert ask(server, "GET", "/_inference/x").status == 404


# --- somebody else answers


@pytest.mark.parametrize("status", [200, 502])
def test_a_page_of_a_proxy(start, status):
    """HTML without Elasticsearch's header, whatever the status says; not billed."""
    server = start(always(HtmlPage(status=status, text="Log in")))
    got = infer(server, EMBED, TEXTS)
    assert (got.status, got.headers["content-type"]) == (status, "text/html; charset=utf-8")
    assert b"<h1>Log in</h1>" in got.raw
    assert got.headers["x-elastic-product"] is None
    assert server.bill == []


def test_a_redirect(start):
    """To an address that must not be followed."""
    got = infer(start(always(Redirect(location="http://127.0.0.1:9/steal"))), EMBED, TEXTS)
    assert (got.status, got.headers["location"]) == (302, "http://127.0.0.1:9/steal")


def test_any_answer_at_all(start):
    """Status, body, type and headers as written."""
    got = infer(
        start(always(Respond(status=418, body="teapot", content_type="text/plain", headers={"x-a": "1"}))), EMBED, TEXTS
    )
    assert (got.status, got.raw, got.headers["x-a"]) == (418, b"teapot", "1")


# --- the connection


def test_a_reset_before_the_answer(start):
    """Not a byte comes; the model was paid, unless the rule says otherwise."""
    server = start(Rule(act=Reset(at="before", billed=False), match=Match(first=1)), always(Reset(at="before")))
    assert exchange(server) == (b"", "reset")
    assert len(server.bill) == 0
    assert exchange(server) == (b"", "reset")
    assert [paid.spoiled_by for paid in server.bill] == ["Reset"]
    assert [call.status for call in server.calls] == [None, None]


def test_a_reset_in_the_middle(start):
    """Half of the body, then a reset."""
    came, end = exchange(start(always(Reset(at="middle"))))
    promised, body = _promise(came)
    assert end == "reset"
    assert len(body) == promised // 2


def test_a_reset_after_the_answer(start):
    """The whole body, then a reset instead of the next answer."""
    came, end = exchange(start(always(Reset(at="after"))))
    promised, body = _promise(came)
    assert end == "reset"
    assert len(body) == promised
    assert len(json.loads(body)["text_embedding"]) == 2


def test_a_truncated_answer(start):
    """Fewer bytes than promised, and a close in good order."""
    came, end = exchange(start(always(Truncate(share=0.25))))
    promised, body = _promise(came)
    assert (end, len(body)) == ("closed", promised // 4)


@pytest.mark.parametrize("by", [100, -20])
def test_a_wrong_length(start, by):
    """The promise is off, the body is whole."""
    came, end = exchange(start(always(WrongLength(by=by))))
    promised, body = _promise(came)
    assert (end, len(body)) == ("closed", promised - by)


def _promise(came):
    head, _, body = came.partition(b"\r\n\r\n")
    lines = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    return int(lines["content-length"]), body


def test_an_answer_that_drips(start):
    """Small pieces with pauses between: all of it comes, late."""
    server = start(always(Drip(piece_bytes=256, pause=0.002)))
    began = time.monotonic()
    got = infer(server, EMBED, TEXTS)
    assert got.status == 200
    assert len(got.body["text_embedding"]) == 2
    assert time.monotonic() - began >= 0.002 * (len(got.raw) // 256)


def test_a_delay_holds_back_one_answer_only(start):
    """The delayed answer is sound, and others go on meanwhile."""
    server = start(Rule(act=Delay(seconds=0.03), match=Match(first=1)))
    began = time.monotonic()
    assert infer(server, EMBED, TEXTS).status == 200
    assert time.monotonic() - began >= 0.03


def test_a_missing_product_header(start):
    """The answer is sound and the header is gone."""
    got = infer(start(always(NoProductHeader())), EMBED, TEXTS)
    assert got.headers["x-elastic-product"] is None
    assert len(got.body["text_embedding"]) == 2


def test_garbage_after_the_answer(start):
    """Bytes after the end of the document, inside the promised length."""
    got = infer(start(always(Garbage(text="<!-- -->"))), EMBED, TEXTS)
    assert got.raw.endswith(b"]}<!-- -->")


def test_an_answer_that_is_not_compressed(start):
    """The header says gzip, the bytes are not."""
    got = infer(start(always(BadGzip())), EMBED, TEXTS)
    assert got.headers["content-encoding"] == "gzip"
    assert got.raw.startswith(b'\x1f\x8b{"text_embedding"')


def test_a_huge_answer(start):
    """Many bytes without a length up front, and valid JSON in the end."""
    came, end = exchange(start(always(Huge(size_bytes=3_000_000))))
    head, _, body = came.partition(b"\r\n\r\n")
    assert b"content-length" not in head
    assert 2_900_000 < len(body) <= 3_000_000
    assert end == "closed"
    assert len(json.loads(body)["text_embedding"]) == 2


# --- values


@pytest.mark.parametrize(
    ("how", "written"),
    [("nan", b"NaN"), ("infinity", b"Infinity"), ("1e400", b"1e400"), ("null", b"null"), ("string", b'"0.5"')],
)
@pytest.mark.parametrize(("path", "more"), [(EMBED, {}), (SPARSE, {}), (RERANK, {"query": "a"})])
def test_numbers_that_are_none(start, how, written, path, more):
    """One number of the first row is spoiled, as it stands; the row after it is sound."""
    got = infer(start(always(Distort(how=how))), path, TEXTS, **more)
    assert got.status == 200
    assert got.raw.count(written) == 1


@pytest.mark.parametrize(
    ("how", "found"), [("nan", math.isnan), ("infinity", math.isinf), ("1e400", math.isinf), ("null", None)]
)
def test_spoiled_numbers_in_cbor(start, how, found):
    """CBOR has no literals: the same values as floats or null."""
    got = ask(
        start(always(Distort(how=how))), "POST", EMBED, {"input": TEXTS}, {"accept": VND_CBOR, "content-type": VND_JSON}
    )
    value = got.body["text_embedding"][0]["embedding"][0]
    assert value is None if found is None else found(value)


@pytest.mark.parametrize(("how", "rows"), [("fewer", 1), ("more", 3)])
def test_a_wrong_number_of_rows(start, how, rows):
    """One too few, one too many."""
    assert len(infer(start(always(Distort(how=how))), EMBED, TEXTS).body["text_embedding"]) == rows


def test_wrong_dimensions_and_zeros(start):
    """The first vector is shorter than the others, or nothing but zeros."""
    server = start(Rule(act=Distort(how="wrong_dimensions"), match=Match(first=1)), always(Distort(how="zeros")))
    first, second = (row["embedding"] for row in infer(server, EMBED, TEXTS).body["text_embedding"])
    assert (len(first), len(second)) == (15, 16)
    zeros, sound = (row["embedding"] for row in infer(server, EMBED, TEXTS).body["text_embedding"])
    assert not any(zeros)
    assert any(sound)


@pytest.mark.parametrize(("accept", "bottom"), [("application/json", b"[[[]]]"), ("application/cbor", b"\x81\x81\x80")])
def test_an_answer_without_a_bottom(start, accept, bottom):
    """In the place of the rows a list in a list, and so on, in each format."""
    server = start(always(Distort(how="bottomless")))
    body = ask(server, "POST", EMBED, {"input": TEXTS}, {"accept": accept}).raw
    assert bottom in body
    assert len(body) > 20_000


def test_indexes_that_cannot_be_right(start):
    """Doubled, missing, out of range."""
    server = start(
        Rule(act=Distort(how="duplicate_index"), match=Match(nth=(1,))),
        Rule(act=Distort(how="missing_index"), match=Match(nth=(1,))),
        Rule(act=Distort(how="index_out_of_range"), match=Match(nth=(1,))),
    )
    documents = ["a", "b", "c"]
    doubled = [row["index"] for row in infer(server, RERANK, documents, query="a").body["rerank"]]
    assert doubled[0] == doubled[-1]
    server.play([always(Distort(how="missing_index"))])
    assert "index" not in infer(server, RERANK, documents, query="a").body["rerank"][0]
    server.play([always(Distort(how="index_out_of_range"))])
    assert infer(server, RERANK, documents, query="a").body["rerank"][0]["index"] == 3


def test_a_completion_without_words(start):
    """The result is null, or another type."""
    got = infer(start(always(Distort(how="null"))), COMPLETE, "a")
    assert got.body == {"completion": [{"result": None}]}


def test_a_completion_that_is_not_what_was_asked_for(start):
    """A text without its last character, and an object without properties."""
    sound = infer(start(), COMPLETE, "a").body["completion"][0]["result"]
    unfinished = infer(start(always(Distort(how="unfinished"))), COMPLETE, "a")
    assert unfinished.body == {"completion": [{"result": sound[:-1]}]}
    assert infer(start(always(Distort(how="empty_object"))), COMPLETE, "a").body == {"completion": [{"result": "{}"}]}


def test_a_distortion_that_does_not_apply_changes_nothing(start):
    """Dimensions of a completion: the answer is as it was."""
    sound = infer(start(), COMPLETE, "a").body
    assert infer(start(always(Distort(how="wrong_dimensions"))), COMPLETE, "a").body == sound
    assert infer(start(always(Distort(how="duplicate_index"))), EMBED, "a").status == 200


# --- the rest


def test_the_script_can_be_replaced_while_the_server_runs(start):
    """An outage begins and ends."""
    server = start()
    assert infer(server, EMBED, TEXTS).status == 200
    server.play([always(Refuse(error="503"))])
    assert infer(server, EMBED, TEXTS).status == 503
    server.play([])
    assert infer(server, EMBED, TEXTS).status == 200
    assert [call.faults for call in server.calls] == [(), ("Refuse",), ()]


def test_too_many_at_once(start):
    """Above the limit of questions in flight the queue is full; nothing is billed for those refused."""
    server = start(always(Delay(seconds=0.05)), max_in_flight=1)
    with ThreadPoolExecutor(3) as threads:
        requests = [one.status for one in threads.map(lambda text: infer(server, EMBED, text), "abc")]
    assert set(requests) <= {200, 429}
    assert 429 in requests
    assert len(server.bill) == requests.count(200)
    assert server.most_in_flight > 1
