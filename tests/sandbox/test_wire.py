"""Answers are written as Elasticsearch writes them."""

from __future__ import annotations

import contextlib
import json

import cbor2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_modelstudio.sandbox.wire import (
    Float32,
    Literal,
    UnreadableError,
    read_cbor,
    read_json,
    to_cbor,
    to_json,
)

floats32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
trees = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda below: (
        st.lists(below, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), below, max_size=4)
    ),
    max_leaves=12,
)


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(floats32, max_size=40))
def test_json_floats_name_the_same_32_bits(values):
    """Every float32 read back from JSON is the one that was written."""
    vector = np.array(values, np.float32)
    assert np.array(json.loads(to_json(vector)), np.float32).tobytes() == vector.tobytes()


@settings(deadline=None)  # a busy machine is no failure
@given(st.floats(min_value=2**-20, max_value=1e6, width=32))
def test_json_floats_are_as_short_as_numpys(value):
    """No more digits than the shortest decimal that names the float."""
    (written,) = json.loads(to_json(np.array([value], np.float32)))
    assert written == float(str(np.float32(value)))


@settings(deadline=None)  # a busy machine is no failure
@given(floats32)
def test_single_floats_are_written_like_those_in_vectors(value):
    """A score and an element of a vector have the same digits."""
    assert to_json([Float32(value)]) == to_json(np.array([value], np.float32))


@settings(deadline=None)  # a busy machine is no failure
@given(trees)
def test_json_and_cbor_say_the_same(tree):
    """Both formats give back the tree that was written."""
    assert json.loads(to_json(tree)) == tree
    assert cbor2.loads(to_cbor(tree)) == tree


def test_cbor_has_the_layout_of_elasticsearch():
    """Maps and arrays are open-ended, floats are ``fa`` and four bytes: a row of a vector has a fixed stride."""
    written = to_cbor({"text_embedding": [{"embedding": np.array([1.0, -0.5], np.float32)}]})
    assert written.hex(" ") == (
        "bf 6e 74 65 78 74 5f 65 6d 62 65 64 64 69 6e 67 9f "
        "bf 69 65 6d 62 65 64 64 69 6e 67 9f fa 3f 80 00 00 fa bf 00 00 00 ff ff ff ff"
    )


def test_literals_are_written_as_they_are():
    """Faults can put in what no healthy server writes."""
    nan = Literal("NaN", b"\xfa\x7f\xc0\x00\x00")
    assert to_json([1, nan]) == b"[1,NaN]"
    assert to_cbor([nan]) == b"\x9f\xfa\x7f\xc0\x00\x00\xff"


@pytest.mark.parametrize("body", [b"{", b"", b"[1,]", b'{"a":NaN}', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_refused_without_repeating_it(body):
    """A damaged body raises, and the message says where, not what."""
    with pytest.raises(UnreadableError, match=r"^\[\d+:\d+\]"):
        read_json(body)


@pytest.mark.parametrize("body", [b"", b"\xbf", b"\x61\xff", b"\x9f\x01"])
def test_what_is_no_cbor_is_refused(body):
    """A damaged body raises our own error, whatever the library raises."""
    with pytest.raises(UnreadableError):
        read_cbor(body)


@settings(deadline=None)  # a busy machine is no failure
@given(st.binary(max_size=60))
def test_no_bytes_break_the_readers(body):
    """Any bytes are read or refused."""
    for read in (read_json, read_cbor):
        with contextlib.suppress(UnreadableError):
            read(body)
