"""What each failure leads to, as one table, and what holds for every failure there may be."""

from __future__ import annotations

import time
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_modelstudio.inference.decide import (
    Decision,
    Mark,
    Split,
    Stop,
    Wait,
    decide,
    find_rule,
    recorded,
    scrub,
)
from airflow_provider_modelstudio.inference.decide.rules import RULES
from airflow_provider_modelstudio.inference.errors import (
    AnswerError,
    BottomlessAnswerError,
    ConfigurationError,
    EndpointError,
    Fault,
    OutageError,
    PermanentError,
    RequestError,
    TransientError,
)

BATCH_LIMIT = (
    "InternalError.Algo.InvalidParameter: Value error, batch size is invalid, "
    "it should not be larger than {}.: input.contents"
)
THROTTLED = Wait("throttled", counts=False)
OVERLOADED = Wait("overloaded", unit="concurrency", counts=False)
FAILED = Wait("failed")


def http(status, reason="", kind=None, *, upstream=None, after=None):
    return RequestError(
        "made up",
        fault=Fault.HTTP,
        status=status,
        upstream_status=upstream,
        error_type=kind,
        reason=reason,
        retry_after=after,
    )


def model(status, words, *, after=None):
    """A refusal of the model service as Elasticsearch hands it on: a 5xx becomes 400."""
    prefix = {
        400: "Received a bad request status code",
        401: "Received an authentication error status code",
        403: "Received a permission denied error status code",
        413: "Received a content too large status code",
        429: "Received a rate limit status code",
    }.get(status, "Received a server error status code" if status >= 500 else "Received an unsuccessful status code")
    reason = f"{prefix} for request from inference entity id [e] status [{status}]. Error message: [{words}]"
    return http(400 if status >= 500 else status, reason, "status_exception", upstream=status, after=after)


def stranger(status, after=None):
    return RequestError("made up", fault=Fault.NOT_ELASTICSEARCH, status=status, reason="<html>", retry_after=after)


def cut(fault):
    return RequestError("made up", fault=fault, maybe_billed=True)


class Stopped(NamedTuple):
    """A Stop with an error of this class whose message holds these words."""

    kind: type
    words: str


FILTER = "refused by the content filter (data_inspection_failed)"
ACCOUNT = Stopped(EndpointError, "account")
CLUSTER_KEY = Stopped(EndpointError, "key or the password of the Airflow connection")
MODEL_KEY = Stopped(EndpointError, "stored in the inference endpoint")
ACCESS = Stopped(EndpointError, "grant it access")
MISSING = Stopped(EndpointError, "create it, or mend inference_id")

