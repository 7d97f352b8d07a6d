"""What the person at the terminal sees: lines that stay, and one at the bottom that changes."""

from __future__ import annotations

import shutil
import sys
import time

__all__ = ["Screen"]

PASSING_SECONDS = 10.0
"""Between changing lines where nothing can be overwritten, for example in the log of a CI."""


class Screen:
    """Standard output, each line with the seconds since the start."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._terminal = sys.stdout.isatty()
        self._last_passing = 0.0

    def line(self, text: str) -> None:
        """Show a line that stays."""
        self._write(f"{self._clock()}{text}", "\n")
        self._last_passing = time.monotonic()

    def plain(self, text: str = "") -> None:
        """Show text that stays, without the time."""
        self._write(text, "\n")

    def passing(self, text: str) -> None:
        """Show a line that the next one replaces."""
        now = time.monotonic()
        if self._terminal:
            self._write(f"{self._clock()}{text}"[: shutil.get_terminal_size().columns - 1], "")
        elif now - self._last_passing >= PASSING_SECONDS:
            self.line(text)

    def _clock(self) -> str:
        return f"[{time.monotonic() - self._began:4.0f} s] "

    def _write(self, text: str, end: str) -> None:
        clear = "\r\x1b[K" if self._terminal else ""
        sys.stdout.write(f"{clear}{text}{end}")
        sys.stdout.flush()
