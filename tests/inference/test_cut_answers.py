"""Somebody on the way cuts answers at a length, always: smaller requests get through, and where none does, the run ends."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest

from airflow_provider_modelstudio.inference.errors import EndpointError, Fault, OutageError, RequestError
from airflow_provider_modelstudio.inference.tasks import Answer, RequestLimits
from airflow_provider_modelstudio.inference.tasks.text_embedding import TextEmbedding
from tests.inference.fakes import Scripted, vector

TEXTS = [f"row number {i}" for i in range(200)]
LOST = "requests brought nothing of use, and may have been paid for"


@dataclass
class Cutting(Scripted):
    """Answers of more than ``most`` bytes lose their end.

    ``noticed``: the transport sees it, by the length that was promised or by what is left of the compression.
    """

    most: int = 0
    noticed: bool = False
    cuts: int = 0

    async def infer(self, task_type, inference_id, body, *, expect_bytes):
        asked = json.loads(body)["input"]
        await super().infer(task_type, inference_id, json.dumps(asked).encode(), expect_bytes=expect_bytes)
        whole = json.dumps({"text_embedding": [{"embedding": vector(text)} for text in asked]}).encode()
        self.cuts += len(whole) > self.most
        if len(whole) > self.most and self.noticed:
            raise RequestError("the answer was cut on its way", fault=Fault.CUT, maybe_billed=True)
        return Answer(whole[: self.most], "application/json")


TASK = TextEmbedding(limits=RequestLimits(rows=10))


def check(place, texts):
    """Each row is there with its own vector, and none has a reason."""
    rows = place.rows()
    assert [row["text"] for row in rows] == texts
    assert all(row["embedding"] == np.float32(vector(row["text"])).tolist() for row in rows)
    assert not any(row["embedding_error"] for row in rows)


@pytest.mark.parametrize(("noticed", "times"), [(False, 2), (True, 3)])
def test_answers_that_are_cut_at_a_length_get_through_in_smaller_requests(place, noticed, times):
    """Four vectors fit: each row is answered, paid for so often for each halving down to that, and the price is told."""
    place.write(TEXTS)
    service = Cutting(most=200, noticed=noticed)
    summary = place.run(service, TASK)
    check(place, TEXTS)
    assert (summary.embedded, summary.failed) == (len(TEXTS), 0)
    assert summary.warnings == {LOST: service.cuts}
    assert service.cuts == times * (20 + 40)
    assert set(service.billed.values()) == {2 * times + 1}


@pytest.mark.parametrize(
    ("noticed", "kind", "words"),
    [(False, EndpointError, "each is paid for: .* not valid JSON"), (True, OutageError, "the next try goes on")],
)
def test_answers_that_are_cut_whatever_their_length_end_the_run(place, caplog, noticed, kind, words):
    """Nothing is written, no row is spoilt, the log tells the price; afterwards each row is answered."""
    place.write(TEXTS)
    service = Cutting(most=20, noticed=noticed)
    with pytest.raises(kind, match=words):
        place.run(service, TASK)
    assert not place.destination.exists()
    assert f"{service.cuts} {LOST}" in caplog.messages
    place.run(Cutting(most=10**6), TASK)
    check(place, TEXTS)
