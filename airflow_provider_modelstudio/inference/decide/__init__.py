"""A request failed, or its answer is no good: what now? Pure.

One decision of four: **Wait** and ask the same again, **Split** and ask less at once,
**Mark** the one row that is refused for good, **Stop** because the rows are not to blame.
"""

from __future__ import annotations

from airflow_provider_modelstudio.inference.errors import AnswerError, BottomlessAnswerError, RequestError

from .decision import Decision, Mark, Split, Stop, Wait
from .rules import RULES, Case, Rule
from .wording import recorded, scrub

__all__ = ["Decision", "Mark", "Split", "Stop", "Wait", "decide", "find_rule", "recorded", "scrub"]


def decide(
    error: RequestError | AnswerError, *, rows: int, attempts: int, alone: int = 0, useless: int = 0
) -> Decision:
    """What to do about a request of ``rows`` rows that failed.

    ``attempts``: how often these rows had failed before in a way that ``counts``.
    ``alone``: how often of these other requests were answered meanwhile.
    ``useless``: how many rows were marked because their answers were no good, while no answer was good.
    ``Mark`` comes for a single row only, ``Split`` never does.
    A reason to mark a row with may echo the row: it needs :func:`scrub`.
    """
    rule, case = find_rule(error, rows=rows, attempts=attempts, alone=alone, useless=useless)
    return rule.then(case)


def find_rule(
    error: RequestError | AnswerError, *, rows: int, attempts: int, alone: int = 0, useless: int = 0
) -> tuple[Rule, Case]:
    """The first rule that applies, and what it looked at."""
    case = _make_case(error, rows, attempts, alone, useless)
    return next(rule for rule in RULES if rule.applies(case)), case


def _make_case(error: RequestError | AnswerError, rows: int, attempts: int, alone: int, useless: int) -> Case:
    if isinstance(error, AnswerError):
        return Case(
            fault=None,
            status=0,
            own_status=0,
            upstream=False,
            kind="",
            reason=str(error),
            text="",
            retry_after=None,
            rows=rows,
            attempts=attempts,
            alone=alone,
            useless=useless,
            bottomless=isinstance(error, BottomlessAnswerError),
        )
    kind = error.error_type or ""
    own = error.status or 0
    return Case(
        fault=error.fault,
        status=error.upstream_status or own,
        own_status=own,
        upstream=error.upstream_status is not None,
        kind=kind,
        reason=error.reason,
        text=f"{kind}: {error.reason}",
        retry_after=error.retry_after,
        rows=rows,
        attempts=attempts,
        alone=alone,
    )
