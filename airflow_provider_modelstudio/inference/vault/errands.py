"""Who has been served by the version that readers see, so that their retries need to ask nobody.

A run is named by the endpoint's settings, too, and only Elasticsearch can tell those.
A task that is cleared after it was done must not ask even that.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_modelstudio.inference.errors import StorageError, StorageRefusedError
from airflow_provider_modelstudio.inference.plan import Plan

if TYPE_CHECKING:
    from airflow_provider_modelstudio.inference.storage import Storage

__all__ = ["Errands", "Served"]

log = logging.getLogger(__name__)

_KEY = "served.json"
_MOST = 100
"""The last ones; whoever is forgotten looks at the endpoint again, for free."""


class Served(NamedTuple):
    """The run that served an errand."""

    plan: Plan
    """Its name alone, without files and parts."""
    currency: str | None
    """Of the price that was known; ``None`` when none was."""


class Errands:
    """One small record at a destination. Nothing is lost with it but a free look at the endpoint, so it fails nobody."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def served(self, errand: str) -> Served | None:
        """The run that served this errand; ``None`` when none is on record."""
        record = await self._read()
        try:
            if errand not in record["errands"] or not (record["cache_key"] + record["run_key"]).isalnum():
                return None
            plan = Plan(
                cache_key=record["cache_key"], run_key=record["run_key"], inputs=(), parts=(), rows=record["rows"]
            )
            return Served(plan, record["currency"])
        except (TypeError, KeyError):
            return None

    async def remember(self, errand: str, plan: Plan, currency: str | None) -> None:
        """Write down that the run of ``plan``, which is committed, serves this errand."""
        before = await self._read()
        errands = before.get("errands") if before.get("run_key") == plan.run_key else None
        earlier = [one for one in errands if one != errand] if isinstance(errands, list) else []
        record = {
            "cache_key": plan.cache_key,
            "run_key": plan.run_key,
            "rows": plan.rows,
            "currency": currency,
            "errands": [*earlier, errand][-_MOST:],
        }
        try:
            await self._storage.replace(_KEY, json.dumps(record, indent=1).encode())
        except (StorageError, StorageRefusedError) as error:
            log.warning("%s; a cleared task will look at its endpoint again, for free", error)

    async def _read(self) -> dict[str, Any]:
        try:
            record = json.loads(await self._storage.read(_KEY))
        except (StorageError, StorageRefusedError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}
