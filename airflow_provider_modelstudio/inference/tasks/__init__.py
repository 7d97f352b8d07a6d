"""What a task type is: which columns it reads, what it asks, how an answer becomes columns. Pure.

One module a task type, each a frozen value that satisfies :class:`InferenceTask`.
A task knows no URL, no retry and no file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pyarrow as pa

__all__ = ["Answer", "Decoded", "FinishesRows", "InferenceTask", "Question", "Refused", "RequestLimits", "Wider"]


class Question(NamedTuple):
    """What one row asks of the endpoint."""

    key: bytes
    """16 bytes; rows with equal keys ask the same and are asked once."""
    value: Any
    """What the task's ``encode`` puts into the request body."""
    tokens: int
    """Estimated tokens, at least 1."""
    size: int
    """Bytes this question adds to the request body, about."""
    group: bytes | None = None
    """A request holds questions of one group."""


class Refused(NamedTuple):
    """Why a row is not asked. It keeps its place with a null answer and this reason."""

    reason: str
    """The same words for the same cause, whatever the row: rows are counted by them."""
    fatal: bool = False
    """The task was told to fail over such a row (``on_empty="fail"``, ``on_too_long="fail"``): the run ends with
    :class:`~..errors.RowsRefusedError` before anything is asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestLimits:
    """What one request may hold. The tightest limit wins; one question always fits alone."""

    rows: int = 10
    tokens: int | None = None
    size: int = 8 * 1024 * 1024
    """Bytes of the request body."""
    whole: bool = False
    """Questions of one group only mean something together: a request is never cut, and fails as a whole.
    The task sees to it that a group fits into a request."""


class Answer(NamedTuple):
    """The bytes of a successful answer, and how to read them."""

    body: bytes
    content_type: str
    """Media type without parameters: ``application/vnd.elasticsearch+json``, ``application/vnd.elasticsearch+cbor``, …"""


@dataclass(frozen=True, slots=True)
class Decoded:
    """The answers to one request, in the order of its questions."""

    columns: pa.RecordBatch
    """One row a question; the task's output columns and nothing else.
    Where ``refused`` has a reason they hold what is worth keeping of the answer all the same, mostly nothing."""
    refused: Mapping[int, str] = field(default_factory=dict)
    """Position in the request → why the answer to this question cannot be used."""
    written: int = 0
    """Estimated tokens that the model wrote, where it is paid for that."""
    unfit: bool = False
    """The model answered, but not what it was asked for: it is asked once more, and then taken at its word."""


class Wider(NamedTuple):
    """Answers on record in a form that holds more than a task writes: they need not be asked again, only narrowed."""

    settings: Mapping[str, Any]
    """:meth:`InferenceTask.settings` of the task that has such answers."""
    narrow: Callable[[pa.RecordBatch], Decoded]
    """That task's output columns as this one's; a row whose answer does not fit is refused."""


class InferenceTask(Protocol):
    """One Elasticsearch ``task_type`` bound to columns."""

    @property
    def task_type(self) -> str:
        """Elasticsearch's name: ``text_embedding``, ``sparse_embedding``, ``rerank``, ``completion``, …"""

    @property
    def input_columns(self) -> tuple[str, ...]:
        """Columns read from the source, dotted paths reach into structs."""

    @property
    def output_columns(self) -> tuple[str, ...]:
        """Columns written, without the error column."""

    @property
    def error_column(self) -> str:
        """Nullable string column with the reason a row has no answer."""

    @property
    def limits(self) -> RequestLimits:
        """Upper bounds of one request."""

    @property
    def equal_rows_share(self) -> bool:
        """Whether rows with equal keys are asked once and share the answer.

        True where equal questions have equal answers.
        False for ``completion`` unless it is said to be deterministic: there each row is asked for itself, although keys
        still say what is asked.
        """

    @property
    def wider(self) -> Wider | None:
        """Where the same answers may be on record in a wider form; ``None`` where there is none."""

    def check(self, schema: pa.Schema) -> None:
        """Raise :class:`~..errors.InputError` when the source lacks a column or has it in a type that cannot be asked."""

    def settings(self) -> Mapping[str, Any]:
        """JSON-able settings that decide the answer to a question; two tasks with equal settings share answers."""

    def questions(self, batch: pa.RecordBatch) -> list[Question | Refused]:
        """One entry a row of ``batch`` (which holds at least ``input_columns``), in order. Never raises for a bad row."""

    def encode(self, questions: Sequence[Question]) -> bytes:
        """The JSON request body."""

    def decode(self, answer: Answer, questions: Sequence[Question]) -> Decoded:
        """Columns from an answer.

        Raises :class:`~..errors.AnswerError` when the answer as a whole cannot be used, and
        :class:`~..errors.EndpointError` when it tells that no other one could.
        """

    def output_schema(self, dimensions: int | None) -> pa.Schema:
        """Schema of ``output_columns`` when nothing was answered; ``dimensions`` of a dense vector where known."""


@runtime_checkable
class FinishesRows(Protocol):
    """A task whose output follows from answers of several rows, which are always in one window."""

    def finish(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Rows with their answers and reasons as they are written; the same rows, the same columns."""
