"""Whether this environment has the oldest version of everything that the package allows. See ``make floor``."""

from __future__ import annotations

import sys
from importlib import metadata

from packaging.requirements import Requirement
from packaging.version import Version

PACKAGE = "airflow-provider-modelstudio"


def floors() -> dict[str, Version]:
    """The oldest version allowed of each dependency that is needed here."""
    needed = [Requirement(line) for line in metadata.requires(PACKAGE) or ()]
    return {
        one.name: Version(next(part.version for part in one.specifier if part.operator == ">="))
        for one in needed
        if one.marker is None or one.marker.evaluate({"extra": ""})
    }


def main() -> int:
    """Print what is not at its floor; the exit code."""
    higher = []
    for name, floor in floors().items():
        found = Version(metadata.version(name))
        if found.release[: len(floor.release)] != floor.release:
            higher.append(f"{name} {found} is installed, and pyproject.toml says >={floor}")
    sys.stdout.write("\n".join(higher or [f"all {len(floors())} dependencies are at their floor"]) + "\n")
    return bool(higher)


if __name__ == "__main__":
    sys.exit(main())
