"""What is read from, and kept out of, what a server says."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import cbor2
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_modelstudio.inference.transport.refusal import (
    CBOR,
    JSON,
    conceal,
    read_object,
    refused,
    retry_after_seconds,
)

NOW = datetime(2026, 5, 1, tzinfo=UTC)
WORDS = st.text(alphabet='abc äö水\n"\\', max_size=30)

told = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "type", "reason", "caused_by", "root_cause", "status", "x"]), inner, max_size=4
        )
    ),
    max_leaves=20,
)


@given(st.integers(400, 599), told, st.booleans())
def test_any_body_becomes_one_error(status, body, product):
    """Whatever shape an error body has, it becomes a RequestError with a bounded reason and the status."""
    headers = {"x-elastic-product": "Elasticsearch"} if product else {}
    failed = refused("GET / at es", status, headers, body, now=NOW)
    assert failed.status == status
    assert len(failed.reason) <= 500
    assert "\n" not in str(failed)


@given(st.binary(max_size=200))
def test_any_bytes_can_be_read(body):
    """Any bytes are read as an object or as nothing, in JSON and in CBOR."""
    for media in (JSON, CBOR, "text/html"):
        assert read_object(body, media) is None or isinstance(read_object(body, media), dict)


def test_deep_nesting_is_no_crash():
    """A body nested deeper than the interpreter can follow is unreadable, not fatal."""
    assert read_object(b"[" * 1_000_000, JSON) is None
    assert read_object(b"\x81" * 1_000_000, CBOR) is None
    assert read_object(b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff", CBOR) is None
    assert read_object(cbor2.dumps({"a": 1}), CBOR) == {"a": 1}


def test_deep_chain_of_causes_is_followed_so_far():
    """A chain of causes without end is read twenty deep."""
    error: dict = {"reason": "deepest"}
    for i in range(500):
        error = {"reason": f"cause {i}", "caused_by": error}
    assert refused("x", 400, {}, {"error": error}, now=NOW).reason == "cause 480"


@given(WORDS, st.text(alphabet='abc äö水\n"\\', min_size=30, max_size=80), WORDS)
def test_echo_of_a_question_is_hidden(before, row, after):
    """No run of 17 characters of a row's text stays in a reason that repeats it, whatever stands around it."""
    shown = conceal(f"{before}{row}{after}", questions=json.dumps({"input": [row]}).encode())
    for start in range(len(row) - 16):
        assert row[start : start + 17] not in shown


@given(st.text(alphabet="abcdef", min_size=1, max_size=60))
def test_a_reason_that_repeats_nothing_is_kept(reason):
    """A reason in the server's own words stays as it is."""
    assert conceal(reason, questions=b'{"input":["XYZXYZXYZXYZXYZXYZXYZ"]}') == reason


def test_long_reasons_are_cut():
    """A reason ends after 500 characters, and shows that it was cut."""
    assert conceal("x" * 501) == "x" * 499 + "…"
    assert conceal("x" * 500) == "x" * 500


def test_whole_short_texts_are_hidden():
    """A short text that is echoed as a whole is hidden from 12 characters on."""
    asked = json.dumps({"input": ["13800138000@x", "quota"]}).encode()
    assert conceal("bad input 13800138000@x: quota", questions=asked) == "bad input ***: quota"


def test_key_of_the_endpoint_is_hidden():
    """A key of Model Studio that the model service quotes is hidden although it is not ours."""
    told = {
        "error": {"type": "status_exception", "reason": "Incorrect API key provided: sk-0a1b2c3d4e5f. status [401]"}
    }
    assert refused("x", 401, {}, told, now=NOW).reason == "Incorrect API key provided: ***. status [401]"


def test_words_of_a_row_decide_nothing():
    """A status or a timeout that only stands in the echoed row is not taken for the server's."""
    row = "the log says: status [503], Request timed out after [30s], what now?"
    told = {"error": {"type": "status_exception", "reason": f"Invalid input: {row}"}}
    failed = refused("x", 429, {}, told, now=NOW, questions=json.dumps({"input": row}).encode())
    assert (failed.upstream_status, failed.maybe_billed) == (None, False)
    assert failed.reason.startswith("Invalid input: ")


def test_account_words_survive_concealment():
    """Words that decide what is to be done stay readable although the row talks about the same things."""
    reason = "Free allocated quota exceeded."
    assert conceal(reason, questions=json.dumps({"input": ["quota exceeded?"]}).encode()) == reason


@given(st.text(max_size=30) | st.floats().map(str) | st.integers().map(str) | st.datetimes().map(format_datetime))
def test_pause_is_bounded_whatever_is_asked(value):
    """A pause is nothing, or between 0 and 300 seconds."""
    pause = retry_after_seconds(value, now=NOW)
    assert pause is None or 0 <= pause <= 300


@given(st.integers(0, 299))
def test_pause_from_a_date(seconds):
    """A date counts from the given moment."""
    then = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert retry_after_seconds(then, now=NOW) == seconds
