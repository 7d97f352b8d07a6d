"""No secret and no text of a row leaves by a log, an exception, a result, a rendered field or a file of state.

A canary stands in every row and in every secret, and the service throws both back in its refusals.
"""

from __future__ import annotations

import base64
import json
import logging
import traceback
import urllib.parse

import pyarrow as pa
import pytest

from airflow_provider_modelstudio.operators.completion import CompletionOperator
from airflow_provider_modelstudio.operators.model import CreateModelOperator
from airflow_provider_modelstudio.operators.multi_modal_embedding import MultiModalEmbedOperator
from airflow_provider_modelstudio.operators.rerank import RerankOperator
from airflow_provider_modelstudio.operators.sparse_embedding import SparseEmbedOperator
from airflow_provider_modelstudio.operators.text_embedding import EmbedOperator
from airflow_provider_modelstudio.sandbox.faults import (
    BadGzip,
    Distort,
    Garbage,
    HtmlPage,
    Huge,
    Match,
    Redirect,
    Refuse,
    Reset,
    Respond,
    Rule,
    Truncate,
)
from tests.faults.bench import Bench, context_of

PASSWORD = 'pw-c4n"ary/k+y:\\ä ss'
MODEL_KEY = "sk-0123456789canary0123456789"
ROW = "Herr Müller, Kontonummer 4711-0815, schuldet uns etwas"
ECHO = f'refused "{ROW} 3" of elastic:{PASSWORD} with {MODEL_KEY}'


def shapes(secret):
    """Seven spellings of a secret."""
    return {
        secret,
        base64.b64encode(secret.encode()).decode(),
        base64.b64encode(f"elastic:{secret}".encode()).decode(),
        urllib.parse.quote(secret, safe=""),
        urllib.parse.quote_plus(secret),
        json.dumps(secret)[1:-1],
        repr(secret)[1:-1],
    }


SECRETS = shapes(PASSWORD) | shapes(MODEL_KEY)
PRIVATE = {ROW, ROW[:30], "4711-0815", json.dumps(ROW)[1:-1], base64.b64encode(ROW.encode()).decode()[:40]}

FIRST = Match(first=2)
ALWAYS = Match()
ONE = Match(contains=f"{ROW} 3")


def elasticsearch(status, reason):
    body = json.dumps({"error": {"type": "x_exception", "reason": reason, "caused_by": {"reason": reason}}})
    return Respond(status=status, body=body, headers={"X-elastic-product": "Elasticsearch"})


FAILURES = {
    "success": (None, {}),
    "dry run": (None, {"dry_run": True}),
    "echo in a 400": (Rule(act=elasticsearch(400, ECHO), match=ONE), {}),
    "echo in a 400 that fails the task": (Rule(act=elasticsearch(400, ECHO), match=ONE), {"on_row_error": "fail"}),
    "echo in a 401": (Rule(act=elasticsearch(401, ECHO), match=ALWAYS), {}),
    "echo in a 404": (Rule(act=elasticsearch(404, ECHO), match=ALWAYS), {}),
    "echo in a 405": (Rule(act=elasticsearch(405, ECHO), match=ALWAYS), {}),
    "echo in a 500": (Rule(act=elasticsearch(500, ECHO), match=FIRST), {}),
    "echo of the model": (Rule(act=Refuse(error="invalid_parameter", message=ECHO), match=ONE), {}),
    "echo of moderation": (Rule(act=Refuse(error="data_inspection", message=f"DataInspectionFailed: {ECHO}"), match=ONE), {}),
    "echo of an account": (Rule(act=Refuse(error="overdue", message=f"PostpaidBillOverdue {ECHO}"), match=ALWAYS), {}),
    "echo of throttling": (Rule(act=Refuse(error="throttled", message=ECHO, retry_after=0.05), match=FIRST), {}),
    "echo of a key": (Rule(act=Refuse(error="upstream_401", message=ECHO), match=ALWAYS), {}),
    "echo in a page": (Rule(act=HtmlPage(text=ECHO), match=FIRST), {}),
    "echo in a page with 403": (Rule(act=HtmlPage(status=403, text=ECHO), match=FIRST), {}),
    "echo in a redirect": (
        Rule(act=Redirect(location="https://example.com/?" + urllib.parse.quote(ECHO)), match=ALWAYS),
        {},
    ),
    "echo in a media type": (Rule(act=Respond(status=200, content_type="text/x-echo", body=ECHO), match=FIRST), {}),
    "echo instead of an answer": (Rule(act=Respond(status=200, body=json.dumps({"text_embedding": ECHO})), match=FIRST), {}),
    "bytes after the end": (Rule(act=Garbage(text=ECHO), match=FIRST), {}),
    "reset": (Rule(act=Reset(at="middle"), match=FIRST), {}),
    "cut": (Rule(act=Truncate(), match=FIRST), {}),
    "no gzip": (Rule(act=BadGzip(), match=FIRST), {}),
    "endless": (Rule(act=Huge(size_bytes=64 << 20), match=ALWAYS), {}),
    "too few": (Rule(act=Distort(how="fewer"), match=FIRST), {}),
    "no number": (Rule(act=Distort(how="string"), match=ALWAYS), {}),
    "too many errors": (Rule(act=elasticsearch(400, ECHO), match=ALWAYS), {"max_error_rate": 0.1}),
    "over a guard": (None, {"max_rows": 1}),
    "too long": (None, {"max_tokens": 2, "on_too_long": "fail"}),
    "no such column": (None, {"input_column": "txt"}),
    "no such endpoint": (None, {"inference_id": "nobody"}),
    "no such source": (None, {"source": "/nowhere"}),
    "wrong type of endpoint": (None, {"inference_id": "bailian_rerank"}),
}  # fmt: skip


