"""What the task log says of a run: counts, cost and reasons. Never a row."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_modelstudio.inference.engine import Estimate, Progress
    from airflow_provider_modelstudio.inference.summary import Summary

__all__ = ["report", "tell", "tell_estimate"]

log = logging.getLogger(__name__)


def tell_estimate(estimate: Estimate) -> None:
    """What a run would ask and cost."""
    log.info(
        "dry run: %s of %s rows would be asked for, with about %s requests and %s tokens%s",
        estimate.rows_to_ask,
        estimate.rows,
        estimate.requests_estimated,
        estimate.tokens_estimated,
        _money(estimate.cost_estimated, estimate.currency),
    )


def report(progress: Progress) -> None:
    """Where a run is."""
    left = "" if progress.seconds_left is None else f", about {progress.seconds_left:.0f} s left"
    log.info(
        "%s of %s rows (%s asked for, %s reused, %s failed), %.0f rows/s, %s of %s requests in flight (%s)%s",
        progress.rows_done,
        progress.rows,
        progress.embedded,
        progress.reused,
        progress.failed,
        progress.rows_per_second,
        progress.in_flight,
        progress.limit,
        progress.limited_by,
        left,
    )


def tell(summary: Summary) -> None:
    """What a run came to."""
    if summary.up_to_date:
        log.info("nothing to ask: %s", _what_was_there(summary))
    else:
        _tell_work(summary)
    for reason, rows in summary.errors.items():
        log.warning("%s rows without an answer: %s", rows, reason)
    for words, times in summary.warnings.items():
        log.warning("%s %s", times, words)
    if summary.quarantine is not None:
        log.warning("%s rows are kept out of the dataset, in %s", summary.quarantined, summary.quarantine)


def _what_was_there(summary: Summary) -> str:
    """Why a run had nothing to ask."""
    if summary.rows == 0:
        return "the source has no rows"
    answered = f"rows of {summary.destination} were answered before"
    if summary.failed == 0:
        return f"all {summary.rows} {answered}"
    return f"{summary.rows - summary.failed} of {summary.rows} {answered}, {summary.failed} have a reason instead"


def _tell_work(summary: Summary) -> None:
    log.info(
        "%s rows in %s: %s embedded with %s requests (about %s tokens%s), %s reused, %s deduplicated, %s failed, %.1f s",
        summary.rows,
        summary.destination,
        summary.embedded,
        summary.requests,
        summary.tokens_estimated,
        _money(summary.cost_estimated, summary.currency),
        summary.reused,
        summary.deduplicated,
        summary.failed,
        summary.seconds,
    )


def _money(cost: float | None, currency: str | None) -> str:
    return "" if cost is None else f", {cost:.4g} {currency}"
