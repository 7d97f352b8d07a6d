"""Plans are values; requests are packed without losing, doubling or reordering a question."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_modelstudio.inference.errors import ConfigurationError
from airflow_provider_modelstudio.inference.plan import InputFile, Packer, digest, make_plan
from airflow_provider_modelstudio.inference.tasks import Question, RequestLimits

FILE = InputFile(path="/a.parquet", size=10, stamp="1", row_groups=(5, 7))


def _make(inputs=(FILE,), **changes):
    settings = {"endpoint": {"id": "e"}, "settings": {}, "output": {}, "single_file": False, "part_rows": 5} | changes
    return make_plan(inputs, **settings)


def test_the_same_inputs_give_the_same_plan():
    """A plan made elsewhere or later is equal, to the byte."""
    assert _make().as_json() == _make().as_json()
    assert _make() == _make()


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": (InputFile(path="/a.parquet", size=10, stamp="2", row_groups=(5, 7)),)},
        {"inputs": (InputFile(path="/a.parquet", size=11, stamp="1", row_groups=(5, 7)),)},
        {"output": {"columns": "other"}},
        {"part_rows": 6},
    ],
)
def test_what_changes_the_output_makes_another_run_of_the_same_cache(changes):
    """Other files or another form of output are another run, and may share answers."""
    assert _make(**changes).run_key != _make().run_key
    assert _make(**changes).cache_key == _make().cache_key


@pytest.mark.parametrize("changes", [{"endpoint": {"id": "f"}}, {"settings": {"dimensions": 3}}])
def test_another_endpoint_or_setting_shares_nothing(changes):
    """Answers of another model are never reused."""
    assert _make(**changes).cache_key != _make().cache_key


@given(st.lists(st.lists(st.integers(0, 30), max_size=4), max_size=6), st.integers(1, 25), st.booleans())
def test_parts_cover_each_row_once(files, part_rows, single_file):
    """Parts are in order, without a gap or an overlap, and there is always one."""
    inputs = [InputFile(path=str(i), size=1, stamp="", row_groups=tuple(f)) for i, f in enumerate(files)]
    plan = _make(inputs, part_rows=part_rows, single_file=single_file)
    assert plan.rows == sum(map(sum, files))
    assert [part.index for part in plan.parts] == list(range(len(plan.parts)))
    at = 0
    for part in plan.parts:
        assert part.first_row == at
        at = part.end_row
    assert at == plan.rows
    assert len(plan.parts) == 1 if single_file or not plan.rows else all(0 < p.rows <= part_rows for p in plan.parts)


def test_a_setting_that_is_no_plain_value_is_named():
    """A plan cannot hold an object; the error says so."""
    with pytest.raises(ConfigurationError, match="object"):
        digest({"x": object()})


questions = st.builds(
    lambda tokens, size: Question(key=bytes(16), value="x", tokens=tokens, size=size),
    st.integers(1, 50),
    st.integers(1, 50),
)


@given(
    st.lists(questions, max_size=80), st.integers(1, 12), st.one_of(st.none(), st.integers(1, 120)), st.integers(1, 120)
)
def test_packing_loses_nothing_and_keeps_limits(asked, rows, tokens, size):
    """Every question comes out once, in order, and no request is over a limit unless it holds one question."""
    packer = Packer(RequestLimits(rows=rows, tokens=tokens, size=size))
    requests = [request for i, question in enumerate(asked) if (request := packer.feed(i, question))]
    requests += [request] if (request := packer.flush()) else []
    assert [owner for request in requests for owner, _ in request] == list(range(len(asked)))
    for request in requests:
        assert len(request) <= rows
        if len(request) > 1:
            assert sum(q.size for _, q in request) <= size
            assert tokens is None or sum(q.tokens for _, q in request) <= tokens
    assert packer.flush() is None


@given(st.lists(questions, min_size=3, max_size=60), st.integers(1, 9))
def test_a_cap_holds_from_the_next_request_on(asked, cap):
    """A limit that the server named is never exceeded again, and never grows back."""
    packer = Packer(RequestLimits(rows=10))
    packer.cap_rows(cap)
    packer.cap_rows(cap + 5)
    requests = [request for i, question in enumerate(asked) if (request := packer.feed(i, question))]
    assert all(len(request) <= cap for request in requests)
