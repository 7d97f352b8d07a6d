"""No secret of a store, no address that is signed and no row leaves when the place of the dataset or of the source fails."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.failing_s3 import ANSWERS, SECRET_KEY, SIGNATURE
from tests.faults.test_places import longest_file
from tests.security.canaries import LANES, PRIVATE, SECRETS, look, shapes, shown_of

HIDDEN = SECRETS | PRIVATE | shapes(SECRET_KEY) | {SIGNATURE}

WRITES = {
    "probe": ("PUT", "/probe/"),
    "epoch": ("PUT", "/epoch/"),
    "lease": ("PUT", "/lease/"),
    "plan": ("PUT", "/plan.json"),
    "journal": ("PUT", "/journal/"),
    "part": ("PUT", "/parts/"),
    "seal": ("PUT", "/seals/"),
    "manifest": ("PUT", "/manifest.json"),
    "copy": ("PUT", "/out/"),
    "record": ("PUT", "/published.json"),
    "listing": ("GET", "list-type=2"),
    "look at a part": ("HEAD", "/parts/"),
    "removal": ("DELETE", "/bucket/"),
}
"""Where the store of a destination may fail: method, and what is in the path."""
READS = {
    "look": ("HEAD", "/in/"),
    "listing": ("GET", "prefix=in/"),
    "reading": ("GET", "/in/", "a.parquet"),
}
"""Where the store of a source may fail."""
AT_ONCE = ("denied", "wrong signature", "no such key", "no such bucket")
"""Of these a run does not wait for better times."""
LATER = sorted(set(ANSWERS) - set(AT_ONCE))
INTO_A_STORE = [name for name, lane in LANES.items() if lane.make != "modelstudio_completion"]


@pytest.fixture
def run(guard, s3, logs):
    """Runs lanes side by side into the bucket while it fails: lane → (answer, method, *what is in the path)."""

    def run(faults, *, from_s3=False):
        filesystem = s3.filesystem()
        operators, benches = {}, {}
        for name in faults:
            word = name.replace(" ", "-")
            benches[name] = guard(name)
            operators[name] = LANES[name].operator(
                benches[name], {"destination": f"s3://{s3.conn_id}@bucket/out/{word}"}
            )
            if from_s3:
                filesystem.put_file(str(benches[name].source), f"bucket/in/{word}/a.parquet")
                operators[name].source = f"s3://{s3.conn_id}@bucket/in/{word}"
        s3.play(*((*fault, name.replace(" ", "-")) for name, fault in faults.items()))
        with ThreadPoolExecutor(len(faults)) as pool:
            said = {name: LANES[name].says_rows for name in faults}
            under_way = {
                name: pool.submit(look, benches[name], operators[name], says_rows=said[name]) for name in faults
            }
            sights = {name: one.result() for name, one in under_way.items()}
        s3.play()
        assert s3.failed >= len(faults)
        filesystem.invalidate_cache()
        for name, sight in sights.items():
            assert shown_of(sight.texts(), HIDDEN) == [], name
            for key in filesystem.find(f"bucket/out/_{name.replace(' ', '-')}.inference"):
                is_data = key.endswith(".parquet") or (key.endswith(".seg") and said[name])
                content = b"" if is_data else filesystem.cat_file(key)
                assert shown_of([(key, key), (key, content.decode("utf-8", "replace"))], HIDDEN) == [], name
        assert shown_of(logs(), HIDDEN) == []
        return sights

    return run


@pytest.mark.parametrize("place", WRITES)
def test_nothing_is_shown_where_a_store_refuses(run, place):
    """Wherever the store of the destination says no, with a key and a signed address in its words: they are nowhere."""
    number = list(WRITES).index(place)
    lanes = ("embed", INTO_A_STORE[number % len(INTO_A_STORE)]) if number else INTO_A_STORE
    sights = run(dict.fromkeys(lanes, (AT_ONCE[number % 4], *WRITES[place])))
    if place not in {"record", "look at a part", "removal", "listing"}:
        assert all(sight.error is not None for sight in sights.values())


def test_nothing_is_shown_where_a_store_is_down(run):
    """The same for a store that does not answer until patience ends, whatever it says meanwhile."""
    sights = run({name: (answer, *WRITES["manifest"]) for name, answer in zip(INTO_A_STORE, LATER, strict=False)})
    assert all(sight.error is not None for sight in sights.values())


@pytest.mark.parametrize("place", READS)
@pytest.mark.parametrize("answer", ANSWERS)
def test_nothing_is_shown_where_the_store_of_a_source_fails(run, place, answer):
    """The same where rows come from."""
    sights = run({"embed": (answer, *READS[place])}, from_s3=True)
    goes_on = place == "look" and answer == "no such bucket"  # there is no such object: then it may be a folder
    assert (sights["embed"].error is None) == goes_on


@pytest.mark.parametrize("name", INTO_A_STORE)
def test_nothing_is_shown_where_a_disk_refuses(guard, logs, name):
    """A disk that may not be written to, and one on which files may not grow any more, for each operator."""
    bench, lane = guard(), LANES[name]
    refused = look(bench, lane.operator(bench, {"destination": "/sys/kernel/out"}), says_rows=lane.says_rows)
    operator = lane.operator(bench, {})
    with longest_file(700):
        full = look(bench, operator, says_rows=lane.says_rows)
    for sight in (refused, full):
        assert sight.error is not None
        assert shown_of([*sight.texts(), *logs()], SECRETS | PRIVATE) == []


def test_clients_of_stores_do_not_log_what_a_store_says(run):
    """At DEBUG they would quote all of it."""
    run({"embed": ("denied", *WRITES["manifest"])})
    for name in ("botocore.parsers", "botocore.auth", "s3fs", "aiobotocore", "urllib3.connectionpool"):
        assert not logging.getLogger(name).isEnabledFor(logging.DEBUG)