# rule, error, rows, failed attempts before, what follows
TABLE = [
    # 429: too fast, each quota by its name or by its words
    ("throttled", http(429), 10, 0, THROTTLED),
    ("throttled", http(429, after=7.0), 10, 9, Wait("throttled", 7.0, counts=False)),
    ("throttled", model(429, "Throttling: Requests throttling triggered."), 10, 0, THROTTLED),
    ("throttled", http(400, "Throttling: slow down", "status_exception"), 10, 0, THROTTLED),
    ("throttled", stranger(429, after=3.0), 10, 0, Wait("throttled", 3.0, counts=False)),
    ("request quota", model(429, "Throttling.RateQuota"), 10, 0, Wait("throttled", unit="requests", counts=False)),
    ("request quota", model(429, "limit_requests"), 1, 0, Wait("throttled", unit="requests", counts=False)),
    (
        "request quota",
        model(429, "Requests rate limit exceeded, please try again later.", after=1.0),
        10,
        0,
        Wait("throttled", 1.0, "requests", counts=False),
    ),
    ("request quota", model(429, "limit_burst_rate"), 10, 0, Wait("throttled", unit="requests", counts=False)),
    (
        "request quota",
        model(429, "Request rate increased too quickly. To ensure system stability, please adjust your client logic"),
        10,
        0,
        Wait("throttled", unit="requests", counts=False),
    ),
    ("token quota", model(429, "Throttling.AllocationQuota"), 10, 0, Wait("throttled", unit="tokens", counts=False)),
    ("token quota", model(429, "insufficient_quota"), 10, 0, Wait("throttled", unit="tokens", counts=False)),
    (
        "token quota",
        model(429, "Allocated quota exceeded, please increase your quota limit."),
        10,
        0,
        Wait("throttled", unit="tokens", counts=False),
    ),
    # 429 and others: too many at once
    ("too many at once", http(429, "the request service [x] queue is full"), 10, 0, OVERLOADED),
    ("too many at once", http(429, "rejected", "es_rejected_execution_exception"), 10, 0, OVERLOADED),
    ("too many at once", http(429, "Data too large", "circuit_breaking_exception"), 10, 0, OVERLOADED),
    ("too many at once", model(429, "Too many concurrent requests"), 10, 0, OVERLOADED),
    (
        "too many at once",
        model(503, "Too many requests. Your requests are being throttled due to system capacity limits.", after=2.0),
        10,
        0,
        Wait("overloaded", 2.0, "concurrency", counts=False),
    ),
    # 429 and others: no money
    ("account", model(429, "CommodityNotPurchased: Commodity has not purchased yet."), 10, 0, ACCOUNT),
    ("account", model(429, "PrepaidBillOverdue: The prepaid bill is overdue."), 10, 0, ACCOUNT),
    ("account", model(429, "PostpaidBillOverdue"), 10, 0, ACCOUNT),
    ("account", model(429, "Throttling.AllocationQuota: Free allocated quota exceeded."), 10, 0, ACCOUNT),
    ("account", model(403, "AllocationQuota.FreeTierOnly"), 10, 0, ACCOUNT),
    ("account", model(403, "The free tier of the model has been exhausted."), 10, 0, ACCOUNT),
    ("account", model(400, "Arrearage"), 10, 0, ACCOUNT),
    (
        "account",
        model(400, "Access denied, please make sure your account is in good standing."),
        1,
        0,
        ACCOUNT,
    ),
    ("payment", http(402, "Payment Required"), 10, 0, Stopped(EndpointError, "payment required")),
    # Elasticsearch gave up waiting; 408 in older, 429 in newer versions
    ("server's timeout", http(408, "Request timed out after [30s]", "status_exception"), 10, 0, FAILED),
    (
        "server's timeout",
        http(429, "Request timed out after [30s] for inference id [e]", "timeout_exception"),
        10,
        0,
        FAILED,
    ),
    ("server's timeout", http(400, "RequestTimeOut: Request timed out, please try again later."), 10, 7, FAILED),
    ("server's timeout", stranger(408), 10, 0, FAILED),
    # no answer at all
    ("no answer", cut(Fault.TIMEOUT), 10, 0, FAILED),
    ("no answer", cut(Fault.TIMEOUT), 1, 99, FAILED),
    ("no answer", cut(Fault.CONNECTION), 10, 0, FAILED),
    # an answer without its end
    ("cut answer", cut(Fault.CUT), 10, 1, FAILED),
    ("cut answer", cut(Fault.CUT), 10, 2, Split()),
    ("cut answer", cut(Fault.CUT), 1, 99, FAILED),
    # outages, also those that come as 400
    ("outage", http(500), 10, 0, FAILED),
    ("outage", http(502), 10, 5, FAILED),
    ("outage", http(503, after=4.0), 1, 99, Wait("failed", 4.0)),
    ("outage", http(504), 10, 0, FAILED),
    ("outage", model(500, "InternalError: An internal error has occurred"), 10, 0, FAILED),
    ("outage", model(503, "ModelUnavailable"), 1, 40, FAILED),
    ("outage", http(400, "SystemError: please try again later"), 10, 0, FAILED),
    ("outage", http(400, "ModelServiceFailed: Failed to request model service."), 10, 0, FAILED),
    ("outage", http(400, "Internal server error!"), 1, 0, FAILED),
    ("outage", http(409, "not yet"), 10, 0, FAILED),
    ("outage", stranger(502), 10, 50, FAILED),
    # somebody in between
    ("stranger", stranger(200), 10, 0, FAILED),
    ("stranger", stranger(200), 10, 3, FAILED),
    ("stranger", stranger(200), 10, 4, Stopped(OutageError, "not Elasticsearch")),
    ("stranger refuses", stranger(403), 10, 3, FAILED),
    ("stranger refuses", stranger(403), 10, 4, Stopped(EndpointError, "proxies")),
    ("proxy login", stranger(407), 10, 0, Stopped(EndpointError, "proxy")),
    ("redirect", stranger(302), 10, 0, Stopped(EndpointError, "redirected (302)")),
    (
        "redirect",
        http(400, "Unhandled redirection for request", "status_exception"),
        10,
        0,
        Stopped(EndpointError, "redirect"),
    ),
    ("redirect", model(307, "moved"), 10, 0, Stopped(EndpointError, "redirected (307)")),
    ("endless answer", cut(Fault.TOO_LARGE), 10, 0, Stopped(EndpointError, "longer")),
    # keys and rights, of the cluster and of the model service
    ("cluster login", http(401, "unable to authenticate user", "security_exception"), 10, 0, CLUSTER_KEY),
    (
        "cluster privilege",
        http(403, "is unauthorized", "security_exception"),
        10,
        0,
        Stopped(EndpointError, "monitor_inference"),
    ),
    (
        "licence",
        http(403, "current license is non-compliant for [inference]", "security_exception"),
        10,
        0,
        Stopped(EndpointError, "licence"),
    ),
    ("model key", model(401, "InvalidApiKey: Invalid API-key provided."), 10, 0, MODEL_KEY),
    ("model key", http(401, "Incorrect API key provided.", "status_exception"), 10, 0, MODEL_KEY),
    ("model key", http(400, "InvalidApiKey"), 10, 0, MODEL_KEY),
    ("model access", model(403, "AccessDenied: Access denied."), 10, 0, ACCESS),
    ("model access", model(403, "Workspace.AccessDenied"), 10, 0, ACCESS),
    ("login", http(401, "who are you?"), 10, 0, Stopped(EndpointError, "access refused (401)")),
    ("login", http(403), 10, 0, Stopped(EndpointError, "access refused (403)")),
    # the endpoint
    (
        "endpoint missing",
        http(404, "Inference endpoint not found [e]", "resource_not_found_exception"),
        10,
        0,
        MISSING,
    ),
    ("model missing", model(404, "ModelNotFound: Model not exist."), 10, 0, Stopped(EndpointError, "choose another")),
    (
        "model missing",
        model(404, "The model `x` does not exist or you do not have access to it."),
        1,
        0,
        Stopped(EndpointError, "model"),
    ),
    ("model missing", model(404, "WorkSpaceNotFound"), 10, 0, Stopped(EndpointError, "model")),
    ("model missing", model(404, "model_not_supported"), 10, 0, Stopped(EndpointError, "model")),
    (
        "task type unknown",
        http(400, "Unknown task_type [multi_modal_embedding]", "status_exception"),
        1,
        0,
        Stopped(EndpointError, "does not know the task type"),
    ),
    (
        "task type mismatch",
        http(
            400,
            "Requested task type [rerank] does not match the inference endpoint's task type [completion]",
            "status_exception",
        ),
        1,
        0,
        Stopped(EndpointError, "another task type, completion (400)"),
    ),
    (
        "media type",
        http(400, "Accept version must be either version 8 or 7, but found 9", "media_type_header_exception"),
        10,
        0,
        Stopped(EndpointError, "media type"),
    ),
    ("media type", http(406), 10, 0, Stopped(EndpointError, "media type")),
    (
        "request not understood",
        http(400, "[1:32] [inference] unknown field [top_n]", "x_content_parse_exception"),
        1,
        0,
        Stopped(ConfigurationError, "x_content_parse_exception"),
    ),
    (
        "request not understood",
        http(
            400,
            "Validation Failed: 1: Field [input_type] cannot be specified for task type [rerank];",
            "action_request_validation_exception",
        ),
        1,
        0,
        Stopped(ConfigurationError, "too old"),
    ),
    ("template mismatch", http(400, "Failed to parse custom model response, please check"), 10, 0, FAILED),
    (
        "template mismatch",
        http(400, "Failed to parse custom model response"),
        10,
        1,
        Stopped(EndpointError, "json_parser"),
    ),
    (
        "endpoint settings",
        model(400, "InvalidParameter: Value error, dimension 77 is invalid"),
        1,
        0,
        Stopped(EndpointError, "settings"),
    ),
    (
        "endpoint settings",
        model(400, "InvalidParameter: url error, please check url!"),
        1,
        0,
        Stopped(EndpointError, "path"),
    ),
    ("impossible", http(405, "Incorrect HTTP method"), 10, 0, Stopped(EndpointError, "(405)")),
    (
        "impossible",
        http(404, "", "index_not_found_exception"),
        10,
        0,
        Stopped(EndpointError, "index_not_found_exception"),
    ),
    # too many rows: the server names a cap, in several wordings
    ("too many rows", model(400, BATCH_LIMIT.format(10)), 25, 0, Split(rows=10)),
    ("too many rows", model(400, BATCH_LIMIT.format(10)), 8, 0, Split()),
    ("too many rows", model(400, BATCH_LIMIT.format(0)), 8, 0, Split()),
    (
        "too many rows",
        model(400, BATCH_LIMIT.format(10)),
        1,
        0,
        Mark(f"refused (400 invalid_parameter): {BATCH_LIMIT.format(10)}"),
    ),
    ("too many rows", model(400, "batch size should be less than or equal to 25"), 100, 0, Split(rows=25)),
    ("too many rows", model(400, "Batch size 17 exceeds the limit of 16"), 17, 0, Split(rows=16)),
    ("too many rows", model(400, "The number of documents should be in [1, 500]"), 501, 0, Split(rows=500)),
    ("too many rows", model(400, "contents should contain at most 20 elements"), 21, 0, Split(rows=20)),
    (
        "too many rows",
        model(400, "Array too long. Expected an array with maximum length 2048"),
        3000,
        0,
        Split(rows=2048),
    ),
    ("too many rows", model(400, "too many texts"), 30, 0, Split()),
    ("one row at a time", http(400, "completion only accepts 1 input", "status_exception"), 5, 0, Split(rows=1)),
    (
        "one row at a time",
        http(400, "completion only accepts 1 input", "status_exception"),
        1,
        0,
        Mark("refused (400 status_exception): completion only accepts 1 input"),
    ),
    # too many bytes
    ("body too large", http(413), 10, 0, Split(too_large=True)),
    ("body too large", stranger(413), 3, 0, Split(too_large=True)),
    ("body too large", model(413, "Exceeded limit on max bytes to request body : 6291456"), 10, 0, Split(size=6291456)),
    ("body too large", http(413), 1, 0, Mark("too large for the service (413)")),
    ("body too large, named", model(400, "Exceeded limit on max bytes to buffer : 262144"), 10, 0, Split(size=262144)),
    (
        "body too large, named",
        model(400, "Exceeded limit on max bytes to buffer : 262144"),
        1,
        0,
        Mark("too large for the service (400)"),
    ),
    # one bad row
    (
        "content filter",
        model(400, "DataInspectionFailed: Input data may contain inappropriate content."),
        10,
        0,
        Split(),
    ),
    ("content filter", model(400, "Output data may contain inappropriate content."), 1, 0, Mark(FILTER)),
    ("content filter", model(400, "data_inspection_failed"), 1, 0, Mark(FILTER)),
    ("too long", model(400, "InvalidParameter: Range of input length should be [1, 8192]"), 10, 0, Split()),
    (
        "too long",
        model(400, "InvalidParameter: Range of input length should be [1, 8192]"),
        1,
        0,
        Mark("too long for the model: at most 8192"),
    ),
    (
        "too long",
        model(400, "This model's maximum context length is 2048 tokens"),
        1,
        0,
        Mark("too long for the model: at most 2048"),
    ),
    ("too long", model(400, "Input is too long."), 1, 0, Mark("too long for the model")),
    ("media not fetched", model(400, "Failed to download multimodal content"), 1, 0, FAILED),
    ("media not fetched", model(400, "Failed to download multimodal content"), 2, 2, Split()),
    (
        "media not fetched",
        model(400, "InvalidParameter.DataInspection: Unable to download the media resource during the data inspection"),
        1,
        2,
        Mark("the image or video could not be fetched"),
    ),
    ("refused", http(400, "something new"), 10, 0, Split()),
    ("refused", http(422, "something new"), 1, 0, Mark("refused (422): something new")),
    ("refused", http(400), 1, 0, Mark("refused (400): no reason given")),
    (
        "refused",
        model(
            400,
            "InvalidParameter: the text is odd. For details, see: https://example.com/a request_id: 12-ab "
            "1b4e28ba-2fa1-11d2-883f-0016d3cca427",
        ),
        1,
        0,
        Mark("refused (400 invalid_parameter): InvalidParameter: the text is odd."),
    ),
    (
        "refused",
        http(400, "odd", "illegal_argument_exception"),
        1,
        5,
        Mark("refused (400 illegal_argument_exception): odd"),
    ),
    # an answer that is no good
    ("unusable answer", AnswerError("3 vectors for 10 rows"), 10, 0, FAILED),
    ("unusable answer", AnswerError("3 vectors for 10 rows"), 10, 1, Split()),
    ("unusable answer", AnswerError("0 vectors for 1 row"), 1, 0, FAILED),
    ("unusable answer", AnswerError("0 vectors for 1 row"), 1, 1, Mark("no usable answer: 0 vectors for 1 row")),
    ("bottomless answer", BottomlessAnswerError("too deep"), 10, 0, Stopped(EndpointError, "too deep")),
    ("bottomless answer", BottomlessAnswerError("too deep"), 1, 1, Stopped(EndpointError, "check the host")),
    # neither an error nor a success
    ("unheard of", http(200), 10, 0, FAILED),
    ("unheard of", http(None), 10, 0, FAILED),
]


