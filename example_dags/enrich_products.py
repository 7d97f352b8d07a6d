"""Make columns of what product descriptions say: a language model fills in a form, described by a JSON Schema.

- **products** takes the table of products that you name, or makes a small one
- **enrich** asks an inference endpoint for each product that is new or has changed since the last run; each property of
  the schema becomes a column of its type, and the model's own words stay beside them
- **review** says how many products there are of each kind, and how many rows a person should look at

It needs a connection `modelstudio_default` and an inference endpoint `bailian_deepseek`.
An answer that does not fit the schema is asked for once more; if that does not fit either, the row keeps the text, its
columns are null, and `completion_error` says which property broke which rule.
Trigger the Dag with `errors_only` to ask again for those rows alone, and with `dry_run` to see what a run would need.

A table of your own has a column `title` and a column `description`, and none that is called like a property below.
The data lies in `$ENRICH_PRODUCTS_FOLDER`, or else in `$AIRFLOW_HOME/enrich_products`; all workers must see that folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from airflow.sdk import Param, dag, task

from airflow_provider_modelstudio.operators.completion import CompletionOperator

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER = Path(
    os.environ.get("ENRICH_PRODUCTS_FOLDER") or Path(os.environ.get("AIRFLOW_HOME", "~/airflow"), "enrich_products")
)
PRODUCTS = FOLDER.expanduser().absolute() / "products.parquet"
ENRICHED = PRODUCTS.with_name("enriched")

RESPONSE_SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["lamp", "chair", "table", "other"], "description": "what the product is"},
        "colours": {
            "type": "array",
            "items": {"enum": ["black", "blue", "brown", "green", "red", "white", "yellow"]},
            "description": "colours that the product comes in",
        },
        "price": {"type": "number", "minimum": 0, "description": "price in euros"},
        "weight_kg": {"type": ["number", "null"], "minimum": 0, "description": "weight in kilograms, null if not told"},
        "outdoors": {"type": "boolean", "description": "made for outdoors, such as the garden"},
    },
    "required": ["kind", "colours", "price", "weight_kg", "outdoors"],
    "additionalProperties": False,
}
"""What is asked of each product. Say in `description` what you would tell a person who fills in the form."""
MADE_UP = [
    ("Harbour lamp", "A lamp of brass with a blue shade. The price is 49.50 euros, the weight 2 kg."),
    ("Kitchen chair", "A chair of beech, in white or red. Price 79 euros, weight 4.5 kg."),
    ("Garden table", "A round table for the garden, in green. Price 199 euros, weight 21 kg."),
    ("Reading lamp", "A small lamp for the bedside, black. Price 25 euros."),
    ("Folding chair", "A chair in yellow that folds flat, for outdoors. Price 32.90 euros, weight 3 kg."),
    ("Writing table", "A brown table with two drawers. Price 340 euros, weight 28 kg."),
]


@dag(
    schedule=None,
    max_active_runs=1,  # two would write the same files
    default_args={"retries": 2},
    params={
        "source": Param(None, type=["null", "string"], description="Your table of products; a small one, if not given"),
        "errors_only": Param(default=False, type="boolean", description="Ask again only for rows with a reason"),
        "dry_run": Param(default=False, type="boolean", description="Ask nothing, say what a run would need"),
    },
    doc_md=__doc__,
    tags=["modelstudio", "example"],
)
def enrich_products() -> None:
    """The three tasks."""

    @task
    def products(params: Mapping[str, Any]) -> str:
        """The path of the table."""
        if params["source"] is not None:
            return params["source"]
        if not PRODUCTS.exists():  # writing it anew would make it another table
            PRODUCTS.parent.mkdir(parents=True, exist_ok=True)
            rows = [
                {"sku": f"P{number:03d}", "title": title, "description": told}
                for number, (title, told) in enumerate(MADE_UP)
            ]
            pq.write_table(pa.Table.from_pylist(rows), PRODUCTS)
        return str(PRODUCTS)

    enrich = CompletionOperator(
        task_id="enrich",
        inference_id="bailian_deepseek",
        source=products(),
        destination=str(ENRICHED),
        system="You fill in a form about a product from what its description says. What it does not say you do not invent.",
        prompt="{title}. {description}",
        response_schema=RESPONSE_SCHEMA,
        deterministic=True,  # products with equal texts are asked once
        errors_only="{{ params.errors_only }}",
        dry_run="{{ params.dry_run }}",
    )

    @task
    def review(summary: Mapping[str, Any]) -> dict[str, Any]:
        """Counts for a person: products of each kind, and rows that need a look."""
        if "dry_run" in summary:
            return dict(summary)
        table = ds.dataset(ENRICHED, format="parquet").to_table(columns=["kind", "completion_error"])
        kinds = {one["values"]: one["counts"] for one in table["kind"].drop_null().value_counts().to_pylist()}
        return {"rows": len(table), "kinds": kinds, "to_look_at": len(table) - table["completion_error"].null_count}

    review(enrich.output)


enrich_products()
