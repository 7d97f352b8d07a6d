"""What may be spent, and what a run would cost. Pure.

Tokens are estimated: the service reports none.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from .errors import ConfigurationError

__all__ = ["Budget", "Estimate", "Spent"]


class Spent(NamedTuple):
    """Requests that were sent, and what is in them."""

    requests: int = 0
    tokens: int = 0
    """Estimated."""
    written: int = 0
    """Estimated tokens that the model wrote."""

    def plus(self, other: Spent) -> Spent:
        """Both together."""
        return Spent(self.requests + other.requests, self.tokens + other.tokens, self.written + other.written)

    def within(self, other: Spent) -> bool:
        """Whether nothing of it is more than of the other."""
        return self.requests <= other.requests and self.tokens <= other.tokens and self.written <= other.written


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Guards of one run over all its tries; ``None`` for no bound."""

    max_rows: int | None = None
    """Rows asked for."""
    max_requests: int | None = None
    max_tokens: int | None = None
    """Estimated."""
    max_cost: float | None = None
    """In ``currency``, by estimated tokens."""
    price: float | None = None
    """Of a million tokens that are sent, in ``currency``; ``None`` when it is not known."""
    output_price: float = 0.0
    """Of a million tokens that the model writes; 0 where it writes none, or where that is not known."""
    currency: str | None = None

    def __post_init__(self) -> None:
        if self.max_cost is not None and self.price is None:
            raise ConfigurationError(
                "max_cost needs a price: set model to a model of the catalog that has a price for the connection's region"
            )

    def cost(self, spent: Spent) -> float | None:
        """What that costs, about."""
        if self.price is None:
            return None
        return (spent.tokens * self.price + spent.written * self.output_price) / 1_000_000

    def refusal(self, *, rows: int, spent: Spent) -> str | None:
        """Which guard stands against spending this much in all, in words; ``None`` when none does."""
        if self.max_rows is not None and rows > self.max_rows:
            return f"{rows} rows to ask for, and max_rows is {self.max_rows}"
        if self.max_requests is not None and spent.requests > self.max_requests:
            return f"{spent.requests} requests, and max_requests is {self.max_requests}"
        if self.max_tokens is not None and spent.tokens > self.max_tokens:
            return f"about {spent.tokens} tokens, and max_total_tokens is {self.max_tokens}"
        cost = self.cost(spent)
        if self.max_cost is not None and cost is not None and cost > self.max_cost:
            return f"about {cost:.4g} {self.currency}, and max_cost is {self.max_cost:g}"
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What a run would do, before anything is spent."""

    rows: int
    rows_to_ask: int
    requests_estimated: int
    tokens_estimated: int
    cost_estimated: float | None
    currency: str | None
    destination: str
    dry_run: bool = True

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, for XCom."""
        return asdict(self)
