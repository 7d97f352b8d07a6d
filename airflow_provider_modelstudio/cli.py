"""``airflow modelstudio …``. Every ``airflow`` command imports this, so that it imports little."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from airflow.cli.cli_config import ARG_VERBOSE, ActionCommand, Arg, GroupCommand, lazy_load_command
from airflow.utils.cli import suppress_logs_and_warning

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterable, Mapping, Sequence

    from airflow.cli.cli_config import CLICommand

    from airflow_provider_modelstudio.catalog import Catalog, Price

__all__ = ["get_cli_commands", "models", "side_by_side"]


def _arg(*flags: str, **options: Any) -> Arg:
    return Arg(flags, **options)  # type: ignore[no-untyped-call]  # Airflow's, without annotations


_CONN_ID = _arg(
    "--conn-id",
    default="modelstudio_default",
    help="connection of type modelstudio; its cluster is asked for its endpoints, which is free",
)
_CATALOG_ONLY = _arg("--catalog-only", action="store_true", help="ask no cluster")
_TASK_TYPE = _arg("--task-type", help="only this one, for example text_embedding")
_OUTPUT = _arg(
    "-o", "--output", choices=("table", "json", "yaml"), default="table", help="form of the list (default: table)"
)

_NOT_THERE = ""
_DENSE = frozenset({"text_embedding", "multi_modal_embedding"})
"""Task types whose answers have a length."""


def get_cli_commands() -> list[CLICommand]:
    """The group of commands, for Airflow."""
    return [
        GroupCommand(
            name="modelstudio",
            help="Models of Alibaba Cloud Model Studio",
            subcommands=(
                ActionCommand(
                    name="models",
                    help="List the models of the catalog beside the inference endpoints of a cluster",
                    description=(
                        "List the models of the catalog beside the inference endpoints of a cluster. "
                        "An endpoint belongs to a model when its name or its settings say so. "
                        "Example: airflow modelstudio models --conn-id modelstudio_default --output json"
                    ),
                    func=lazy_load_command(f"{__name__}.models"),
                    args=(_CONN_ID, _TASK_TYPE, _CATALOG_ONLY, _OUTPUT, ARG_VERBOSE),
                ),
            ),
        )
    ]


@suppress_logs_and_warning
def models(args: Namespace) -> None:
    """Print the list. Ends with status 1 and a sentence when the cluster cannot be asked."""
    # Here, so that other commands do not wait for these imports.
    from airflow.cli.simple_table import AirflowConsole  # noqa: PLC0415 - see above

    from airflow_provider_modelstudio.catalog import Catalog  # noqa: PLC0415 - see above
    from airflow_provider_modelstudio.hooks.modelstudio import ModelStudioHook  # noqa: PLC0415 - see above
    from airflow_provider_modelstudio.inference.errors import ModelStudioError  # noqa: PLC0415 - see above

    # As Airflow's own commands do it: connections come from the database, too.
    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"
    catalog, endpoints = Catalog.read(), list[dict[str, Any]]()
    if not args.catalog_only:
        try:
            hook = ModelStudioHook(args.conn_id)
            catalog, endpoints = hook.catalog, hook.list_endpoints()
        except ModelStudioError as error:
            raise SystemExit(
                f"{error}\nGive a connection of type modelstudio with --conn-id, or --catalog-only to ask no cluster."
            ) from None
    rows = side_by_side(catalog, endpoints, task_type=args.task_type)
    if not rows:
        raise SystemExit(f"There is no model and no endpoint for task type {args.task_type!r}.")
    AirflowConsole().print_as(data=rows, output=args.output)


def side_by_side(
    catalog: Catalog, endpoints: Sequence[Mapping[str, Any]], *, task_type: str | None = None
) -> list[dict[str, str]]:
    """A row for each model and task type with the endpoints for it, then one for each endpoint of no known model."""
    rows: list[dict[str, str]] = []
    left = [one for one in endpoints if task_type in {None, one.get("task_type")}]
    for name in catalog.names():
        model = catalog.get(name)
        for kind in model.task_types if model else ():
            if model is None or task_type not in {None, kind}:
                continue
            here = [one for one in left if one.get("task_type") == kind and _is_of(one, name, catalog)]
            left = [one for one in left if one not in here]
            rows.append(
                {
                    "model": name,
                    "task_type": kind,
                    "dimensions": str(model.default_dimensions or _NOT_THERE) if kind in _DENSE else _NOT_THERE,
                    "prices": ", ".join(_price(region, price) for region, price in model.prices.items()),
                    "status": model.status,
                    "inference_id": _joined(here, "inference_id"),
                    "service": _joined(here, "service"),
                }
            )
    rows += [
        {
            "model": _NOT_THERE,
            "task_type": str(one.get("task_type")),
            "dimensions": str(_settings(one).get("dimensions", _NOT_THERE)),
            "prices": _NOT_THERE,
            "status": "not in the catalog",
            "inference_id": str(one.get("inference_id")),
            "service": str(one.get("service")),
        }
        for one in left
    ]
    return rows


def _price(region: str, price: Price) -> str:
    media = "" if price.media_per_million is None else f", images and videos {price.media_per_million:g}"
    answers = "" if price.output_per_million is None else f", answers {price.output_per_million:g}"
    return f"{price.per_million:g} {price.currency}/1M{media}{answers} ({region})"


def _is_of(endpoint: Mapping[str, Any], model: str, catalog: Catalog) -> bool:
    """Whether an endpoint is for this model and not for one whose name begins the same way."""
    settings = _settings(endpoint)
    told = {settings.get("model_id"), settings.get("model")} & set(catalog.names())
    if told:
        return model in told
    asked = f'"model":"{model}"'
    texts = [text.replace(" ", "").replace("\n", "") for text in _texts(settings)]
    if any('"model":"' in text for text in texts):
        return any(asked in text for text in texts)
    return endpoint.get("inference_id") == model.lower()


def _settings(endpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    settings = endpoint.get("service_settings")
    return settings if isinstance(settings, dict) else {}


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _texts(one)


def _joined(endpoints: Sequence[Mapping[str, Any]], name: str) -> str:
    return ", ".join(dict.fromkeys(str(one.get(name)) for one in endpoints))
