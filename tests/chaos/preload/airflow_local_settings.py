"""Modules that every task would load by itself: loaded once by the scheduler, whose forks the task processes are.

Airflow loads this file by its name. On a busy machine it makes a try start in one second instead of ten.
"""

from __future__ import annotations

import importlib
import sys

__all__: list[str] = []

MODULES = (
    "boto3",
    "elasticsearch",
    "httptools",
    "numpy",
    "pyarrow.compute",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "s3fs",
)

if "scheduler" in sys.argv:
    for module in MODULES:
        importlib.import_module(module)
