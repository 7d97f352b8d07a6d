"""Answers that are not what was asked for: asked once more, then kept with a reason; what they cost when things break."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest

from airflow_provider_modelstudio.inference.engine import StopSignal
from airflow_provider_modelstudio.inference.errors import EndpointError, InterruptedRunError, RowsRefusedError
from tests.inference.fakes import Numbers, Scripted, http

TEXTS = [f"row number {i}" for i in range(30)]
BAD = "row number 7"


def model(answers, error=None):
    """A service that has a list of answers for some texts, in turn, and 42 for all others; an exception is raised."""
    asked = Counter()

    def script(number, texts):
        (text,) = texts
        told = answers.get(text, ["42"])
        answer = told[min(asked[text], len(told) - 1)]
        asked[text] += 1
        return answer if isinstance(answer, Exception) else json.dumps([answer]).encode()

    return Scripted(script)


def row(place, text):
    (found,) = [row for row in place.rows() if row["text"] == text]
    return found["words"], found["number"], found["words_error"]


@pytest.fixture
def place(place):
    place.write(TEXTS)
    return place


def test_a_second_answer_that_fits_is_the_answer(place):
    """It is asked once more, and the row is like any other."""
    service = model({BAD: ["who knows", "43"]})
    summary = place.run(service, Numbers())
    assert row(place, BAD) == ("43", 43, None)
    assert service.billed == {**dict.fromkeys(TEXTS, 1), BAD: 2}
    assert (summary.embedded, summary.failed) == (30, 0)


def test_a_second_answer_that_does_not_fit_is_kept_with_its_reason(place):
    """The words are there, the number is null, the row counts as failed, and nothing is asked a third time."""
    service = model({BAD: ["who knows", "nobody"]})
    summary = place.run(service, Numbers())
    assert row(place, BAD) == ("nobody", None, "not a number")
    assert service.billed[BAD] == 2
    assert (summary.rows, summary.embedded, summary.failed, summary.errors) == (30, 29, 1, {"not a number": 1})
    assert [found["number"] for found in place.rows() if found["text"] != BAD] == [42] * 29


def test_a_model_that_never_fits_is_no_outage(place):
    """All rows are kept with a reason, at two requests each: a service that answers is well."""
    service = model({text: ["who knows"] for text in TEXTS})
    summary = place.run(service, Numbers())
    assert summary.failed == 30
    assert {found["words"] for found in place.rows()} == {"who knows"}
    assert service.billed == dict.fromkeys(TEXTS, 2)


def test_the_next_run_asks_again_for_what_did_not_fit(place):
    """Words that were kept with a reason are nobody's answer: with other rows the same, they alone are asked."""
    place.run(model({BAD: ["who knows"]}), Numbers())
    place.write([*TEXTS, "one more"])
    service = model({})
    summary = place.run(service, Numbers())
    assert service.billed == {BAD: 1, "one more": 1}
    assert (summary.embedded, summary.reused, summary.failed) == (2, 29, 0)
    assert row(place, BAD) == ("42", 42, None)


def test_a_crash_after_both_answers_pays_for_neither_again(place):
    """Words and reason of a row that was settled come back from the journal."""
    denied = http(401, kind="security_exception")
    with pytest.raises(EndpointError):
        place.run(model({BAD: ["who knows", "nobody"], TEXTS[-1]: [denied]}), Numbers())
    service = model({})
    place.run(service, Numbers())
    assert BAD not in service.billed
    assert row(place, BAD) == ("nobody", None, "not a number")


@pytest.mark.parametrize(
    ("second", "expected"), [("43", ("43", 43, None)), ("nobody", ("nobody", None, "not a number"))]
)
def test_a_crash_between_both_answers_costs_nothing(place, second, expected):
    """The first answer is durable: the retry asks for the second one, and for nothing else of that row."""
    first = model({BAD: ["who knows", http(401, kind="security_exception")]})
    with pytest.raises(EndpointError):
        place.run(first, Numbers())
    assert first.billed[BAD] == 1
    service = model({BAD: [second]})
    place.run(service, Numbers())
    assert service.billed[BAD] == 1
    assert max((first.billed + service.billed).values()) == 2
    assert row(place, BAD) == expected


def test_a_first_answer_outlives_two_crashes(place):
    """Two tries that die before the second answer leave one question to ask."""
    denied = http(401, kind="security_exception")
    tries = [model({BAD: ["who knows", denied]}), model({BAD: [denied]}), model({BAD: ["43"]})]
    for service in tries[:2]:
        with pytest.raises(EndpointError):
            place.run(service, Numbers())
    place.run(tries[2], Numbers())
    assert sum(service.billed[BAD] for service in tries) == 2
    assert row(place, BAD) == ("43", 43, None)


@pytest.mark.parametrize("crash", [False, True])
def test_a_second_question_that_is_refused_leaves_the_first_answer(place, crash):
    """The words of the first answer are kept with their own reason, in this try or the next one."""
    refused = http(400, "data_inspection_failed", upstream=400)
    if crash:
        with pytest.raises(EndpointError):
            place.run(model({BAD: ["who knows", http(401, kind="security_exception")]}), Numbers())
        place.run(model({BAD: [refused]}), Numbers())
    else:
        place.run(model({BAD: ["who knows", refused]}), Numbers())
    assert row(place, BAD) == ("who knows", None, "not a number")


def test_the_second_question_goes_before_all_others(place):
    """When a run is stopped, no more rows than were in flight are between their two answers."""
    stop, order = StopSignal(), []

    def script(number, texts):
        async def answer():
            order.append(texts[0])
            await asyncio.sleep(0.01)
            if number == 25:
                stop.request()
            return json.dumps(["who knows"]).encode()

        return answer()

    with pytest.raises(InterruptedRunError):
        place.run(Scripted(script), Numbers(), stop=stop)
    once = [text for text, times in Counter(order).items() if times == 1]
    assert len(once) <= 8


def test_equal_rows_share_words_and_reason(place):
    """Where equal rows are asked once, those that share have the words as well, each counted as failed."""
    place.write(["same"] * 5 + TEXTS[:3])
    service = model({"same": ["who knows"]})
    summary = place.run(service, Numbers(equal_rows_share=True))
    assert service.billed["same"] == 2
    assert summary.failed == 5
    assert [(found["words"], found["words_error"]) for found in place.rows()[:5]] == [("who knows", "not a number")] * 5


def test_fail_on_row_error_comes_after_the_second_answer(place):
    """on_row_error='fail' ends the run when the second answer does not fit either, and both stay paid."""
    for _ in range(2):
        service = model({BAD: ["who knows"]})
        with pytest.raises(RowsRefusedError, match="row 7 of the source was refused: not a number"):
            place.run(service, Numbers(), on_row_error="fail")
    assert service.billed[BAD] == 0
