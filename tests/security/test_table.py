"""The list of what is promised about security holds together."""

from __future__ import annotations

import pytest

from tests.faults.nodes import missing, skipped
from tests.security.table import ITEMS


def test_all_items_are_there():
    """The twenty of the list, each once."""
    assert [item.number for item in ITEMS] == list(range(1, 21))


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: f"{item.number} {item.name}")
def test_each_item_has_a_test(item):
    """At least one test that exists and runs holds it."""
    assert item.tests
    assert not missing(item.tests)


def test_what_is_open_is_told():
    """A test that is skipped is named by the item it belongs to, and nothing else is."""
    assert {node for item in ITEMS for node in item.open} == skipped("tests/security")
