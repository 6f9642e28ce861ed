"""Read the summary that a run wrote next to its output, within limits: anyone may write to a shared folder."""

from __future__ import annotations

from typing import Any

from ..bounded_json import JsonLimitError, parse_json
from ..files import regular_size
from ..formats import is_url, local_path, open_bytes, reading

_MOST_BYTES = 16 * 1024 * 1024
_MOST_NUMBER = 1e15  # largest number in a summary; anything computed from such numbers is finite
_KINDS: dict[str, type] = {"job": dict, "versions": dict, "warnings": list, "score": str}
_NUMBERS = ("rows", "scored", "captions_cut", "pairs_per_second")
_NUMBERS_BY_NAME = ("seconds", "failures", "similarity", "probability")


def read_summary(output: str) -> dict[str, Any]:
    """Return the contents of `<output>.summary.json`.

    Raises:
        UsageError: The file does not exist.
        TableError: The file cannot be read, or is not a regular file.
        ValueError: The file is not JSON, exceeds a limit, or has an entry of a kind that no run writes.
        TypeError: The file is not a JSON object.
    """
    place = f"{output}.summary.json"
    if not is_url(place):
        with reading(place):
            regular_size(local_path(place))  # first, because opening a pipe might never end
    with open_bytes(place) as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise JsonLimitError(f"it has more than {_MOST_BYTES >> 20} MiB")
    found = dict(parse_json(content.decode("utf-8")))
    for name, kind in _KINDS.items():
        if not isinstance(found.get(name) or kind(), kind):
            raise ValueError(f"its {name!r} is not what a run writes")
    job = found.get("job") or {}
    if not isinstance(job.get("settings") or {}, dict) or not isinstance(job.get("captions") or [], list):
        raise ValueError("its 'job' is not what a run writes")
    _check_numbers(found)
    return found


def _check_numbers(found: dict[str, Any]) -> None:
    """Check the numbers of a summary, each of which may be missing or None.

    Raises:
        ValueError: A value is not a number, or is too large.
    """
    values = {name: [found.get(name) or 0] for name in _NUMBERS}
    for name in _NUMBERS_BY_NAME:
        members = found.get(name) or {}
        if not isinstance(members, dict):
            raise ValueError(f"its {name!r} is not what a run writes")
        values[name] = [*members.values()]
    points = found.get("throughput") or []
    is_list = isinstance(points, list) and all(isinstance(point, list) and len(point) == 2 for point in points)
    values["throughput"] = [number for point in points for number in point] if is_list else [points]
    for name, numbers in values.items():
        if not all(isinstance(number, (int, float)) and abs(number) <= _MOST_NUMBER for number in numbers):
            raise ValueError(f"its {name!r} is not what a run writes")