def everything_shown(error):
    """All that a log could show of an exception and of all it is chained to."""
    left, seen = [error], set()
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield from (str(one), repr(one), repr(one.args), repr(vars(one)))
        left += [one.__cause__, one.__context__]
    yield "".join(traceback.format_exception(error))


class Store:
    """Where progress is shown."""

    def __init__(self):
        self.values = {}

    def get(self, key):
        return self.values.get(key)

    def set(self, key, value):
        self.values[key] = value


@pytest.fixture
def guarded(tmp_path, start, monkeypatch):
    """A bench whose connection is full of canaries."""
    server = start(user="elastic", password=PASSWORD)
    extra = {"model_studio_api_key": MODEL_KEY, "region": "cn-shanghai"}
    return Bench(tmp_path, server, monkeypatch, login="elastic", password=PASSWORD, extra=extra)


@pytest.fixture
def logs(caplog):
    """Everything that any logger says, at DEBUG, the client's own included."""
    names = (
        "",
        "elastic_transport.node",
        "elastic_transport.transport",
        "elasticsearch",
        "airflow_provider_modelstudio",
    )
    for name in names:
        caplog.set_level(logging.DEBUG, name)
    node = logging.getLogger("elastic_transport.node")
    node.addHandler(caplog.handler)
    yield lambda: caplog.text + "".join(repr(vars(record)) for record in caplog.records)
    node.removeHandler(caplog.handler)


def run_and_look(bench, logs, capfd, operator_class, parameters):
    """Run it, and return all that could be seen of it but the dataset itself."""
    store = Store()
    operator = bench.operator(operator_class, **parameters)
    shown = []
    try:
        shown.append(json.dumps(operator.execute(context_of(task_state_store=store))))
    except Exception as error:  # noqa: BLE001  # whatever comes is looked at
        shown += everything_shown(error)
    shown += [logs(), *capfd.readouterr(), repr(store.values), repr(operator)]
    shown += [repr({name: getattr(operator, name) for name in operator.template_fields})]
    for path in bench.state.rglob("*"):
        shown.append(str(path))
        # The journal holds answers, and the stand-in for a language model answers with pieces of what it was told.
        answers = path.suffix == ".parquet" or (path.suffix == ".seg" and operator_class is CompletionOperator)
        if path.is_file() and not answers:
            content = path.read_bytes()
            shown += [content.decode("utf-8", "replace"), content.decode("utf-16-le", "replace")]
    return shown


def assert_nothing_shown(shown, hidden):
    for text in shown:
        for one in hidden:
            assert one not in text


@pytest.mark.parametrize("name", FAILURES)
def test_nothing_is_shown_whatever_fails(guarded, logs, capfd, name):
    """Through success and thirty failures: no secret in seven shapes, no text of a row, anywhere but in the dataset."""
    rule, parameters = FAILURES[name]
    guarded.write([f"{ROW} {i}" for i in range(12)])
    guarded.server.play([rule] if rule else [])
    shown = run_and_look(guarded, logs, capfd, EmbedOperator, parameters)
    assert len("".join(shown)) > 500
    assert_nothing_shown(shown, SECRETS | PRIVATE)
    if guarded.destination.exists():
        assert_nothing_shown([str(row["embedding_error"]) for row in guarded.rows()], SECRETS | PRIVATE)


