"""Files of state: their modes, what stands in for them, and what happens when their bytes change."""

from __future__ import annotations

import asyncio
import codecs
import json
import os
import random
import shutil
import stat
import sys
from collections import Counter

import pyarrow as pa
import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_modelstudio.inference.errors import DestinationError, InputChangedError, ModelStudioError
from airflow_provider_modelstudio.inference.plan import Part, Plan
from airflow_provider_modelstudio.inference.storage.local import LocalStorage
from airflow_provider_modelstudio.inference.vault import Vault
from airflow_provider_modelstudio.inference.vault.journal import Record, decode_segment, encode_segment
from tests.faults.bench import Bench, context_of

TEXTS = [f"text number {i}" for i in range(30)]


def files_of(bench):
    return sorted(path for path in bench.state.rglob("*") if path.is_file())


def test_state_is_for_its_owner_and_group(bench):
    """Folders 0750, files 0640; dataset files can be read by whoever may read the dataset."""
    before = os.umask(0)
    try:
        bench.write(TEXTS)
        bench.run()
    finally:
        os.umask(before)
    for folder in [bench.state, *(path for path in bench.state.rglob("*") if path.is_dir())]:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    for file in files_of(bench):
        assert stat.S_IMODE(file.stat().st_mode) & 0o113 == 0 or file.suffix == ".parquet"


ATTACKS = [
    ".",
    "{cache}",
    "epoch",
    "lease",
    "{cache}/journal",
    "{cache}/runs",
    "{run}",
    "{run}/parts",
    "{run}/seals",
    "{run}/keys",
    "{run}/spent",
    "{run}/spent/00000001",
    ".tmp-parts",
    "{run}/plan.json",
    "{run}/manifest.json",
    "{run}/seals/00000.json",
    "epoch/00000001",
    "lease/00000001",
    "{cache}/journal/e00000001-00000001.seg",
    "published.json",
]


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("hanging", [False, True])
def test_links_in_the_state_folder_lead_nowhere(bench, attack, hanging):
    """A link that somebody put there before us: nothing is written, changed or removed behind it, and no row is wrong."""
    bench.write(TEXTS)
    bench.run()
    (run,) = bench.state.glob("*/runs/*")
    place = bench.state / attack.format(run=run.relative_to(bench.state), cache=run.parents[1].name)
    is_file = place.suffix in {".json", ".seg"} or place.parent.name in {"epoch", "lease", "spent"}
    shutil.rmtree(bench.state)
    shutil.rmtree(bench.destination)
    victim = bench.folder / "victim"
    if not hanging:
        victim.mkdir()
        (victim / "precious").write_text("precious")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(victim / "precious" if is_file else victim)
    try:
        bench.run()
    except Exception as error:  # noqa: BLE001  # refused is well, too
        assert not bench.destination.exists(), error  # noqa: PT017  # there may be none
    else:
        bench.check(TEXTS)
    if hanging:
        assert not victim.exists()
    else:
        assert [path.name for path in victim.iterdir()] == ["precious"]
        assert (victim / "precious").read_text() == "precious"


def open_to_all(bench, victim):
    bench.state.chmod(0o777)


def of_another_user(bench, victim):
    if os.geteuid():
        pytest.skip("only root can give a folder away")
    os.chown(bench.state, 12345, 12345)


def linked_state(bench, victim):
    bench.state.rename(victim / "state")
    bench.state.symlink_to(victim / "state")


def linked_epochs(bench, victim):
    shutil.rmtree(bench.state / "epoch")
    (bench.state / "epoch").symlink_to(victim)


def linked_lease(bench, victim):
    for lease in (bench.state / "lease").iterdir():
        lease.unlink()
    for number in range(1, 5):
        (bench.state / "lease" / f"{number:08d}").symlink_to(victim / "precious")


def temporary_files(bench, victim):
    (bench.state / ".tmp-parts").mkdir(exist_ok=True)
    for name in ("part", "part-00000.parquet", "0", "x.parquet"):
        (bench.state / ".tmp-parts" / name).symlink_to(victim / "precious")


def linked_part(bench, victim):
    for part in bench.state.rglob("parts/*.parquet"):
        part.unlink()
        part.symlink_to(victim / "precious")


def linked_destination(bench, victim):
    shutil.rmtree(bench.destination)
    bench.destination.symlink_to(victim)


def linked_record(bench, victim):
    (bench.state / "published.json").unlink()
    (bench.state / "published.json").symlink_to(victim / "precious")


def linked_orders(bench, victim):
    shutil.rmtree(bench.state / "publishing")
    (bench.state / "publishing").symlink_to(victim)


def hard_record(bench, victim):
    (bench.state / "published.json").unlink()
    os.link(victim / "precious", bench.state / "published.json")


