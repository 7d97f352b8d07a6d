"""What was asked of this server, and what would have been paid for it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_modelstudio.sandbox.asking import Question
    from airflow_provider_modelstudio.sandbox.endpoints import Endpoint

__all__ = ["TRIAL", "Call", "Ledger", "Paid", "fingerprint"]

TRIAL = "how big"
"""What Elasticsearch asks a new endpoint."""


def fingerprint(value: Any) -> str:
    """SHA-256 of a text, or of a multimodal element (its JSON with sorted names), in hexadecimal."""
    if not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(value.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Paid:
    """One answer that a model gave, whether or not it reached the client."""

    number: int
    """Of the call."""
    task_type: str
    inference_id: str
    inputs: tuple[str, ...]
    """Fingerprints of the texts, documents or elements, in order."""
    query: str | None
    """Fingerprint of the query of a rerank request."""
    spoiled_by: str | None
    """The kind of fault that damaged the answer on its way."""
    trial: bool = False
    """Whether Elasticsearch itself asked, to see that a new endpoint works."""

    @property
    def count(self) -> int:
        """Texts, documents or elements."""
        return len(self.inputs)


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request, after it was answered."""

    number: int
    """From 1, in order of arrival."""
    method: str
    target: str
    """Path and query."""
    operation: str
    """``infer``, ``create``, ``update``, ``get``, ``delete``, ``root``, or empty for an unknown route."""
    task_type: str | None
    inference_id: str | None
    inputs: int
    """Texts, documents or elements asked for; 0 when it did not come to that."""
    status: int | None
    """``None`` when the connection was cut before a status."""
    content_type: str
    """Of the answer."""
    faults: tuple[str, ...]
    """Kinds of the faults that acted on it."""
    began: float
    """Seconds since the server started."""
    ended: float


class Ledger:
    """The books. Appending is safe from any thread; reading gives copies.

    ``keep``: remember each call and each paid answer; otherwise only count, for a server that runs for days.
    """

    def __init__(self, *, keep: bool = True) -> None:
        self._keep = keep
        self._calls: list[Call] = []
        self._bill: list[Paid] = []
        self.requests = 0
        """Questions to models that arrived, refused ones included."""
        self.in_flight = 0
        self.most_in_flight = 0

    @property
    def calls(self) -> list[Call]:
        """Every request, in order of its answer."""
        return list(self._calls)

    @property
    def bill(self) -> list[Paid]:
        """Every answer a model gave."""
        return list(self._bill)

    def arrived(self) -> None:
        """A question to a model came in."""
        self.requests += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)

    def left(self) -> None:
        """A question to a model was answered."""
        self.in_flight -= 1

    def answered(self, call: Call) -> None:
        """A request was answered."""
        if self._keep:
            self._calls.append(call)

    def tried(self, number: int, endpoint: Endpoint) -> None:
        """An endpoint was made, which takes a call of its model."""
        if self._keep:
            paid_for = (fingerprint(TRIAL),)
            self._bill.append(
                Paid(number, endpoint.task_type, endpoint.inference_id, paid_for, None, spoiled_by=None, trial=True)
            )

    def paid(self, number: int, endpoint: Endpoint, question: Question, spoiled_by: str | None) -> None:
        """A model answered."""
        if not self._keep:
            return
        self._bill.append(
            Paid(
                number,
                endpoint.task_type,
                endpoint.inference_id,
                tuple(fingerprint(one) for one in question.elements or question.inputs),
                None if question.query is None else fingerprint(question.query),
                spoiled_by,
            )
        )
