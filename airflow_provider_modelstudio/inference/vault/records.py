"""The records of the commit protocol: books, finished parts, the list that is the commit. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_modelstudio.inference.errors import DestinationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Counts", "Manifest", "Quarantined", "Seal", "restored"]

Restored = TypeVar("Restored")

MAX_REASONS = 20


@dataclass(slots=True)
class Counts:
    """Books of some rows: each row is in exactly one of the four."""

    embedded: int = 0
    reused: int = 0
    deduplicated: int = 0
    failed: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    """Reason → rows, the first reasons only."""
    oddities: dict[str, int] = field(default_factory=dict)
    """What is strange about answers that were taken → rows."""

    def fail(self, reason: str) -> None:
        """Book one row without an answer."""
        self.failed += 1
        if reason in self.errors or len(self.errors) < MAX_REASONS:
            self.errors[reason] = self.errors.get(reason, 0) + 1

    def add(self, other: Counts) -> None:
        """Book everything ``other`` booked."""
        self.embedded += other.embedded
        self.reused += other.reused
        self.deduplicated += other.deduplicated
        self.failed += other.failed
        for reason, rows in other.errors.items():
            if reason in self.errors or len(self.errors) < MAX_REASONS:
                self.errors[reason] = self.errors.get(reason, 0) + rows
        self.notice(other.oddities)

    def notice(self, oddities: Mapping[str, int]) -> None:
        """Book what is strange about rows that are in one of the four."""
        for words, rows in oddities.items():
            self.oddities[words] = self.oddities.get(words, 0) + rows

    @property
    def rows(self) -> int:
        """Rows booked."""
        return self.embedded + self.reused + self.deduplicated + self.failed


@dataclass(frozen=True, kw_only=True, slots=True)
class Quarantined:
    """The rows of a finished part that are kept out of the dataset, each with its reason."""

    key: str
    """Where the file is kept."""
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Seal:
    """A finished part."""

    part: int
    name: str
    """File name in the dataset."""
    key: str
    """Where the file is kept."""
    keys: str
    """Where the content keys of its rows are: 16 bytes a row, zeros for a row without an answer."""
    rows: int
    """In the file; those in quarantine are booked and not in it."""
    bytes: int
    sha256: str
    columns: tuple[str, ...]
    """Columns that hold answers."""
    digest: str
    """Of the part, see :attr:`~..plan.Part.digest`."""
    counts: Counts
    quarantine: Quarantined | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Seal:
        """Back from :meth:`as_dict`."""
        apart = record["quarantine"]
        seal = cls(
            **{
                **record,
                "columns": tuple(record["columns"]),
                "counts": Counts(**record["counts"]),
                "quarantine": None if apart is None else Quarantined(**apart),
            }
        )
        _check_books(seal.rows + (0 if seal.quarantine is None else seal.quarantine.rows), seal.counts)
        return seal


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """A committed dataset: its files and its books."""

    cache_key: str
    run_key: str
    rows: int
    """Of the source."""
    removed: int
    """Rows of the version before whose content is not in this one."""
    owner: str
    """Who ran it, for example Dag, run and task."""
    parts: tuple[Seal, ...]

    def as_json(self) -> bytes:
        """Canonical bytes."""
        record = {
            "cache_key": self.cache_key,
            "run_key": self.run_key,
            "rows": self.rows,
            "removed": self.removed,
            "owner": self.owner,
            "parts": [seal.as_dict() for seal in self.parts],
        }
        return json.dumps(record, sort_keys=True, indent=1).encode()

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Manifest:
        """Back from what :meth:`as_json` wrote."""
        manifest = cls(**{**record, "parts": tuple(Seal.from_dict(part) for part in record["parts"])})
        _check_books(manifest.rows, manifest.counts)
        return manifest

    @property
    def counts(self) -> Counts:
        """Books of all parts."""
        counts = Counts()
        for seal in self.parts:
            counts.add(seal.counts)
        return counts

    @property
    def quarantined(self) -> int:
        """Rows that are kept out of the dataset."""
        return sum(seal.quarantine.rows for seal in self.parts if seal.quarantine is not None)

    def files(self, destination: str) -> dict[str, str]:
        """File name in the dataset → key; a single-file dataset is named by its destination."""
        if destination.endswith(".parquet"):
            return {destination.rpartition("/")[2]: self.parts[0].key}
        return {seal.name: seal.key for seal in self.parts}


def _check_books(rows: int, counts: Counts) -> None:
    """They balanced when they were written down."""
    if counts.rows != rows:
        raise ValueError(f"{rows} rows, {counts.rows} booked")


def restored(location: str, content: bytes, make: Callable[[dict[str, Any]], Restored]) -> Restored:
    """What a record on the store says; it is ours, so nonsense in it is damage.

    :param location: where it is, for the :class:`~..errors.DestinationError` that damage raises.
    """
    try:
        return make(json.loads(content))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DestinationError(
            f"{location} is damaged ({type(error).__name__}); bring it back from a copy, or move the "
            "state folder and the destination away: what they hold is then asked for again"
        ) from error
