"""The bench of the fault tests."""

from __future__ import annotations

from tests.faults.conftest import _quiet, bench, start  # noqa: F401  # fixtures
