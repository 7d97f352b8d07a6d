"""Candidates of queries through the engine: what is asked together, what a crash costs, and what each row gets."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_provider_modelstudio.inference.dataset.groups import group_rows
from airflow_provider_modelstudio.inference.errors import EndpointError
from airflow_provider_modelstudio.inference.tasks import Answer
from airflow_provider_modelstudio.inference.tasks.flat_rerank import FlatRerank
from tests.inference.fakes import http

DENIED = http(401, kind="security_exception")


def score(query, document):
    return float(np.float32(hashlib.sha256(f"{query} {document}".encode()).digest()[0] / 256))


class Ranker:
    """A service that ranks; ``script(number, query, documents)`` may return an exception instead."""

    def __init__(self, script=lambda number, query, documents: None):
        self.script = script
        self.asked = []
        """Query and documents of each request that was answered."""
        self.requests = 0
        self.most_bytes = 0

    @property
    def billed(self):
        return Counter((query, document) for query, documents in self.asked for document in documents)

    async def infer(self, task_type, inference_id, body, *, expect_bytes):
        asked = json.loads(body)
        query, documents = asked["query"], asked["input"]
        self.requests += 1
        act = self.script(self.requests, query, documents)
        self.most_bytes = max(self.most_bytes, pa.total_allocated_bytes())
        await asyncio.sleep(0)
        if isinstance(act, Exception):
            raise act
        self.asked.append((query, tuple(documents)))
        scores = [{"index": i, "relevance_score": score(query, d)} for i, d in enumerate(documents)]
        scores.sort(key=lambda one: -one["relevance_score"])
        return Answer(json.dumps({"rerank": act or scores}).encode(), "application/json")

    async def aclose(self):
        pass


GROUPS = {f"q{i}": [f"document {(i * 7 + j) % 400}" for j in range(1 + i * 5 % 23)] for i in range(30)}


@pytest.fixture
def ranked(place):
    """Writes groups of candidates, runs the task over them, checks what every row got."""

    def ranked(service, groups=GROUPS, *, refused=(), part_rows=100, top_n=None, **settings):
        rows = [(name, name.upper(), document) for name, documents in groups.items() for document in documents]
        table = pa.table(dict(zip(("id", "query", "document"), map(list, zip(*rows, strict=True)), strict=True)))
        pq.write_table(table, place.source / "a.parquet", row_group_size=50)
        task = FlatRerank(query_id_column="id", top_n=top_n, **settings)
        arrange = partial(group_rows, group_column="id", same_column="query", part_rows=part_rows)
        summary = place.run(service, task, arrange=arrange)
        written = place.rows()
        assert [(row["id"], row["query"], row["document"]) for row in written] == rows
        for name in groups:
            of = [row for row in written if row["id"] == name]
            good = [row for row in of if row["reranked_error"] is None]
            assert [row["id"] in refused or row["document"] in refused for row in of] == [row not in good for row in of]
            assert all(row["relevance_score"] == score(row["query"], row["document"]) for row in good)
            assert all(row["relevance_score"] is None and row["rank"] is None for row in of if row not in good)
            best = sorted(good, key=lambda row: -row["relevance_score"])
            places = [row["rank"] for row in best]
            assert places == [i + 1 if top_n is None or i < top_n else None for i in range(len(good))]
        assert summary.rows == len(rows) == summary.embedded + summary.reused + summary.deduplicated + summary.failed
        return summary

    return ranked


@pytest.mark.parametrize("comparable", [False, True])
def test_each_candidate_has_its_score_and_its_rank(ranked, comparable):
    """Over row groups, windows and parts: rows in input order, counted as rows, a request a query."""
    service = Ranker()
    summary = ranked(service, top_n=3, scores_comparable=comparable)
    assert len(service.asked) == 30
    assert {query.lower(): list(documents) for query, documents in service.asked} == GROUPS
    assert summary.embedded == sum(map(len, GROUPS.values()))
    assert summary.files > 2


@pytest.mark.parametrize("comparable", [False, True])
def test_a_crash_in_the_middle_pays_for_nothing_twice(ranked, comparable):
    """What was answered comes back from the journal and the parts; only the rest is asked."""
    first = Ranker(lambda number, *_: DENIED if number > 17 else None)
    with pytest.raises(EndpointError):
        ranked(first, scores_comparable=comparable)
    second = Ranker()
    ranked(second, scores_comparable=comparable)
    assert len(first.asked) >= 17
    assert len(first.asked) + len(second.asked) == 30
    assert set((first.billed + second.billed).values()) == {1}


def test_another_top_n_asks_nothing(ranked):
    """Ranks follow from scores that are on record."""
    ranked(Ranker())
    service = Ranker()
    summary = ranked(service, {**GROUPS, "one more": ["x"]}, top_n=2)
    assert [query for query, _ in service.asked] == ["ONE MORE"]
    assert summary.reused == sum(map(len, GROUPS.values()))


def test_equal_queries_are_asked_once(ranked):
    """Two groups with the same query and documents share their scores, wherever they stand; each has its own ids."""
    service = Ranker()
    groups = {"a": ["x", "y"], "b": ["z"], "A": ["x", "y"]}
    summary = ranked(service, groups)
    assert service.billed == {("A", "x"): 1, ("A", "y"): 1, ("B", "z"): 1}
    assert (summary.embedded, summary.deduplicated) == (3, 2)


def test_a_changed_candidate_costs_its_query_or_itself(ranked):
    """Where scores do not compare the whole query is asked again, where they do the new pair alone."""
    changed = {**GROUPS, "q7": [*GROUPS["q7"], "a new one"]}
    for comparable, paid in ((False, len(changed["q7"])), (True, 1)):
        ranked(Ranker(), scores_comparable=comparable)
        service = Ranker()
        summary = ranked(service, changed, scores_comparable=comparable)
        assert (sum(service.billed.values()), len(service.asked)) == (paid, 1)
        assert summary.embedded == paid


def test_a_refused_query_is_marked_as_a_whole_and_never_cut(ranked):
    """Halves of it would be ranked apart: all its rows have the reason, and no other row."""

    def refuse(number, query, documents):
        return http(400, "data_inspection_failed", upstream=400) if query == "Q7" else None

    service = Ranker(refuse)
    summary = ranked(service, refused={"q7"})
    assert service.requests == 30
    assert summary.failed == len(GROUPS["q7"])
    assert list(summary.errors) == ["refused by the content filter (data_inspection_failed)"]


def test_a_refused_candidate_is_found_by_halving_where_scores_compare(ranked):
    """One bad document spoils its own row; the others of its query are ranked without it."""

    def refuse(number, query, documents):
        return http(400, "data_inspection_failed", upstream=400) if "bad" in documents else None

    summary = ranked(Ranker(refuse), {**GROUPS, "x": ["a", "b", "bad", "c"]}, refused={"bad"}, scores_comparable=True)
    assert summary.failed == 1


def test_a_limit_of_the_service_splits_where_scores_compare_and_refuses_where_they_do_not(ranked):
    """'should not be larger than 4' is kept to, or written beside the queries that are larger."""

    def refuse(number, query, documents):
        words = "Value error, batch size is invalid, it should not be larger than 4.: input.documents"
        return http(400, words, upstream=400) if len(documents) > 4 else None

    service = Ranker(refuse)
    ranked(service, scores_comparable=True)
    assert max(len(documents) for _, documents in service.asked) == 4
    large = {name for name, documents in GROUPS.items() if len(documents) > 4}
    summary = ranked(Ranker(refuse), refused=large)
    assert summary.failed == sum(len(GROUPS[name]) for name in large)


@pytest.mark.parametrize("answer", [[{"index": 0, "relevance_score": 1.0}], [{"index": 99, "relevance_score": 1.0}]])
def test_an_answer_about_other_documents_is_asked_again_then_marks_its_query(ranked, answer):
    """Nothing is guessed, nothing is cut, and other queries are not touched."""
    service = Ranker(lambda number, query, documents: answer if query == "Q7" else None)
    ranked(service, refused={"q7"})
    assert [query for query, _ in service.asked].count("Q7") == 2


@pytest.mark.slow
def test_a_hundred_thousand_candidates_need_little_memory(place):
    """A hundred megabytes of documents go through in a fraction of that, each ranked in its query."""
    rows, of_query = 100_000, 40
    with pq.ParquetWriter(
        place.source / "a.parquet", pa.schema([("id", pa.int64()), ("query", pa.string()), ("document", pa.string())])
    ) as writer:
        for start in range(0, rows, 10_000):
            ids = [at // of_query for at in range(start, start + 10_000)]
            documents = [f"{at:010d}" * 100 for at in range(start, start + 10_000)]
            writer.write_table(pa.table({"id": ids, "query": [f"query {one}" for one in ids], "document": documents}))
    before, service = pa.total_allocated_bytes(), Ranker()
    summary = place.run(
        service,
        FlatRerank(query_id_column="id", top_n=10),
        arrange=partial(group_rows, group_column="id", same_column="query"),
    )
    assert (summary.rows, summary.embedded, summary.requests) == (rows, rows, rows // of_query)
    most = service.most_bytes - before
    print(f"{most / 1e6:.1f} MB of Arrow memory at most")
    assert most < 50_000_000
    ranks = pq.read_table(place.destination, columns=["rank"])["rank"]
    assert (len(ranks), len(ranks.drop_null())) == (rows, rows // of_query * 10)
