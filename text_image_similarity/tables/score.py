"""Score a table: check it, score its parts, and assemble the output.

The table is read twice: once to check its shape, count its rows and hash it before anything expensive starts, and then
part by part while it is scored. Finished parts are kept next to the output (`workspace`), so that the same command
resumes a run that stopped for any reason; at the end, the parts are assembled, and the output appears complete.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from typing import Any

from ..checks import settings_in_config
from ..config import Config, ConfigLike, as_config, require_config
from ..dataset import open_source
from ..encoders import Ensemble, ModelInfo, load_encoders
from ..errors import InputTypeError, ModelUnavailableError, StoppedError, TableError, UsageError
from ..files import path_text
from ..formats import Table, check_apart, format_of, open_output, output_for, part_ending_of, state_of, with_base_dir
from ..pipeline import Engine, LocalEngine
from ..pipeline.progress import reported
from ..records import Progress
from ..workspace import Workspace
from .check import check_table
from .failures import FailureWatch, columns_there
from .identity import check_replaceable, earlier_output, finished_run, identity_of, writer_of
from .job import TableJob
from .layout import RowLayout
from .options import TableOptions
from .places import check_places, is_folder_output, make_folder, outputs_in, put_together, work_folder
from .probability import calibration_of, with_probability
from .summary import Summary, after, outcome, together, versions
from .task import R, TableEngine, Task, by_several, scoring

logger = logging.getLogger("text_image_similarity")


@settings_in_config
def score_table(  # noqa: PLR0913 - paths, columns, and where and how; settings are in Config and TableOptions
    in_path: str | PathLike[str],
    out_path: str | PathLike[str],
    config: ConfigLike = None,
    col_url: str | None = None,
    col_text: str | Sequence[str] | None = None,
    *,
    col_references: str | Sequence[str] | None = None,
    models: Sequence[str | PathLike[str]] = (),
    ensemble: Ensemble | None = None,
    options: TableOptions | None = None,
    engine: Engine | None = None,
    progress: Progress | bool | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Summary:
    """Score every row of a table, and write the table with two more columns, `similarity` and `error`.

    The suffix determines the format: `.csv`, `.tsv`, `.jsonl` (each optionally followed by `.gz` or `.zst`), `.parquet`
    and, for the input only, tar shards (`.tar`, `.tar.gz` or `.tgz`). Columns keep their types and text. `score_csv` is
    the same function under a shorter name.

    Args:
        in_path: A file, a folder of files or a pattern such as `pairs/*.parquet` or `shards/{00..31}.tar`, as a path or
            an fsspec URL; or a folder of images with caption files of the same names; or a data set on the hub,
            `hf:<owner>/<name>[:configuration][@split]`.
        out_path: The table to write; `<out_path>.summary.json` is written next to it. A folder (one that exists, or a
            name that ends in a slash) receives a file of the same name for each file of the input; for tar shards,
            these are Parquet files.
        config: The settings of the run, or the name of a model; None is `Config()`. Relative image paths start from the
            table's folder unless `base_dir` is set.
        col_url: Column of images or of references to them. None means `url`, a column of images that is identified by
            its name and type (`image`, `jpg` ...), or the images of shards.
        col_text: Column of captions, or several. None means `caption`, or `text` if the table contains images and has
            no `caption`. Each of several columns gets its own `similarity_<column>` and `error_<column>`; if Parquet or
            JSON has a list of captions in a cell, these are lists too. Each image is fetched and encoded once.
        col_references: One or more columns of reference captions, for `score="ref_clipscore"`. A cell contains a list,
            a list in JSON, or a text, which is a single reference.
        models: Several models instead of `config.model`, in this process: each gets its own column, such as
            `similarity_mini`, and each image is fetched and decoded once.
        ensemble: Adds a column `similarity` that combines all models: the `mean` of their scores, or `probability`; see
            `load_encoders`.
        options: How the run begins, what it replaces and writes, and when it ends early.
        engine: Engine that scores the rows: a `LocalEngine` with your own encoder, `SparkEngine`, `RayEngine` or
            `ServiceEngine`; None scores in this process with the model of `config`.
        progress: Called before the first row and after every row with the numbers of rows done, failed, and in total;
            or whether to show a progress bar. None shows one only in notebooks.
        stop: Called before every part; once it returns True, the run ends with a `StoppedError`.

    Returns:
        The summary, which is also written as JSON.

    Raises:
        UsageError: A column is missing, duplicated, or would be overwritten; the input does not exist; the parts of an
            earlier run were created with other settings or from another input.
        TableError: The input cannot be read, or the output cannot be written.
        BusyError: Another run is writing this output.
        StoppedError: `stop` returned True; the same call resumes the run.
        TooManyFailuresError: More rows failed than `options.max_failures` allows; the same call with a higher limit
            resumes the run.
        ConfigError, ModelError: A setting or the model cannot be used; raised before the first row.
    """
    task, config = scoring(col_url, col_text, col_references), as_config(config)
    if (config.score == "ref_clipscore") != bool(task.references):
        raise UsageError(
            "--score ref_clipscore (score='ref_clipscore') and --references-col (col_references) must be used together"
        )
    used = LocalEngine() if engine is None else engine
    if models or ensemble:
        if engine is not None or (options is not None and options.fallback_model is not None):
            raise UsageError("several models can only score in this process; leave out engine and fallback_model")
        if options is not None and options.probability:
            raise UsageError(
                "--probability (probability=True) is for one model; with several models, use --ensemble probability (ensemble='probability')"
            )
        used = LocalEngine(encoder=load_encoders(models, config, ensemble=ensemble or "mean"))
        task = by_several(task, models, ensemble)
    task = with_probability(task, calibration_of(config, options or TableOptions()))
    run = run_files if is_folder_output(path_text(out_path, "out_path")) else run_table
    with reported(progress, "pairs") as told:
        return run((in_path, out_path), config, task, used, options=options, progress=told, stop=stop)


def run_files(  # noqa: PLR0913 - as `run_table`
    paths: tuple[str | PathLike[str], str | PathLike[str]],
    config: Config,
    task: Task[R],
    engine: TableEngine[R],
    *,
    options: TableOptions | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Summary:
    """Run a task on each file of a table separately, and write the same number of files into a folder.

    Files that an earlier run has finished are kept, so the same call resumes with the missing ones.

    Args:
        paths: Table to read, and folder to write to, which is created.
        config and all other arguments: As for `run_table`.

    Returns:
        The combined summary of all files, which is not written to disk.

    Raises:
        UsageError: Two files would have the same name, or the folder contains images; all errors of `run_table` may be
            raised, too.
    """
    require_config(config)
    source, folder = (path_text(path, name) for path, name in zip(paths, ("in_path", "out_path"), strict=True))
    outputs = outputs_in(folder, open_source(source, dialect=config.dialect).files, source)
    check_apart(source, *outputs.values())
    make_folder(folder, force=options is not None and options.force)
    config = with_base_dir(config, source)
    found: list[Summary] = []
    for file, target in outputs.items():
        if found and stop():
            raise StoppedError(
                f"stopped on request with {len(found):,} of {len(outputs):,} files done; the same command resumes"
            )
        shown = None if progress is None else after(progress, found)
        found.append(
            run_table(
                (file, target), config, task, engine, options=options, progress=shown, stop=stop, keep_finished=True
            )
        )
    return together(found, source, folder)


def run_table(  # noqa: PLR0913 - what, how, with what, and the hooks of a long run
    paths: tuple[str | PathLike[str], str | PathLike[str]],
    config: Config,
    task: Task[R],
    engine: TableEngine[R],
    *,
    options: TableOptions | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
    keep_finished: bool = False,
) -> Summary:
    """Run a task on every row of a table, and write the table with the columns that the task adds.

    Args:
        paths: Table to read, and table to write.
        config, options, progress, stop: As for `score_table`.
        task: Task for each row.
        engine: Engine that performs the task.
        keep_finished: Whether to keep an output that an earlier run with the same input and settings has finished.

    Returns:
        The summary, which is also written as JSON.

    Raises:
        UsageError, TableError, BusyError, StoppedError, TooManyFailuresError, ConfigError, ModelError: As from
        `score_table`.
    """
    require_config(config)
    options = TableOptions() if options is None else options
    _check_arguments(options, engine)
    source, target = (path_text(path, name) for path, name in zip(paths, ("in_path", "out_path"), strict=True))
    check_places(source, target, config.embedding_cache)
    check = None if options.force else partial(check_replaceable, by=writer_of(task.identity))
    with Workspace(work_folder(target, options.work_dir), target, part_ending_of(target)) as work:
        if options.start != "retry_failed" and check is not None:
            check(target, work.placed())
        table, task, states = check_table(source, task, config, options)
        dropped, layout = frozenset(options.drop_columns), RowLayout.of(task, table)
        output, config = output_for(target, table, config.dialect, layout.added, dropped), with_base_dir(config, source)
        info, warnings = _start(engine, config, options.fallback_model)
        identity = {**identity_of(table, config, info, task.columns), **task.identity, "dropped": sorted(dropped)}
        if keep_finished and options.start == "resume" and (done := finished_run(target, identity)):
            return done
        earlier, kept = _earlier(identity, options, work, partial(open_output, target, table, config.dialect), target)
        run, used = {**identity, "format": format_of(target).kind, **kept}, versions()
        work.begin(run, used, restart=options.start == "restart")
        watch = FailureWatch(config, columns_there(table.columns, task.columns), options.max_failures, task.options)
        job = TableJob(table, layout, output, work, watch, earlier, dropped, config.score)
        job.score(config.chunk_size, engine, progress, stop)
        _check_complete(source, table, states, work)
        summary = Summary(
            input=source,
            output=target,
            info=info,
            **outcome(work.parts, config.score, kept["captions_cut"], task.identity.get("calibration")),
            score=config.score,
            versions=used,
            job=identity,
            output_content="",
            warnings=[*warnings, *work.warnings],
        )
        put_together(
            output,
            work.contents(),
            target,
            lambda content: replace(summary, output_content=content).as_dict(),
            work,
            check=check,
        )
        work.finish()
    return summary


score_csv = score_table


def _check_arguments(options: object, engine: object) -> None:
    if not isinstance(options, TableOptions):
        raise InputTypeError.of("options", "of type TableOptions", options)
    if isinstance(engine, type) or not hasattr(engine, "score_parts"):
        raise InputTypeError.of("engine", "an engine, such as SparkEngine()", engine)


def _start(engine: TableEngine[Any], config: Config, fallback: str | None) -> tuple[ModelInfo, list[str]]:
    """Start the engine, with the fallback model if necessary; return the model's description and warnings."""
    try:
        return engine.start(config), []
    except ModelUnavailableError as error:
        if fallback is None:
            raise
        warning = (
            f"{config.model} is unavailable; scored with {fallback} instead, whose scores cannot be compared with "
            f"those of {config.model}"
        )
        logger.warning("%s\n%s", warning, error)
        return engine.start(replace(config, model=fallback, revision=None)), [warning]


def _earlier(
    identity: dict[str, Any], options: TableOptions, work: Workspace, opened: Callable[[], Table], target: str
) -> tuple[Table | None, dict[str, Any]]:
    """Return the earlier output whose failures are retried, if any, and its entries in the run's description."""
    if options.start != "retry_failed":
        return None, {"retry_failed": None, "captions_cut": 0}
    return earlier_output(target, identity, work.begun(), opened)


def _check_complete(source: str, table: Table, states: list[str], work: Workspace) -> None:
    """Make sure that the table has not changed since it was checked, and that the parts have all of its rows."""
    if [state_of(file) for file in table.files] != states:
        raise TableError(
            f"{source} was changed while it was being scored, so its finished parts are invalid; start over with --restart "
            "(start='restart')"
        )
    if (done := sum(part.rows for part in work.parts)) != table.row_count:
        raise TableError(f"the engine returned results for {done:,} of {table.row_count:,} rows")
