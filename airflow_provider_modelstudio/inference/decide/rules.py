"""Which failure calls for what? Pure; a table, the most specific rule first.

Elasticsearch hands on what the model service says, and its status line misleads:
an upstream 5xx arrives as 400, an empty account and Elasticsearch's own timeout as 429.
So a rule looks at the status the model service gave, where there is one, and at the words,
which are Model Studio's error codes and messages, and the names of Elasticsearch's exceptions.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from airflow_provider_modelstudio.inference.errors import ConfigurationError, EndpointError, Fault, OutageError

from .decision import Mark, Split, Stop, Wait
from .wording import BYTES, bytes_in, describe, limit_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_modelstudio.inference.errors import PermanentError, TransientError

    from .decision import Decision, Unit

__all__ = ["RULES", "Case", "Rule"]


class Case(NamedTuple):
    """What a rule looks at."""

    fault: Fault | None
    """``None`` for an answer that is no good."""
    status: int
    """Of the model service where Elasticsearch tells it, else of whoever answered; 0: there was none."""
    own_status: int
    """Of whoever answered."""
    upstream: bool
    """Whether Elasticsearch tells the status of the model service."""
    kind: str
    """Elasticsearch's ``error.type``."""
    reason: str
    text: str
    """Both."""
    retry_after: float | None
    rows: int
    attempts: int
    """Failures of this request before, as far as they count."""
    alone: int
    """Those of them during which other requests were answered."""
    useless: int = 0
    """Rows marked because their answers were no good, while no answer was good."""
    bottomless: bool = False
    """Whether the answer is nested deeper than any."""


class Rule(NamedTuple):
    """One row of the table."""

    name: str
    applies: Callable[[Case], bool]
    then: Callable[[Case], Decision]


# -- when a rule applies

CLUSTER: Final = "security_exception"
MODEL_SERVICE: Final = "status_exception"
ROWS: Final = (400, 413, 422)
"""Statuses that can be about the rows."""
SERVER: Final = range(500, 600)
REDIRECT: Final = range(300, 400)
STRANGERS: Final = 4
"""Attempts before the fifth answer of a stranger, which is no coincidence any more."""
STUBBORN: Final = 8
"""Failures of a request, while others are answered, after which its rows are to blame and not the service."""
CUTS: Final = 2
"""Attempts before the third answer that lost its end, which may be too long for somebody on the way."""
FETCHES: Final = 2
"""Attempts before the third in vain to fetch a picture."""


def _says(pattern: str, *statuses: int) -> Callable[[Case], bool]:
    """The service says so, with one of these statuses (any, when none is given)."""
    find = re.compile(pattern, re.IGNORECASE).search
    return lambda case: (
        case.fault is Fault.HTTP and (not statuses or case.status in statuses) and find(case.text) is not None
    )


def _status(*statuses: int) -> Callable[[Case], bool]:
    return lambda case: case.fault in {Fault.HTTP, Fault.NOT_ELASTICSEARCH} and case.status in statuses


def _cluster(*statuses: int) -> Callable[[Case], bool]:
    """Elasticsearch's own security speaks, not the model service."""
    return lambda case: case.fault is Fault.HTTP and case.kind == CLUSTER and case.own_status in statuses


def _model_service(*statuses: int) -> Callable[[Case], bool]:
    return lambda case: case.status in statuses and (case.upstream or case.kind == MODEL_SERVICE)


def _fault(*faults: Fault) -> Callable[[Case], bool]:
    return lambda case: case.fault in faults


# -- what follows from it


def _its_own(case: Case) -> str:
    """The task type that an endpoint has, where it is said; it is a name and no row."""
    said = re.search(r"does not match the .{1,30}task type \[([a-z_]{1,40})\]", case.reason)
    return f", {said[1]}" if said else ""


def _stop(words: str, kind: type[PermanentError | TransientError] = EndpointError) -> Callable[[Case], Decision]:
    """``words`` say what is wrong and what to do; the server's own may hold a row, so they are not repeated."""
    return lambda case: Stop(kind(words.format(status=case.status, kind=f" ({case.kind})" if case.kind else "")))


