"""No secret and no text of a row leaves by a log, an exception, a result, a rendered field or a file of state.

A canary stands in every row and in every secret, and the service throws both back in its refusals.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_provider_modelstudio.sandbox.faults import Match, Rule
from tests.security.canaries import (
    LANES,
    PRIVATE,
    QUIET,
    ROW,
    SECRETS,
    elasticsearch,
    failures,
    free_texts,
    look,
    shown_of,
)

WAYS = sorted({way for lane in LANES.values() for way in failures(lane)})


def test_every_operator_fails_in_twenty_ways():
    """As many as were promised, for each of them; the decorated forms have no source to be wrong about."""
    for lane in LANES.values():
        assert len(failures(lane)) >= 20


def errors_of(bench, lane):
    """Reasons in the dataset and in its quarantine."""
    files = [*bench.state.rglob("*/quarantine/*.parquet")]
    if bench.destination.exists():
        files += bench.destination.iterdir()
    return [str(pq.read_table(file)[f"{lane.output}_error"].to_pylist()) for file in files]


@pytest.mark.parametrize("way", [*QUIET, *WAYS])
def test_nothing_is_shown_whatever_fails(guard, logs, way):
    """Each operator through success and thirty failures: no secret in seven shapes, no text of a row, anywhere but in the
    dataset. They run side by side, since most of the time is pauses.
    """
    benches, operators = {}, {}
    for name, lane in LANES.items():
        rule, parameters = (None, QUIET[way]) if way in QUIET else failures(lane).get(way, (None, None))
        if parameters is None:
            continue
        benches[name] = guard(name.replace(" ", "-"))
        benches[name].server.play([rule] if rule else [])
        operators[name] = lane.operator(benches[name], parameters)
    with ThreadPoolExecutor(len(benches)) as pool:
        under_way = {
            name: pool.submit(look, benches[name], operators[name], says_rows=LANES[name].says_rows) for name in benches
        }
        sights = {name: one.result() for name, one in under_way.items()}
    for name, sight in sights.items():
        assert shown_of(sight.texts(), SECRETS | PRIVATE) == [], name
        for where, record in sight.records():
            assert list(free_texts(record)) == [], (name, where)
        assert_it_came_to_that(way, name, sight, benches[name])
        reasons = [("reasons", text) for text in errors_of(benches[name], LANES[name])]
        assert shown_of(reasons, SECRETS | PRIVATE) == [], name
    if way == "success":
        decorated = {name for name, lane in LANES.items() if lane.is_decorated}
        assert all(sights[name].outlets.made and sights[name].store.values for name in sights.keys() - decorated)
    told = list(logs())
    assert len(told) > len(sights)
    assert shown_of(told, SECRETS | PRIVATE) == []


def assert_it_came_to_that(way, name, sight, bench):
    """A way to fail that disturbs nobody proves nothing."""
    requests = bench.server.requests
    if way in QUIET:
        assert sight.error is None, name
        assert requests == (LANES[name].requests if way == "success" else 0), name
    else:
        failed = sight.result["failed"] if isinstance(sight.result, dict) else 0
        assert sight.error is not None or failed or requests > LANES[name].requests, name


@pytest.mark.parametrize("before", range(164, 170))
def test_no_half_of_a_row_is_quoted(guarded, before):
    """A reason is cut after the row is taken out of it: what is left of an echo is an echo."""
    guarded.write(["X-99-KZ", "another row"])
    rule = Rule(act=elasticsearch(400, "w" * before + " X-99-KZ end"), match=Match(contains="X-99-KZ"))
    guarded.server.play([rule])
    assert shown_of(look(guarded, guarded.operator()).texts(), {"X-99"}) == []


def test_a_short_row_is_not_quoted(guarded, logs):
    """A row of seven characters that the service throws back is in no reason either."""
    guarded.write(["X-99-KZ", *(f"{ROW} {i}" for i in range(5))])
    guarded.server.play([Rule(act=elasticsearch(400, "odd input X-99-KZ here"), match=Match(contains="X-99-KZ"))])
    assert shown_of([*look(guarded, guarded.operator()).texts(), *logs()], {"X-99-KZ"}) == []
    assert "odd input" in guarded.rows()[0]["embedding_error"]


def test_a_value_that_cannot_be_carried_is_not_quoted(guarded, logs):
    """A column that does not fit another file's type: the message has names and types, and no value."""
    guarded.write(pa.table({"text": [ROW], "x": pa.array([471108151234567890], pa.timestamp("us"))}), "in/a.parquet")
    guarded.write(pa.table({"text": [ROW], "x": pa.array([1], pa.timestamp("ns"))}), "in/b.parquet")
    sight = look(guarded, guarded.operator(source=str(guarded.folder / "in")))
    assert sight.error is not None
    assert shown_of([*sight.texts(), *logs()], SECRETS | PRIVATE | {"471108151234567890"}) == []


def test_a_free_text_is_found():
    """The check of what is written down knows a text when it sees one."""
    fine = {"rows": 3, "errors": {"refused (400): too long": 2}, "files": ["a/part-0.parquet"], "cost": None}
    assert list(free_texts(fine)) == []
    assert list(free_texts({"rows": ROW})) == [ROW]
    assert list(free_texts({"seals": [{"more": [ROW]}]})) == [ROW]
    assert list(free_texts({"errors": {ROW * 10: 1}})) == [ROW * 10]
    assert list(free_texts({ROW: 1})) == [ROW]
