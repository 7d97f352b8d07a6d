"""A source, a destination, a server with faults, and one way to run any operator over them."""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_provider_modelstudio.operators.completion import CompletionOperator
from airflow_provider_modelstudio.operators.multi_modal_embedding import MultiModalEmbedOperator
from airflow_provider_modelstudio.operators.rerank import RerankOperator
from airflow_provider_modelstudio.operators.sparse_embedding import SparseEmbedOperator
from airflow_provider_modelstudio.operators.text_embedding import EmbedOperator
from airflow_provider_modelstudio.sandbox.engines.hashed import HashedEngine
from airflow_provider_modelstudio.sandbox.ledger import fingerprint

DIMENSIONS = 8
ENGINE = HashedEngine(DIMENSIONS)
ENDPOINTS = {
    EmbedOperator: "bailian_embeddings",
    SparseEmbedOperator: "bailian_sparse_emb",
    RerankOperator: "bailian_rerank",
    CompletionOperator: "bailian_deepseek",
    MultiModalEmbedOperator: "bailian_mm",
}


def vector(text):
    """The vector that belongs to a text, from the model itself."""
    return ENGINE.embed([text], query=False)[0].tolist()


def context_of(run_id="run", try_number=1, **more):
    """The context of a task instance, as far as an operator looks at it."""
    ti = SimpleNamespace(dag_id="dag", run_id=run_id, task_id="ask", map_index=-1, try_number=try_number)
    return {"ti": ti, "outlet_events": {}, **more}


class Bench:
    """Rows in, an operator, rows out."""

    def __init__(self, folder, server, monkeypatch, conn_id="modelstudio_default", **fields):
        self.folder = folder
        self.server = server
        self.source = folder / "in.parquet"
        self.destination = folder / "out"
        self.state = folder / "_out.inference"
        self.conn_id = conn_id
        self._monkeypatch = monkeypatch
        self.connect(server.url, **fields)

    def connect(self, host, **fields):
        """Set the connection that operators use."""
        said = {"conn_type": "modelstudio", "host": host, **fields}
        self._monkeypatch.setenv(f"AIRFLOW_CONN_{self.conn_id.upper()}", json.dumps(said))

    def write(self, rows, name="in.parquet", **options):
        """Texts, or a table, as a file of the source."""
        table = rows if isinstance(rows, pa.Table) else pa.table({"id": range(len(rows)), "text": rows})
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, **options)
        return path

    def operator(self, operator_class=EmbedOperator, **parameters):
        """An operator from the source to the destination."""
        given = {
            "inference_id": ENDPOINTS[operator_class],
            "source": str(self.source),
            "destination": str(self.destination),
            "modelstudio_conn_id": self.conn_id,
            **parameters,
        }
        return operator_class(task_id="ask", **given)

    def run(self, operator_class=EmbedOperator, context=None, **parameters):
        """One try; returns the summary."""
        return self.operator(operator_class, **parameters).execute(context or context_of())

    def table(self):
        """The dataset as readers see it."""
        return pq.read_table(self.destination, partitioning=None)

    def rows(self):
        """The dataset as rows."""
        return self.table().to_pylist()

    def check(self, texts, reasons=None):
        """Each text is there once, in order, beside its own vector, or beside a reason."""
        reasons = reasons or {}
        rows = self.rows()
        assert [row["text"] for row in rows] == list(texts)
        for row in rows:
            if row["text"] in reasons:
                assert row["embedding"] is None
                assert reasons[row["text"]] in row["embedding_error"]
            else:
                assert row["embedding"] == vector(row["text"])
                assert row["embedding_error"] is None

    def paid(self):
        """Fingerprint → how often it was answered, whether or not the answer arrived."""
        return Counter(one for paid in self.server.bill for one in paid.inputs)

    def paid_for(self, texts):
        """How often each of the texts was answered."""
        paid = self.paid()
        return [paid[fingerprint(text)] for text in texts]