def _failed(case: Case) -> Decision:
    return Wait("failed", case.retry_after)


def _overloaded(case: Case) -> Decision:
    return Wait("overloaded", case.retry_after, "concurrency", counts=False)


def _throttled(unit: Unit | None = None) -> Callable[[Case], Decision]:
    return lambda case: Wait("throttled", case.retry_after, unit, counts=False)


def _until(attempts: int, then: Callable[[Case], Decision]) -> Callable[[Case], Decision]:
    """Ask the same again before that, so many times."""
    return lambda case: then(case) if case.attempts >= attempts else _failed(case)


def _unless_alone(case: Case) -> Decision:
    """The service's fault, as long as it fails others, too."""
    return _one_row(_no_answer)(case) if case.alone >= STUBBORN else _failed(case)


def _shorter(case: Case) -> Decision:
    """Ask for an answer half as long, where that is possible."""
    return Split() if case.rows > 1 and case.attempts >= CUTS else _unless_alone(case)


def _one_row(reason: Callable[[Case], str]) -> Callable[[Case], Decision]:
    """Some row is to blame: halve down to it, then mark it."""
    return lambda case: Split() if case.rows > 1 else Mark(reason(case))


def _fewer_rows(case: Case) -> Decision:
    most = limit_in(case.text)
    return Split(rows=most) if most and most < case.rows else _one_row(_refusal)(case)


def _single_rows(case: Case) -> Decision:
    return Split(rows=1) if case.rows > 1 else Mark(_refusal(case))


def _smaller(case: Case) -> Decision:
    if case.rows <= 1:
        return Mark(f"too large for the service ({case.status})")
    size = bytes_in(case.text)
    return Split(size=size) if size else Split(too_large=True)


def _refusal(case: Case) -> str:
    return describe(case.status, case.kind, case.reason)


def _too_long(case: Case) -> str:
    limit = limit_in(case.text)
    return f"too long for the model: at most {limit}" if limit else "too long for the model"


def _no_answer(_: Case) -> str:
    return f"no answer in {STUBBORN + 1} attempts, while other rows were answered"


def _unusable(case: Case) -> str:
    return f"no usable answer: {case.reason}"


USELESS: Final = 3
"""Rows whose answers are no good, with no good one before, after which the rows are not to blame."""

# -- the table

OUTAGE: Final = (
    r"\bInternalError\b(?!\.Algo)|\bSystemError\b|ModelServiceFailed|ModelServingError|ModelUnavailable"
    r"|internal server error|service (?:is )?unavailable"
)

