"""Whether the tests that a table names are there."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


@cache
def tests_in(path):
    """Names of the tests in a file, with their class; ``-`` before those that are skipped as open."""
    names = set()
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    for node in tree.body:
        below = node.body if isinstance(node, ast.ClassDef) else [node]
        for one in below:
            if isinstance(one, ast.FunctionDef) and one.name.startswith("test"):
                name = one.name if one is node else f"{node.name}::{one.name}"
                marks = " ".join(ast.unparse(mark) for mark in one.decorator_list)
                names.add(f"-{name}" if "mark.skip(" in marks else name)
    return names


def missing(nodes):
    """Nodes (``path::test``) that are no test that runs."""
    return [node for node in nodes if node.partition("::")[2] not in tests_in(node.partition("::")[0])]


def skipped(folder):
    """Nodes of a folder of tests that are skipped as open."""
    paths = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / folder).glob("test_*.py"))
    return {f"{path}::{name[1:]}" for path in paths for name in tests_in(path) if name.startswith("-")}
