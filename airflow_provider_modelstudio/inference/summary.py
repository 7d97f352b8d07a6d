"""What a run tells the outside: the only thing XCom, asset events, the log and the page see. Pure.

Counts and names; no rows, no secrets.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Summary"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """The books of a finished run.

    ``rows = embedded + reused + deduplicated + failed``.
    """

    rows: int
    embedded: int
    """Rows whose answer was paid for by this run, in this try or an earlier one."""
    reused: int
    """Rows carried over from an earlier run, unchanged."""
    deduplicated: int
    """Rows that ask the same as another row of this run."""
    failed: int
    """Rows with a reason instead of an answer."""
    quarantined: int
    """Those of them that are kept out of the dataset."""
    removed: int
    """Rows of the previous version that are not in this one."""
    requests: int
    """Requests sent by this try."""
    tokens_estimated: int
    """Estimated tokens of the requests this try sent."""
    output_tokens_estimated: int
    """Estimated tokens of what a model wrote to them; 0 where a task has no such answers."""
    cost_estimated: float | None
    currency: str | None
    seconds: float
    destination: str
    manifest: str
    """Where the list of the dataset's files is."""
    quarantine: str | None
    """Where the rows in quarantine are; ``None`` when there are none."""
    files: int
    up_to_date: bool
    """Nothing was asked: everything was there already."""
    errors: dict[str, int]
    """Reason → rows, at most 20 reasons."""
    warnings: dict[str, int]
    """What is strange about answers that were taken, and what this try may have paid for in vain → how often."""

    def __post_init__(self) -> None:
        booked = self.embedded + self.reused + self.deduplicated + self.failed
        if booked != self.rows or self.quarantined > self.failed:
            msg = f"the books do not balance: {self.rows} rows, {booked} booked, {self.quarantined} in quarantine"
            raise ValueError(msg)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, for XCom and asset events."""
        return asdict(self)
