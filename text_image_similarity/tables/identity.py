"""The identity of a run: everything that its scores depend on, so that only the same run resumes its parts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any

from ..config import Config
from ..encoders import ModelInfo
from ..errors import UsageError
from ..formats import Table, content_of, has_content, is_url
from ..workspace import changes
from .summary import Summary
from .summary_file import read_summary

# Settings that affect how long rows take and whether they fail, but not scores; a run may resume with other values.
_UNSCORED_SETTINGS = {
    "timeout_s",
    "retries",
    "io_workers",
    "model_cache",
    "device",
    "files_under",
    "proxy",
    "ca_file",
    "headers_file",
    "feeders",
    "isolate_decoder",
    "limits",
}
_UNSCORED_LIMITS = {"connect_s", "total_s", "per_host", "decode_s", "decode_memory"}
# Keys that identify the run of each command except `score`.
_WRITERS = {"filter": "filter", "embedded": "embed", "catalog": "match"}


def identity_of(
    table: Table, config: Config, info: ModelInfo, columns: tuple[str | None, str | None]
) -> dict[str, Any]:
    """Return everything that scores depend on, as JSON values."""
    settings = {name: value for name, value in asdict(config).items() if name not in _UNSCORED_SETTINGS}
    limits = {name: value for name, value in asdict(config.limits).items() if name not in _UNSCORED_LIMITS}
    model = {**info.as_dict(), "device": (info.device or "").partition(":")[0]}
    found = {
        "input_rows": table.row_count,
        "input_content": table.digest,
        "input_columns": list(table.columns),
        "settings": {**settings, **limits, **model, "col_url": columns[0], "col_text": columns[1]},
        "weights": info.fingerprint,
    }
    same: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return same


def writer_of(job: Mapping[str, Any]) -> str:
    """Return the command that writes the output of a run, from the run's description.

    Example:
        >>> writer_of({"embedded": "images"})
        'embed'
    """
    return next((command for part, command in _WRITERS.items() if part in job), "score")


def check_replaceable(target: str, placed: str | None, *, by: str = "score") -> None:
    """Refuse to replace an output that this command did not write, or that was changed afterwards.

    Args:
        target: Output of the run.
        placed: Hash of the output that a run was about to move to `target` when the run ended, or None.
        by: The command that would replace the output.

    Raises:
        UsageError: The output was not written by a run of that command, or was changed afterwards.
    """
    note = f"{target}.summary.json"
    there = [place for place in (target, note) if has_content(place)]
    if not there or (placed is not None and target in there and content_of(target) == placed):
        return
    try:
        found = read_summary(target)
        written, writer = str(found["output_content"]), writer_of(dict(found["job"]))
    except (UsageError, ValueError, KeyError, TypeError):
        raise UsageError(
            f"{there[0]} was not written by this command; name another output, or replace it with --force (force=True)"
        ) from None
    # Not for a remote output, which would have to be downloaded.
    if target in there and not is_url(target) and content_of(target) != written:
        raise UsageError(
            f"{target} was changed after it was written; name another output, or replace it with --force (force=True)"
        )
    if target in there and writer != by:
        raise UsageError(
            f"{target} was written by {writer}; name another output, or replace it with --force (force=True)"
        )


def finished_run(target: str, identity: dict[str, Any]) -> Summary | None:
    """Return the summary of an existing output if this run would write the same output; otherwise None.

    Args:
        target: Output of the run.
        identity: Identity of the run.
    """
    try:
        then = read_summary(target)
        if changes(dict(then["job"]), identity) or content_of(target) != then["output_content"]:
            return None
        about: dict[str, Any] = {each.name: then.get(each.name) for each in fields(ModelInfo)}
        return Summary(
            info=ModelInfo(**about), **{each.name: then[each.name] for each in fields(Summary) if each.name != "info"}
        )
    except (UsageError, ValueError, KeyError, TypeError):
        return None


def earlier_output(
    target: str, identity: dict[str, Any], begun: tuple[dict[str, Any], bool] | None, read: Callable[[], Table]
) -> tuple[Table | None, dict[str, Any]]:
    """Open the finished output of an earlier run with the same input and settings.

    Args:
        target: Output of the run.
        identity: Identity of this run.
        begun: Description of the run whose parts exist, and whether its parts are complete; None without parts.
        read: Function that opens the output.

    Returns:
        The output, and its entries in the run's description: `retry_failed`, its hash, and `captions_cut`. The output
        is None if a run that retried failures has already replaced it.
    """
    try:
        then = read_summary(target)
        job, written = dict(then["job"]), str(then["output_content"])
        content = content_of(target)
    except (UsageError, ValueError, KeyError, TypeError) as exc:
        raise UsageError(f"there is no finished run of {target} whose failures could be retried: {exc}") from exc
    run, complete = begun or ({}, False)
    if complete and run.get("retry_failed") not in (None, content):
        return None, {
            name: run.get(name) for name in ("retry_failed", "captions_cut")
        }  # stopped right after it had replaced that output
    if found := changes(job, identity):
        raise UsageError(
            f"{target} was written with other settings: {'; '.join(found)}; use the same settings to retry failures"
        )
    if content != written:
        raise UsageError(
            f"{target} was changed after it was written, so its rows may no longer be those of the input; restore the original, "
            "or start over with --restart --force"
        )
    return read(), {"retry_failed": content, "captions_cut": then.get("captions_cut")}
