"""The list of protections is up to date: each of them stands where the list says, and its tests are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.protections import MUTANTS

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_protection_is_where_the_list_says(mutant):
    """Else ``make mutants`` would stop there."""
    assert mutant.old in (ROOT / mutant.file).read_text()
    assert mutant.old != mutant.new
    assert all((ROOT / test.partition("::")[0]).exists() for test in mutant.tests)


def test_each_has_a_name_of_its_own():
    """They are chosen by it."""
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names)
