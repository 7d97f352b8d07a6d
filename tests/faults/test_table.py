"""The table of faults holds together."""

from __future__ import annotations

import pytest

from tests.faults.nodes import missing, skipped
from tests.faults.table import FAULTS


def test_all_faults_are_there():
    """The fifty-two of the failure model, each once."""
    assert [fault.number for fault in FAULTS] == list(range(1, 53))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.number} {fault.name}")
def test_each_fault_has_a_test(fault):
    """At least one test that exists and runs shows what happens then."""
    assert fault.tests
    assert not missing(fault.tests)


def test_what_is_open_is_told():
    """A test that is skipped is named by the row it belongs to, and nothing else is."""
    assert {node for fault in FAULTS for node in fault.open} == skipped("tests/faults")
