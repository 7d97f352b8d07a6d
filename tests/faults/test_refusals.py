"""Refusals of the service in the middle of a run: who stops, who waits, and what is paid again."""

from __future__ import annotations

import itertools
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow as pa
import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_modelstudio.hooks.modelstudio import ModelStudioHook
from airflow_provider_modelstudio.inference.errors import ModelStudioError, OutageError
from airflow_provider_modelstudio.operators.rerank import RerankOperator
from airflow_provider_modelstudio.operators.text_embedding import EmbedOperator
from airflow_provider_modelstudio.sandbox.faults import (
    Distort,
    HtmlPage,
    Huge,
    Match,
    Redirect,
    Refuse,
    Respond,
    Rule,
)
from airflow_provider_modelstudio.sandbox.server import Sandbox
from tests.faults.bench import DIMENSIONS, Bench, context_of, vector

TEXTS = [f"text number {i}" for i in range(40)]
LATER = Match(nth=tuple(range(3, 100)))
"""All requests but the first two."""

STOPS = {
    "overdue": ("account", Refuse(error="overdue")),
    "free_quota_gone": ("account", Refuse(error="free_quota_gone")),
    "not_purchased": ("account", Refuse(error="not_purchased")),
    "arrears": ("account", Refuse(error="arrears")),
    "401": ("key or the password of the Airflow connection", Refuse(error="401")),
    "403": ("monitor_inference", Refuse(error="403")),
    "404": ("create it", Refuse(error="404")),
    "upstream_401": ("inference endpoint", Refuse(error="upstream_401")),
    "upstream_403": ("grant it access", Refuse(error="upstream_403")),
    "upstream_404": ("choose another", Refuse(error="upstream_404")),
    "redirect": ("redirects are never followed", Redirect()),
    "endless answer": ("far longer", Huge(size_bytes=64 << 20)),
    "bottomless answer": ("no inference endpoint: .* levels of lists and objects", Distort(how="bottomless")),
    "unknown field": (
        "too old",
        Respond(status=400, body=json.dumps({"error": {"type": "x_content_parse_exception", "reason": "unknown field [x]"}}),
                headers={"X-elastic-product": "Elasticsearch"}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STOPS)
def test_what_somebody_must_mend_stops_the_task(bench, name):
    """The task fails for good with words on what to do, writes nothing, and a later run pays for no row again."""
    words, act = STOPS[name]
    bench.write(TEXTS)
    bench.server.play([Rule(act=act, match=LATER)])
    with pytest.raises(AirflowFailException, match=words):
        bench.run()
    assert not bench.destination.exists()
    assert bench.server.requests <= 16
    first = bench.paid()
    bench.server.play([])
    bench.run()
    bench.check(TEXTS)
    spoiled = {one for paid in bench.server.bill if paid.spoiled_by for one in paid.inputs}
    assert {text for text, times in bench.paid().items() if times > 1} <= spoiled
    assert sum(first.values()) >= 20


@pytest.mark.parametrize("media", ["json", "cbor"])
def test_an_answer_without_a_bottom_is_the_last(bench, media):
    """Nothing is asked twice and nothing else is asked, in either format."""
    bench.write(TEXTS)
    bench.connect(bench.server.url, extra={"media_type": media})
    bench.server.play([Rule(act=Distort(how="bottomless"))])
    with pytest.raises(AirflowFailException, match="check the host, the proxies"):
        bench.run(concurrency=1)
    assert bench.server.requests == 1
    assert not bench.destination.exists()


def test_a_rotated_key_needs_a_new_connection_and_nothing_else(tmp_path, start, monkeypatch):
    """With the old key refused mid-run the task stops; after the connection has the new one the rest is asked."""
    old = start(user="elastic", password="old-password-1")
    bench = Bench(tmp_path, old, monkeypatch, login="elastic", password="old-password-1")
    bench.write(TEXTS)
    old.play([Rule(act=Refuse(error="401"), match=LATER)])
    with pytest.raises(AirflowFailException, match="Airflow connection"):
        bench.run()
    assert len(bench.paid()) == 20
    old.stop()
    new = start(port=old.port, user="elastic", password="new-password-2")
    with pytest.raises(AirflowFailException, match="refuses the login"):
        bench.run()
    assert new.bill == []
    bench.connect(new.url, login="elastic", password="new-password-2")
    bench.run()
    bench.check(TEXTS)
    assert sum(paid.count for paid in new.bill) == 20


class Meddling(EmbedOperator):
    """Does something to the world as the tenth request is made."""

    def make_task(self):
        task, requests, act = super().make_task(), itertools.count(1), self.act

        class Task(type(task)):
            def encode(self, questions):
                if next(requests) == 10:
                    act()
                return super().encode(questions)

        return Task(**{name: getattr(task, name) for name in task.__dataclass_fields__})


def meddle(bench, act):
    operator = bench.operator(EmbedOperator, batch_size=1)
    operator.__class__ = Meddling
    operator.act = act
    return operator.execute(context_of())


def test_a_key_that_is_rotated_while_the_task_runs_is_read_again(tmp_path, start, monkeypatch):
    """The old key is refused, the connection has a new one by then: the same try goes on, and nothing is paid twice."""
    old = start(user="elastic", password="old-password-1")
    new = start(user="elastic", password="new-password-2")
    bench = Bench(tmp_path, old, monkeypatch, login="elastic", password="old-password-1")
    bench.write(TEXTS)

    def rotate():
        old.play([Rule(act=Refuse(error="401"))])
        bench.connect(new.url, login="elastic", password="new-password-2")

    summary = meddle(bench, rotate)
    bench.check(TEXTS)
    assert (summary["embedded"], summary["failed"]) == (40, 0)
    both = [one for server in (old, new) for paid in server.bill for one in paid.inputs]
    assert len(both) == len(set(both)) == 40


def test_a_key_that_is_refused_is_not_tried_again(tmp_path, start, monkeypatch):
    """The connection still says the same: no second look, no further request."""
    server = start(user="elastic", password="old-password-1")
    bench = Bench(tmp_path, server, monkeypatch, login="elastic", password="old-password-1")
    bench.write(TEXTS)
    with pytest.raises(AirflowFailException, match="Airflow connection"):
        meddle(bench, lambda: server.play([Rule(act=Refuse(error="401"))]))
    assert [call.operation for call in server.calls].count("get") == 1


def test_an_endpoint_that_is_gone_for_a_moment_costs_nothing(bench):
    """404 in the middle: the endpoint is looked at once, is there, and the same try goes on."""
    bench.write(TEXTS)
    bench.server.play([Rule(act=Refuse(error="404"), match=Match(nth=(3,)))])
    bench.run()
    bench.check(TEXTS)
    assert set(bench.paid_for(TEXTS)) == {1}


def test_an_endpoint_removed_while_the_task_runs_is_looked_at_once(bench):
    """404 and a free look that finds nothing: the task stops, and keeps what was paid."""
    bench.write(TEXTS)
    hook = ModelStudioHook(bench.conn_id)
    with pytest.raises(AirflowFailException, match="no such inference endpoint"):
        meddle(bench, lambda: hook.delete_endpoint("bailian_embeddings", "text_embedding"))
    hook.conn.close()
    assert not bench.destination.exists()
    assert len(bench.paid()) >= 2
    assert list(bench.state.glob("*/journal/*.seg"))


def test_an_endpoint_made_anew_with_another_model_is_not_asked_unasked(bench):
    """Other settings under the same name: the task stops instead of paying for every row again."""
    bench.write(TEXTS)
    hook = ModelStudioHook(bench.conn_id)

    def remake():
        told = hook.get_endpoint("bailian_embeddings", "text_embedding")
        hook.delete_endpoint("bailian_embeddings", "text_embedding")
        settings = {**told["service_settings"], "model_id": "another-model"}
        hook.create_endpoint(
            "text_embedding", "bailian_embeddings", {"service": told["service"], "service_settings": settings}
        )
        bench.server.play([Rule(act=Refuse(error="404"), match=Match(first=1))])

    with pytest.raises(AirflowFailException, match="made anew with other settings"):
        meddle(bench, remake)
    hook.conn.close()


def test_an_endpoint_removed_between_two_tries_is_named(bench):
    """The free look before a run finds it, and nothing is asked."""
    bench.write(TEXTS)
    hook = ModelStudioHook(bench.conn_id)
    hook.delete_endpoint("bailian_embeddings", "text_embedding")
    hook.conn.close()
    with pytest.raises(AirflowFailException, match="no such inference endpoint"):
        bench.run()
    assert bench.server.requests == 0


def test_dimensions_that_change_in_the_middle_stop_the_task(bench):
    """Vectors of two lengths never lie in one dataset; after the cause is mended the run goes on."""
    bench.write(TEXTS)
    bench.server.play([Rule(act=Distort(how="wrong_dimensions"), match=Match(nth=(7,)))])
    with pytest.raises(AirflowFailException, match="changed the form of its answers"):
        bench.run(batch_size=1)
    assert not bench.destination.exists()
    bench.server.play([])
    bench.run(batch_size=1)
    bench.check(TEXTS)


def test_a_model_without_anything_to_say_is_believed(bench):
    """A vector of zeros is an answer, not an error."""
    bench.write(TEXTS[:10])
    bench.server.play([Rule(act=Distort(how="zeros"), match=Match(nth=(1,)))])
    bench.run()
    assert bench.rows()[0]["embedding"] == [0.0] * DIMENSIONS
    assert bench.rows()[1]["embedding"] == vector(TEXTS[1])


@pytest.mark.parametrize(
    ("error", "words"),
    [("data_inspection", "content filter"), ("invalid_parameter", "too long for the model: at most 8192")],
)
def test_one_bad_row_is_found_by_halving(bench, error, words):
    """A refusal of a request is halved down to its row: few requests more, and no text is paid twice."""
    bad = "text number 17"
    bench.write(TEXTS)
    bench.server.play([Rule(act=Refuse(error=error), match=Match(contains=bad))])
    summary = bench.run()
    bench.check(TEXTS, {bad: words})
    assert summary["failed"] == 1
    assert bench.server.requests <= 4 + 2 * 4
    assert sorted(bench.paid().values()) == [1] * 39


def test_a_row_that_is_too_large_fails_alone(bench):
    """413 halves a request down to the row that is too large, which has a reason."""
    bench.write(TEXTS)
    bench.server.play([Rule(act=Refuse(error="upstream_413"), match=Match(contains="text number 23"))])
    bench.run()
    bench.check(TEXTS, {"text number 23": "too large for the service (413)"})
    assert sorted(bench.paid().values()) == [1] * 39


def test_moderation_of_a_document_refuses_its_row_alone(bench):
    """A rerank row whose document is refused has the reason; the other rows are ranked."""
    bench.write(pa.table({"query": ["a", "b", "c"], "documents": [["x", "y"], ["x", "bad"], ["z"]]}))
    bench.server.play([Rule(act=Refuse(error="data_inspection"), match=Match(contains="bad"))])
    bench.run(RerankOperator)
    rows = bench.rows()
    assert [row["reranked"] is None for row in rows] == [False, True, False]
    assert "content filter" in rows[1]["reranked_error"]


def test_a_service_that_comes_and_goes_is_outlived(bench):
    """Every third request fails: all rows are answered, each once."""
    bench.write(TEXTS)
    bench.server.play([Rule(act=Refuse(error="503"), match=Match(every=3))])
    bench.run()
    bench.check(TEXTS)
    assert set(bench.paid_for(TEXTS)) == {1}


def test_hidden_limits_are_kept_without_giving_up(start, tmp_path, monkeypatch):
    """A server that takes 40 requests a second and three at once refuses some, and each row is answered once."""
    server = start(requests_per_minute=2400, max_in_flight=3, latency=0.01)
    bench = Bench(tmp_path, server, monkeypatch)
    texts = [f"t {i}" for i in range(600)]
    bench.write(texts)
    bench.run()
    bench.check(texts)
    assert set(bench.paid_for(texts)) == {1}
    assert server.requests > 60


def test_nobody_home_can_be_tried_again(bench):
    """A name without an address, and a port without a server: an outage, and nothing was asked."""
    bench.write(TEXTS)
    for host in ("http://127.0.0.1:9", "https://no-such-host.invalid:9200"):
        bench.connect(host, extra={"connect_timeout": 1})
        with pytest.raises(OutageError, match="nothing was asked yet"):
            bench.run()


@pytest.mark.parametrize("order", [["127.0.0.77", "127.0.0.1"], ["127.0.0.1", "127.0.0.77"]])
def test_a_dead_address_of_a_name_is_passed_over(bench, names, order):
    """A name with two addresses, one of which nobody answers at, is reached at the other: no request is lost on it."""
    names.answers["two.example"] = [order]
    bench.write(TEXTS)
    bench.connect(f"http://two.example:{bench.server.port}", extra={"allow_http": True})
    summary = bench.run()
    bench.check(TEXTS)
    assert summary["warnings"] == {}
    assert set(bench.paid_for(TEXTS)) == {1}


def test_a_service_that_moves_while_the_task_runs_is_found(tmp_path, start, names, monkeypatch):
    """The host dies, the name is a dead address for a while and then another host's: the run goes on there by itself."""
    old = start(host="127.0.0.5", latency=0.02)
    new = start(host="127.0.0.6", port=old.port)
    bench = Bench(tmp_path, old, monkeypatch)
    bench.connect(f"http://moving.example:{old.port}", extra={"allow_http": True})
    names.answers["moving.example"] = [[old.host]]
    bench.write(TEXTS)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(bench.run, batch_size=1, concurrency=4)
        while old.requests < 10 and not running.done():
            time.sleep(0.002)
        names.answers["moving.example"] = [["127.0.0.77"], [], [new.host]]
        old.stop()
        running.result(timeout=60)
    bench.check(TEXTS)
    paid = [one for server in (old, new) for answered in server.bill for one in answered.inputs]
    assert new.bill
    assert len(paid) - len(TEXTS) <= 4
    assert names.answers["moving.example"] == [[new.host]]


@pytest.mark.parametrize("status", [200, 503])
def test_a_login_page_at_the_start_is_told_apart(bench, status):
    """What answers is not Elasticsearch: the message says so, and nothing is paid."""
    bench.write(TEXTS)
    rule = Rule(act=HtmlPage(status=status, text="Hotel Wi-Fi"), match=Match(operation="get"))
    bench.server.play([rule])
    with pytest.raises((ModelStudioError, AirflowFailException)) as caught:
        bench.run()
    assert "nothing was asked yet" in str(caught.value)
    assert "html" in str(caught.value).lower()
    assert bench.server.bill == []


class Away:
    """Airflow's state store while its API server does not answer; whoever asks before the commit may find it back."""

    def __init__(self, back_at=math.inf):
        self.asked = []
        self._back_at = back_at

    def set(self, key, value):
        self.asked.append(key)
        if key == "progress" or self.asked.count("commit") < self._back_at:
            raise ConnectionError("the API server is away")


def test_a_state_store_that_is_away_stops_no_work(bench):
    """The API server may vanish: progress is then not shown, and everything else goes on to the commit, before which it is
    asked until it is back.
    """
    bench.write(TEXTS)
    store = Away(back_at=3)
    bench.run(context=context_of(task_state_store=store))
    bench.check(TEXTS)
    assert "progress" in store.asked
    assert store.asked.count("commit") == 3


class Impatient(EmbedOperator):
    """Takes half a minute for half a second."""

    def _options(self, context):
        options = super()._options(context)
        return replace(options, fence_pauses=[pause / 60 for pause in options.fence_pauses])


def impatient(bench):
    operator = bench.operator()
    operator.__class__ = Impatient
    return operator


def test_a_state_store_that_stays_away_costs_nothing(bench):
    """Nobody tells whether the try still counts: it commits nothing and can be tried again; all is kept, and the next try
    commits without asking the model.
    """
    bench.write(TEXTS)
    store = Away()
    with pytest.raises(OutageError, match="could not be asked whether this try still counts; nothing is lost"):
        impatient(bench).execute(context_of(task_state_store=store))
    assert store.asked.count("commit") == 6
    assert set(bench.paid_for(TEXTS)) == {1}
    assert not bench.destination.exists()
    assert not list(bench.state.glob("*/runs/*/manifest.json"))
    kept = {path: path.read_bytes() for path in bench.state.glob("*/*/*/*/*") if path.is_file()}
    kept |= {path: path.read_bytes() for path in bench.state.glob("*/journal/*")}
    with pytest.raises(OutageError):
        impatient(bench).execute(context_of(try_number=2, task_state_store=Away()))
    assert all(path.read_bytes() == content for path, content in kept.items())
    requests = bench.server.requests
    bench.run(context=context_of(try_number=3))
    assert bench.server.requests == requests
    bench.check(TEXTS)


def test_a_server_that_stops_for_good_keeps_what_was_paid(tmp_path, start, monkeypatch):
    """The server dies after twelve answers; when it is back, the next try asks for the rest."""
    first = start()
    bench = Bench(tmp_path, first, monkeypatch)
    texts = [f"row {i}" for i in range(12)]
    bench.write(texts)
    first.play([Rule(act=Refuse(error="404"), match=Match(nth=tuple(range(7, 50))))])
    with pytest.raises(AirflowFailException):
        bench.run(batch_size=1)
    paid = len(bench.paid())
    assert paid >= 6
    first.stop()
    with Sandbox(port=first.port, engine="hashed", dimensions=DIMENSIONS) as second:
        bench.run(batch_size=1)
        assert sum(one.count for one in second.bill) == 12 - paid
    bench.check(texts)
