"""Print the versions of poetry.lock as constraints for pip, so that an image gets the versions that were tested.

    python constraints.py poetry.lock > constraints.txt

If a package is locked separately for each Python version, the constraint is for the Python that runs this. Which extras
are installed is up to pip.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

from pip._vendor.packaging.markers import Marker  # pip's own copy: nothing else is installed yet


def constraints(lock: Path) -> list[str]:
    """Return `name==version` for each package of a lock file that applies to this Python."""
    packages = tomllib.loads(lock.read_text(encoding="utf-8"))["package"]
    return sorted({f"{package['name']}=={package['version']}" for package in packages if _applies(package)})


def _applies(package: dict[str, Any]) -> bool:
    markers = package.get("markers")
    of_groups = markers.values() if isinstance(markers, dict) else [markers]
    return any(marker is None or _holds(marker) for marker in of_groups)


def _holds(marker: str) -> bool:
    """Tell whether a marker holds if all its extras are chosen."""
    extras = re.findall(r"extra == \"([^\"]+)\"", marker) or [""]
    return any(Marker(marker).evaluate({"extra": extra}) for extra in extras)


if __name__ == "__main__":
    print("\n".join(constraints(Path(sys.argv[1]))))  # noqa: T201 - its output
