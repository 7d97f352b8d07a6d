"""What is known of each model: limits, dimensions, prices. The numbers are in ``models.toml`` and nowhere else."""

from __future__ import annotations

import datetime as dt  # noqa: TC003  # read at run time, to check dates
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from importlib.resources import files
from typing import Annotated, Any, Literal

import msgspec

from airflow_provider_modelstudio.inference.errors import ConfigurationError

__all__ = ["Catalog", "Model", "Price"]

MILLION = 1_000_000

Count = Annotated[int, msgspec.Meta(ge=1)]
Amount = Annotated[float, msgspec.Meta(ge=0)]
TaskType = Literal["text_embedding", "sparse_embedding", "rerank", "completion", "multi_modal_embedding"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """What tokens cost in one region."""

    currency: Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")]
    """ISO 4217."""
    per_million: Amount
    """For a million tokens of text that is sent."""
    media_per_million: Amount | None = None
    """For a million tokens of images and videos; ``None``: the same. To be shown: how many tokens an image has is not known."""
    output_per_million: Amount | None = None
    """For a million tokens that the model writes; no estimate counts them, since nobody knows them before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """One model; ``None`` where nothing is stated. ``models.toml`` says what each field means."""

    name: str
    task_types: Annotated[tuple[TaskType, ...], msgspec.Meta(min_length=1)]
    rows_per_request: Count | None = None
    documents_per_request: Count | None = None
    scores_comparable: bool | None = None
    elements_per_request: Count | None = None
    images_per_request: Count | None = None
    tokens_per_row: Count | None = None
    tokens_per_request: Count | None = None
    dimensions: tuple[Count, ...] = ()
    """Numbers of values a vector can have."""
    default_dimensions: Count | None = None
    vectors: Literal["independent", "fused", "both"] | None = None
    prices: dict[str, Price] = field(default_factory=dict)
    """By region."""
    status: Literal["documented", "unverified"] = "unverified"
    source: Annotated[str, msgspec.Meta(pattern="^https://[^/]+/.+$")] | None = None
    date: dt.date | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.default_dimensions is not None and self.default_dimensions not in self.dimensions:
            raise ValueError(f"default_dimensions is {self.default_dimensions}, which is not one of dimensions")

    def price(self, region: str) -> Price | None:
        """The price in a region; ``None`` where none is stated."""
        return self.prices.get(region)

    def estimate_cost(self, tokens: int, region: str) -> tuple[float, str] | None:
        """Amount and currency of sending so many tokens of text, before discounts and free quota; ``None`` without a price."""
        price = self.price(region)
        return None if price is None else (tokens * price.per_million / MILLION, price.currency)


class Catalog:
    """The models by name."""

    __slots__ = ("_models",)

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models = dict(models)

    @classmethod
    def read(cls, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> Catalog:
        """The catalog of the package, with what is given laid over it.

        ``overrides`` are fields by model: fields of a known model replace its own (``prices`` region by region), a new
        model needs at least ``task_types``.
        Raises :class:`~..inference.errors.ConfigurationError` that names the model and the field.
        """
        entries = tomllib.loads((files(__package__) / "models.toml").read_text("utf-8"))
        for name, entry in (overrides or {}).items():
            known = entries.get(name, {})
            changed = {**known, **_object(entry, f"model {name!r}")}
            if "prices" in entry:
                prices = _object(entry["prices"], f"model {name!r}: prices")
                changed["prices"] = {**known.get("prices", {}), **prices}
            entries[name] = changed
        return cls({name: _model(name, entry) for name, entry in entries.items()})

    def get(self, name: str) -> Model | None:
        """The model of that name; ``None`` when the catalog does not know it, which does not mean there is none."""
        return self._models.get(name)

    def names(self, task_type: str | None = None) -> tuple[str, ...]:
        """Names in the order of the catalog, of the models for a task type or of all."""
        return tuple(name for name, model in self._models.items() if task_type is None or task_type in model.task_types)

    def suggest(self, name: str) -> str | None:
        """The name in the catalog that looks most like another one."""
        return next(iter(get_close_matches(name, self._models, n=1)), None)


_FIELDS = frozenset(field.name for field in fields(Model)) - {"name"}


def _object(value: Any, what: str) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise ConfigurationError(f"{what} is of type {type(value).__name__}; an object was expected")


def _model(name: str, entry: Mapping[str, Any]) -> Model:
    for unknown in entry.keys() - _FIELDS:
        near = get_close_matches(str(unknown), _FIELDS, n=1, cutoff=0.4)
        raise ConfigurationError(f"model {name!r}: there is no field {unknown!r}{f', but {near[0]!r}' if near else ''}")
    try:
        return msgspec.convert({**entry, "name": name}, Model)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"model {name!r}: {error}") from error
