"""Each fault of the wire × each form of each operator × JSON and CBOR × the first, a middle and the last request.

Never a wrong row. That are all faults that an operator's answers can have: 368 runs, with three faults each.

Runs wait for pauses of half a second and more, so all are started together and looked at one by one.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pytest

from airflow_provider_modelstudio.operators.completion import CompletionOperator
from airflow_provider_modelstudio.operators.multi_modal_embedding import MultiModalEmbedOperator
from airflow_provider_modelstudio.operators.rerank import RerankOperator
from airflow_provider_modelstudio.operators.sparse_embedding import SparseEmbedOperator
from airflow_provider_modelstudio.operators.text_embedding import EmbedOperator
from airflow_provider_modelstudio.sandbox.faults import (
    BadGzip,
    Distort,
    Drip,
    Garbage,
    HtmlPage,
    Match,
    NoProductHeader,
    Refuse,
    Reset,
    Rule,
    Truncate,
    WrongLength,
)
from airflow_provider_modelstudio.sandbox.server import Sandbox
from tests.faults.bench import DIMENSIONS, Bench

pytestmark = pytest.mark.xdist_group("fault matrix")

FIRST_MIDDLE_LAST = Match(nth=(1, 4, 8))
ROWS = 8
"""Requests of an undisturbed run."""

PASSING = {
    "429": Refuse(error="throttled"),
    "429 with Retry-After": Refuse(error="throttled", retry_after=0.05),
    "429 of tokens": Refuse(error="throttled_tokens"),
    "429 of a full queue": Refuse(error="queue_full"),
    "429 of Elasticsearch's timeout": Refuse(error="es_timeout_429"),
    "408": Refuse(error="408"),
    "503": Refuse(error="503"),
    "500 of the model as 400": Refuse(error="upstream_500_as_400"),
    "504 of the model as 400": Refuse(error="upstream_504_as_400"),
    "reset unbilled": Reset(at="before", billed=False),
    "reset before": Reset(at="before"),
    "reset in the middle": Reset(at="middle"),
    "reset after": Reset(at="after"),
    "cut body": Truncate(),
    "cut to nothing": Truncate(share=0.0),
    "length too long": WrongLength(by=50),
    "length too short": WrongLength(by=-5),
    "no gzip": BadGzip(),
    "page of a proxy": HtmlPage(status=502),
    "login page with 200": HtmlPage(status=200),
    "bytes after the end": Garbage(),
    "one answer too few": Distort(how="fewer"),
    "one answer too many": Distort(how="more"),
    "ragged vectors": Distort(how="wrong_dimensions"),
    "index twice": Distort(how="duplicate_index"),
    "index missing": Distort(how="missing_index"),
    "index out of range": Distort(how="index_out_of_range"),
    "header gone": NoProductHeader(),
    "slow": Drip(piece_bytes=512, pause=0.001),
}
SPOILING = {how: Distort(how=how) for how in ("nan", "infinity", "1e400", "null", "string")}
ACTS = PASSING | SPOILING
RANKING = ("index twice", "index missing", "index out of range")
TEXTS = [f"line {i} of a text" for i in range(ROWS)]


@dataclass(frozen=True)
class Lane:
    """An operator, what it reads, and how its rows come out."""

    operator: type
    table: pa.Table
    parameters: dict = field(default_factory=dict)
    output: str = "embedding"
    spoils: int = 1
    """Rows that one value in an answer spoils."""

    @property
    def error(self):
        """The column of reasons."""
        return "reranked_error" if self.output == "relevance_score" else f"{self.output}_error"


LANES = {
    "embed": Lane(EmbedOperator, pa.table({"text": [f"{t}, {i}" for t in TEXTS for i in range(3)]}), {"batch_size": 3}),
    "sparse": Lane(SparseEmbedOperator, pa.table({"text": TEXTS}), {"batch_size": 1}, "sparse_embedding"),
    "rerank": Lane(
        RerankOperator,
        pa.table({"query": TEXTS, "documents": [TEXTS[i:] + TEXTS[:i] for i in range(ROWS)]}),
        {},
        "reranked",
    ),
    "flat rerank": Lane(
        RerankOperator,
        pa.table(
            {
                "id": [i for i in range(ROWS) for _ in range(3)],
                "query": [text for text in TEXTS for _ in range(3)],
                "document": [TEXTS[(i + j) % ROWS] for i in range(ROWS) for j in range(3)],
            }
        ),
        {"query_id_column": "id", "documents_column": "document"},
        "relevance_score",
        spoils=3,
    ),
    "completion": Lane(CompletionOperator, pa.table({"text": TEXTS}), {"prompt": "{text}?"}, "completion"),
    "multimodal": Lane(
        MultiModalEmbedOperator,
        pa.table({"image": [f"https://example.com/{i}.png" for i in range(ROWS)]}),
        {"image_column": "image"},
    ),
}
RANKED = ("rerank", "flat rerank")
CASES = [
    (lane, act, media)
    for lane in LANES
    for act in ACTS
    for media in ("cbor", "json")
    if (lane in RANKED or act not in RANKING)
    and (lane == "embed" or act != "ragged vectors")  # it takes several vectors in an answer
    and (lane not in {*RANKED, "completion"} or act != "string")  # which is an answer; scores come as texts, too
]


@dataclass(frozen=True)
class Outcome:
    """What a run left."""

    rows: list
    summary: dict
    billed: int
    requests: int


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """All runs, under way; the fault ``None`` is the undisturbed one."""
    with pytest.MonkeyPatch.context() as environment, ThreadPoolExecutor(24) as pool:

        def one(number, lane, act, media):
            rules = [Rule(act=ACTS[act], match=FIRST_MIDDLE_LAST)] if act else []
            with Sandbox(engine="hashed", dimensions=DIMENSIONS, faults=rules) as server:
                folder = tmp_path_factory.mktemp("matrix")
                bench = Bench(folder, server, environment, f"matrix_{number}", extra={"media_type": media})
                bench.write(lane.table)
                summary = bench.run(lane.operator, **lane.parameters)
                return Outcome(bench.rows(), summary, sum(paid.count for paid in server.bill), server.requests)

        wanted = [*((lane, None, "json") for lane in LANES), *CASES]
        yield {case: pool.submit(one, n, LANES[case[0]], *case[1:]) for n, case in enumerate(wanted)}


def test_an_undisturbed_run_needs_eight_requests(outcomes):
    """First, middle and last are what they are called."""
    for name, lane in LANES.items():
        outcome = outcomes[name, None, "json"].result()
        assert outcome.requests == ROWS
        assert all(row[lane.output] is not None and row[lane.error] is None for row in outcome.rows)


@pytest.mark.parametrize(("lane", "act", "media"), [case for case in CASES if case[1] in PASSING])
def test_a_fault_that_passes_leaves_no_trace(outcomes, lane, act, media):
    """The dataset is that of an undisturbed run, row for row; only requests and bill tell that something happened."""
    undisturbed, outcome = outcomes[lane, None, "json"].result(), outcomes[lane, act, media].result()
    assert outcome.rows == undisturbed.rows
    assert outcome.summary["failed"] == 0
    free = {"429", "429 with Retry-After", "429 of tokens", "429 of a full queue", "503", "reset unbilled"}
    if act in free or "as 400" in act or act.startswith(("page", "login")):
        assert outcome.billed == undisturbed.billed


@pytest.mark.parametrize(("lane", "act", "media"), [case for case in CASES if case[1] in SPOILING])
def test_a_value_that_is_none_refuses_its_row_alone(outcomes, lane, act, media):
    """The row whose answer holds it has a reason, or all candidates of its query; all others are those of an undisturbed run."""
    undisturbed, outcome = outcomes[lane, None, "json"].result(), outcomes[lane, act, media].result()
    output, error = LANES[lane].output, LANES[lane].error
    spoiled = [row for row in outcome.rows if row[output] is None]
    assert len(spoiled) == 3 * LANES[lane].spoils
    assert all(row[error] for row in spoiled)
    for row, sound in zip(outcome.rows, undisturbed.rows, strict=True):
        assert row in (sound, {**sound, output: None, error: row[error]} | _beside(row))
    assert outcome.summary["failed"] == len(spoiled)


def _beside(row):
    """A refused row has no flag and no rank either."""
    return {name: None for name in row if name in {"is_truncated", "rank"}}
