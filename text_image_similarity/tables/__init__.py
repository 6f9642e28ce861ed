"""Score whole tables: rows in, the same rows with `similarity` and `error` columns out.

The table is read twice: once to check its shape, count its rows and hash it before anything expensive starts, then part
by part while it is scored. Finished parts are kept beside the output (`workspace`), so that a run which stops, for
whatever reason, goes on with the same command; at the end they are put together, and the output appears complete.
"""

from __future__ import annotations

import fnmatch
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, get_args

import httpx
import platformdirs

from ..config import Config, one_of
from ..encoders import Encoder, describe, load_encoder
from ..errors import ModelUnavailableError, TableError, UsageError
from ..files import move_durably, write_whole
from ..formats import (
    Output,
    Table,
    check_columns,
    check_writable,
    expand,
    folder_of,
    format_of,
    is_url,
    local_path,
    open_bytes,
    open_table,
    output_for,
    upload,
)
from ..records import OUT_COLUMNS
from .scoring import Job, Progress
from .summary import Summary, outcome, versions
from .workspace import Workspace, changes, digest_of

__all__ = ["Progress", "Start", "Summary", "TableOptions", "score_csv"]

logger = logging.getLogger("text_image_similarity")

Start = Literal["resume", "afresh", "retry_failed"]
# Settings that decide how long rows take and whether they fail, but move no score: a run may go on with others.
_PATIENCE = {"timeout_s", "retries", "io_workers", "cache_dir", "device", "proxy", "isolate_decoder", "limits"}
_PATIENCE_LIMITS = {"connect_s", "total_s", "retry_after_s", "per_host", "decode_s", "decode_memory"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOptions:
    """How a table's run begins, and what it may replace.

    Args:
        start: `resume` goes on from the finished parts of an earlier run, if there are any; `afresh` drops them;
            `retry_failed` takes the finished output and scores the rows again whose failure may have passed.
        overwrite_column: Whether columns `similarity` and `error` of the input are replaced; else they are refused.
        work_dir: Folder for the parts; None is beside the output, or the user's cache folder for one at a URL.

    Raises:
        ConfigError: `start` is none of its choices.
    """

    start: Start = "resume"
    overwrite_column: bool = False
    work_dir: str | PathLike[str] | None = None

    def __post_init__(self) -> None:
        one_of("start", self.start, get_args(Start))


def score_csv(  # noqa: PLR0913 - paths, columns and what a caller may inject; settings are in Config and TableOptions
    in_path: str | PathLike[str],
    out_path: str | PathLike[str],
    config: Config,
    col_url: str = "url",
    col_text: str = "caption",
    *,
    options: TableOptions | None = None,
    encoder: Encoder | None = None,
    fallback: str | None = None,
    transport: httpx.BaseTransport | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Summary:
    """Score every row of a table and write it with two more columns, `similarity` and `error`.

    Formats go by names: `.csv`, `.tsv`, `.jsonl` (each also `.gz` or `.zst`) and `.parquet`. Columns keep type and text.

    Args:
        in_path: A file, a folder of files or a pattern such as `pairs/*.parquet`, as a path or an fsspec URL.
        out_path: Where the scored table goes; `<out_path>.summary.json` is written beside it.
        config: The settings of the run. Relative image paths start from the table's folder unless `base_dir` is set.
        col_url: The column of image references.
        col_text: The column of captions.
        options: How the run begins, and what it may replace.
        encoder: A loaded encoder to use; None loads the one that `config` names.
        fallback: The model to take, with a warning in the log and in the summary, if the one that `config` names is
            out of reach; None raises then.
        transport: Where http requests go, for tests; None is the network.
        progress: Called before the first row and after every row with rows done, rows failed and rows in all.
        stop: Asked after every part; once it says yes the run ends there, with a `StoppedError`.

    Returns:
        The summary that was also written as JSON.

    Raises:
        UsageError: A column is missing, twice there, or would be overwritten; the input does not exist; the parts of an
            earlier run are of other settings or of another input.
        TableError: The input is no readable table, or the output cannot be written.
        BusyError: Another run is writing this output.
        StoppedError: `stop` said so; the same call goes on.
        ConfigError, ModelError: Before the first row.
    """
    options = options or TableOptions()
    source, target = fspath(in_path), fspath(out_path)
    _check_places(source, target)
    ending = format_of(target).kind
    with Workspace(_work_folder(target, options), target, ending) as work:
        table = _checked(source, (col_url, col_text), options)
        if config.base_dir is None:
            config = replace(config, base_dir=folder_of(source))
        encoder, warnings = (encoder, []) if encoder is not None else _load(config, fallback)
        identity = _identity(table, config, encoder, (col_url, col_text))
        earlier = _earlier(target, identity) if options.start == "retry_failed" else None
        retried = None if earlier is None else earlier.digest
        work.begin({**identity, "format": ending, "retry_failed": retried}, afresh=options.start == "afresh")
        job = Job(table, (col_url, col_text), output_for(target, table.columns, table.schema), work, earlier)
        job.score(config, encoder, transport, progress, stop)
        _put_together(job.output, work, target)
        summary = Summary(
            input=source,
            output=target,
            **describe(encoder),
            **outcome(work.parts),
            score=config.score,
            versions=versions(),
            job=identity,
            warnings=warnings,
        )
        _write_summary(summary, work, target)
        work.finish()
    return summary


def _check_places(source: str, target: str) -> None:
    """Refuse places that cannot work, or whose replacement would destroy something, before anything starts."""
    if source == target:
        raise UsageError(f"{target} is the input too and would be overwritten; name another output")
    if is_url(target):
        format_of(target)
        check_writable(target)
        return
    path = local_path(target)
    note = path.with_name(path.name + ".summary.json") if path.name else path
    try:
        for place in (path, note):
            if not place.name or place.is_dir():
                raise UsageError(f"{place} is a folder; name a file")
            if place.exists() and not place.is_file():
                raise UsageError(f"{place} is not a regular file; name one that can be replaced")
            place.resolve()
            if not is_url(source):
                _check_apart(source, place)
        format_of(target)
    except (OSError, RuntimeError, ValueError) as exc:
        raise UsageError(f"the path {target[:200]} cannot be used: {exc}") from exc


def _check_apart(source: str, place: Path) -> None:
    """Refuse an output that is, or would be, part of the input."""
    table = local_path(source)
    inside = table.is_dir() and place.resolve().parent == table.resolve()
    if inside or (not table.exists() and _matches(place.absolute().parts, table.absolute().parts)):
        raise UsageError(f"{place} would be part of the input {source}; write it elsewhere")
    if place.exists() and any(place.samefile(found) for found in expand(source)):
        raise UsageError(f"{place} is the input too and would be overwritten; name another output")


def _matches(path: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether a glob pattern would find a path."""
    if "**" in pattern:
        return fnmatch.fnmatch("/".join(path), "/".join(pattern))
    return len(path) == len(pattern) and all(map(fnmatch.fnmatch, path, pattern))


def _work_folder(target: str, options: TableOptions) -> Path:
    """Return where the parts go: beside the output, or for one at a URL where this machine keeps such things."""
    if options.work_dir is None and not is_url(target):
        path = local_path(target).resolve()  # a link stays, what it leads to is replaced
        return path.with_name(path.name + ".parts")
    whole = target if is_url(target) else str(local_path(target).resolve())
    folder = (
        platformdirs.user_cache_path("text-image-similarity") / "jobs"
        if options.work_dir is None
        else Path(options.work_dir)
    )
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{Path(target).name}-{digest_of(whole.encode())[:12]}.parts"


def _checked(source: str, columns: tuple[str, str], options: TableOptions) -> Table:
    """Open a table and check all of it."""
    table = open_table(source, dropped=frozenset(OUT_COLUMNS) if options.overwrite_column else frozenset())
    if table.columns:  # those of JSON Lines are known afterwards
        _check_columns(table, columns, source)
    table.scan()
    _check_columns(table, columns, source)
    return table


def _check_columns(table: Table, columns: tuple[str, str], source: str) -> None:
    check_columns(table.columns, columns, source)
    for name in OUT_COLUMNS:
        if name in table.columns:
            raise UsageError(
                f"{source} has a column {name!r} already; --overwrite-column (overwrite_column=True) replaces it, "
                "or rename it"
            )


def _load(config: Config, fallback: str | None) -> tuple[Encoder, list[str]]:
    try:
        return load_encoder(config), []
    except ModelUnavailableError as error:
        if fallback is None:
            raise
        warning = f"{config.model} is out of reach, so {fallback} scored instead: its scores are not comparable"
        logger.warning("%s\n%s", warning, error)
        return load_encoder(replace(config, model=fallback, revision=None)), [warning]


def _identity(table: Table, config: Config, encoder: Encoder, columns: tuple[str, str]) -> dict[str, Any]:
    """Return all that scores depend on, in values that JSON keeps."""
    settings = {name: value for name, value in asdict(config).items() if name not in _PATIENCE}
    limits = {name: value for name, value in asdict(config.limits).items() if name not in _PATIENCE_LIMITS}
    model = {**describe(encoder), "device": (getattr(encoder, "device", None) or "").partition(":")[0]}
    found = {
        "input": {"rows": table.row_count, "content": table.digest, "columns": list(table.columns)},
        "settings": {**settings, **limits, **model, "url_col": columns[0], "caption_col": columns[1]},
        "weights": getattr(encoder, "fingerprint", None),
    }
    same: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return same


def _earlier(target: str, identity: dict[str, Any]) -> Table:
    """Open the finished output of an earlier run of the same input and settings."""
    try:
        with open_bytes(f"{target}.summary.json") as file:
            then = dict(json.load(file))["job"]
    except (UsageError, ValueError, KeyError, TypeError) as exc:
        raise UsageError(f"there is no finished run of {target} whose failures could be retried: {exc}") from exc
    if found := changes(then, identity):
        raise UsageError(
            f"{target} is of a run that differs: {'; '.join(found)}; failures are retried with what it was"
        )
    table = open_table(target)
    table.scan()
    return table


def _put_together(output: Output, work: Workspace, target: str) -> None:
    """Write the whole output, and give it its name when it is complete."""
    place = local_path(target).resolve()
    whole = work.scratch("whole") if is_url(target) else place.with_name(f".{place.name}.partial")
    try:
        with whole.open("wb") as file:
            output.join(work.paths(), file)
        if is_url(target):
            upload(whole, target)
        else:
            move_durably(whole, place)
    except OSError as exc:
        raise TableError(
            f"{target} cannot be written: {exc.strerror or exc}; all its parts are kept, and the same command goes on from them"
        ) from exc
    finally:
        whole.unlink(missing_ok=True)


def _write_summary(summary: Summary, work: Workspace, target: str) -> None:
    text = json.dumps(asdict(summary), indent=2) + "\n"
    if not is_url(target):
        write_whole(local_path(f"{target}.summary.json"), text)
        return
    note = work.scratch("summary")
    write_whole(note, text)
    upload(note, f"{target}.summary.json")
