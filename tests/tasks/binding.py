"""Task types by Elasticsearch's name, and columns as the wire table writes them."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import numpy as np
import pyarrow as pa

from airflow_provider_modelstudio.inference import tasks
from airflow_provider_modelstudio.inference.tasks import InferenceTask, Question


def _found():
    """Every task type there is: the class of that package's module of the same name.

    Another form of a task type, in a module of another name, has tests of its own.
    """
    for module in iter_modules(tasks.__path__, f"{tasks.__name__}."):
        name = module.name.rpartition(".")[2]
        for offered in vars(import_module(module.name)).values():
            task_type = getattr(offered, "task_type", None)
            if offered.__class__ is type and isinstance(task_type, property) and task_type.fget(None) == name:
                yield name, offered


TASKS: dict[str, type[Any]] = dict(_found())

MINIMAL: dict[str, dict[str, Any]] = {
    "completion": {"prompt": "{text}"},
    "multi_modal_embedding": {"text_column": "text"},
}
"""What a task cannot do without."""


def make_task(task_type: str, **settings: Any) -> InferenceTask:
    return TASKS[task_type](**{**MINIMAL.get(task_type, {}), **settings})


def ask(task: InferenceTask, batch: pa.RecordBatch) -> list[Question]:
    """The questions of a batch whose rows are all asked."""
    questions = task.questions(batch)
    assert all(isinstance(question, Question) for question in questions), questions
    return questions


def texts(*values: Any) -> pa.RecordBatch:
    return pa.record_batch({"text": pa.array(values, pa.string())})


def as_float32(value: Any) -> Any:
    """Decimals as the 32-bit floats they name, in bits, so that -0.0 is not 0.0."""
    if isinstance(value, float):
        return np.float32(value).tobytes()
    if isinstance(value, dict):
        return {name: as_float32(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [as_float32(part) for part in value]
    return value
