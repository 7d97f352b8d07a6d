"""One set of checks that every store passes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import resource
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from airflow_provider_modelstudio.inference.errors import DestinationError, StorageError, StorageRefusedError
from airflow_provider_modelstudio.inference.storage import ObjectExistsError, ObjectMissingError
from airflow_provider_modelstudio.inference.storage.local import LocalStorage
from airflow_provider_modelstudio.inference.storage.object_storage import ObjectStorage
from airflow_provider_modelstudio.inference.storage.posix import Posix
from tests.inference import stores


class Forgetful:
    """A store that does not hear the order to create only once."""

    def __init__(self, filesystem):
        self._filesystem = filesystem

    def __getattr__(self, name):
        return getattr(self._filesystem, name)

    def pipe_file(self, path, value, mode="overwrite"):
        self._filesystem.pipe_file(path, value)


class Linkless(Posix):
    """A disk without hard links."""

    def hard_link(self, path, name):
        raise OSError(errno.EPERM, "Operation not permitted")


@pytest.fixture(params=["local", "local without links", *stores.SCHEMES, "s3 without create-once"])
def storage(request, tmp_path):
    if request.param.startswith("local"):
        disk = Linkless() if "without" in request.param else None
        return LocalStorage(tmp_path / "_data.inference", tmp_path / "data", single_file=False, disk=disk)
    emulator = request.getfixturevalue(f"{request.param.partition(' ')[0]}_store")
    if "without" in request.param:
        emulator = emulator._replace(filesystem=Forgetful(emulator.filesystem))
    prefix = f"{emulator.bucket}/{tmp_path.name}"
    return ObjectStorage(
        emulator.filesystem, emulator.scheme, f"{prefix}/_data.inference", f"{prefix}/data", single_file=False
    )


class Shapeless(Posix):
    """A mount that shows one mode for everything."""

    def make_folder(self, folder, mode):
        super().make_folder(folder, mode)
        folder.chmod(0o777)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_mount_that_shows_one_user_is_used(tmp_path):
    """NFS that squashes users, SMB, FUSE: a folder of ours shows somebody else, as the state folder does."""

    class Squashing(Posix):
        def make_folder(self, folder, mode):
            super().make_folder(folder, mode)
            os.chown(folder, 12345, 12345)

    for number in range(2):
        storage = LocalStorage(tmp_path / "_data.inference", tmp_path / "data", single_file=False, disk=Squashing())
        _run(storage.create(f"k/{number}", b"content"))
    with pytest.raises(DestinationError, match="belongs to user 12345"):
        _run(LocalStorage(tmp_path / "_data.inference", tmp_path / "data", single_file=False).create("k/3", b"content"))


def test_a_mount_that_shows_one_mode_is_used_with_a_warning(tmp_path, caplog):
    """There nobody can tell who may write; where modes mean something, a folder that is open to all is refused."""
    places = tmp_path / "_data.inference", tmp_path / "data"
    for number in range(2):
        storage = LocalStorage(*places, single_file=False, disk=Shapeless())
        _run(storage.create(f"k/{number}", b"content"))
    assert len([record for record in caplog.records if "shows one mode for everything" in record.message]) == 1
    assert [path.name for path in places[0].iterdir()] == ["k"]
    with pytest.raises(DestinationError, match="chmod o-w"):
        _run(LocalStorage(*places, single_file=False).create("k/3", b"content"))


def _run(coroutine):
    return asyncio.run(coroutine)


def test_what_was_created_can_be_read(storage):
    """An object is there whole, and listed, once it was created."""
    _run(storage.create("a/b/c", b"content"))
    assert _run(storage.read("a/b/c")) == b"content"
    assert _run(storage.list_keys("a/b")) == ["a/b/c"]
    assert _run(storage.list_keys("nowhere")) == []
    assert _run(storage.open("a/b/c")).read() == b"content"


def test_the_first_creator_wins(storage):
    """Another content under the same key is refused, and the first one stays."""
    _run(storage.create("k", b"first"))
    with pytest.raises(ObjectExistsError):
        _run(storage.create("k", b"second"))
    assert _run(storage.read("k")) == b"first"


def test_creating_the_same_again_is_no_error(storage):
    """A creator whose answer was lost may ask again."""
    _run(storage.create("k", b"mine"))
    _run(storage.create("k", b"mine"))


def test_exactly_one_of_many_creators_wins(storage):
    """Of eight creators of one key at the same time, one wins, for many keys."""
    if isinstance(getattr(storage, "_fs", None), Forgetful):
        pytest.skip("this is what such a store cannot do")
    for key in range(60 if isinstance(storage, LocalStorage) else 6):

        def attempt(who, key=key):
            try:
                _run(storage.create(f"contested/{key}", f"creator {who}".encode()))
            except ObjectExistsError:
                return None
            return who

        with ThreadPoolExecutor(8) as pool:
            winners = [who for who in pool.map(attempt, range(8)) if who is not None]
        assert len(winners) == 1
        assert _run(storage.read(f"contested/{key}")) == f"creator {winners[0]}".encode()


def test_missing_objects_are_named(storage):
    """Reading what is not there says which object is missing; deleting it is fine."""
    for ask in (storage.read, storage.open, storage.modified):
        with pytest.raises(ObjectMissingError, match="gone"):
            _run(ask("folder/gone"))
    _run(storage.delete("folder/gone"))


def test_replace_and_delete(storage):
    """A replaceable object has its last content; a deleted one is gone."""
    _run(storage.replace("lease", b"1"))
    _run(storage.replace("lease", b"2"))
    assert _run(storage.read("lease")) == b"2"
    assert _run(storage.modified("lease")) > 0
    _run(storage.delete("lease"))
    with pytest.raises(ObjectMissingError):
        _run(storage.read("lease"))


def test_a_folder_is_forgotten_when_it_is_empty(storage, tmp_path):
    """What lies in it stays, what is empty is gone from the disk, and what was forgotten may be written again."""
    for key in ("run/seals/1", "run/seals/2", "run/parts/1"):
        _run(storage.create(key, b"x"))
    _run(storage.forget_folder("run/seals"))
    assert _run(storage.list_keys("run/seals")) == ["run/seals/1", "run/seals/2"]
    _run(storage.delete("run/seals/1", "run/seals/2"))
    for _ in range(2):
        _run(storage.forget_folder("run/seals"))
        assert _run(storage.list_keys("run/seals")) == []
    assert not list(tmp_path.rglob("seals"))
    assert _run(storage.list_keys("run/parts")) == ["run/parts/1"]
    _run(storage.forget_folder("run/nothing"))
    _run(storage.create("run/seals/3", b"x"))
    assert _run(storage.list_keys("run/seals")) == ["run/seals/3"]


def test_a_range_is_read(storage):
    """From one place to another, or to the end."""
    _run(storage.create("k", b"0123456789"))
    assert _run(storage.read("k", 2, 5)) == b"234"
    assert _run(storage.read("k", 7)) == b"789"
    assert _run(storage.read("k", 0, 10)) == b"0123456789"


def test_what_has_not_grown_is_deleted(storage):
    """And it is no error when it is gone already."""
    _run(storage.create("folder/k", b"content"))
    for _ in range(2):
        _run(storage.delete_unless_grown("folder/k", 7))
        assert _run(storage.list_keys("folder")) == []
    _run(storage.delete_unless_grown("nowhere/k", 7))


def test_a_log_grows(storage):
    """What was appended is there, in order, at once; its name is taken, and what has grown is not deleted."""

    async def all_of_it():
        log = await storage.start_log("logs/one")
        if log is None:
            assert not isinstance(storage, LocalStorage)
            return
        assert storage.writers == 1
        assert await storage.read("logs/one") == b""
        await log.append(b"first", b"", memoryview(b", second"))
        assert await storage.read("logs/one") == b"first, second"
        await storage.delete_unless_grown("logs/one", 5)
        await log.append(b"; third")
        assert await storage.read("logs/one") == b"first, second; third"
        assert await storage.read("logs/one", 7, 13) == b"second"
        assert await storage.list_keys("logs") == ["logs/one"]
        with pytest.raises(ObjectExistsError, match="exists already"):
            await storage.start_log("logs/one")
        with pytest.raises(ObjectExistsError):
            await storage.create("logs/one", b"other")
        await storage.delete_unless_grown("logs/one", 20)
        assert await storage.list_keys("logs") == []

    _run(all_of_it())


@pytest.mark.parametrize("key", ["../out", "/etc/passwd", "a/../../b", "a//b", "./a", ""])
def test_keys_stay_below_the_root(storage, key):
    """No key leads out of the state folder."""
    with pytest.raises(StorageError, match="leaves the state folder"):
        _run(storage.create(key, b"x"))


def _part(storage, folder, name, content):
    path = _run(storage.scratch(folder)) / name
    path.write_bytes(content)
    _run(storage.create_from(f"parts/{name}", path))


def test_a_copy_is_another_name(storage, tmp_path):
    """A copy has the same bytes, may be made again, and outlives what it was made of; of nothing there is none."""
    _part(storage, tmp_path, "one", b"content")
    for _ in range(2):
        _run(storage.copy("parts/one", "runs/two/one"))
    _run(storage.delete("parts/one"))
    assert _run(storage.read("runs/two/one")) == b"content"
    with pytest.raises(ObjectMissingError):
        _run(storage.copy("parts/one", "runs/three/one"))
    with pytest.raises(StorageError, match="leaves the state folder"):
        _run(storage.copy("runs/two/one", "../one"))


def test_publishing_shows_exactly_the_files(storage, tmp_path):
    """The destination holds the named files and nothing else, before and after a change."""
    assert _run(storage.published()) is None
    for name in ("one", "two", "three"):
        _part(storage, tmp_path, name, name.encode())
    _run(storage.publish({"one": "parts/one", "two": "parts/two"}))
    assert _run(storage.published()) == {"one": 3, "two": 3}
    _run(storage.publish({"two": "parts/two", "three": "parts/three"}))
    assert _run(storage.published()) == {"two": 3, "three": 5}
    assert _run(storage.list_keys("parts")) == ["parts/one", "parts/three", "parts/two"]


def test_a_published_file_of_another_size_is_published_again(storage, tmp_path):
    """Whoever cut it short."""
    _part(storage, tmp_path, "one", b"content")
    _run(storage.publish({"one": "parts/one"}))
    if isinstance(storage, LocalStorage):
        (tmp_path / "data" / "one").unlink()
        (tmp_path / "data" / "one").write_bytes(b"con")
    else:
        storage._fs.pipe_file(f"{storage._destination}/one", b"con")
    assert _run(storage.published()) == {"one": 3}
    _run(storage.publish({"one": "parts/one"}))
    assert _run(storage.published()) == {"one": 7}


def test_a_part_that_is_gone_is_named(storage):
    """What cannot be published is missing, on every store."""
    _run(storage.create("parts/there", b"x"))
    with pytest.raises(ObjectMissingError, match="parts/gone"):
        _run(storage.publish({"gone": "parts/gone"}))
    assert not _run(storage.published())


def test_a_part_may_be_stored_again(storage, tmp_path):
    """A part is named by its content, so that a second writer finds it there."""
    _part(storage, tmp_path, "p", b"same")
    _part(storage, tmp_path, "p", b"same")
    with pytest.raises(ObjectExistsError):
        _part(storage, tmp_path, "p", b"other length")


class TestLocal:
    """What only a local disk does."""

    def test_readers_never_see_half(self, tmp_path):
        """A reader that polls while versions are swapped sees one whole version each time."""
        storage = LocalStorage(tmp_path / "state", tmp_path / "data", single_file=False)
        for version in range(2):
            for i in range(3):
                _part(storage, tmp_path, f"{version}-{i}", b"x")
        versions = [{f"{v}-{i}": f"parts/{v}-{i}" for i in range(3)} for v in range(2)]
        _run(storage.publish(versions[0]))
        with ThreadPoolExecutor(1) as pool:
            swapping = pool.submit(lambda: [_run(storage.publish(versions[i % 2])) for i in range(60)])
            looks = 0
            while not swapping.done():
                seen = {path.name[0] for path in (tmp_path / "data").iterdir()}
                # A listing that was begun before a swap may go on in the folder that stepped aside.
                assert len(seen) <= 1
                looks += 1
        assert looks > 10

    def test_a_single_file_is_swapped_in_one_step(self, tmp_path):
        """A destination that is a file is replaced by the next version."""
        storage = LocalStorage(tmp_path / "state", tmp_path / "out.parquet", single_file=True)
        _part(storage, tmp_path, "a", b"first")
        _part(storage, tmp_path, "b", b"second")
        _run(storage.publish({"out.parquet": "parts/a"}))
        _run(storage.publish({"out.parquet": "parts/b"}))
        assert (tmp_path / "out.parquet").read_bytes() == b"second"
        assert _run(storage.published()) == {"out.parquet": 6}

    def test_a_folder_where_a_file_is_says_so(self, tmp_path):
        """A destination that is a file although a folder is wanted is refused with what to do."""
        (tmp_path / "data").write_text("x")
        storage = LocalStorage(tmp_path / "state", tmp_path / "data", single_file=False)
        with pytest.raises(DestinationError, match=r"ends in \.parquet"):
            _run(storage.published())

    def test_links_are_not_followed(self, tmp_path):
        """An object that was replaced by a symbolic link is not read through it."""
        storage = LocalStorage(tmp_path / "state", tmp_path / "data", single_file=False)
        _run(storage.create("k", b"x"))
        (tmp_path / "state" / "k").unlink()
        (tmp_path / "secret").write_bytes(b"secret")
        (tmp_path / "state" / "k").symlink_to(tmp_path / "secret")
        with pytest.raises(StorageError):
            _run(storage.read("k"))
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "1").write_bytes(b"secret")
        (tmp_path / "state" / "folder").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(StorageError, match="state is not read through one"):
            _run(storage.list_keys("folder"))


class Refusing(Posix):
    """A disk that refuses one kind of call from some time on."""

    def __init__(self, call, number):
        self.broken = False
        self._call, self._number = call, number

    def __getattribute__(self, name):
        if name.startswith("_") or name == "broken" or not self.broken or name != self._call:
            return super().__getattribute__(name)

        def refuse(*args):
            raise OSError(self._number, os.strerror(self._number))

        return refuse


class Hiding(Posix):
    """A mount that keeps a file as long as it is open, under a name of its own: NFS, FUSE."""

    def unlink(self, path):
        path.rename(path.with_name(f".nfs-{path.name}"))


class Stale(Posix):
    """A mount that knows nothing any more of a file that another machine removed."""

    def write(self, descriptor, content):
        if not os.fstat(descriptor).st_nlink:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        super().write(descriptor, content)


class Slow(Posix):
    """A disk that waits for a word before it writes."""

    def __init__(self):
        self.began, self.go = threading.Event(), threading.Event()

    def write(self, descriptor, content):
        self.began.set()
        assert self.go.wait(30.0)
        super().write(descriptor, content)


class TestLogs:
    """Files that grow."""

    def _storage(self, tmp_path, disk=None):
        return LocalStorage(tmp_path / "_data.inference", tmp_path / "data", single_file=False, disk=disk)

    @pytest.mark.parametrize("when", ["before", "between", "during"])
    @pytest.mark.parametrize("kind", [Posix, Hiding, Stale])
    def test_a_log_that_was_removed_says_so(self, tmp_path, kind, when):
        """Whatever the disk shows of a file that is gone and still open; nothing is acknowledged that nobody can find."""
        path = tmp_path / "_data.inference" / "logs" / "one"

        class Removing(kind):
            """Somebody removes the log once it is open, or once it is written."""

            armed = False

            def write(self, descriptor, content):
                if self.armed and when == "between":
                    self.unlink(path)
                super().write(descriptor, content)
                if self.armed and when == "during":
                    self.unlink(path)

        disk = Removing()
        storage = self._storage(tmp_path, disk)

        async def all_of_it():
            log = await storage.start_log("logs/one")
            await log.append(b"first")
            if when == "before":
                await storage.delete("logs/one")
            disk.armed = True
            with pytest.raises(ObjectMissingError, match="logs/one was removed while it was written"):
                await log.append(b"second")
            assert await storage.list_keys("logs") in ([], ["logs/.nfs-one"])

        _run(all_of_it())

    def test_a_log_is_for_its_owner_and_group(self, tmp_path):
        """0640 in folders of 0750, whatever the umask leaves."""
        before = os.umask(0)
        try:
            _run(self._storage(tmp_path).start_log("logs/one"))
        finally:
            os.umask(before)
        state = tmp_path / "_data.inference"
        modes = [stat.S_IMODE((state / path).stat().st_mode) for path in (".", "logs", "logs/one")]
        assert modes == [0o750, 0o750, 0o640]

    @pytest.mark.parametrize("hanging", [False, True])
    def test_a_log_is_not_begun_through_a_link(self, tmp_path, hanging):
        """Neither in place of its folder nor of itself."""
        storage = self._storage(tmp_path)
        _run(storage.create("logs/other", b"x"))
        victim = tmp_path / "victim"
        if not hanging:
            victim.write_bytes(b"precious")
        (tmp_path / "_data.inference" / "logs" / "one").symlink_to(victim)
        with pytest.raises(ObjectExistsError):
            _run(storage.start_log("logs/one"))
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "_data.inference" / "linked").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(StorageError, match="state is not written through one"):
            _run(storage.start_log("linked/one"))
        assert list((tmp_path / "elsewhere").iterdir()) == []
        assert hanging is not victim.exists()

    def test_who_is_cancelled_leaves_a_log_that_is_whole(self, tmp_path):
        """The thread goes on writing."""
        disk = Slow()
        storage = self._storage(tmp_path, disk)

        async def all_of_it():
            log = await storage.start_log("logs/one")
            writing = asyncio.create_task(log.append(b"whole"))
            await asyncio.to_thread(disk.began.wait, 30.0)
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            disk.go.set()

        _run(all_of_it())
        assert _run(storage.read("logs/one")) == b"whole"


class TestWrite:
    """A system may take less than it is given, and takes no more than so many pieces at a time."""

    @pytest.mark.parametrize("pieces", [[], [b""], [b"", b"a", b"", b"bc", b""], [b"x" * (i % 7) for i in range(2000)]])
    def test_all_pieces_arrive(self, tmp_path, pieces):
        """In order, however many, and the empty ones do no harm."""
        disk = Posix()
        descriptor = disk.create(tmp_path / "file")
        disk.write(descriptor, pieces)
        disk.write(descriptor, [memoryview(b"end")])
        disk.close(descriptor)
        assert (tmp_path / "file").read_bytes() == b"".join(pieces) + b"end"

    def test_what_a_system_takes_in_turns_arrives(self, tmp_path, monkeypatch):
        """Wherever each turn ends: within a piece, at its end, after a single byte."""
        most, given_at_once = itertools.cycle([1, 4097, 100_000, 36, 1, 2]), []

        def some(descriptor, pieces):
            given_at_once.append(len(pieces))
            return os.write(descriptor, b"".join(pieces)[: next(most)])

        monkeypatch.setattr(os, "writev", some)
        disk, pieces = Posix(), [bytes([i % 251]) * (i * 37 % 500) for i in range(3000)]
        descriptor = disk.create(tmp_path / "file")
        disk.write(descriptor, pieces)
        disk.close(descriptor)
        assert (tmp_path / "file").read_bytes() == b"".join(pieces)
        assert max(given_at_once) <= os.sysconf("SC_IOV_MAX")

    def test_what_does_not_fit_is_told(self, tmp_path):
        """What a limit on files lets through first is there, and the rest is an error, not left out."""
        disk = Posix()
        descriptor = disk.create(tmp_path / "file")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            with pytest.raises(OSError, match="too large"):
                disk.write(descriptor, [b"a" * 600, b"b" * 600])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            disk.close(descriptor)
        assert (tmp_path / "file").read_bytes() == b"a" * 600 + b"b" * 400


CHANGES = {
    "create": lambda storage, folder: storage.create("new/k", b"content"),
    "start_log": lambda storage, folder: storage.start_log("new/k"),
    "replace": lambda storage, folder: storage.replace("old", b"content"),
    "create_from": lambda storage, folder: storage.create_from("parts/k", folder / "part"),
    "copy": lambda storage, folder: storage.copy("old", "new/k"),
    "delete": lambda storage, folder: storage.delete("old"),
    "publish": lambda storage, folder: storage.publish({"one": "old"}),
}
CALLS = {
    "create": ("make_folder", "create", "write", "sync", "link"),
    "start_log": ("make_folder", "create", "sync"),
    "replace": ("create", "write", "sync", "rename"),
    "create_from": ("make_folder", "sync", "link"),
    "copy": ("make_folder", "sync", "link"),
    "delete": ("unlink", "sync"),
    "publish": ("make_folder", "link", "sync", "rename"),
}
WORDS = {
    errno.ENOSPC: r"no space left in {place} for \S+, [\d.]+ [MG]iB free; make room there",
    errno.EDQUOT: r"no space left in {place} for \S+: the quota of .* is used up.*\([\d.]+ [MG]iB free\)",
    errno.EROFS: r"cannot be written: .* \(in {place}\); give the worker's user write access",
    errno.EACCES: r"cannot be written: .* \(in {place}\); give the worker's user write access",
    errno.EPERM: r"cannot be written: .* \(in {place}\); give the worker's user write access",
}


class TestRefusal:
    """What a local disk refuses: nothing is half there, and whoever is told knows where, how much is free, and what to do."""

    @pytest.mark.parametrize("number", [*WORDS, errno.EIO])
    @pytest.mark.parametrize(("change", "call"), [(change, call) for change, calls in CALLS.items() for call in calls])
    def test_every_call_that_a_disk_refuses_is_told(self, tmp_path, change, call, number):
        """Whichever call of whichever change it is; only what may pass by itself is worth another try."""
        disk = Refusing(call, number)
        storage = LocalStorage(tmp_path / "_data.inference", tmp_path / "data", single_file=False, disk=disk)
        _run(storage.create("old", b"old"))
        (tmp_path / "part").write_bytes(b"part")
        disk.broken = True
        place = "the destination" if change == "publish" else "the state folder"
        words = WORDS.get(number, r"cannot be written: .* \(in {place}\)").format(place=place)
        kind = StorageError if number == errno.EIO else StorageRefusedError
        with pytest.raises((StorageError, StorageRefusedError), match=words) as told:
            _run(CHANGES[change](storage, tmp_path))
        assert told.type is kind
        assert "what was answered is kept" in str(told.value)
        assert _run(storage.published()) is None
        if change in {"create", "replace"}:
            assert list(tmp_path.rglob(".tmp-*")) == []
        if change not in {"delete", "replace"}:
            assert _run(storage.read("old")) == b"old"
        whole = {"new": {b"content", b"old", b""}, "parts": {b"part"}}
        for folder, contents in whole.items():
            for key in _run(storage.list_keys(folder)):
                assert _run(storage.read(key)) in contents
        disk.broken = False
        (tmp_path / "part").write_bytes(b"part")
        _run(CHANGES[change](storage, tmp_path))

    @pytest.mark.parametrize("number", [*WORDS, errno.EIO])
    @pytest.mark.parametrize("call", ["reopen", "write", "sync", "close"])
    def test_every_append_that_a_disk_refuses_is_told(self, tmp_path, call, number):
        """What was appended before is there, and another log takes what comes next."""
        disk = Refusing(call, number)
        storage = LocalStorage(tmp_path / "_data.inference", tmp_path / "data", single_file=False, disk=disk)
        words = WORDS.get(number, r"cannot be written: .* \(in {place}\)").format(place="the state folder")

        async def all_of_it():
            log = await storage.start_log("logs/one")
            await log.append(b"before")
            disk.broken = True
            with pytest.raises((StorageError, StorageRefusedError), match=words) as told:
                await log.append(b"after")
            assert told.type is (StorageError if number == errno.EIO else StorageRefusedError)
            assert str(tmp_path / "_data.inference" / "logs" / "one") in str(told.value)
            assert "what was answered is kept" in str(told.value)
            disk.broken = False
            assert await storage.read("logs/one", 0, 6) == b"before"
            another = await storage.start_log("logs/two")
            await another.append(b"after")
            assert await storage.read("logs/two") == b"after"

        _run(all_of_it())

    @pytest.mark.parametrize("call", ["create", "sync"])
    def test_a_log_that_is_refused_leaves_nothing_open(self, tmp_path, call):
        """However often it is tried."""
        disk = Refusing(call, errno.EIO)
        storage = LocalStorage(tmp_path / "_data.inference", tmp_path / "data", single_file=False, disk=disk)
        _run(storage.create("logs/other", b"x"))
        disk.broken = True
        before = len(list(Path("/proc/self/fd").iterdir()))
        for number in range(10):
            with pytest.raises(StorageError):
                _run(storage.start_log(f"logs/{number}"))
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    def test_what_may_not_be_looked_at_is_told(self, tmp_path, closed):
        """Also where only a size is wanted."""
        storage = LocalStorage(tmp_path / "_data.inference", tmp_path / "data", single_file=False)
        _run(storage.create("k", b"content"))
        with closed(tmp_path), pytest.raises(StorageRefusedError, match="give the worker's user write access"):
            _run(storage.delete_unless_grown("k", 7))
        assert _run(storage.read("k")) == b"content"

    @pytest.mark.parametrize("ask", ["read", "open", "modified", "list_keys", "published"])
    def test_what_may_not_be_read_is_told(self, tmp_path, closed, ask):
        """A folder that the worker's user may not look into is somebody's to open."""
        storage = LocalStorage(tmp_path / "_data.inference", tmp_path / "data", single_file=False)
        asked = {"list_keys": ("folder",), "published": ()}.get(ask, ("folder/k",))
        place = "the destination" if ask == "published" else "the state folder"
        words = rf"cannot be read: Permission denied \(in {place}\); give the worker's user read access"
        with closed(tmp_path), pytest.raises(StorageRefusedError, match=words):
            _run(getattr(storage, ask)(*asked))


@pytest.fixture
def closed():
    """Closes a folder to this process, which is nobody's for the time where it is root's."""

    @contextlib.contextmanager
    def close(folder):
        mode, user = folder.stat().st_mode, os.geteuid()
        folder.chmod(0)
        if user == 0:
            os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(user)
            folder.chmod(mode)

    return close
