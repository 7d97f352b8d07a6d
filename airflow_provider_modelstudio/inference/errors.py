"""What can go wrong, sorted by whose turn it is. Pure.

::

    ModelStudioError
    ├── RequestError            one request failed; ``decide`` says what to do
    ├── AnswerError             one answer is not what was asked for; ``decide`` says what to do
    │   └── BottomlessAnswerError   one answer is nested so deep that no answer of ours it can be
    ├── PermanentError          trying the task again cannot help: somebody must change something
    │   ├── ConfigurationError      a parameter or a connection field makes no sense
    │   ├── InputError              a source file is missing, damaged or of the wrong shape
    │   ├── DestinationError        the destination holds what must not be touched
    │   ├── EndpointError           refused: key, permission, endpoint, account
    │   ├── StorageRefusedError     the store of the destination, or the worker's disk, has no room or refuses access
    │   ├── RowsRefusedError        more rows failed than the task allows
    │   └── BudgetError             a guard (cost, rows, requests) was reached
    └── TransientError          trying the task again goes on from what is durable
        ├── OutageError             the service, or the store of the source, did not recover within our patience
        ├── InputChangedError       a source file changed while it was read
        ├── StorageError            the store of the destination did not do as told
        ├── SupersededError         another attempt of the same run has taken over
        └── InterruptedRunError     asked to stop

Messages say what was wrong, where, and what to do.
They hold no text of a row and no secret.
"""

from __future__ import annotations

from enum import Enum

__all__ = [
    "AnswerError",
    "BottomlessAnswerError",
    "BudgetError",
    "ConfigurationError",
    "DestinationError",
    "EndpointError",
    "Fault",
    "InputChangedError",
    "InputError",
    "InterruptedRunError",
    "ModelStudioError",
    "OutageError",
    "PermanentError",
    "RequestError",
    "RowsRefusedError",
    "StorageError",
    "StorageRefusedError",
    "SupersededError",
    "TransientError",
    "without_suppressed",
]


class ModelStudioError(Exception):
    """Anything this package raises on purpose."""


class Fault(Enum):
    """Where a request failed, before anybody asks why."""

    HTTP = "http"
    """Elasticsearch answered with a status that is not a success."""
    TIMEOUT = "timeout"
    """No complete answer within the deadline; the call may have been billed."""
    CONNECTION = "connection"
    """The connection was refused, reset or cut; billed only if the request was sent."""
    CUT = "cut"
    """The answer began and lost its end, or what is compressed in it is damaged; it was billed."""
    NOT_ELASTICSEARCH = "not-elasticsearch"
    """Somebody else answered: a proxy, a login page, a redirect."""
    TOO_LARGE = "too-large"
    """The answer was longer than anything the request can ask for."""


class RequestError(ModelStudioError):
    """One call of ``_inference`` did not give an answer.

    ``fault``: where it failed.
    ``status``: HTTP status of Elasticsearch, ``None`` when there was none.
    ``upstream_status``: status of the model service as Elasticsearch words it (``status [503]``), else ``None``.
    ``error_type``: Elasticsearch's ``error.type``, for example ``security_exception``.
    ``reason``: the innermost reason the server gave, at most 500 characters.
    ``retry_after``: seconds the server asked to wait, else ``None``.
    ``maybe_billed``: whether the model may have been paid although no answer came.
    """

    def __init__(
        self,
        message: str,
        *,
        fault: Fault,
        status: int | None = None,
        upstream_status: int | None = None,
        error_type: str | None = None,
        reason: str = "",
        retry_after: float | None = None,
        maybe_billed: bool = False,
    ) -> None:
        super().__init__(message)
        self.fault = fault
        self.status = status
        self.upstream_status = upstream_status
        self.error_type = error_type
        self.reason = reason
        self.retry_after = retry_after
        self.maybe_billed = maybe_billed


class AnswerError(ModelStudioError):
    """A paid answer that must not be used: wrong count, wrong shape, damaged bytes."""


class BottomlessAnswerError(AnswerError):
    """An answer nested far deeper than any that is asked for; whoever made it means no good, or something else."""


class PermanentError(ModelStudioError):
    """Somebody must change something before the task can succeed."""


class ConfigurationError(PermanentError):
    """A parameter or a connection field makes no sense."""


class InputError(PermanentError):
    """A source file is missing, damaged or of the wrong shape."""


class DestinationError(PermanentError):
    """The destination holds what must not be touched."""


class EndpointError(PermanentError):
    """The service refuses us: key, permission, endpoint or account."""


class StorageRefusedError(PermanentError):
    """The store of the destination, or the worker's own disk, has no room or refuses access; what was paid is kept."""


class RowsRefusedError(PermanentError):
    """More rows failed than the task allows."""


class BudgetError(PermanentError):
    """A guard (cost, rows, requests) was reached; what was paid is kept."""


class TransientError(ModelStudioError):
    """Trying the task again goes on from what is durable."""


class OutageError(TransientError):
    """The service, or the store of the source, did not recover within our patience."""


class InputChangedError(TransientError):
    """A source file changed while it was read."""


class StorageError(TransientError):
    """The store of the destination did not do as told."""


class SupersededError(TransientError):
    """Another attempt of the same run has taken over."""


class InterruptedRunError(TransientError):
    """The run was asked to stop; answers in flight were kept."""


def without_suppressed(error: BaseException) -> None:
    """Let go of everything that ``error`` was raised ``from None`` of: others' words, which nobody is to see."""
    seen: BaseException | None = error
    while seen is not None:
        if seen.__suppress_context__ and seen.__cause__ is None:
            seen.__context__ = None
        seen = seen.__cause__ or seen.__context__
