"""Which endpoints should there be, and under which names? Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_modelstudio.inference.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow_provider_modelstudio.catalog import Catalog, Model

__all__ = ["Wanted", "every_model", "one_model"]

_VECTORS = frozenset({"text_embedding", "multi_modal_embedding"})
"""Task types whose vectors have a length that can be chosen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """One endpoint that should be there."""

    inference_id: str
    task_type: str
    model: str | None
    """``None`` when a body says it."""
    dimensions: int | None = None
    """``None`` leaves it to the model."""


def every_model(catalog: Catalog, task_type: str | None = None) -> tuple[Wanted, ...]:
    """An endpoint for each model of the catalog and each of its task types, or for one task type only.

    The endpoint has the name of its model; that of a further task type has the task type behind it.
    Raises :class:`~..inference.errors.ConfigurationError` for a task type that no model has.
    """
    wanted = tuple(
        Wanted(
            inference_id=name.lower() if number == 0 else f"{name.lower()}-{one}",
            task_type=one,
            model=name,
            dimensions=model.default_dimensions if one in _VECTORS else None,
        )
        for name in catalog.names()
        if (model := catalog.get(name)) is not None
        for number, one in enumerate(model.task_types)
        if task_type in {None, one}
    )
    if not wanted:
        raise ConfigurationError(f"task_type is {task_type!r}, for which the catalog has no model")
    return wanted


def one_model(
    catalog: Catalog, model: str, task_type: str | None, inference_id: str | None, dimensions: int | None
) -> Wanted:
    """The endpoint for one model; what is ``None`` comes from the catalog.

    A model that the catalog does not know is taken at its word when ``task_type`` is given.
    Raises :class:`~..inference.errors.ConfigurationError` naming the parameter that does not suit the model.
    """
    known = catalog.get(model)
    if known is None and task_type is None:
        near = catalog.suggest(model)
        raise ConfigurationError(
            f"model {model[:80]!r} is not in the catalog{f', but {near!r} is' if near else ''}: "
            "correct it, or say its task_type"
        )
    if known is not None and task_type is not None and task_type not in known.task_types:
        raise ConfigurationError(f"model {model!r} is for {' and '.join(known.task_types)}, not for {task_type!r}")
    kind = task_type or (known.task_types[0] if known else "")
    return Wanted(
        inference_id=inference_id or model.lower(),
        task_type=kind,
        model=model,
        dimensions=_dimensions(model, known, kind, dimensions),
    )


def _dimensions(model: str, known: Model | None, task_type: str, asked: int | None) -> int | None:
    if asked is None:
        return known.default_dimensions if known and task_type in _VECTORS else None
    if task_type not in _VECTORS:
        raise ConfigurationError(f"dimensions is {asked}, but {task_type} has no vectors with a length to choose")
    if known and known.dimensions and asked not in known.dimensions:
        choices = ", ".join(map(str, known.dimensions))
        raise ConfigurationError(f"dimensions is {asked}, but vectors of {model!r} can have {choices}")
    return asked
