"""Who has been served by the version that readers see, so that their retries need to ask nobody.

A run is named by the endpoint's settings, too, and only Elasticsearch can tell those.
A task that is cleared after it was done must not ask even that.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_modelstudio.inference.errors import DestinationError, StorageError, StorageRefusedError
from airflow_provider_modelstudio.inference.plan import Plan

from .publication import Publication

if TYPE_CHECKING:
    from airflow_provider_modelstudio.inference.storage import Storage

__all__ = ["Errands", "Served"]

log = logging.getLogger(__name__)

_MOST = 100
"""Of one run; whoever is forgotten looks at the endpoint again, for free."""


class Served(NamedTuple):
    """The run that served an errand."""

    plan: Plan
    """Its name alone, without files and parts."""
    currency: str | None
    """Of the price that was known; ``None`` when none was."""


class Errands:
    """A small object for each, with the run that served it. Nothing is lost with one but a free look at the endpoint, so
    it fails nobody.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def served(self, errand: str) -> Served | None:
        """The run that served this errand and is what readers see; ``None`` when none is on record."""
        try:
            shown = await Publication(self._storage).record()
            plan = Plan(cache_key=shown["cache_key"], run_key=shown["run_key"], inputs=(), parts=(), rows=shown["rows"])
            if not (plan.cache_key + plan.run_key).isalnum():
                return None
            record = json.loads(await self._storage.read(_key(plan, errand)))
            return Served(plan, record["currency"])
        except (StorageError, StorageRefusedError, DestinationError, ValueError, TypeError, KeyError):
            return None

    async def remember(self, errand: str, plan: Plan, currency: str | None) -> None:
        """Write down that the run of ``plan``, which is committed, serves this errand."""
        try:
            kept = await self._storage.list_keys(_folder(plan))
            if len(kept) >= _MOST:
                await self._storage.delete(*kept)
            await self._storage.replace(_key(plan, errand), json.dumps({"currency": currency}).encode())
        except (StorageError, StorageRefusedError) as error:
            log.warning("%s; a cleared task will look at its endpoint again, for free", error)


def _folder(plan: Plan) -> str:
    return f"{plan.cache_key}/runs/{plan.run_key}/served"


def _key(plan: Plan, errand: str) -> str:
    return f"{_folder(plan)}/{errand}"
