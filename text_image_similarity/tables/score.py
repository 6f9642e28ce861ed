"""Score whole tables: rows in, the same rows with `similarity` and `error` columns out.

The table is read twice: once to check its shape, count its rows and hash it before anything expensive starts, then part
by part while it is scored. Finished parts are kept beside the output (`workspace`), so that a run which stops, for
whatever reason, goes on with the same command; at the end they are put together, and the output appears complete.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import httpx
import platformdirs

from ..config import Config, one_of
from ..encoders import Encoder, identify, load_encoder
from ..errors import ConfigError, ModelUnavailableError, TableError, UsageError
from ..files import move_durably
from ..formats import (
    Output,
    Table,
    check_apart,
    check_columns,
    check_writable,
    content_of,
    folder_of,
    format_of,
    is_url,
    local_path,
    open_bytes,
    open_table,
    output_for,
    state_of,
    upload,
)
from ..pipeline import score_parts
from ..records import OUT_COLUMNS
from ..workspace import Workspace, changes, digest_of
from .job import Engine, Progress, Scorer, TableJob, score_elsewhere
from .summary import Summary, outcome, versions

logger = logging.getLogger("text_image_similarity")

T = TypeVar("T")
Start = Literal["resume", "restart", "retry_failed"]
# Settings that decide how long rows take and whether they fail, but move no score: a run may go on with others.
_PATIENCE = {"timeout_s", "retries", "io_workers", "model_cache", "device", "proxy", "isolate_decoder", "limits"}
_PATIENCE_LIMITS = {"connect_s", "total_s", "per_host", "decode_s", "decode_memory"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOptions:
    """How a table's run begins, and what it may replace.

    Args:
        start: `resume` goes on from the finished parts of an earlier run, if there are any; `restart` drops them;
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
    engine: Engine | None = None,
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
        engine: Scores the parts elsewhere, such as `SparkEngine`, `RayEngine` or `ServiceEngine`; None scores them here.
        fallback: The model to take, with a warning in the log and in the summary, if the one that `config` names is
            out of reach; None raises then.
        transport: Where http requests go, for tests; None is the network. An engine's go to the network.
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
    if engine is not None and encoder is not None:
        raise ConfigError("an engine loads the model where it scores: give it no encoder")
    options = options or TableOptions()
    source, target = fspath(in_path), fspath(out_path)
    _check_places(source, target)
    ending = format_of(target).kind
    with Workspace(_work_folder(target, options), target, ending) as work:
        table, states = _checked(source, (col_url, col_text), options)
        output = output_for(target, table.columns, table.schema)
        config = replace(config, base_dir=Path(config.base_dir or folder_of(source) or "").resolve())
        scorer, facts, warnings = _scorer(config, encoder, engine, fallback, transport)
        weights = facts.pop("fingerprint")
        identity = {**_identity(table, config, facts, (col_url, col_text)), "weights": weights}
        earlier, content = None, None
        if options.start == "retry_failed":
            earlier, content = _earlier(target, identity, work.begun())
        run, used = {**identity, "format": ending, "retry_failed": content}, versions()
        work.begin(run, used, restart=options.start == "restart")
        job = TableJob(table, (col_url, col_text), output, work, earlier)
        job.score(config.chunk_size, scorer, progress, stop)
        if [state_of(file) for file in table.files] != states:
            raise TableError(
                f"{source} was changed while it was scored, so its parts are of no use; start over with --restart "
                "(start='restart')"
            )
        summary = Summary(
            input=source,
            output=target,
            **facts,
            **outcome(work.parts),
            score=config.score,
            versions=used,
            job=identity,
            output_content="",
            warnings=[*warnings, *work.warnings],
        )
        _put_together(output, work, summary)
        work.finish()
    return summary


def _check_places(source: str, target: str) -> None:
    """Refuse places that cannot work, or whose replacement would destroy something, before anything starts."""
    note = f"{target}.summary.json"
    if not is_url(target):
        try:
            for path in (local_path(target), local_path(note)):
                if not path.name or path.is_dir():
                    raise UsageError(f"{path} is a folder; name a file")
                if path.exists() and not path.is_file():
                    raise UsageError(f"{path} is not a regular file; name one that can be replaced")
                if not path.resolve().parent.is_dir():
                    raise UsageError(f"{path} cannot be written: the folder {path.parent} does not exist")
        except (OSError, RuntimeError, ValueError) as exc:
            raise UsageError(f"the path {target[:200]} cannot be used: {exc}") from exc
    format_of(target)
    check_apart(source, target, note)
    if is_url(target):
        check_writable(target)


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
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise UsageError(f"{folder} cannot be used for the parts: {exc.strerror}; name another --work-dir") from exc
    return folder / f"{Path(target).name}-{digest_of(whole.encode())[:12]}.parts"


