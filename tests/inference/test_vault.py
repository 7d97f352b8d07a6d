"""The commit: one dataset of a run is the fact, whoever comes second, and books that do not balance are none."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_provider_modelstudio.inference.errors import StorageError, SupersededError
from airflow_provider_modelstudio.inference.plan import InputFile, make_plan
from airflow_provider_modelstudio.inference.storage.local import LocalStorage
from airflow_provider_modelstudio.inference.vault import LocalFile, Vault
from airflow_provider_modelstudio.inference.vault.records import Counts


@pytest.fixture
def vaults(tmp_path):
    """Two attempts at one run of three rows in two parts."""
    pinned = InputFile(path="in.parquet", size=1, stamp="1", row_groups=(3,))
    plan = make_plan([pinned], endpoint={}, settings={}, output={}, single_file=False, part_rows=2)
    storage = LocalStorage(tmp_path / "_out.inference", tmp_path / "out", single_file=False)
    return [Vault(storage, plan) for _ in range(2)]


async def seal(vault, folder, index, content, apart=None):
    """A part whose column holds ``content``, and rows of it that are set apart."""
    files = []
    for numbers in (content, apart):
        path = folder / f"{index}-{content}-{len(files)}"
        if numbers is not None:
            pq.write_table(pa.table({"x": pa.array(numbers, pa.int64())}), path)
        files.append(
            None if numbers is None else LocalFile(path, len(numbers), path.name.ljust(16, "0"), path.stat().st_size)
        )
    counts = Counts(embedded=len(content), failed=len(apart or ()))
    keys = folder / f"{index}-{content}.keys"
    keys.write_bytes(bytes(16 * len(content)))
    return await vault.seal(vault.plan.parts[index], *files, keys=keys, columns=["x"], counts=counts)


def test_who_commits_first_has_committed(vaults, tmp_path):
    """Another attempt's dataset is adopted, and the manifest does not change."""

    async def race():
        first, second = vaults
        mine = [await seal(first, tmp_path, 0, [1, 2]), await seal(first, tmp_path, 1, [3])]
        manifest = await first.commit(mine, owner="first", removed=0)
        assert await second.commit(mine, owner="second", removed=7) == manifest
        assert await second.committed() == manifest

    asyncio.run(race())


def test_a_commit_whose_parts_are_gone_is_replaced(vaults, tmp_path):
    """It came from one that was frozen, after its run had been removed; nobody can show it."""

    async def story():
        first, second = vaults
        await first.commit(
            [await seal(first, tmp_path, at, rows) for at, rows in enumerate([[1, 2], [3]])], owner="1", removed=0
        )
        for below in ("seals", "keys", "parts"):
            found = await first.storage.list_keys(f"{first.manifest_key.rpartition('/')[0]}/{below}")
            await first.storage.delete(*found)
        seals = [await seal(second, tmp_path, at, rows) for at, rows in enumerate([[4, 5], [6]])]
        manifest = await second.commit(seals, owner="2", removed=0)
        assert manifest.owner == "2"
        assert await second.committed() == manifest
        assert await second.can_show(manifest)

    asyncio.run(story())


def test_a_seal_whose_part_is_gone_counts_for_nothing(vaults, tmp_path):
    """It came from one that was frozen, after its run had been removed: the part is made anew."""

    async def story():
        first, second = vaults
        old = await seal(first, tmp_path, 0, [1, 2])
        await first.storage.delete(old.key)
        assert await second.seals() == {}
        new = await seal(second, tmp_path, 0, [4, 5])
        assert new.sha256 != old.sha256
        assert await second.seals() == {0: new}

    asyncio.run(story())


class Ending:
    """A lease that is over after so many looks."""

    def __init__(self, looks):
        self.left = looks

    def check(self):
        self.left -= 1
        if self.left < 0:
            raise SupersededError


@pytest.mark.parametrize("looks", range(6))
def test_who_lost_its_lease_goes_on_removing_nothing(tmp_path, looks):
    """Between any two objects: what it has listed may be somebody else's by now."""
    pinned = InputFile(path="in.parquet", size=1, stamp="1", row_groups=(3,))
    made = [replace(pinned, stamp=stamp) for stamp in "12"]
    plans = [make_plan([one], endpoint={}, settings={}, output={}, single_file=False, part_rows=2) for one in made]
    storage = LocalStorage(tmp_path / "_out.inference", tmp_path / "out", single_file=False)
    old, new = (Vault(storage, plan) for plan in plans)

    async def story():
        for vault in (old, new):
            await vault.record_plan()
            seals = [await seal(vault, tmp_path, at, rows) for at, rows in enumerate([[1, 2], [3]])]
            await vault.commit(seals, owner="", removed=0)
        before = {path for path in (tmp_path / "_out.inference").rglob("*") if path.is_file()}
        with pytest.raises(SupersededError):
            await new.forget_other_runs({}, Ending(looks))
        return before - {path for path in (tmp_path / "_out.inference").rglob("*") if path.is_file()}

    assert len(asyncio.run(story())) == looks


def test_who_seals_first_has_sealed(vaults, tmp_path):
    """Of two attempts at a part one counts, and nothing of the other is left, in the quarantine neither."""

    async def race():
        first, second = vaults
        mine = await seal(first, tmp_path, 0, [1], apart=[2])
        theirs = await seal(second, tmp_path, 0, [5], apart=[6])
        assert theirs == mine
        assert await first.storage.list_keys(first.quarantine_key) == [mine.quarantine.key]
        assert len(await first.storage.list_keys(mine.key.rpartition("/")[0])) == 1
        assert len(await first.storage.list_keys(mine.keys.rpartition("/")[0])) == 1

    asyncio.run(race())


def test_books_that_do_not_balance_are_refused(vaults, tmp_path):
    """A part with too few rows is not sealed; a dataset that lacks a part, or a row in its books, is not committed."""

    async def cheat():
        vault, _ = vaults
        with pytest.raises(StorageError, match="do not balance"):
            await seal(vault, tmp_path, 0, [1])
        only = await seal(vault, tmp_path, 1, [3])
        with pytest.raises(StorageError, match="nothing was committed"):
            await vault.commit([only], owner="", removed=0)
        short = replace(await seal(vault, tmp_path, 0, [1, 2]), counts=Counts(embedded=1))
        with pytest.raises(StorageError, match="3 rows planned, 2 booked; nothing was committed"):
            await vault.commit([short, only], owner="", removed=0)
        assert await vault.committed() is None

    asyncio.run(cheat())
