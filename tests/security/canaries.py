"""Secrets and rows that are easy to find again, ways to fail that throw them back, and all that can be seen of a run."""

from __future__ import annotations

import base64
import json
import re
import traceback
import urllib.parse
from dataclasses import dataclass, field
from types import SimpleNamespace

import pyarrow as pa
from airflow.sdk import DAG, Asset, task

from airflow_provider_modelstudio.operators.completion import CompletionOperator
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
    WrongLength,
)
from tests.faults.bench import ENDPOINTS, context_of

PASSWORD = 'pw-c4n"ary/k+y:\\ä ss'
MODEL_KEY = 'mk"0123/canary+0123456789 canary'
ROW = "Herr Müller, Kontonummer 4711-0815, schuldet uns etwas"
SIGNED = "https://images.example.com/4711-0815/3.png?Signature=c4nary-signature"
ROWS = 12


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
PRIVATE = {
    ROW,
    ROW[:30],
    "4711-0815",
    "c4nary-signature",
    json.dumps(ROW)[1:-1],
    repr(ROW.encode())[2:-1],
    base64.b64encode(ROW.encode()).decode()[:40],
}


@dataclass(frozen=True)
class Lane:
    """An operator, rows full of canaries, and what differs from one operator to the next."""

    make: type | str
    """The class; a text names a decorator instead."""
    table: pa.Table
    parameters: dict = field(default_factory=dict)
    output: str = "embedding"
    column: str = "input_column"
    """Parameter that names a column."""
    too_long: bool = True
    """Whether there is ``on_too_long``."""
    says_rows: bool = False
    """Whether answers repeat what was asked, as those of a language model do: then they are data, as the rows are."""
    thrown: str = f"{ROW} 3"
    """What the service throws back."""
    requests: int = ROWS
    """Of an undisturbed run."""

    @property
    def is_decorated(self):
        """Whether a function returns the rows."""
        return isinstance(self.make, str)

    @property
    def endpoint(self):
        """The inference endpoint that is asked."""
        kinds = {"modelstudio_embed": EmbedOperator, "modelstudio_completion": CompletionOperator}
        return ENDPOINTS[kinds[self.make] if self.is_decorated else self.make]

    def operator(self, bench, parameters):
        """The operator, from the rows to the destination of ``bench``."""
        given = {**self.parameters, **parameters}
        if not self.is_decorated:
            bench.write(self.table)
            return bench.operator(self.make, outlets=[Asset("out")], **given)
        if self.make == "modelstudio_embed":
            given = {"destination": str(bench.destination), **given}
        texts = self.table["text"].to_pylist()
        with DAG("dag", schedule=None):
            decorated = getattr(task, self.make)(
                task_id="ask", **{"inference_id": self.endpoint, "modelstudio_conn_id": bench.conn_id, **given}
            )
            return decorated(lambda: texts)().operator