@pytest.mark.parametrize(
    ("rule", "error", "rows", "attempts", "expected"),
    TABLE,
    ids=[f"{number}-{row[0].replace(' ', '-')}" for number, row in enumerate(TABLE)],
)
def test_a_failure_leads_to_its_decision(rule, error, rows, attempts, expected):
    """Each failure meets the rule made for it, and what follows is what the table says."""
    assert find_rule(error, rows=rows, attempts=attempts)[0].name == rule
    decision = decide(error, rows=rows, attempts=attempts)
    if isinstance(expected, Stopped):
        assert isinstance(decision, Stop)
        assert type(decision.error) is expected.kind
        assert expected.words in str(decision.error)
    else:
        assert decision == expected


def test_every_rule_has_a_case():
    """No rule is hidden by an earlier one: each is met by some row of the table, and its name is its own."""
    names = [rule.name for rule in RULES]
    assert sorted(names) == sorted({"useless endpoint", *(row[0] for row in TABLE)})


def test_rows_are_not_to_blame_where_no_answer_was_ever_good():
    """After three rows in vain the run stops and says what the answers lack; before that, and for errors, it goes on."""
    lacking = AnswerError("the answer has 2 vectors for 1 questions")
    stopped = decide(lacking, rows=1, attempts=0, useless=3)
    assert isinstance(stopped, Stop)
    assert isinstance(stopped.error, EndpointError)
    assert "2 vectors for 1 questions" in str(stopped.error)
    assert isinstance(decide(lacking, rows=1, attempts=1, useless=2), Mark)
    assert decide(http(503), rows=1, attempts=0, useless=3) == decide(http(503), rows=1, attempts=0)


