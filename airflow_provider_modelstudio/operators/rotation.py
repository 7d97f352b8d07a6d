"""Which endpoints were given this key already, by this try of a task or an earlier one?

No server shows the key of an endpoint, and Airflow clears XCom before a retry; its store of task state, from 3.3 on, is
kept.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Rotation"]

log = logging.getLogger(__name__)

_NAME = "rotated"
_WORK = 2**14
"""Of scrypt: 16 MiB and some 40 ms, so that nobody guesses a secret from what is stored."""


class Rotation:
    """The endpoints that have the key. Where Airflow has no store it knows those of one try."""

    def __init__(self, store: Any, keys: Iterable[str]) -> None:
        """:param store: ``context["task_state_store"]``, or ``None`` before Airflow 3.3.
        :param keys: all secrets that are sent; with others, what earlier tries did does not count.
        """
        self._store = store
        self._have: list[str] = []
        kept = self._read()
        salt = kept.get("salt")
        self._salt = salt if isinstance(salt, str) else secrets.token_hex(16)
        self._digest = _digest(sorted(set(keys)), self._salt)
        if kept.get("digest") == self._digest:
            self._have = [str(one) for one in kept.get("endpoints") or ()]

    def has(self, inference_id: str) -> bool:
        """Whether an endpoint was given the key."""
        return inference_id in self._have

    def note(self, inference_id: str) -> None:
        """An endpoint was given the key just now."""
        if inference_id not in self._have:
            self._have.append(inference_id)
        if self._store is None:
            return
        try:
            self._store.set(_NAME, {"salt": self._salt, "digest": self._digest, "endpoints": self._have})
        except Exception as error:  # noqa: BLE001 - whatever it is, the key was sent all the same
            log.warning(
                "that endpoint %s has the new key could not be stored (%s): a retry sends it again",
                inference_id,
                type(error).__name__,
            )

    def _read(self) -> dict[str, Any]:
        if self._store is None:
            return {}
        try:
            kept = self._store.get(_NAME)
        except Exception as error:  # noqa: BLE001 - sending a key twice does less harm than not sending it
            log.warning("what an earlier try did could not be read (%s): keys are sent again", type(error).__name__)
            return {}
        return kept if isinstance(kept, dict) else {}


def _digest(keys: list[str], salt: str) -> str:
    said = "\0".join(keys).encode()
    return hashlib.scrypt(said, salt=salt.encode(), n=_WORK, r=8, p=1, dklen=16).hex()