OTHERS = {
    "sparse": (SparseEmbedOperator, {}),
    "rerank": (RerankOperator, {}),
    "completion": (CompletionOperator, {"prompt": "Wer schuldet was? {text}"}),
    "multimodal": (MultiModalEmbedOperator, {"text_column": "text"}),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize(
    "rule",
    [
        None,
        Rule(act=elasticsearch(400, ECHO), match=ONE),
        Rule(act=HtmlPage(status=403, text=ECHO), match=FIRST),
        Rule(act=Distort(how="null"), match=ONE),
    ],
)
def test_nothing_is_shown_by_the_other_operators(guarded, logs, capfd, name, rule):
    """The same for sparse vectors, rankings, completions and multimodal vectors, which keep what was answered to themselves."""
    operator_class, parameters = OTHERS[name]
    texts = [f"{ROW} {i}" for i in range(5)]
    guarded.write(pa.table({"text": texts, "query": texts, "documents": [texts] * 5}))
    guarded.server.play([rule] if rule else [])
    shown = run_and_look(guarded, logs, capfd, operator_class, parameters)
    assert_nothing_shown(shown, SECRETS | PRIVATE)


def make_endpoints(bench, logs, capfd):
    """Make one endpoint, refused or not, and return all that could be seen of it."""
    for number, act in enumerate((None, Refuse(error="key_refused_at_creation"), elasticsearch(400, ECHO))):
        bench.server.play([Rule(act=act, match=Match(operation="create"))] if act else [])
        operator = CreateModelOperator(
            task_id="make",
            mode="manual",
            model="text-embedding-v4",
            inference_id=f"new-{number}",
            modelstudio_conn_id=bench.conn_id,
        )
        shown = []
        try:
            shown.append(json.dumps(operator.execute(context_of())))
        except Exception as error:  # noqa: BLE001  # whatever comes is looked at
            shown += everything_shown(error)
        shown += [logs(), *capfd.readouterr(), repr([getattr(operator, name) for name in operator.template_fields])]
        yield shown


def test_nothing_is_shown_by_making_endpoints(tmp_path, start, monkeypatch, logs, capfd):
    """The key of Model Studio goes to Elasticsearch and nowhere else, refused or not."""
    password = PASSWORD.replace("ä", "a")
    server = start(user="elastic", password=password)
    extra = {"model_studio_api_key": MODEL_KEY, "region": "cn-shanghai"}
    bench = Bench(tmp_path, server, monkeypatch, login="elastic", password=password, extra=extra)
    for shown in make_endpoints(bench, logs, capfd):
        assert_nothing_shown(shown, shapes(password) | shapes(MODEL_KEY))
    assert [call.operation for call in server.calls].count("create") == 3
    assert "endpoint_body" not in CreateModelOperator.template_fields


def test_nothing_is_shown_of_a_password_that_is_not_ascii(guarded, logs, capfd):
    """The same for a password with an umlaut, which the transport sends and the client does not."""
    for shown in make_endpoints(guarded, logs, capfd):
        assert_nothing_shown(shown, SECRETS)
    assert [call.operation for call in guarded.server.calls].count("create") == 3


@pytest.mark.parametrize("before", range(164, 170))
def test_no_half_of_a_row_is_quoted(guarded, logs, capfd, before):
    """A reason is cut after the row is taken out of it: what is left of an echo is an echo."""
    guarded.write(["X-99-KZ", "another row"])
    rule = Rule(act=elasticsearch(400, "w" * before + " X-99-KZ end"), match=Match(contains="X-99-KZ"))
    guarded.server.play([rule])
    shown = run_and_look(guarded, logs, capfd, EmbedOperator, {})
    assert_nothing_shown(shown, {"X-99"})


def test_a_short_row_is_not_quoted(guarded, logs, capfd):
    """A row of seven characters that the service throws back is in no reason either."""
    guarded.write(["X-99-KZ", *(f"{ROW} {i}" for i in range(5))])
    guarded.server.play([Rule(act=elasticsearch(400, "odd input X-99-KZ here"), match=Match(contains="X-99-KZ"))])
    shown = run_and_look(guarded, logs, capfd, EmbedOperator, {})
    assert_nothing_shown(shown, {"X-99-KZ"})
    assert "odd input" in guarded.rows()[0]["embedding_error"]


def test_a_value_that_cannot_be_carried_is_not_quoted(guarded, logs, capfd):
    """A column that does not fit another file's type: the message has names and types, and no value."""
    guarded.write(pa.table({"text": [ROW], "x": pa.array([471108151234567890], pa.timestamp("us"))}), "in/a.parquet")
    guarded.write(pa.table({"text": [ROW], "x": pa.array([1], pa.timestamp("ns"))}), "in/b.parquet")
    shown = run_and_look(guarded, logs, capfd, EmbedOperator, {"source": str(guarded.folder / "in")})
    assert_nothing_shown(shown, SECRETS | PRIVATE | {"471108151234567890"})


def test_a_result_holds_counts_and_names(guarded):
    """Each value of the result and of the progress is a number, a flag, or one of the few texts that are known."""
    guarded.write([f"{ROW} {i}" for i in range(12)])
    store = Store()
    summary = guarded.run(context=context_of(task_state_store=store))
    known = {"destination", "manifest", "currency", "limited_by"}
    for record in (summary, store.values["progress"]):
        for name, value in record.items():
            if name in {"errors", "warnings"}:
                assert value == {}
            elif name not in known:
                assert value is None or isinstance(value, int | float)