def piped_record(bench, victim):
    for record in [bench.state / "published.json", *bench.state.rglob("served/*")]:
        record.unlink()
        os.mkfifo(record)


def folder_as_record(bench, victim):
    (bench.state / "published.json").unlink()
    (bench.state / "published.json").mkdir()


def piped_part(bench, victim):
    for part in bench.state.rglob("parts/*.parquet"):
        part.unlink()
        os.mkfifo(part)


BREAK_INS = (
    open_to_all,
    of_another_user,
    linked_state,
    linked_epochs,
    linked_lease,
    temporary_files,
    linked_part,
    linked_destination,
    linked_record,
    linked_orders,
    hard_record,
    piped_record,
    folder_as_record,
    piped_part,
)


def test_there_are_ten():
    """As many as were promised."""
    assert len(BREAK_INS) >= 10


@pytest.mark.timeout(60, method="thread")  # nothing else ends a thread that waits for a pipe
@pytest.mark.parametrize("break_in", BREAK_INS, ids=lambda break_in: break_in.__name__)
def test_no_break_in_succeeds(bench, break_in):
    """Links, pipes, folders and files that somebody put beside a dataset between two runs: what they lead to stays as it is,
    the next run ends, and its rows are right, or it is refused with a word on what to look at.
    """
    bench.write(TEXTS)
    bench.run()
    victim = bench.folder / "victim"
    victim.mkdir()
    (victim / "precious").write_text("precious")
    before = pa.Table.to_pylist(bench.table())
    break_in(bench, victim)
    bench.write([*TEXTS, "one more"])
    try:
        bench.run(context=context_of(run_id="again"))
    except (AirflowFailException, ModelStudioError) as error:
        assert str(bench.folder) in str(error)  # noqa: PT017  # there may be none
        if not bench.destination.is_symlink():
            assert bench.rows() == before  # what was there stays
    else:
        bench.check([*TEXTS, "one more"])
    assert (victim / "precious").read_text() == "precious"
    assert {path.name for path in victim.iterdir()} <= {"precious", "state"}


@pytest.mark.parametrize(
    ("break_in", "words"), [(open_to_all, "chmod o-w"), (of_another_user, "belongs to user 12345")]
)
def test_a_state_folder_that_others_may_fill_is_refused(bench, break_in, words):
    """Before anything in it is believed, and before any call; put right, the run goes on."""
    bench.write(TEXTS)
    bench.run()
    break_in(bench, None)
    asked = bench.server.requests
    with pytest.raises(AirflowFailException, match=words):
        bench.run()
    assert bench.server.requests == asked
    bench.state.chmod(0o770)
    os.chown(bench.state, os.geteuid(), -1)
    bench.run()


def test_a_state_folder_may_lie_where_all_may_write(bench):
    """As in /tmp, or in a volume that a group shares: the folder itself is what counts."""
    bench.folder.chmod(0o1777)
    bench.write(TEXTS)
    bench.run()
    bench.state.chmod(0o2770)
    bench.write([*TEXTS, "one more"])
    assert bench.run()["embedded"] == 1


@pytest.mark.parametrize(("mode", "warned"), [(0o777, True), (0o773, True), (0o1777, False), (0o770, False)])
@pytest.mark.parametrize("above", ["folder", "folder above"])
def test_a_parent_that_all_may_write_to_is_warned_of(tmp_path, start, monkeypatch, caplog, above, mode, warned):
    """Whoever may write there may put another state folder in place of ours, unless the folder is sticky. It is no refusal,
    since volumes of Kubernetes are made so; one line in each run says who could do what, and what helps.
    """
    folder = tmp_path / "folder above" / "folder"
    folder.mkdir(parents=True)
    bench = Bench(folder, start(), monkeypatch)
    opened = folder if above == "folder" else folder.parent
    opened.chmod(mode)
    bench.write(TEXTS)
    for run_id in ("first", "again"):
        caplog.clear()
        bench.run(context=context_of(run_id=run_id))
        said = [record.getMessage() for record in caplog.records if "may put" in record.getMessage()]
        assert len(said) == warned
        for line in said:
            assert line.startswith(f"anybody may write to the folder {opened}, ")
            assert str(bench.state) in line
            assert line.endswith(f"chmod +t {opened}")
    bench.check(TEXTS)


