"""The list of what is promised about security holds together."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.nodes import missing, skipped
from tests.faults.nodes import tests_in as names_in
from tests.security.table import ITEMS


def test_all_items_are_there():
    """The twenty of the list, each once."""
    assert [item.number for item in ITEMS] == list(range(1, 21))


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: f"{item.number} {item.name}")
def test_each_item_has_a_test(item):
    """At least one test that exists and runs holds it."""
    assert item.tests
    assert not missing(item.tests)


@pytest.mark.parametrize("path", sorted(path.name for path in Path(__file__).parent.glob("test_*.py")))
def test_each_test_belongs_to_an_item(path):
    """A test of this folder that no item names would be lost to whoever reads the list."""
    named = {node for item in ITEMS for node in (*item.tests, *item.open)}
    if path != Path(__file__).name:
        here = f"tests/security/{path}"
        assert {f"{here}::{name.removeprefix('-')}" for name in names_in(here)} <= named


def test_what_is_open_is_told():
    """A test that is skipped is named by the item it belongs to, and nothing else is."""
    assert {node for item in ITEMS for node in item.open} == skipped("tests/security")