def _checked(source: str, columns: tuple[str, str], options: TableOptions) -> tuple[Table, list[str]]:
    """Open a table and check all of it; return it with the state that its files were in before."""
    table = open_table(source, dropped=frozenset(OUT_COLUMNS) if options.overwrite_column else frozenset())
    states = [state_of(file) for file in table.files]
    if table.columns:  # those of JSON Lines are known afterwards
        _check_columns(table, columns, source)
    table.scan()
    _check_columns(table, columns, source)
    return table, states


def _check_columns(table: Table, columns: tuple[str, str], source: str) -> None:
    check_columns(table.columns, columns, source)
    for name in OUT_COLUMNS:
        if name in table.columns:
            raise UsageError(
                f"{source} has a column {name!r} already; --overwrite-column (overwrite_column=True) replaces it, "
                "or rename it"
            )


def _scorer(
    config: Config,
    encoder: Encoder | None,
    engine: Engine | None,
    fallback: str | None,
    transport: httpx.BaseTransport | None,
) -> tuple[Scorer, dict[str, Any], list[str]]:
    """Return what scores the parts, the facts of its model, and warnings; the model is loaded then."""
    if engine is not None:
        facts, warnings = _or_fallback(engine.start, config, fallback)
        return lambda parts, stats: score_elsewhere(engine, parts), facts, warnings
    loaded, warnings = (encoder, []) if encoder is not None else _or_fallback(load_encoder, config, fallback)
    return (
        lambda parts, stats: score_parts(parts, config, encoder=loaded, transport=transport, stats=stats),
        identify(loaded),
        warnings,
    )


def _or_fallback(load: Callable[[Config], T], config: Config, fallback: str | None) -> tuple[T, list[str]]:
    try:
        return load(config), []
    except ModelUnavailableError as error:
        if fallback is None:
            raise
        warning = f"{config.model} is out of reach, so {fallback} scored instead: its scores are not comparable"
        logger.warning("%s\n%s", warning, error)
        return load(replace(config, model=fallback, revision=None)), [warning]


def _identity(table: Table, config: Config, facts: dict[str, Any], columns: tuple[str, str]) -> dict[str, Any]:
    """Return all that scores depend on but the weights, in values that JSON keeps."""
    settings = {name: value for name, value in asdict(config).items() if name not in _PATIENCE}
    limits = {name: value for name, value in asdict(config.limits).items() if name not in _PATIENCE_LIMITS}
    model = {**facts, "device": (facts["device"] or "").partition(":")[0]}
    found = {
        "input_rows": table.row_count,
        "input_content": table.digest,
        "input_columns": list(table.columns),
        "settings": {**settings, **limits, **model, "col_url": columns[0], "col_text": columns[1]},
    }
    same: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return same


def _earlier(
    target: str, identity: dict[str, Any], begun: tuple[dict[str, Any], bool] | None
) -> tuple[Table | None, str]:
    """Open the finished output of an earlier run of the same input and settings; return it with the hash of its file.

    Args:
        target: The output.
        identity: What this run is.
        begun: The run whose parts are there, and whether they are all of them.
    """
    try:
        with open_bytes(f"{target}.summary.json") as file:
            then = dict(json.load(file))
        job, written = dict(then["job"]), str(then["output_content"])
        content = content_of(target)
    except (UsageError, ValueError, KeyError, TypeError) as exc:
        raise UsageError(f"there is no finished run of {target} whose failures could be retried: {exc}") from exc
    run, complete = begun or ({}, False)
    if complete and run.get("retry_failed") not in (None, content):
        return None, str(run["retry_failed"])  # stopped just when it had put its own output in the place of that one
    if found := changes(job, identity):
        raise UsageError(
            f"{target} is of a run that differs: {'; '.join(found)}; failures are retried with what it was"
        )
    if content != written:
        raise UsageError(
            f"{target} is not as its run wrote it, so its rows cannot be told apart from other rows; put the original "
            "back, or start over with --restart (start='restart')"
        )
    return open_table(target), content


def _put_together(output: Output, work: Workspace, summary: Summary) -> None:
    """Write the whole output and its summary, and give them their names when both are complete."""
    place, note = summary.output, f"{summary.output}.summary.json"
    whole, text = (_beside(target, work) for target in (place, note))
    try:
        with whole.open("wb") as file:
            output.join(work.paths(), file)
        described = replace(summary, output_content=content_of(str(whole)))
        text.write_text(json.dumps(asdict(described), indent=2) + "\n", encoding="utf-8")
        for source, target in ((whole, place), (text, note)):
            if is_url(target):
                upload(source, target)
            else:
                move_durably(source, local_path(target).resolve())
    except OSError as exc:
        raise TableError(
            f"{place} cannot be written: {exc.strerror or exc}; all its parts are kept, and the same command goes on from them"
        ) from exc
    finally:
        for path in (whole, text):
            path.unlink(missing_ok=True)


def _beside(target: str, work: Workspace) -> Path:
    """Return where a file grows before it gets its name; the lock keeps others from it."""
    if is_url(target):
        return work.scratch(target.rpartition("/")[2])
    path = local_path(target).resolve()
    return path.with_name(f".{path.name}.partial")
