"""Errors by name, for scripts of faults: what the model service and Elasticsearch itself say no with. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_modelstudio.sandbox.refusals import (
    Refusal,
    forbidden,
    not_found,
    queue_full,
    status_exception,
    timed_out,
    unauthenticated,
    upstream,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BILLED", "NAMES", "refusal"]

_UPSTREAM = {
    "throttled": (429, "Throttling.RateQuota: Requests rate limit exceeded, please try again later."),
    "throttled_burst": (429, "Throttling.BurstRate: Request rate increased too quickly. Please slow down."),
    "throttled_tokens": (
        429,
        "Throttling.AllocationQuota: Allocated quota exceeded, please increase your quota limit.",
    ),
    "free_quota_gone": (429, "Throttling.AllocationQuota: Free allocated quota exceeded."),
    "overdue": (429, "PostpaidBillOverdue: The postpaid bill is overdue."),
    "not_purchased": (429, "CommodityNotPurchased: Commodity has not been purchased yet."),
    "arrears": (400, "Arrearage: Access denied, please make sure your account is in good standing."),
    "data_inspection": (400, "DataInspectionFailed: Input data may contain inappropriate content."),
    "invalid_parameter": (400, "InvalidParameter: Range of input length should be [1, 8192]"),
    "upstream_401": (401, "InvalidApiKey: Incorrect API key provided."),
    "upstream_403": (403, "AccessDenied: Access denied."),
    "upstream_404": (404, "ModelNotFound: Model not exist."),
    "upstream_413": (413, "The request body is too large."),
    "upstream_500_as_400": (500, "InternalError: An internal error has occurred, please try again later."),
    "upstream_502_as_400": (502, None),
    "upstream_503_as_400": (503, "ModelUnavailable: Model is unavailable, please try again later."),
    "upstream_504_as_400": (504, "RequestTimeOut: Request timed out, please try again later."),
}
"""Name → status of the model service, and its code and message."""

_OWN: dict[str, Callable[[str], Refusal]] = {
    "401": lambda _: unauthenticated("unable to authenticate user [elastic] for REST request [/_inference]"),
    "403": lambda _: forbidden("elastic"),
    "404": not_found,
    "408": lambda inference_id: timed_out("30s", inference_id),
    "503": lambda _: Refusal(
        503, "cluster_block_exception", "blocked by: [SERVICE_UNAVAILABLE/1/state not recovered];"
    ),
    "es_timeout_408": lambda inference_id: timed_out("30s", inference_id),
    "es_timeout_429": lambda inference_id: timed_out("30s", inference_id, status=429),
    "queue_full": queue_full,
    "unparsed_answer": lambda _: status_exception(
        400,
        "Failed to parse custom model response, please check that the response parser path matches the response format.",
    ),
    "key_refused_at_creation": lambda inference_id: status_exception(
        400,
        "Could not complete inference endpoint creation as validation call to service threw an exception.",
        caused_by=upstream(401, inference_id, "InvalidApiKey: Incorrect API key provided."),
    ),
}

NAMES = frozenset(_UPSTREAM) | frozenset(_OWN)

BILLED = frozenset({"408", "es_timeout_408", "es_timeout_429", "unparsed_answer"})
"""Errors that come after the model was asked."""


def refusal(name: str, inference_id: str, *, message: str | None = None) -> Refusal:
    """The refusal of that name. ``message``: instead of the model service's own."""
    if name in _UPSTREAM:
        status, usual = _UPSTREAM[name]
        return upstream(status, inference_id, usual if message is None else message)
    return _OWN[name](inference_id)
