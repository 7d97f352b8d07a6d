"""Which operation a method and a path name. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_modelstudio.sandbox.endpoints import ANY
from airflow_provider_modelstudio.sandbox.refusals import illegal_argument, simple

if TYPE_CHECKING:
    from airflow_provider_modelstudio.sandbox.http1 import Request

__all__ = ["Route", "duration", "flag", "route"]

_COMMON_PARAMETERS = frozenset({"pretty", "human", "error_trace", "format"})
_PARAMETERS = {
    "infer": frozenset({"timeout"}),
    "create": frozenset({"timeout"}),
    "update": frozenset({"timeout"}),
    "delete": frozenset({"dry_run", "force"}),
}
_ENDPOINT_OPERATIONS = {"GET": "get", "PUT": "create", "POST": "infer", "DELETE": "delete"}
_UNITS = {"nanos": 1e-9, "micros": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(nanos|micros|ms|s|m|h|d)", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class Route:
    """An operation and the endpoint it is about."""

    operation: str
    task_type: str = ANY
    inference_id: str = ""


def route(request: Request) -> Route:
    """The operation; raises the refusal of an unknown path, method or parameter."""
    path = request.segments
    methods: dict[str, Route]
    match path:
        case ():
            methods = {"GET": Route("root"), "HEAD": Route("root")}
        case ("_inference",):
            methods = {"GET": Route("get", inference_id="_all")}
        case ("_inference", inference_id, "_update"):
            methods = {"PUT": Route("update", ANY, inference_id)}
        case ("_inference", inference_id):
            methods = {method: Route(name, ANY, inference_id) for method, name in _ENDPOINT_OPERATIONS.items()}
        case ("_inference", task_type, inference_id):
            methods = {method: Route(name, task_type, inference_id) for method, name in _ENDPOINT_OPERATIONS.items()}
        case ("_inference", task_type, inference_id, "_update"):
            methods = {"PUT": Route("update", task_type, inference_id)}
        case _:
            raise simple(
                400,
                f"no handler found for uri [{request.target}] and method [{request.method}]",
                show_status=False,
            )
    found = methods.get(request.method)
    if found is None:
        raise simple(
            405,
            f"Incorrect HTTP method for uri [{request.target}] and method [{request.method}], allowed: [{', '.join(methods)}]",
            headers=(("Allow", ",".join(methods)),),
        )
    known = _COMMON_PARAMETERS | _PARAMETERS.get(found.operation, frozenset())
    if unknown := sorted(set(request.query) - known):
        noun = "parameter" if len(unknown) == 1 else "parameters"
        listed = ", ".join(f"[{name}]" for name in unknown)
        path_only = request.target.partition("?")[0]
        raise illegal_argument(f"request [{path_only}] contains unrecognized {noun}: {listed}")
    return found


def duration(value: str) -> float | None:
    """Seconds of a time value such as ``30s``; ``None`` for ``-1``, which is forever."""
    if value == "-1":
        return None
    found = _DURATION.fullmatch(value.strip())
    if found is None:
        raise illegal_argument(
            f"failed to parse setting [timeout] with value [{value}] as a time value: unit is missing or unrecognized"
        )
    return float(found[1]) * _UNITS[found[2].lower()]


def flag(value: str | None) -> bool:
    """A boolean parameter, which may stand without a value."""
    if value not in {None, "", "true", "false"}:
        raise illegal_argument(f"Failed to parse value [{value}] as only [true] or [false] are allowed.")
    return value in {"", "true"}
