"""What one HTTP exchange ends with. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_modelstudio.inference.errors import Fault

from .refusal import media_type

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Exchange", "ExchangeError", "without_body"]

_FIRST_ERROR = 400


class Exchange(NamedTuple):
    """An answer, whatever it says."""

    status: int
    headers: Mapping[str, str]
    """Found by name in lower case; of several of one name, the first."""
    body: bytes

    @property
    def media(self) -> str:
        """Media type without parameters."""
        return media_type(self.headers.get("content-type"))


class ExchangeError(Exception):
    """No complete answer came.

    Chained to what the system said, never to an exception that carries the request and its headers.
    """

    def __init__(self, reason: str, *, fault: Fault, sent: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fault = fault
        self.sent = sent
        """Whether the request may have reached the server."""


def without_body(status: int, headers: Mapping[str, str]) -> Exchange:
    """What is left of an answer that is too long to be read.

    What an error says at such length says nothing; its status does.
    Raises :class:`ExchangeError` for an answer that is no error.
    """
    if status < _FIRST_ERROR:
        raise ExchangeError(
            "the answer is longer than anything the request can ask for", fault=Fault.TOO_LARGE, sent=True
        )
    return Exchange(status, headers, b"")
