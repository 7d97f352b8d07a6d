"""What can be done about a failed request: wait, split, mark or stop. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from airflow_provider_modelstudio.inference.errors import PermanentError, TransientError

__all__ = ["Decision", "Mark", "Split", "Stop", "Unit", "Wait"]

Unit = Literal["requests", "tokens", "concurrency"]


@dataclass(frozen=True, slots=True)
class Wait:
    """Ask the same again, later."""

    cause: Literal["throttled", "overloaded", "failed"]
    retry_after: float | None = None
    """Seconds the server asked for."""
    unit: Unit | None = None
    """The quota it named."""
    counts: bool = True
    """Whether this was an attempt; a refusal for going too fast is none."""


@dataclass(frozen=True, slots=True)
class Split:
    """Ask again in smaller requests."""

    rows: int | None = None
    """Most rows of any request from now on; ``None``: halve this one only."""
    size: int | None = None
    """Most bytes of any request body from now on, where the server named a limit."""
    too_large: bool = False
    """The size was refused, or one row of it, and no limit was named."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The one row of this request is refused for good."""

    reason: str
    """What to write beside it, once ``scrub`` has been over it."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End the run; nothing is written into the rows."""

    error: PermanentError | TransientError


Decision = Wait | Split | Mark | Stop