def test_no_byte_of_a_segment_can_change(tmp_path):
    """Each byte of a segment, flipped, is found, and so are ten thousand other damages; nothing is executed or crashes."""
    columns = pa.RecordBatch.from_pydict({"embedding": pa.array([[0.5] * 8] * 10, pa.list_(pa.float32(), 8))})
    record = Record([bytes([i]) * 16 for i in range(10)], range(10), columns, [None] * 10, frozenset({0}))
    sound = b"".join(encode_segment([record], "run"))
    assert decode_segment(sound) is not None
    for at in range(len(sound)):
        damaged = bytearray(sound)
        damaged[at] ^= 1 << at % 8
        assert decode_segment(bytes(damaged)) is None
    dice = random.Random(1)  # noqa: S311  # the same damage each time
    for _ in range(10_000):
        damaged = bytearray(sound)
        for _ in range(dice.randint(1, 4)):
            start = dice.randrange(len(damaged))
            damaged[start : start + dice.randint(0, 40)] = dice.randbytes(dice.randint(0, 40))
        assert bytes(damaged) == sound or decode_segment(bytes(damaged)) is None


FOLDERS = ("epoch", "lease", "spent", "seals", "keys", "parts", "served", "publishing")


def kinds(bench):
    """One file of each kind of state."""
    found = {}
    for path in files_of(bench):
        if path.with_name(f"{path.name}.exact").exists():
            continue  # nobody reads what was written ahead any more
        kind = path.parent.name if path.parent.name in FOLDERS else path.name
        found.setdefault(kind, path)
    return found


