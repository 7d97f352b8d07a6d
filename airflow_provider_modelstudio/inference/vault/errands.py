"""Who has been served by the version that readers see, so that their retries need to ask nobody.

A run is named by the endpoint's settings, too, and only Elasticsearch can tell those.
A task that is cleared after it was done must not ask even that.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from airflow_provider_modelstudio.inference.plan import Plan
from airflow_provider_modelstudio.inference.storage import ObjectMissingError

if TYPE_CHECKING:
    from airflow_provider_modelstudio.inference.storage import Storage

__all__ = ["Errands"]

_KEY = "served.json"
_MOST = 100
"""The last ones; whoever is forgotten looks at the endpoint again, for free."""


class Errands:
    """One small record at a destination. Nothing is lost with it but a free look at the endpoint."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def plan_of(self, errand: str) -> Plan | None:
        """The plan of the run that served this errand, by its name alone; ``None`` when it is not on record."""
        try:
            record = json.loads(await self._storage.read(_KEY))
            if errand not in record["errands"]:
                return None
            return Plan(
                cache_key=str(record["cache_key"]),
                run_key=str(record["run_key"]),
                inputs=(),
                parts=(),
                rows=int(record["rows"]),
            )
        except (ObjectMissingError, ValueError, TypeError, KeyError):
            return None

    async def remember(self, errand: str, plan: Plan) -> None:
        """Write down that the run of ``plan``, committed and shown, has served this errand."""
        try:
            record = json.loads(await self._storage.read(_KEY))
            before = record["errands"] if record["run_key"] == plan.run_key else []
        except (ObjectMissingError, ValueError, TypeError, KeyError):
            before = []
        errands = [*(one for one in before if one != errand), errand][-_MOST:]
        record = {"cache_key": plan.cache_key, "run_key": plan.run_key, "rows": plan.rows, "errands": errands}
        await self._storage.replace(_KEY, json.dumps(record, indent=1).encode())
