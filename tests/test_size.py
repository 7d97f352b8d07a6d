"""Finding out how large a request may be from refusals without a number, against a service with a hidden limit."""

from __future__ import annotations

import math
from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_modelstudio.inference.decide.size import CLOSE, Cut, Size
from airflow_provider_modelstudio.inference.plan import Packer
from airflow_provider_modelstudio.inference.tasks import Question, RequestLimits

ROWS = 10


class Run:
    """Sends one request after the other, as the sender does it."""

    def __init__(self, limit, rows=ROWS):
        self.limit = limit
        self.known = Size()
        self.packer = Packer(RequestLimits(rows=rows))
        self.answered, self.marked, self.sent = [], [], []
        self.refused_without_need = 0
        """Requests as they were packed that were refused although each of their rows is small enough."""

    def feed(self, sizes):
        for owner, size in enumerate(sizes):
            self._send(self.packer.feed(owner, Question(bytes(16), "x", 1, size)))
        self._send(self.packer.flush())

    def _send(self, packed):
        waiting = deque([(packed, None)] if packed else [])
        while waiting:
            request, cut = waiting.popleft()
            size = sum(question.size for _, question in request)
            self.sent.append(size)
            if size <= self.limit:
                self.answered += [owner for owner, _ in request]
                self.known = self.known.took(size)
                if cut is not None and cut.answered(size):
                    self.known = self.known.gave_up(cut)
                self.packer.most_size = self.known.most
            elif len(request) == 1:
                self.marked += [request[0][0]]
            else:
                self.refused_without_need += request is packed and all(q.size <= self.limit for _, q in request)
                half, own = -(-len(request) // 2), Cut(size, 2)
                waiting += [(request[:half], own), (request[half:], own)]
            self._check()

    def _check(self):
        accepted, refused, most = self.known.accepted, self.known.refused, self.known.most
        assert accepted <= self.limit
        if refused is not None:
            assert self.limit < refused
            assert accepted <= most < refused
            assert most > self.limit / 2


@given(st.lists(st.integers(1, 400), max_size=150), st.integers(40, 3000))
def test_the_limit_is_found_with_a_few_refusals(sizes, limit):
    """Rows that fit are answered, each once, the others marked; what is kept to is more than half of the limit, and each
    refusal without need halves the doubt.
    """
    run = Run(limit)
    run.feed(sizes)
    assert sorted(run.answered) == [i for i, size in enumerate(sizes) if size <= limit]
    assert sorted(run.marked) == [i for i, size in enumerate(sizes) if size > limit]
    assert run.refused_without_need <= 2 + max(0.0, math.log2(CLOSE * max(run.sent, default=1) / limit))


@given(st.lists(st.one_of(st.integers(1, 100), st.just(5000)), max_size=150))
def test_large_rows_make_no_other_request_small(sizes):
    """Where all others fit ten at a time, nothing is learned from a row that is too large alone."""
    run = Run(ROWS * 100)
    run.feed(sizes)
    assert run.known.refused is None
    assert sorted(run.marked) == [i for i, size in enumerate(sizes) if size == 5000]


def test_equal_rows_soon_go_in_the_largest_requests_that_fit():
    """A hundred rows of 100 at a limit of 5,100: close to that, after a handful of refusals."""
    run = Run(5100, rows=100)
    run.feed([100] * 5000)
    assert min(run.sent[-10:-1]) >= 5100 * (1 - 2 / CLOSE)
    assert sum(size > 5100 for size in run.sent) <= 7


def test_a_service_that_measures_something_else_is_believed_about_the_smaller_one():
    """It took 900 and now refuses 600, of which both halves were fine: there is no going back to 900."""
    cut = Cut(600, 2)
    known = Size().took(900)
    assert not cut.answered(350)
    known = known.took(350)
    assert cut.answered(250)
    known = known.gave_up(cut)
    assert known == Size(350, 600)
    assert 350 <= known.most < 600
    assert known.took(5000) == known
