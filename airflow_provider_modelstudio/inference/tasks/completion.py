"""One answer in words for each row: ``completion``. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import pyarrow as pa

from airflow_provider_modelstudio.inference.errors import AnswerError, ConfigurationError

from . import Decoded, Question, Refused, RequestLimits
from .answers import Misfit, RowReader
from .prompts import Template, parse_template
from .response_schema import ResponseSchema, Unfit, parse_response_schema
from .settings import check_at_least, check_choice, check_columns, check_task_settings, check_text_setting
from .texts import BLANK_TEXT, EMPTY_TEXT, KEY_BYTES, NOT_UTF8, OnEmpty
from .tokens import estimate_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from . import Answer, Wider

__all__ = ["NO_TEXT", "Completion"]

NO_TEXT = "the completion has no text"


class _Row(msgspec.Struct, gc=False):
    result: str


_READER = RowReader("completion", _Row)


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """What a language model answers to a prompt made from each row.

    One request holds one prompt.
    ``"null"`` and ``"fail"`` mean the same as for :class:`~.text_embedding.TextEmbedding`.
    """

    prompt: str
    """Text with ``{column}`` where a row's value belongs, see :func:`.prompts.parse_template`.
    Texts are put in as they are, numbers as Arrow prints them, times in ISO 8601, lists and structs as JSON."""
    output_column: str = "completion"
    system: str | None = None
    """Text before each prompt, with an empty line between; braces in it have no meaning."""
    limits: RequestLimits = field(default_factory=lambda: RequestLimits(rows=1))
    max_tokens: int | None = None
    """Longest prompt, in estimated tokens; ``None`` for no bound."""
    on_empty: OnEmpty = "null"
    """What a row does that has a null in one of the prompt's columns, or nothing but empty and blank texts in all."""
    on_too_long: Literal["null", "fail"] = "null"
    """What a prompt beyond ``max_tokens`` does; it is never cut, since what matters may stand at its end."""
    response_schema: Mapping[str, Any] | None = None
    """JSON Schema of an object: it is added to the prompt, and each of its properties becomes a column beside the text."""
    deterministic: bool = False
    """The model answers the same prompt the same way, or may be taken to: rows with equal prompts are asked once."""
    task_settings: Mapping[str, Any] | None = None
    """Sent with each request, where the endpoint knows them."""

    def __post_init__(self) -> None:
        check_columns(output_column=self.output_column)
        parse_template(self.prompt)
        check_text_setting(system=self.system or "")
        check_at_least(1, max_tokens=self.max_tokens)
        check_choice("on_empty", self.on_empty, OnEmpty)
        check_choice("on_too_long", self.on_too_long, Literal["null", "fail"])
        check_task_settings(self.task_settings)
        if self._schema is not None:
            clash = {self.output_column, self.error_column} & set(self._schema.columns.names)
            if clash:
                raise ConfigurationError(
                    f"response_schema has a property {min(clash)!r}, which is the name of an output column; "
                    "name another output_column, or rename the property"
                )
        if self.limits.rows != 1:
            raise ConfigurationError(f"limits.rows is {self.limits.rows!r}; a completion request holds one prompt")

    @property
    def task_type(self) -> str:
        """``completion``."""
        return "completion"

    @property
    def input_columns(self) -> tuple[str, ...]:
        """The columns that the prompt names, each once."""
        return tuple(dict.fromkeys(self._template.columns))

    @property
    def output_columns(self) -> tuple[str, ...]:
        """The column of completions, and one for each property of ``response_schema``."""
        return (self.output_column, *(self._schema.columns.names if self._schema else ()))

    @property
    def error_column(self) -> str:
        """``<output_column>_error``."""
        return f"{self.output_column}_error"

    @property
    def equal_rows_share(self) -> bool:
        """Only when the model is said to be deterministic."""
        return self.deterministic

    @property
    def _template(self) -> Template:
        return parse_template(self.prompt)

    @property
    def wider(self) -> Wider | None:
        """Answers have one form."""
        return None

    @property
    def _schema(self) -> ResponseSchema | None:
        return None if self.response_schema is None else parse_response_schema(self.response_schema)

    def check(self, schema: pa.Schema) -> None:
        """Raise for a placeholder without its column, or with one of a type that cannot be written into a prompt."""
        self._template.check(schema)

    def settings(self) -> Mapping[str, Any]:
        """What decides the answer beside the prompt, which is all in the key."""
        settings = {"task_type": self.task_type, "task_settings": dict(self.task_settings or {})}
        # Answers that are in other columns are other answers.
        return settings if self._schema is None else {**settings, "response_schema": self._schema.instruction}

    def questions(self, batch: pa.RecordBatch) -> list[Question | Refused]:
        """One question a row; a row with a null, with nothing to say, not UTF-8 or too long is refused."""
        template = self._template
        return [self._ask(template, values) for values in template.values(batch)]

    def encode(self, questions: Sequence[Question]) -> bytes:
        """``{"input": "…"}``: the API takes one prompt a request."""
        (question,) = questions
        body: dict[str, Any] = {"input": question.value}
        if self.task_settings:
            body["task_settings"] = self.task_settings
        return msgspec.json.encode(body)

    def decode(self, answer: Answer, questions: Sequence[Question]) -> Decoded:
        """``{"completion": [{"result": "…"}]}``, in JSON or CBOR.

        A result that is no text, as of a model that declined, refuses the row; an empty text is an answer.
        With ``response_schema`` a text that does not fit refuses the row as well, and is kept; it is worth asking again.
        Raises :class:`~..errors.AnswerError` for another number of results than one.
        """
        rows = _READER.read(answer)
        if len(rows) != len(questions):
            raise AnswerError(f"the answer has {len(rows)} completions for {len(questions)} prompts")
        schema = self.output_schema(None)
        if any(isinstance(row, Misfit) and not (isinstance(row.raw, dict) and "result" in row.raw) for row in rows):
            raise AnswerError("a row of the answer has no 'result'")
        results = [None if isinstance(row, Misfit) else row.result for row in rows]
        refused = {at: NO_TEXT for at, result in enumerate(results) if result is None}
        written = sum(estimate_tokens(len(text), len(text.encode())) for text in results if text)
        if self._schema is None:
            texts = pa.RecordBatch.from_arrays([pa.array(results, pa.string())], schema=schema)
            return Decoded(texts, refused, written)
        read = [None if result is None else self._schema.read(result) for result in results]
        unfit = {at: one.reason for at, one in enumerate(read) if isinstance(one, Unfit)}
        columns = [
            {**(one if isinstance(one, dict) else {}), self.output_column: result}
            for one, result in zip(read, results, strict=True)
        ]
        batch = pa.RecordBatch.from_pylist(columns, schema)
        return Decoded(batch, {**refused, **unfit}, written, unfit=bool(unfit))

    def output_schema(self, dimensions: int | None) -> pa.Schema:  # noqa: ARG002  # words have none
        """A string, and the columns of ``response_schema``."""
        columns = pa.schema([(self.output_column, pa.string())])
        return columns if self._schema is None else pa.schema([*columns, *self._schema.columns])

    def _ask(self, template: Template, values: tuple[str | bytes | None, ...]) -> Question | Refused:
        empty_is_fatal = self.on_empty == "fail"
        for column, value in zip(template.columns, values, strict=True):
            if value is None:
                return Refused(f"null in column {column!r}", empty_is_fatal)
        texts = tuple(value for value in values if isinstance(value, str))
        if len(texts) != len(values):
            return Refused(NOT_UTF8)
        if not any(text and not text.isspace() for text in texts):
            return Refused(BLANK_TEXT if any(texts) else EMPTY_TEXT, empty_is_fatal)
        prompt = template.fill(texts)
        if self.system is not None:
            prompt = f"{self.system}\n\n{prompt}"
        if self._schema is not None:
            prompt = f"{prompt}\n\n{self._schema.instruction}"
        utf8 = prompt.encode()
        tokens = estimate_tokens(len(prompt), len(utf8))
        if self.max_tokens is not None and tokens > self.max_tokens:
            return Refused(f"prompt is longer than {self.max_tokens} tokens", self.on_too_long == "fail")
        if len(utf8) > self.limits.size:
            return Refused(f"prompt is larger than {self.limits.size} bytes", self.on_too_long == "fail")
        key = blake2b(b"completion\0" + utf8, digest_size=KEY_BYTES)
        return Question(key.digest(), prompt, tokens, len(utf8) + 3)
