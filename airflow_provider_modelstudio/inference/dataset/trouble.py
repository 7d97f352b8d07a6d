"""Whose fault is it that a file could not be read: its own, or that of whoever keeps it? Pure."""

from __future__ import annotations

import errno

import pyarrow as pa

from airflow_provider_modelstudio.inference.errors import InputChangedError, InputError, ModelStudioError, OutageError

from .schemas import first_line

__all__ = ["is_damage", "name_of", "refused"]


def is_damage(error: Exception) -> bool:
    """Whether the content of a file is to blame, so that reading it again cannot help.

    The Parquet library tells damage as an exception of its own, as an ``OSError`` without a number, and over names
    that are not UTF-8 as a ``ValueError``.
    It hands on what a file system raised as it is, and some of them raise such errors, too: who raised it decides.
    """
    if isinstance(error, pa.ArrowException):
        return True
    bare = type(error) is OSError and error.errno is None
    return (bare or isinstance(error, ValueError)) and _raised_by_pyarrow(error)


def _raised_by_pyarrow(error: Exception) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0] == "pyarrow"


def name_of(error: Exception) -> str:
    """What kind of trouble a store had. Its own words may hold addresses that are signed."""
    number = errno.errorcode.get(error.errno or 0) if isinstance(error, OSError) else None
    return f"{type(error).__name__} {number}" if number else type(error).__name__


def refused(path: str, error: Exception, damaged: str) -> ModelStudioError:
    """What to raise when a file of the source could not be read.

    :param damaged: what to say of damage, with ``{}`` for the words of the Parquet library.
    """
    match error:
        case ModelStudioError():
            return error
        case _ if is_damage(error):
            return InputError(f"{path}{damaged.format(first_line(error))}")
        case FileNotFoundError():
            return InputChangedError(f"{path} was removed while the task was reading it")
        case PermissionError():
            return InputError(
                f"{path} may not be read ({name_of(error)}); give the user or the connection that reads the source "
                "permission to read it"
            )
        case _:
            return OutageError(
                f"{path} cannot be read now ({name_of(error)}): its store or the way to it is in trouble; "
                "what was answered is kept, and the next try goes on from there"
            )
