"""Moments of a publication at which a kill, or a reader, must not find more or less than one version."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from moto.server import ThreadedMotoServer

from airflow_provider_modelstudio.inference.errors import SupersededError
from airflow_provider_modelstudio.inference.plan import InputFile, make_plan
from airflow_provider_modelstudio.inference.storage.local import LocalStorage
from airflow_provider_modelstudio.inference.storage.object_storage import ObjectStorage
from airflow_provider_modelstudio.inference.vault import LocalFile, Vault
from airflow_provider_modelstudio.inference.vault.records import Counts


class KilledError(BaseException):
    """The process ends here."""


@pytest.fixture(scope="module")
def endpoint():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    client = boto3.client(
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="made-up", aws_secret_access_key="made-up"
    )
    client.create_bucket(Bucket="bucket")
    yield url
    server.stop()


@pytest.fixture(params=["disk", "s3"])
def make_storage(request, tmp_path):
    """A storage as each new process opens it."""
    if request.param == "disk":
        return lambda name="data": LocalStorage(
            tmp_path / f"_{name}.inference", tmp_path / name, single_file=name.endswith(".parquet")
        )
    options = {"endpoint_url": request.getfixturevalue("endpoint"), "client_kwargs": {"region_name": "us-east-1"}}
    filesystem = s3fs.S3FileSystem(key="made-up", secret="made-up", **options)
    prefix = f"bucket/{tmp_path.name}"
    return lambda name="data": ObjectStorage(
        filesystem,
        "s3",
        f"{prefix}/_{name}.inference",
        f"{prefix}/{name}",
        single_file=name.endswith(".parquet"),
    )


def vault_of(storage, version):
    """The vault of one version of a source with one row."""
    pinned = InputFile(path="source.parquet", size=1, stamp=str(version), row_groups=(1,))
    single = storage.destination.endswith(".parquet")
    return Vault(storage, make_plan([pinned], endpoint={}, settings={}, output={}, single_file=single))


async def commit(vault, tmp_path, number):
    """One row of numbers that take the same room in each version."""
    path = tmp_path / f"part-{number}"
    pq.write_table(pa.table({"x": pa.array([float(number)])}), path)
    content = path.read_bytes()
    keys = tmp_path / f"keys-{number}"
    keys.write_bytes(bytes(16))
    await vault.record_plan()
    (part,) = vault.plan.parts
    seal = await vault.seal(
        part,
        LocalFile(path, 1, hashlib.sha256(content).hexdigest(), len(content)),
        None,
        keys=keys,
        columns=["x"],
        counts=Counts(embedded=1),
    )
    return await vault.commit([seal], owner="", removed=0)


class Held:
    """A lease that is good."""

    def __init__(self, number):
        self.epoch = f"{number:08d}-me"

    def check(self):
        pass


async def show(vault, manifest, number):
    """Publish, as the engine does."""
    await vault.publication.show(manifest, vault.manifest_key, Held(number))


def interrupted(storage, at, happens):
    """The same storage in a process to which something happens before its ``at``-th step of a publication."""
    steps = iter(range(1, 100))

    async def step():
        if next(steps) == at:
            await happens()

    class Interrupted(type(storage)):
        async def create(self, key, *content):
            if key.startswith("publishing/"):
                await step()
            await super().create(key, *content)

        async def publish(self, files):
            await step()
            await super().publish(files)

        async def replace(self, key, content):
            await step()
            await super().replace(key, content)

    storage.__class__ = Interrupted
    return storage


async def killed():
    raise KilledError


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_kill_while_publishing_leaves_no_strangers(make_storage, tmp_path, at):
    """Killed anywhere in a publication, and the source changes before the retry: the next version is still published."""

    async def story():
        first = vault_of(make_storage(), 1)
        await show(first, await commit(first, tmp_path, 1), 1)
        second = vault_of(make_storage(), 2)
        manifest = await commit(second, tmp_path, 2)
        with contextlib.suppress(KilledError):
            await show(vault_of(interrupted(make_storage(), at, killed), 2), manifest, 2)
        third = vault_of(make_storage(), 3)
        await third.publication.check()
        manifest = await commit(third, tmp_path, 3)
        await show(third, manifest, 3)
        assert list(await third.storage.published()) == [part.name for part in manifest.parts]

    asyncio.run(story())


@pytest.mark.parametrize("removed", [False, True])
@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_who_wakes_up_while_publishing_leaves_the_newest_version(make_storage, tmp_path, at, removed):
    """Frozen anywhere in a publication, while a newer version was published: readers end up with the newer one, also where
    the older run was removed.
    """
    if at == 4 and isinstance(make_storage(), LocalStorage):
        pytest.skip("a folder on disk is swapped in one step, and needs no second one")

    async def story():
        first = vault_of(make_storage(), 1)
        await show(first, await commit(first, tmp_path, 1), 1)
        newest = vault_of(make_storage(), 3)
        manifest = await commit(newest, tmp_path, 3)

        async def replaced():
            await show(newest, manifest, 3)
            if removed:
                parts = await newest.storage.list_keys(older.manifest_key.replace("manifest.json", "parts"))
                await newest.storage.delete(*parts)

        older = vault_of(interrupted(make_storage(), at, replaced), 2)
        with pytest.raises(SupersededError, match="a newer run into this destination has published"):
            await show(older, await commit(older, tmp_path, 2), 2)
        assert await newest.publication.shows(manifest)

    asyncio.run(story())


def test_the_record_never_names_a_file_that_is_gone(make_storage, tmp_path):
    """Whoever reads by ``published.json`` finds each file that it names, before and after each step of an object store."""
    storage = make_storage()
    if isinstance(storage, LocalStorage):
        pytest.skip("a folder on disk is swapped in one step, and its readers need no record")

    async def story():
        first = vault_of(storage, 1)
        await show(first, await commit(first, tmp_path, 1), 1)
        looks = 0

        class Watched(type(storage)):
            async def _ask(self, what, call, *args, **options):
                nonlocal looks
                answer = await super()._ask(what, call, *args, **options)
                record = json.loads(self._fs.cat_file(f"{self._root}/published.json"))
                self._fs.invalidate_cache()
                there = {path.rpartition("/")[2] for path in self._fs.ls(self._destination, detail=False)}
                assert set(record["files"]) <= there, f"after {call.__name__}"
                looks += 1
                return answer

        watched = make_storage()
        watched.__class__ = Watched
        second = vault_of(watched, 2)
        manifest = await commit(second, tmp_path, 2)
        await show(second, manifest, 2)
        assert looks > 5
        assert list(await storage.published()) == [part.name for part in manifest.parts]

    asyncio.run(story())


def test_a_file_of_the_same_size_is_replaced(make_storage, tmp_path):
    """A destination that is one file gets the new version also when that has as many bytes as the old one."""

    async def story():
        first = vault_of(make_storage("data.parquet"), 1)
        await show(first, await commit(first, tmp_path, 1), 1)
        second = vault_of(make_storage("data.parquet"), 2)
        manifest = await commit(second, tmp_path, 2)
        before = await second.storage.published()
        await show(second, manifest, 2)
        assert await second.storage.published() == before, "the test wants versions of one size"
        return second.storage

    storage = asyncio.run(story())
    if isinstance(storage, LocalStorage):
        content = (tmp_path / "data.parquet").read_bytes()
    else:
        content = storage._fs.cat_file(storage._destination)
    assert pq.read_table(pa.BufferReader(content))["x"].to_pylist() == [2.0]
