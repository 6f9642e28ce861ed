"""Read the summary that a run wrote next to its output, within limits: anyone may write to a shared folder."""

from __future__ import annotations

from typing import Any

from ..bounded_json import parse_json
from ..formats import open_bytes


def read_summary(output: str) -> dict[str, Any]:
    """Return the contents of `<output>.summary.json`.

    Raises:
        UsageError: The file does not exist.
        TableError: It cannot be read.
        ValueError: It is not JSON, or not a JSON object, or exceeds a limit.
        TypeError: It is not a JSON object.
    """
    with open_bytes(f"{output}.summary.json") as file:
        return dict(parse_json(file.read().decode("utf-8")))
