"""What the models answer to a question, task type by task type. Pure, given the engine."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import re
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_provider_modelstudio.sandbox.extracting import extract, wanted_schema
from airflow_provider_modelstudio.sandbox.pictures import CAN_LOOK, look
from airflow_provider_modelstudio.sandbox.wire import Float32

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_modelstudio.sandbox.asking import Question
    from airflow_provider_modelstudio.sandbox.endpoints import Endpoint
    from airflow_provider_modelstudio.sandbox.engines import Engine
    from airflow_provider_modelstudio.sandbox.wire import Vector

__all__ = ["SELF_INTRODUCTION", "TOP_K", "answer", "facts"]

TOP_K = 128
"""Features of a sparse vector."""

SELF_INTRODUCTION = "I am a local stand-in, not a language model: I answer with the sentence of the prompt that is nearest to its question."

_MOST_SENTENCES = 64
_FULLWIDTH_QUESTION_MARK = "\uff1f"
_INSTRUCTION = re.compile(r"[^\n.。?\uff1f]{1,80}[:\uff1a]\s+")
"""What a template puts before the text: ``Summarise in one sentence: …``."""
_SENTENCE_END = re.compile(r"(?<=[。!?\uff01\uff1f])|(?<=\.)\s|\n")
"""A full stop ends a sentence only before a blank, so that 3.14 stays whole."""
_BYTE_BINS, _QUARTERS = 256, 4
_SEEN = "colours and layout" if CAN_LOOK else "nothing, without Pillow,"


def facts(engine: Engine) -> dict[str, dict[str, Any]]:
    """Task type → what the settings of its endpoints say of this server."""
    stand_in = "a local stand-in for Alibaba Cloud Model Studio"
    vectors = {"dimensions": engine.dimensions, "similarity": "cosine", "element_type": "float"}
    dense = {"served_by": stand_in, "engine": engine.description, **vectors}
    plain = {"served_by": stand_in, "engine": engine.description}
    return {
        "text_embedding": dense,
        "sparse_embedding": plain,
        "rerank": {**plain, "method": "cosine of query and document through a logistic curve, no cross-encoder"},
        "completion": {
            **plain,
            "method": "extractive: a sentence of the prompt, or JSON of what it says; no language model",
        },
        "multi_modal_embedding": {
            **dense,
            "method": f"texts are embedded; {_SEEN} of images sent as data are seen; what is not looked at has a vector from "
            "its URL or from byte counts, videos always; texts and images are not comparable; "
            "one vector for each element, or one for all with the task setting enable_fusion",
        },
    }


def answer(endpoint: Endpoint, question: Question, engine: Engine) -> dict[str, Any]:
    """The answer, ready for :mod:`~.wire`."""
    task_type = endpoint.task_type
    match task_type:
        case "text_embedding":
            query = str(question.setting("input_type")).lower() in {"search", "query"}
            vectors = engine.embed(question.inputs, query=query)
            return {task_type: [{"embedding": vector} for vector in vectors]}
        case "sparse_embedding":
            return {task_type: [_sparse(one) for one in engine.weigh(question.inputs, top_k=TOP_K)]}
        case "rerank":
            return {task_type: _rerank(question, engine)}
        case "completion":
            return {task_type: [{"result": _completion(question.inputs[0], engine)}]}
        case _:
            vectors = np.stack([_element(one, engine) for one in question.elements])
            if question.setting("enable_fusion") is True:
                vectors = _unit(vectors.mean(axis=0))[None]
            return {task_type: [{"embedding": vector} for vector in vectors]}


def _sparse(weights: Any) -> dict[str, Any]:
    tokens = {token: Float32(weight) for token, weight in weights.tokens.items()}
    return {"is_truncated": weights.is_truncated, "embedding": tokens}


def _rerank(question: Question, engine: Engine) -> list[dict[str, Any]]:
    query = engine.embed([question.query or ""], query=True)[0]
    cosines = engine.embed(question.inputs, query=False) @ query
    # Ties stay in the order of the documents: sorting is stable.
    order = sorted(range(len(cosines)), key=lambda index: -float(cosines[index]))
    top_n = question.setting("top_n")
    if isinstance(top_n, int) and top_n > 0:
        order = order[:top_n]
    ranked: list[dict[str, Any]] = []
    for index in order:
        row: dict[str, Any] = {"index": index, "relevance_score": Float32(engine.relevance(float(cosines[index])))}
        if question.setting("return_documents") is True:
            row["text"] = question.inputs[index]
        ranked.append(row)
    return ranked


def _completion(prompt: str, engine: Engine) -> str:
    """JSON where the prompt asks for it, else a sentence."""
    asked = wanted_schema(prompt)
    return _nearest_sentence(prompt, engine) if asked is None else json.dumps(extract(*asked), ensure_ascii=False)


def _nearest_sentence(prompt: str, engine: Engine) -> str:
    """The sentence nearest to the last question of the prompt; without a question, the most typical sentence."""
    instruction = _INSTRUCTION.match(prompt)
    body = prompt[instruction.end() :] if instruction else prompt
    sentences = [text for found in _SENTENCE_END.split(body) if (text := found.strip())][-_MOST_SENTENCES:]
    asked = next((text for text in reversed(sentences) if text.endswith(("?", _FULLWIDTH_QUESTION_MARK))), None)
    told = [text for text in sentences if text != asked]
    if not told or told == [prompt.strip()]:
        return SELF_INTRODUCTION
    vectors = engine.embed(told, query=False)
    wanted = engine.embed([asked], query=True)[0] if asked else vectors.mean(axis=0)
    return told[int(np.argmax(vectors @ wanted))]


def _element(element: Mapping[str, Any], engine: Engine) -> Vector:
    ((kind, given),) = element.items()
    if kind == "text":
        vector: Vector = engine.embed([given], query=False)[0]
        return vector
    sources = given if kind == "multi_images" else [given]
    return _unit(np.mean([_medium(source, engine.dimensions) for source in sources], axis=0))


def _medium(source: str, dimensions: int) -> Vector:
    """A vector for an image or a video: of the bytes when they are here, else of the URL, which is never fetched."""
    if not source.startswith("data:"):
        return _noise(source, dimensions)
    raw = _data(source)
    seen = look(raw)
    if seen is not None:
        return _unit(seen @ _directions(len(seen), dimensions))
    data = np.frombuffer(raw, np.uint8)
    counts = [np.bincount(quarter, minlength=_BYTE_BINS) for quarter in np.array_split(data, _QUARTERS)]
    axis_of = np.arange(_BYTE_BINS) % dimensions
    folded = [
        np.bincount(axis_of, weights=np.sqrt(quarter), minlength=dimensions) * _noise(f"quarter {number}", dimensions)
        for number, quarter in enumerate(counts)
    ]
    return _unit(np.sum(folded, axis=0))


def _data(uri: str) -> bytes:
    """The bytes in a data URI; its text as it stands where that is no base64."""
    head, _, text = uri.partition(",")
    if head.endswith(";base64"):
        with contextlib.suppress(binascii.Error):
            return base64.b64decode(text, validate=True)
    return text.encode()


@cache
def _directions(numbers: int, dimensions: int) -> Vector:
    """A direction for each number of a picture."""
    return np.stack([_noise(f"picture {number}", dimensions) for number in range(numbers)])


def _noise(name: str, dimensions: int) -> Vector:
    """A direction that only the name decides, the same on every machine."""
    raw = hashlib.shake_256(name.encode()).digest(4 * dimensions)
    return _unit(np.frombuffer(raw, "<u4").astype(np.float64) / 2**31 - 1.0)


def _unit(vector: Any) -> Vector:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), np.float32)