def test_a_stop_repeats_nothing_the_server_said():
    """The message of a run that ends holds no words of the server, which may hold a row."""
    secret = "my row about Arrearage"
    decision = decide(model(400, f"Arrearage {secret}"), rows=10, attempts=0)
    assert isinstance(decision, Stop)
    assert secret not in str(decision.error)


WORDS = st.sampled_from([row[1].reason for row in TABLE if isinstance(row[1], RequestError)]) | st.text(max_size=60)
ERRORS = (
    st.builds(
        RequestError,
        st.just("made up"),
        fault=st.sampled_from(Fault),
        status=st.none() | st.integers(100, 599),
        upstream_status=st.none() | st.integers(100, 599),
        error_type=st.none()
        | st.sampled_from(["security_exception", "status_exception", "x_content_parse_exception", "{0}"]),
        reason=WORDS,
        retry_after=st.none() | st.floats(0, 300),
    )
    | st.builds(AnswerError, st.text(max_size=40))
    | st.builds(BottomlessAnswerError, st.text(max_size=40))
)


@given(error=ERRORS, rows=st.integers(1, 600), attempts=st.integers(0, 200))
def test_every_failure_has_a_decision_that_can_be_carried_out(error, rows, attempts):
    """Whatever comes, there is one decision: marks for single rows only, splits that make requests smaller."""
    decision: Decision = decide(error, rows=rows, attempts=attempts)
    assert decide(error, rows=rows, attempts=attempts) == decision or isinstance(decision, Stop)
    match decision:
        case Mark(reason):
            assert rows == 1
            assert reason
        case Split(cap, size, _):
            assert rows > 1
            assert cap is None or 1 <= cap < rows
            assert size is None or size > 0
        case Stop(why):
            assert isinstance(why, (PermanentError, TransientError))
            assert str(why)
        case Wait(cause, _, _, counts):
            assert counts == (cause == "failed")