@pytest.mark.parametrize("kind", [*FOLDERS, "plan.json", "manifest.json", "published.json"])
@pytest.mark.parametrize("changed", [False, True])
def test_no_changed_byte_of_state_becomes_a_wrong_row(bench, kind, changed):
    """A flipped bit anywhere in a state file: the next run is refused, or its rows are right, with a source changed or not."""
    bench.write(TEXTS)
    bench.run()
    if changed:
        bench.write([*TEXTS, "one more"])
    safe = bench.folder / "safe"
    shutil.copytree(bench.state, safe)
    names = [path.name for path in bench.destination.iterdir()]
    path = kinds(bench)[kind]
    content = path.read_bytes()
    places = range(0, len(content), max(1, len(content) // 12))
    if kind == "lease":  # one that is not known to be released is waited for, half a minute each time
        places = (0, content.index(b"released"))
    for at in places:
        damaged = bytearray(content)
        damaged[at] ^= 4
        path.unlink()
        path.write_bytes(damaged)
        try:
            bench.run(context=context_of(run_id="again"))
        except Exception:  # noqa: BLE001, S110  # refused is well; in words of ours is another test
            pass
        else:
            bench.check([*TEXTS, "one more"] if changed else TEXTS)
        shutil.rmtree(bench.state)
        shutil.copytree(safe, bench.state)
        shutil.rmtree(bench.destination, ignore_errors=True)
        bench.destination.mkdir()
        for part in bench.state.rglob("parts/*.parquet"):
            if part.name in names:
                os.link(part, bench.destination / part.name)


def put_back(bench, safe):
    """State and dataset as they were."""
    shutil.rmtree(bench.state)
    shutil.copytree(safe, bench.state)
    shutil.rmtree(bench.destination, ignore_errors=True)
    bench.destination.mkdir()
    for part in bench.state.rglob("parts/*.parquet"):
        os.link(part, bench.destination / part.name)


@pytest.mark.slow
@pytest.mark.parametrize(("changed", "step"), [(False, 1), (True, 7)], ids=["every", "source changed"])
def test_no_byte_of_the_commit_becomes_a_wrong_row_or_a_crash(bench, changed, step):
    """A bit flipped in every byte of the one record that is the commit: the next run says in our words that the record is
    damaged, or its rows and its books are right. The same when a run over a changed source takes answers over from it,
    where every seventh byte is tried, since each try asks and writes.
    """
    rows = [*TEXTS, "one more"] if changed else TEXTS
    bench.write(TEXTS)
    bench.run()
    if changed:
        bench.write(rows)
    safe = bench.folder / "safe"
    shutil.copytree(bench.state, safe)
    path = kinds(bench)["manifest.json"]
    sound = path.read_bytes()
    outcomes = Counter()
    for at in range(0, len(sound), step):
        damaged = bytearray(sound)
        damaged[at] ^= 1 << at % 7
        path.write_bytes(damaged)
        try:
            summary = bench.run(context=context_of(run_id="again"))
        except (AirflowFailException, ModelStudioError) as error:
            outcomes["refused"] += 1
            assert "damaged" in str(error)  # noqa: PT017  # there may be none
        else:
            outcomes["right"] += 1
            bench.check(rows)
            assert summary["rows"] == summary["embedded"] + summary["reused"] == len(rows)
            put_back(bench, safe)
    assert min(outcomes.values()) > 0
    assert len(outcomes) == 2


RECORDS = {
    "plan.json": lambda vault: vault.record_plan(),
    "manifest.json": lambda vault: vault.committed(),
    "seals": lambda vault: vault.seals(),
    "spent": lambda vault: vault.meter.open("00000009"),
    "published.json": lambda vault: vault.publication.record(),
    "publishing": lambda vault: vault.publication.check(),
}


JSON = b'0123456789-.eE"{}[],: \\truefalsn\xff\0'


def mutated(sound, dice):
    """A record with one to four damages: bytes of nobody, bytes from elsewhere in it, or bytes less."""
    damaged = bytearray(sound)
    for _ in range(dice.randint(1, 4)):
        start, other = dice.randrange(len(damaged) + 1), dice.randrange(len(damaged) + 1)
        put = dice.choice(
            (bytes(dice.choices(JSON, k=dice.randint(1, 4))), damaged[other : other + dice.randint(1, 40)], b"")
        )
        damaged[start : start + dice.choice((0, len(put), dice.randint(1, 9)))] = put
    return bytes(damaged)


@pytest.fixture
def executed():
    """What is compiled, loaded or started meanwhile. An audit hook stays for ever, so this one can be told to be deaf."""
    heard, listens = [], [True]
    for name in ("utf-16-be", "utf-16-le", "utf-32-be", "utf-32-le"):
        codecs.lookup(name)  # JSON may come in each of them, and Python loads them when it meets them

    def hook(event, arguments):
        if listens and event in {
            "compile",
            "exec",
            "import",
            "os.exec",
            "os.system",
            "pickle.find_class",
            "subprocess.Popen",
        }:
            heard.append((event, arguments))

    sys.addaudithook(hook)
    yield heard
    listens.clear()


@pytest.mark.parametrize("kind", RECORDS)
def test_ten_thousand_damages_of_records(bench, kind, executed):
    """Each read as a run reads it: told as damage, or taken for a record; nothing is executed."""
    bench.write(TEXTS)
    bench.run()
    (bench.destination / "stranger.parquet").touch()  # of files that are not ours the orders are asked
    path = kinds(bench)[kind]
    sound = path.read_bytes()
    named = json.loads(kinds(bench)["plan.json"].read_bytes())
    plan = Plan(cache_key=named["cache_key"], run_key=named["run_key"], inputs=(), parts=(Part(0, 0, 30),), rows=30)
    vault = Vault(LocalStorage(bench.state, bench.destination, single_file=False), plan)
    dice = random.Random(1)  # noqa: S311  # the same damage each time
    told = Counter()
    times = 200 if kind == "plan.json" else 2_000  # the plan is compared with what would be written, which takes a sync

    async def read_all():
        executed.clear()
        for _ in range(times):
            path.write_bytes(mutated(sound, dice))
            try:
                await RECORDS[kind](vault)
            except (DestinationError, InputChangedError) as error:
                assert str(bench.folder) in str(error)  # noqa: PT017  # there may be none
                told[type(error)] += 1
            else:
                told[None] += 1

    asyncio.run(read_all())
    assert executed == []
    assert told[InputChangedError if kind == "plan.json" else DestinationError] > times / 2


def test_a_damaged_part_is_told_in_words(bench):
    """Answers in a damaged file of the version before are not guessed, and the message says what to do."""
    bench.write(TEXTS)
    bench.run()
    (part,) = bench.state.rglob("parts/*.parquet")
    content = bytearray(part.read_bytes())
    content[600] ^= 1
    part.unlink()
    part.write_bytes(content)
    bench.write([*TEXTS, "one more"])
    with pytest.raises(Exception, match=r"is damaged .*if_exists='overwrite'"):
        bench.run()
    bench.run(if_exists="overwrite")
    bench.check([*TEXTS, "one more"])


@pytest.mark.parametrize("kind", ["manifest.json", "published.json", "seals"])
def test_a_damaged_record_is_told_in_words(bench, kind):
    """The error names the file, and says what to do."""
    bench.write(TEXTS)
    bench.run()
    path = kinds(bench)[kind]
    if kind == "seals":  # of a finished run they are not read any more
        kinds(bench)["manifest.json"].unlink()
    for content in (b"", b"{", b"[]", b"{}", b"null", b"\xff", b"[" * 100_000, path.read_bytes()[:-20]):
        path.write_bytes(content)
        with pytest.raises(Exception, match=path.name):
            bench.run()


@pytest.mark.parametrize("kind", ["manifest.json", "seals"])
@pytest.mark.parametrize("content", [None, b"", b"{}"])
def test_an_earlier_run_needs_only_one_of_its_records(bench, kind, content):
    """The commit and the seals say the same of a finished run: with either of them its answers are paid once."""
    bench.write(TEXTS)
    bench.run()
    path = kinds(bench)[kind]
    path.unlink() if content is None else path.write_bytes(content)
    bench.write([*TEXTS, "one more"])
    assert bench.run()["embedded"] == 1
    bench.check([*TEXTS, "one more"])
