"""Keys on disk meet their equals, whatever the number of buckets and however they arrive."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_modelstudio.inference.survey.buckets import HELD_ROWS, Buckets
from airflow_provider_modelstudio.inference.survey.recall import KEY

pieces = st.lists(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2)), max_size=20), max_size=6)


@given(pieces, st.integers(1, 5))
def test_each_key_is_in_one_bucket_in_the_order_it_came(given_keys, number):
    """Positions count all keys, a key of zeros is nowhere, equal keys are in one bucket, and order is kept."""
    added = [key for piece in given_keys for key in piece]
    with tempfile.TemporaryDirectory() as folder:
        with Buckets(Path(folder), "x", number) as buckets:
            for piece in given_keys:
                buckets.add(np.array(piece, KEY), np.array([low + 1 for _, low in piece], np.int32))
        taken = [buckets.take(bucket) for bucket in range(number)]
    seen = {}
    for bucket, entries in enumerate(taken):
        assert entries["at"].tolist() == sorted(entries["at"].tolist())
        for key, at, tokens in entries.tolist():
            assert added[at] == key
            assert tokens == key[1] + 1
            seen.setdefault(key, set()).add(bucket)
    assert all(len(where) == 1 for where in seen.values())
    assert sum(map(len, taken)) == sum(key != (0, 0) for key in added)


def test_more_keys_than_are_held_at_a_time(tmp_path):
    """Nothing is lost or moved where keys are sorted in several goes, from memory or from a file."""
    keys = np.zeros(3 * HELD_ROWS + 5, KEY)
    keys["high"] = np.arange(1, len(keys) + 1) * 2654435761 % 2**61
    keys.tofile(tmp_path / "all")
    with Buckets(tmp_path, "x", 7) as buckets:
        buckets.read(tmp_path / "all")
    taken = np.concatenate([buckets.take(bucket) for bucket in range(7)])
    assert np.sort(taken["at"]).tolist() == list(range(len(keys)))
    assert (keys[taken["at"]] == taken["key"]).all()