RULES: Final = (
    Rule(
        "bottomless answer",
        lambda case: case.bottomless,
        lambda case: Stop(
            EndpointError(
                f"what answers in Elasticsearch's name is no inference endpoint: {case.reason}, and answers have a handful; "
                "nothing more is asked; check the host, the proxies on the way and what the endpoint leads to"
            )
        ),
    ),
    Rule(
        "useless endpoint",
        lambda case: case.fault is None and case.useless >= USELESS,
        lambda case: Stop(
            EndpointError(
                f"no answer of the endpoint is of use, and each is paid for: {case.reason}; check that the endpoint's model "
                "and settings are those the task was written for"
            )
        ),
    ),
    Rule("unusable answer", lambda case: case.fault is None, _until(1, _one_row(_unusable))),
    Rule("no answer", _fault(Fault.TIMEOUT, Fault.CONNECTION), _unless_alone),
    Rule("cut answer", _fault(Fault.CUT), _shorter),
    Rule(
        "endless answer",
        _fault(Fault.TOO_LARGE),
        _stop(
            "the answer is far longer than this task can ask for; check that the endpoint does what its task type says"
        ),
    ),
    # Somebody else may speak here, so only the status counts.
    Rule("body too large", _status(413), _smaller),
    Rule(
        "redirect",
        lambda case: _status(*REDIRECT)(case) or _says("unhandled redirection")(case),
        _stop("redirected ({status}), and redirects are never followed; enter the address they lead to"),
    ),
    Rule(
        "proxy login",
        _status(407),
        _stop("a proxy asks for a login (407); mend the proxy settings of the connection or of the machine"),
    ),
    # The cluster's own security.
    Rule(
        "licence",
        lambda case: _cluster(403)(case) and "license" in case.text,
        _stop("the licence of the Elasticsearch cluster does not cover inference (403)"),
    ),
    Rule(
        "cluster login",
        _cluster(401),
        _stop("Elasticsearch refuses the login (401); mend the API key or the password of the Airflow connection"),
    ),
    Rule(
        "cluster privilege",
        _cluster(403),
        _stop("Elasticsearch grants this user no inference (403); give it the cluster privilege monitor_inference"),
    ),
    # The account at Model Studio.
    Rule(
        "account",
        _says(
            r"\bArrearage\b|CommodityNotPurchased|(?:Prepaid|Postpaid)BillOverdue|FreeTierOnly|overdue payment"
            r"|account is in good standing|free allocated quota exceeded|free (?:tier|quota)\b.{0,60}\bexhausted",
            *(400, 402, 403, 429),
        ),
        _stop(
            "the Model Studio account does not pay for this ({status}): a bill is overdue, nothing was bought, "
            "or the free quota is used up; put the account in order"
        ),
    ),
    Rule("payment", _status(402), _stop("payment required (402); put the account of the model service in order")),
    Rule(
        "model key",
        lambda case: (
            _model_service(401)(case)
            or _says(r"InvalidApiKey|(?:invalid|incorrect) api.?key|no api.?key", 400, 401, 403)(case)
        ),
        _stop(
            "Model Studio refuses the API key stored in the inference endpoint ({status}), not the one of the Airflow "
            "connection; create the endpoint anew with a key of the same region as its API host"
        ),
    ),
    Rule(
        "model access",
        lambda case: _model_service(403)(case) or _says(r"\bAccessDenied\b|access denied", 400, 403)(case),
        _stop(
            "Model Studio does not let the key in the inference endpoint use this model or workspace ({status}); "
            "grant it access there, or create the endpoint anew with another key"
        ),
    ),
    # The endpoint.
    Rule(
        "endpoint missing",
        _says(r"resource_not_found_exception|inference endpoint not found", 404),
        _stop("there is no such inference endpoint (404); create it, or mend inference_id"),
    ),
    Rule(
        "model missing",
        _says(
            r"ModelNotFound|WorkSpaceNotFound|model_not_(?:found|supported)|model not exist|unsupported model"
            r"|\bmodel\b.{0,80}(?:does not exist|is not found)",
            *(400, 403, 404),
        ),
        _stop(
            "Model Studio does not know or no longer serves the model of this endpoint ({status}); choose another one"
        ),
    ),
    Rule(
        "task type unknown",
        _says(r"unknown task_?type|unknown service"),
        _stop("this Elasticsearch does not know the task type ({status}): it is too old, or not Alibaba Cloud's"),
    ),
    Rule(
        "task type mismatch",
        _says(r"does not match the (?:inference endpoint|model)'s task type"),
        lambda case: Stop(
            EndpointError(
                f"the inference endpoint is of another task type{_its_own(case)} ({case.status}); "
                "use the operator for it, or another endpoint"
            )
        ),
    ),
    Rule(
        "media type",
        lambda case: _says("media_type_header_exception")(case) or _status(406, 415)(case),
        _stop("Elasticsearch refuses the media type ({status}); something on the way changes Accept or Content-Type"),
    ),
    Rule(
        "request not understood",
        _says(
            r"unknown field \[|unrecognized parameters?\b|\] cannot be specified for task type|no handler found for uri",
            *(400, 404, 405),
        ),
        _stop(
            "Elasticsearch does not understand the request ({status}{kind}): it is too old for a setting of this task",
            ConfigurationError,
        ),
    ),
    Rule(
        "template mismatch",
        _says(r"failed to parse custom model response|response parser path"),
        _until(
            1,
            _stop(
                "Elasticsearch cannot read the model's answer ({status}); mend json_parser in the endpoint's settings"
            ),
        ),
    ),
    Rule(
        "endpoint settings",
        _says(
            r"value error, dimensions? |\bdimensions? .{0,40}\b(?:is invalid|should be|must be)|url error, please", 400
        ),
        _stop("Model Studio refuses the settings of the endpoint ({status}): path or dimension do not suit its model"),
    ),
    # The rows.
    Rule(
        "media not fetched",
        _says(r"(?:failed|unable) to (?:download|fetch)|download the media resource", *ROWS),
        _until(FETCHES, _one_row(lambda _: "the image or video could not be fetched")),
    ),
    Rule(
        "content filter",
        _says(r"DataInspectionFailed|data_inspection_failed|inappropriate content|content_filter", *ROWS),
        _one_row(lambda _: "refused by the content filter (data_inspection_failed)"),
    ),
    Rule("one row at a time", _says(r"only accepts? (?:1|one|a single) input|single input only", *ROWS), _single_rows),
    Rule("body too large, named", _says(BYTES, *ROWS), _smaller),
    Rule(
        "too many rows",
        _says(
            r"batch.?size|too many (?:inputs|texts|documents|contents|rows)\b|array too long"
            r"|\bnumber of (?:the )?(?:input )?(?:inputs|texts|documents|contents|elements|rows)\b"
            r"|(?:than|at most|maximum of|up to|limit of) \d+ (?:inputs|texts|documents|docs|contents|elements|rows)\b",
            *ROWS,
        ),
        _fewer_rows,
    ),
    Rule(
        "too long",
        _says(
            r"range of input length|context (?:length|window)|too long|string_above_max_length|exceeds? the maximum length"
            r"|\b(?:maximum|max|limit|exceed\w*)\b.{0,40}\b(?:tokens|characters|input length)",
            *ROWS,
        ),
        _one_row(_too_long),
    ),
    # Not now.
    Rule(
        "server's timeout",
        lambda case: _status(408)(case) or _says(r"request timed out after|\bRequestTimeOut\b", 400, 429)(case),
        _unless_alone,
    ),
    Rule(
        "too many at once",
        _says(
            r"es_rejected_execution_exception|circuit_breaking_exception|queue is full|concurren(?:t|cy)|system capacity",
            *(429, 503),
        ),
        _overloaded,
    ),
    Rule(
        "token quota",
        _says(r"AllocationQuota|insufficient_quota|allocated quota|current quota|\btpm\b|\btokens?.per", 429),
        _throttled("tokens"),
    ),
    Rule(
        "request quota",
        _says(
            r"RateQuota|BurstRate|limit_requests|limit_burst_rate|requests? (?:rate|limit)|\brpm\b|requests?.per", 429
        ),
        _throttled("requests"),
    ),
    Rule("throttled", lambda case: _status(429)(case) or _says(r"\bThrottling\b", 400, 403)(case), _throttled()),
    Rule("outage", lambda case: _status(*SERVER, 409, 425)(case) or _says(OUTAGE, 400)(case), _unless_alone),
    # Nothing known.
    Rule(
        "stranger refuses",
        lambda case: case.fault is Fault.NOT_ELASTICSEARCH and case.status in range(400, 500),
        _until(
            STRANGERS,
            _stop(
                "something between here and Elasticsearch refuses the requests ({status}); check the host and the proxies"
            ),
        ),
    ),
    Rule(
        "stranger",
        _fault(Fault.NOT_ELASTICSEARCH),
        _until(
            STRANGERS,
            _stop(
                "this is not Elasticsearch that answers ({status}), perhaps a login or maintenance page", OutageError
            ),
        ),
    ),
    Rule("login", _status(401, 403), _stop("access refused ({status}{kind}); check the key of the Airflow connection")),
    Rule("refused", _status(*ROWS), _one_row(_refusal)),
    Rule(
        "impossible",
        lambda case: case.status in range(400, 500),
        _stop(
            "Elasticsearch refuses such requests ({status}{kind}); check host, path and inference_id of the endpoint"
        ),
    ),
    Rule("unheard of", lambda _: True, _failed),
)
