"""Names of hosts that lead where a test says."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Names"]


class Names:
    """The system's names, with some of our own: each look takes the next answer, and the last one stays."""

    def __init__(self, real: Callable[..., Any]) -> None:
        self.answers: dict[str, list[list[str]]] = {}
        self.looked: list[str] = []
        self._real = real

    def look_up(self, host: str, port: int, *args: Any, **options: Any) -> list[Any]:
        """In place of ``socket.getaddrinfo``."""
        if host not in self.answers:
            found: list[Any] = self._real(host, port, *args, **options)
            return found
        self.looked.append(host)
        left = self.answers[host]
        addresses = left.pop(0) if len(left) > 1 else left[0]
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]
