"""What a POST asks, checked as strictly as an 8.17 server checks it. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_modelstudio.sandbox.refusals import misread, not_a_valid_question, status_exception, upstream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_modelstudio.sandbox.endpoints import Endpoint
    from airflow_provider_modelstudio.sandbox.refusals import Refusal

__all__ = ["MOST_DOCUMENTS", "MOST_ELEMENTS", "Question", "bind", "read_question"]

MOST_DOCUMENTS = 500
"""Documents of one rerank request, as the model service has it."""
MOST_ELEMENTS = 20
"""Elements of one multimodal request, as the model service has it."""

_PARSER = "cluster:internal/xpack/inference"
_FIELDS = frozenset({"input", "query", "task_settings"})
"""What a server of version 8.17 knows; ``input_type``, ``top_n`` and ``return_documents`` came later."""
_ELEMENT_FIELDS = frozenset({"text", "image", "video", "multi_images"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One request to a model."""

    inputs: tuple[str, ...]
    query: str | None = None
    task_settings: Mapping[str, Any] = field(default_factory=dict)
    elements: tuple[Mapping[str, Any], ...] = ()
    """Of a multimodal request: the objects that its one input lists."""

    @property
    def tokens(self) -> int:
        """Estimated tokens: a third of the UTF-8 bytes, and one a text."""
        return sum(len(text.encode()) // 3 + 1 for text in (*self.inputs, self.query or ""))

    def setting(self, name: str) -> Any:
        """A task setting, given plainly or among the ``parameters`` of a custom service; ``None`` when not given."""
        parameters = self.task_settings.get("parameters")
        nested = parameters.get(name) if isinstance(parameters, dict) else None
        return self.task_settings.get(name, nested)


def read_question(task_type: str, body: Any) -> Question:
    """What the body asks, as far as the path tells its task type.

    Raises :class:`~.refusals.Refusal` with 400.
    """
    if not isinstance(body, dict):
        raise misread(f"[1:1] [{_PARSER}] Expected START_OBJECT but was: {_json_type(body)}")
    if unknown := next((name for name in body if name not in _FIELDS), None):
        raise misread(f"[1:2] [{_PARSER}] unknown field [{unknown}]")
    question = Question(
        inputs=_texts(body.get("input")),
        query=_text("query", body.get("query")),
        task_settings=_settings(body.get("task_settings")),
    )
    if body.get("input") is None:
        raise not_a_valid_question("Field [input] cannot be null")
    if not question.inputs:
        raise not_a_valid_question("Field [input] cannot be an empty array")
    _check_query(task_type, question)
    return question


def _check_query(task_type: str, question: Question) -> None:
    if task_type != "rerank":
        return
    if question.query is None:
        raise not_a_valid_question("Field [query] cannot be null for task type [rerank]")
    if not question.query:
        raise not_a_valid_question("Field [query] cannot be empty for task type [rerank]")


def _texts(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise misread(f"[1:2] [{_PARSER}] failed to parse field [input]")
    for text in value:
        _text("input", text)
    return tuple(value)


def _text(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise misread(f"[1:2] [{_PARSER}] {name} doesn't support values of type: {_json_type(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        cause = misread("[1:2] Unmatched surrogate in a string")
        raise misread(f"[1:2] [{_PARSER}] failed to parse field [{name}]", caused_by=cause) from None
    return value


def _settings(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise misread(f"[1:2] [{_PARSER}] task_settings doesn't support values of type: {_json_type(value)}")
    return value


def _json_type(value: Any) -> str:
    match value:
        case None:
            return "VALUE_NULL"
        case bool():
            return "VALUE_BOOLEAN"
        case int() | float():
            return "VALUE_NUMBER"
        case str():
            return "VALUE_STRING"
        case list():
            return "START_ARRAY"
        case _:
            return "START_OBJECT"


def bind(question: Question, endpoint: Endpoint, most_rows: int) -> Question:
    """The question as the endpoint's model gets it, with the endpoint's own settings under those of the request.

    ``most_rows``: texts of one embedding request.
    Raises :class:`~.refusals.Refusal` with what the model service says no to.
    """
    _check_query(endpoint.task_type, question)
    settings = {**endpoint.task_settings, **question.task_settings}
    below, above = (one.task_settings.get("parameters") for one in (endpoint, question))
    if isinstance(below, dict) and isinstance(above, dict):
        settings["parameters"] = {**below, **above}
    elements: tuple[Mapping[str, Any], ...] = ()
    count = len(question.inputs)
    match endpoint.task_type:
        case "completion" if count > 1:
            raise status_exception(400, f"{endpoint.service} completion only accepts 1 input")
        case "rerank" if count > MOST_DOCUMENTS:
            raise _too_many(endpoint.inference_id, MOST_DOCUMENTS, "input.documents")
        case "text_embedding" | "sparse_embedding" if count > most_rows:
            raise _too_many(endpoint.inference_id, most_rows, "input.contents")
        case "multi_modal_embedding":
            elements = _elements(endpoint.inference_id, question.inputs)
    if endpoint.task_type != "multi_modal_embedding" and not all(question.inputs):
        raise _invalid(endpoint.inference_id, "Range of input length should be [1, 8192]")
    return Question(inputs=question.inputs, query=question.query, task_settings=settings, elements=elements)


def _elements(inference_id: str, inputs: tuple[str, ...]) -> tuple[Mapping[str, Any], ...]:
    """The objects that the one input lists, separated by commas, without brackets around them."""
    if len(inputs) > 1:
        raise _invalid(inference_id, "the contents are one string of JSON objects separated by commas")
    try:
        elements = json.loads(f"[{inputs[0]}]")
    except (ValueError, RecursionError):
        raise _invalid(inference_id, "the contents are no JSON objects separated by commas") from None
    if not elements or not all(_is_element(one) for one in elements):
        raise _invalid(
            inference_id, "each of the contents is an object with one of text, image, video (a string) or multi_images"
        )
    if len(elements) > MOST_ELEMENTS:
        raise _too_many(inference_id, MOST_ELEMENTS, "input.contents")
    return tuple(elements)


def _is_element(value: Any) -> bool:
    if not isinstance(value, dict) or len(value) != 1 or not set(value) <= _ELEMENT_FIELDS:
        return False
    ((name, given),) = value.items()
    texts = given if name == "multi_images" and isinstance(given, list) else [given]
    return bool(texts) and (name != "multi_images" or isinstance(given, list)) and all(map(_is_sound, texts))


def _is_sound(text: Any) -> bool:
    if not isinstance(text, str) or not text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _too_many(inference_id: str, most: int, where: str) -> Refusal:
    return _invalid(inference_id, f"Value error, batch size is invalid, it should not be larger than {most}.: {where}")


def _invalid(inference_id: str, message: str) -> Refusal:
    return upstream(400, inference_id, f"InternalError.Algo.InvalidParameter: {message}")
