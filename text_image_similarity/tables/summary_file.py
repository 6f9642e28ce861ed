"""Read the summary that a run wrote next to its output, within limits: anyone may write to a shared folder."""

from __future__ import annotations

from typing import Any

from ..bounded_json import JsonLimitError, parse_json
from ..files import regular_size
from ..formats import is_url, local_path, open_bytes, reading

_MOST_BYTES = 16 * 1024 * 1024


def read_summary(output: str) -> dict[str, Any]:
    """Return the contents of `<output>.summary.json`.

    Raises:
        UsageError: The file does not exist.
        TableError: It cannot be read, or is not a regular file.
        ValueError: It is not JSON, or not a JSON object, or exceeds a limit.
        TypeError: It is not a JSON object.
    """
    place = f"{output}.summary.json"
    if not is_url(place):
        with reading(place):
            regular_size(local_path(place))  # first, because opening a pipe might never end
    with open_bytes(place) as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise JsonLimitError(f"it has more than {_MOST_BYTES >> 20} MiB")
    return dict(parse_json(content.decode("utf-8")))