@given(error=ERRORS, rows=st.integers(1, 512))
def test_asking_again_ends(error, rows):
    """A request that fails the same way each time is split, marked or stopped, or it is for the governor's patience."""
    waiting = {"no answer", "cut answer", "server's timeout", "outage", "unheard of"}
    asked = [(rows, 0)]
    for _ in range(8 * rows):
        if not asked:
            return
        size, attempts = asked.pop()
        match decide(error, rows=size, attempts=attempts):
            case Wait(_, _, _, counts):
                rule, _ = find_rule(error, rows=size, attempts=attempts)
                if (rule.name in waiting and (rule.name != "cut answer" or size == 1)) or not counts:
                    return
                asked.append((size, attempts + 1))
            case Split(cap, _, _):
                cap = cap or (size + 1) // 2
                asked += [(min(cap, size - at), 0) for at in range(0, size, cap)]
            case Stop():
                return
    assert not asked


# -- scrub


def test_scrub_takes_out_what_the_server_echoes():
    """Runs of twelve characters and short texts as a whole go; the words around them stay."""
    texts = ["The quick brown fox jumps over the lazy dog.", "secret"]
    reason = "refused (400): input 'quick brown fox jumps' of secret is\n\n odd"
    assert scrub(reason, texts) == "refused (400): input '***' of *** is odd"


