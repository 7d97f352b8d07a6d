"""Fakes at the two seams: a task whose answers can be checked row by row, and a transport that follows a script."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa

from airflow_provider_modelstudio.inference.errors import AnswerError, Fault, RequestError
from airflow_provider_modelstudio.inference.tasks import Answer, Decoded, Question, Refused, RequestLimits

DIMENSIONS = 4


def vector(text: str) -> list[float]:
    """The vector that belongs to a text, and to no other."""
    return [byte / 8 for byte in hashlib.sha256(text.encode()).digest()[:DIMENSIONS]]


@dataclass(frozen=True)
class Hashes:
    """A task type of our own: a vector of four numbers a text."""

    limits: RequestLimits = field(default_factory=lambda: RequestLimits(rows=10))
    equal_rows_share: bool = True
    setting: str = "a"

    task_type = "hashes"
    input_columns = ("text",)
    output_columns = ("embedding",)
    error_column = "embedding_error"

    def check(self, schema):
        assert "text" in schema.names

    def settings(self):
        return {"setting": self.setting}

    def questions(self, batch):
        return [
            Question(hashlib.blake2b(t.encode(), digest_size=16).digest(), t, max(1, len(t) // 4), len(t))
            if t
            else Refused("empty text")
            for t in batch.column("text").to_pylist()
        ]

    def encode(self, questions):
        return json.dumps([question.value for question in questions]).encode()

    def decode(self, answer, questions):
        vectors = json.loads(answer.body)
        if len(vectors) != len(questions):
            raise AnswerError(f"{len(vectors)} vectors for {len(questions)} texts")
        refused = {i: "not a number" for i, v in enumerate(vectors) if v is None}
        dims = next((len(v) for v in vectors if v is not None), DIMENSIONS)
        schema = self.output_schema(dims)
        return Decoded(pa.RecordBatch.from_pylist([{"embedding": v} for v in vectors], schema), refused)

    def output_schema(self, dimensions):
        return pa.schema([("embedding", pa.list_(pa.field("element", pa.float32()), dimensions or DIMENSIONS))])


@dataclass(frozen=True)
class Numbers(Hashes):
    """A task whose answers are words, and a number where they are one; other words are asked for once more."""

    limits: RequestLimits = field(default_factory=lambda: RequestLimits(rows=1))
    equal_rows_share: bool = False

    output_columns = ("words", "number")
    error_column = "words_error"

    def decode(self, answer, questions):
        (words,) = json.loads(answer.body)
        number = int(words) if words.isdigit() else None
        columns = pa.RecordBatch.from_pylist([{"words": words, "number": number}], self.output_schema(None))
        return Decoded(columns) if number is not None else Decoded(columns, {0: "not a number"}, unfit=True)

    def output_schema(self, dimensions):
        return pa.schema([("words", pa.string()), ("number", pa.int64())])


@dataclass
class Scripted:
    """A service: answers at once, unless the script says otherwise.

    ``script(number, texts)`` is asked at each request; it returns ``None`` for a good answer, an exception to raise,
    bytes to answer with, or a coroutine to wait for.
    """

    script: object = lambda number, texts: None
    billed: Counter = field(default_factory=Counter)
    """Text → how often it was answered."""
    sizes: list = field(default_factory=list)
    most_in_flight: int = 0
    in_flight: int = 0

    @property
    def requests(self):
        return len(self.sizes)

    async def infer(self, task_type, inference_id, body, *, expect_bytes):
        texts = json.loads(body)
        self.sizes.append(len(texts))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            act = self.script(len(self.sizes), texts)
            if asyncio.iscoroutine(act):
                act = await act
            else:
                await asyncio.sleep(0)
            if isinstance(act, Exception):
                raise act
            self.billed.update(texts)
            return Answer(
                act if act is not None else json.dumps([vector(t) for t in texts]).encode(), "application/json"
            )
        finally:
            self.in_flight -= 1

    async def aclose(self):
        pass


def http(status, reason="", *, upstream=None, kind="status_exception", retry_after=None):
    """An error of Elasticsearch, as the transport hands it over."""
    return RequestError(
        f"POST failed with {status}",
        fault=Fault.HTTP,
        status=status,
        upstream_status=upstream,
        error_type=kind,
        reason=reason,
        retry_after=retry_after,
    )
