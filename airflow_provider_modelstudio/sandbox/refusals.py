"""Everything this server says no with, in Elasticsearch's words. Pure.

``status_exception`` is what Elasticsearch calls a refusal that carries its own status.
The model service's refusals come wrapped: a status below 500 passes through, any other becomes 400.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "CHALLENGES",
    "Refusal",
    "already_exists",
    "forbidden",
    "illegal_argument",
    "misread",
    "not_a_valid_question",
    "not_found",
    "queue_full",
    "simple",
    "status_exception",
    "timed_out",
    "unauthenticated",
    "upstream",
    "wrong_task_type",
]

CHALLENGES = ('Basic realm="security", charset="UTF-8"', "ApiKey")

_PREFIXES = {
    400: "Received a bad request status code",
    401: "Received an authentication error status code",
    403: "Received a permission denied error status code",
    413: "Received a content too large status code",
    429: "Received a rate limit status code",
}


class Refusal(Exception):  # noqa: N818 - an answer like any other, raised to leave early
    """An answer that is no success.

    ``headers``: sent besides the usual ones.
    ``challenges``: of ``WWW-Authenticate``, which Elasticsearch repeats inside the body.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        reason: str,
        *,
        caused_by: Refusal | None = None,
        headers: tuple[tuple[str, str], ...] = (),
        challenges: tuple[str, ...] = (),
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.kind = kind
        self.reason = reason
        self.caused_by = caused_by
        self.headers = (*headers, *(("WWW-Authenticate", challenge) for challenge in challenges))
        self.challenges = challenges

    def body(self) -> dict[str, Any]:
        """What the answer says."""
        return {"error": {"root_cause": [self._told()], **self._told(with_cause=True)}, "status": self.status}

    def _told(self, *, with_cause: bool = False) -> dict[str, Any]:
        told: dict[str, Any] = {"type": self.kind, "reason": self.reason}
        if with_cause and self.caused_by:
            told["caused_by"] = self.caused_by._told(with_cause=True)  # noqa: SLF001 - its own kind
        if self.challenges:
            told["header"] = {"WWW-Authenticate": list(self.challenges)}
        return told


class _Simple(Refusal):
    """The few refusals that are one sentence."""

    def __init__(self, status: int, reason: str, *, show_status: bool, headers: tuple[tuple[str, str], ...]) -> None:
        super().__init__(status, "", reason, headers=headers)
        self._show_status = show_status

    def body(self) -> dict[str, Any]:
        return {"error": self.reason, "status": self.status} if self._show_status else {"error": self.reason}


def simple(status: int, reason: str, *, show_status: bool = True, headers: tuple[tuple[str, str], ...] = ()) -> Refusal:
    """A refusal of the HTTP layer."""
    return _Simple(status, reason, show_status=show_status, headers=headers)


def status_exception(status: int, reason: str, *, caused_by: Refusal | None = None) -> Refusal:
    """A refusal with a status of its own."""
    return Refusal(status, "status_exception", reason, caused_by=caused_by)


def unauthenticated(reason: str) -> Refusal:
    """401 of the cluster itself, not of the model service."""
    return Refusal(401, "security_exception", reason, challenges=CHALLENGES)


def forbidden(user: str) -> Refusal:
    """403 of the cluster itself: the user may not use models."""
    return Refusal(
        403,
        "security_exception",
        f"action [cluster:monitor/xpack/inference/post] is unauthorized for user [{user}] with effective roles [viewer], "
        "this action is granted by the cluster privileges "
        "[monitor_inference,manage_inference,monitor,manage,all]",
    )


def misread(reason: str, *, caused_by: Refusal | None = None) -> Refusal:
    """400: the body is not what the API understands."""
    return Refusal(400, "x_content_parse_exception", reason, caused_by=caused_by)


def not_a_valid_question(complaint: str) -> Refusal:
    """400: the body is understood and asks for something impossible."""
    return Refusal(400, "action_request_validation_exception", f"Validation Failed: 1: {complaint};")


def illegal_argument(reason: str) -> Refusal:
    """400: a query parameter makes no sense."""
    return Refusal(400, "illegal_argument_exception", reason)


def not_found(inference_id: str) -> Refusal:
    """404: no such endpoint."""
    return Refusal(404, "resource_not_found_exception", f"Inference endpoint not found [{inference_id}]")


def already_exists(inference_id: str) -> Refusal:
    """400: PUT creates and never replaces."""
    return Refusal(400, "resource_already_exists_exception", f"Inference endpoint [{inference_id}] already exists")


def wrong_task_type(asked: str, actual: str) -> Refusal:
    """400: the endpoint does something else."""
    return status_exception(
        400, f"Requested task type [{asked}] does not match the inference endpoint's task type [{actual}]"
    )


def timed_out(seconds: str, inference_id: str, *, status: int = 408) -> Refusal:
    """Elasticsearch stopped waiting for the model, which goes on: 408 up to 8.17, 429 in newer servers."""
    if status == 429:  # noqa: PLR2004 - too many requests, of all statuses
        return Refusal(
            429, "timeout_exception", f"Request timed out after [{seconds}] for inference id [{inference_id}]"
        )
    return status_exception(status, f"Request timed out after [{seconds}]")


def queue_full(inference_id: str) -> Refusal:
    """429: too many requests wait in this node."""
    return Refusal(
        429,
        "es_rejected_execution_exception",
        f"Failed to execute task for inference id [{inference_id}] because the request service "
        "[inference_utility_thread_pool] queue is full",
    )


def upstream(
    status: int, inference_id: str, message: str | None, *, headers: tuple[tuple[str, str], ...] = ()
) -> Refusal:
    """A refusal of the model service, as Elasticsearch hands it on: an upstream 5xx arrives as 400."""
    server_error = status >= 500  # noqa: PLR2004 - as HTTP has it
    prefix = "Received a server error status code" if server_error else None
    reason = (
        f"{prefix or _PREFIXES.get(status, 'Received an unsuccessful status code')} "
        f"for request from inference entity id [{inference_id}] status [{status}]"
    )
    if message is not None:
        reason += f". Error message: [{message}]"
    return Refusal(400 if server_error else status, "status_exception", reason, headers=headers)