def test_scrub_sees_through_escapes():
    """An echo escaped as JSON does it is an echo."""
    assert scrub(r"bad: \u4f60\u597d\u4e16\u754c.", ["你好世界"]) == "bad: ***."
    assert scrub(r"bad: say \"hello\" to me", ['say "hello" to me']) == "bad: ***"


def test_scrub_keeps_what_is_no_echo():
    """Short common runs are chance, and words of the server are what people look for."""
    reason = "refused (400 invalid_parameter): Range of input length should be [1, 8192]"
    assert scrub(reason, ["a text of some length", "in", ""]) == reason


def test_a_refusal_is_cut():
    """Two hundred characters on one line are enough."""
    assert recorded("x\t" * 5000, []) == ("x " * 100).strip()


BITS = st.text(st.sampled_from('ab …\n\\"é'), max_size=40)


@given(parts=st.lists(BITS, max_size=6), texts=st.lists(BITS | st.text(max_size=40), max_size=4))
@example(parts=["abcdefghijkl", "abcdefghijklm"], texts=["…m abcdefghij", "abcdefghijkl"])
def test_scrub_never_leaks(parts, texts):
    """No run of twelve characters of any row is left, nor a whole short row, however texts and reason intertwine."""
    reason = " ".join([*parts, *texts, *parts])
    left = scrub(reason, texts)
    assert scrub(reason, texts) == left
    for text in texts:
        assert not {text[at : at + 12] for at in range(len(text) - 11)} & {
            left[at : at + 12] for at in range(len(left) - 11)
        }
        flat = " ".join(text.split())
        assert not (4 <= len(flat) < 12 and flat in left)


def test_scrub_is_fast_on_long_texts():
    """A text of 100 kB against a reason of 500 characters takes a few milliseconds (the bound leaves room for slow machines)."""
    words = [f"w{number * 7919 % 5000}" for number in range(20000)]
    text = " ".join(words)[:100_000]
    reason = " ".join(f"{word}x" for word in words[500:600])[:500]
    took = []
    for _ in range(3):
        began = time.perf_counter()
        scrub(reason, [text])
        took.append(time.perf_counter() - began)
    assert min(took) < 0.025
    print(f"scrub: {1000 * min(took):.1f} ms")
