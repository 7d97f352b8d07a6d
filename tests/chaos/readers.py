"""Somebody who looks at the destination all the time."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from tests.chaos.places import Place

__all__ = ["Reader"]

PAUSE_SECONDS = 0.02


class Reader:
    """Looks at a destination from a thread of its own, for as long as the context lasts."""

    def __init__(self, place: Place, destination: str, *, shown: bool) -> None:
        """:param shown: a version is there already, so that finding nothing is wrong."""
        self.looks: Counter[str] = Counter()
        self._place = place
        self._destination = destination
        self._shown = shown
        self._ended = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"reader of {destination}")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if self._failure is not None and error is None:
            raise self._failure

    def _run(self) -> None:
        try:
            while not self._ended.wait(PAUSE_SECONDS):
                sight = self._place.look(self._destination)
                self._shown |= sight == "whole"
                self.looks["gone" if sight == "nothing" and self._shown else sight] += 1
        except Exception as error:  # noqa: BLE001  # raised again where the context ends
            self._failure = error