TEXTS = [f"{ROW} {i}" for i in range(ROWS)]
TEXT = pa.table({"text": TEXTS})
SCHEMA = {"type": "object", "properties": {"who": {"type": "string"}, "owes": {"type": "integer"}}, "required": ["who"]}
LANES = {
    "embed": Lane(EmbedOperator, pa.table({"id": range(ROWS), "text": TEXTS}), requests=2),
    "embed apart": Lane(EmbedOperator, TEXT, {"on_row_error": "quarantine", "vector_type": "int8"}, requests=2),
    "sparse": Lane(SparseEmbedOperator, TEXT, output="sparse_embedding", requests=2),
    "rerank": Lane(
        RerankOperator,
        pa.table({"query": TEXTS, "documents": [[TEXTS[i], TEXTS[i - 1]] for i in range(ROWS)]}),
        output="reranked",
        column="documents_column",
        too_long=False,
    ),
    "flat rerank": Lane(
        RerankOperator,
        pa.table({"q": [i // 3 for i in range(ROWS)], "query": [TEXTS[i // 3 * 3] for i in range(ROWS)], "documents": TEXTS}),
        {"query_id_column": "q"},
        output="reranked",
        column="documents_column",
        too_long=False,
        requests=4,
    ),
    "completion": Lane(
        CompletionOperator, TEXT, {"prompt": "Wer schuldet was? {text}"}, output="completion", column="prompt", says_rows=True
    ),
    "completion with a schema": Lane(
        CompletionOperator,
        TEXT,
        {"prompt": "Wer schuldet was? {text}", "response_schema": SCHEMA},
        output="completion",
        column="prompt",
        says_rows=True,
    ),
    "multimodal": Lane(MultiModalEmbedOperator, TEXT, {"text_column": "text"}, column="text_column", too_long=False),
    "multimodal with addresses": Lane(
        MultiModalEmbedOperator,
        pa.table({"text": TEXTS, "image": [SIGNED.replace("3.png", f"{i}.png") for i in range(ROWS)]}),
        {"text_column": "text", "image_column": "image"},
        column="image_column",
        too_long=False,
        thrown=f"{ROW} 3 {SIGNED}",
    ),
    "decorated embed": Lane("modelstudio_embed", TEXT, requests=2),
    "decorated completion": Lane("modelstudio_completion", TEXT, says_rows=True, output="completion"),
}  # fmt: skip

FIRST = Match(first=2)
ALWAYS = Match()
ONE = Match(contains=f"{ROW} 3")


def elasticsearch(status, reason):
    """A refusal of Elasticsearch that says ``reason`` twice."""
    body = json.dumps({"error": {"type": "x_exception", "reason": reason, "caused_by": {"reason": reason}}})
    return Respond(status=status, body=body, headers={"X-elastic-product": "Elasticsearch"})


def echo(lane):
    """What the service says: a row and all secrets."""
    return f'refused "{lane.thrown}" of elastic:{PASSWORD} with {MODEL_KEY}'


def _wire(lane):
    """What the service or the way to it does: how, to which requests, with which parameters."""
    said = echo(lane)
    no_answer = json.dumps(dict.fromkeys(("text_embedding", "sparse_embedding", "rerank", "completion"), said))
    return {
        "echo in a 400": (elasticsearch(400, said), ONE, {}),
        "echo in a 400 that fails the task": (elasticsearch(400, said), ONE, {"on_row_error": "fail"}),
        "echo in a 401": (elasticsearch(401, said), ALWAYS, {}),
        "echo in a 404": (elasticsearch(404, said), ALWAYS, {}),
        "echo in a 405": (elasticsearch(405, said), ALWAYS, {}),
        "echo in a 413": (elasticsearch(413, said), ONE, {}),
        "echo in a 500": (elasticsearch(500, said), FIRST, {}),
        "echo of the model": (Refuse(error="invalid_parameter", message=said), ONE, {}),
        "echo of moderation": (Refuse(error="data_inspection", message=f"DataInspectionFailed: {said}"), ONE, {}),
        "echo of an account": (Refuse(error="overdue", message=f"PostpaidBillOverdue {said}"), ALWAYS, {}),
        "echo of throttling": (Refuse(error="throttled", message=said, retry_after=0.05), FIRST, {}),
        "echo of a key": (Refuse(error="upstream_401", message=said), ALWAYS, {}),
        "echo in a page": (HtmlPage(text=said), FIRST, {}),
        "echo in a page with 403": (HtmlPage(status=403, text=said), FIRST, {}),
        "echo in a redirect": (Redirect(location="https://example.com/?" + urllib.parse.quote(said)), ALWAYS, {}),
        "echo in a media type": (Respond(status=200, content_type="text/x-echo", body=said), FIRST, {}),
        "echo instead of an answer": (Respond(status=200, body=no_answer), FIRST, {}),
        "bytes after the end": (Garbage(text=said), FIRST, {}),
        "reset": (Reset(at="middle"), FIRST, {}),
        "cut": (Truncate(), FIRST, {}),
        "wrong length": (WrongLength(by=50), FIRST, {}),
        "no gzip": (BadGzip(), FIRST, {}),
        "endless": (Huge(size_bytes=64 << 20), ALWAYS, {}),
        "too few": (Distort(how="fewer"), FIRST, {}),
        "no value": (Distort(how="null"), ALWAYS, {}),
        "too many errors": (elasticsearch(400, said), ALWAYS, {"max_error_rate": 0.1}),
    }


def _parameters(lane):
    """What a Dag author does."""
    other = "bailian_embeddings" if "rerank" in lane.endpoint else "bailian_rerank"
    named = {
        "over a guard": {"max_rows": 1},
        "too long": {"max_tokens": 2} | ({"on_too_long": "fail"} if lane.too_long else {}),
        "no such endpoint": {"inference_id": "nobody"},
        "wrong type of endpoint": {"inference_id": other},
    }
    if lane.is_decorated:
        return named
    return (
        named
        | {
            "no such column": {lane.column: "{nobody}" if lane.column == "prompt" else "nobody"},
            "no such source": {"source": "/nowhere"},
        }
        | (
            {}
            if "query_id_column" in lane.parameters
            else {"a column is there": {"output_column": lane.table.column_names[-1]}}
        )
    )


QUIET = {"success": {}, "dry run": {"dry_run": True}}


def failures(lane):
    """Name → (rule or ``None``, parameters) of all ways in which ``lane`` fails."""
    wire = {
        name: (Rule(act=act, match=match), given)
        for name, (act, match, given) in _wire(lane).items()
        # Each prompt of the decorated form has its place in the list of answers, so it fails the task as it is.
        if not (lane.is_decorated and lane.says_rows and given)
    }
    return wire | {name: (None, given) for name, given in _parameters(lane).items()}


def everything_shown(error):
    """All that a log could show of an exception and of all it is chained to, also what it was raised ``from None`` of."""
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


class Outlets:
    """Events of assets, each made when it is asked for."""

    def __init__(self):
        self.made = []

    def __getitem__(self, outlet):
        self.made.append(SimpleNamespace(extra=None))
        return self.made[-1]


@dataclass(frozen=True)
class Sight:
    """What can be seen of a run but the dataset itself."""

    result: object
    """For XCom; ``None`` when there was none, or when it is the answers themselves."""
    error: BaseException | None
    store: Store
    outlets: Outlets
    operator: object
    files: dict
    """Path → content of all files of state that are no place for rows."""

    def records(self):
        """Everything that is handed to Airflow or written down about a run: where → what."""
        yield "result", self.result
        yield "store", self.store.values
        yield "outlets", [event.extra for event in self.outlets.made]
        for path, content in self.files.items():
            if content and path.suffix not in {".seg", ".bin"}:
                yield str(path), json.loads(content)

    def texts(self):
        """Where something stands → what stands there."""
        if self.error is not None:
            for number, text in enumerate(everything_shown(self.error)):
                yield f"exception {number}", text
        for where, value in (("result", self.result), ("store", self.store.values)):
            yield where, repr(value)
            yield f"{where} as JSON", json.dumps(value)
        yield "outlets", repr(self.outlets.made)
        yield "operator", repr(self.operator)
        rendered = {name: getattr(self.operator, name) for name in self.operator.template_fields}
        # The function of a decorated form is a rendered field, and the rows are what it holds.
        yield "rendered fields", repr({name: value for name, value in rendered.items() if not name.startswith("op_")})
        for path, content in self.files.items():
            yield "path", str(path)
            for encoding in ("utf-8", "utf-16-le"):
                yield path.name, content.decode(encoding, "replace")


REASONS = {"errors", "warnings", "oddities"}
"""Members whose keys are the service's words, as far as they may be kept."""
_NAME = re.compile(r"[\w./:=+@-]{0,400}")


def free_texts(value, name=""):
    """Texts in a record that are neither a name, a path, a digest nor a number, and reasons that are too long for one."""
    if isinstance(value, dict):
        for key, one in value.items():
            if name in REASONS:
                fits = len(key) <= 300 and "\n" not in key and isinstance(one, int)  # the longest of our own sentences
            else:
                fits = _NAME.fullmatch(key)
            if not fits:
                yield key
            yield from free_texts(one, key)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from free_texts(one, name)
    elif isinstance(value, str):
        if not _NAME.fullmatch(value):
            yield value
    elif not (value is None or isinstance(value, int | float)):
        yield repr(value)


def look(bench, operator, *, says_rows=False):
    """Run it, and see."""
    store, outlets, result, error = Store(), Outlets(), None, None
    try:
        result = operator.execute(context_of(task_state_store=store) | {"outlet_events": outlets})
    except Exception as caught:  # noqa: BLE001  # whatever comes is looked at
        error = caught
    if says_rows and isinstance(result, list):
        result = None
    files = {}
    for path in sorted(bench.state.rglob("*")):
        is_data = path.suffix == ".parquet" or (path.suffix == ".seg" and says_rows)
        files[path] = b"" if path.is_dir() or is_data else path.read_bytes()
    return Sight(result, error, store, outlets, operator, files)


def shown_of(texts, hidden):
    """Where one of the hidden stands, with what is around it, for a test to say."""
    return [
        (where, one, text[max(0, text.index(one) - 60) :][:200])
        for where, text in texts
        for one in hidden
        if one in text
    ]
