"""`score`: read a table and write it with scores."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import Config
from ..errors import UsageError
from .client import add_client_options, compare, comparison_table, service_engine
from .one_off import kind_of, run_one_off
from .options import (
    MODEL,
    OUTPUT,
    PAGE,
    RUN,
    add_base_dir,
    add_column_options,
    add_drop_columns,
    add_feeders,
    add_fetch_options,
    add_force,
    add_log_options,
    add_model_options,
    add_worker_options,
    again,
    check_output,
    config_of,
    progress_bar,
    setting,
)
from .parser import add_field
from .report import page_of_table
from .stopping import Stopping
from .terminal import lay_out, logger

if TYPE_CHECKING:
    from ..pipeline import Engine
    from ..tables import Summary


# How a file that `--compare` writes begins; a file that does not begin like this is not replaced.
_COMPARISON = b"mode,requests,images,seconds,images_per_second,speed_up"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    text = "Score each row of a table and write it with two more columns, similarity and error."
    command = commands.add_parser("score", help=text, description=text)
    command.add_argument(
        "in_path",
        metavar="IN",
        help=".csv, .tsv, .jsonl (optionally with .gz or .zst), .parquet or .tar: a file, a folder, a pattern, or an fsspec URL such as s3://...; a folder of "
        "images with captions; or a data set on the hub, hf:OWNER/NAME@SPLIT",
    )
    command.add_argument(
        "out_path",
        metavar="OUT|CAPTION",
        help="table to write, in the format given by its suffix; or a folder, which gets one file for each file of IN. If IN is an image, such as photo.jpg, this is "
        "its caption, and the score is printed",
    )
    command.add_argument("captions", metavar="CAPTION", nargs="*", default=[], help="more captions of the image IN")
    add_score_options(command)


def add_score_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that the command and the batch script share."""
    add_column_options(parser, several=True)
    add_base_dir(parser)
    add_model_options(parser, several=True)
    add_field(parser.add_argument_group(MODEL), Config, "score")
    add_fetch_options(parser)
    add_worker_options(parser, io_workers=Config().io_workers)
    add_feeders(parser)
    add_force(parser)
    add_drop_columns(parser)
    _add_run_options(parser)
    add = parser.add_argument_group(RUN).add_argument
    add(
        "--engine",
        default="local",
        choices=("local", "spark", "ray"),
        help="where rows are scored: `local` scores in this process; `spark` and `ray` need the extras of those names; see "
        "docs/distributed.md#the-command-line",
    )
    add(
        "--engine-conf",
        metavar="KEY=VALUE",
        type=setting,
        action="append",
        default=[],
        help="a setting of the engine, such as `spark.master=local[4]` or `concurrency=8`; may be repeated",
    )
    add_client_options(parser)
    parser.add_argument_group(OUTPUT).add_argument(
        "--report",
        metavar="FILE",
        type=Path,
        help="page to write about the scored table: scores, failures, throughput, images; see docs/report.md",
    )
    add_log_options(parser)
    parser.set_defaults(
        run=run,
        fall_back=False,
        captions=[],
        interrupted="finished parts are kept, and the same command resumes from them",
    )


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for how a run begins, what it may replace, and when it ends early."""
    group = parser.add_argument_group(RUN)
    add_field(group, Config, "chunk_size")
    start = group.add_mutually_exclusive_group()
    start.add_argument(
        "--restart",
        dest="start",
        action="store_const",
        const="restart",
        default="resume",
        help="start from the first row; by default, a run resumes after the parts that an earlier run finished",
    )
    start.add_argument(
        "--retry-failed",
        dest="start",
        action="store_const",
        const="retry_failed",
        help="rescore rows of a finished OUT that failed for a temporary reason, such as a timeout",
    )
    text = "replace the columns `similarity` and `error` if IN already has them"
    parser.add_argument_group(OUTPUT).add_argument("--overwrite-column", action="store_true", help=text)
    _add_probability(parser.add_argument_group(OUTPUT))
    add = group.add_argument
    add(
        "--work-dir",
        metavar="FOLDER",
        help="folder that keeps finished parts until OUT is complete; by default next to OUT, or in the user's cache folder "
        "if OUT is at a URL",
    )
    add(
        "--max-failures",
        metavar="N|P%",
        help="stop with exit code 4 once more than this many rows have failed: a number, such as `1000`, or a share of "
        "the rows so far, such as `5%`; this is checked after every part. Finished parts are kept; to resume the run, "
        "repeat the command with a higher value",
    )
    add(
        "--strict",
        action="store_true",
        help="exit with code 4 if any row has no score; by default, only if no row has one",
    )


def _add_probability(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--probability",
        action="store_true",
        help="add a column `probability`, 0 to 1: how likely each pair is to match, according to the model's `calibration.json`; see "
        "docs/evaluation.md#what-a-score-means",
    )
    group.add_argument(
        "--calibration",
        metavar="FOLDER",
        help="folder with the `calibration.json` that `evaluate --calibrate` wrote; by default that of the model",
    )


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    if kind_of(options) == "image":
        return run_one_off(options)
    _check_files(options)
    config = config_of(options)
    # Imported here so that `--help` and wrong options are handled without loading torch.
    from ..tables import TableOptions, explain_failures, is_folder_output, score_table

    if options.report is not None and is_folder_output(options.out_path):
        raise UsageError(f"--report needs one output table, but {options.out_path} is a folder; name a file to write")
    models = again(options.model)
    if len(models) > 1 or options.ensemble:
        _check_several(options)
    fixed = options.model is not None or options.service_url is not None or options.probability
    how = TableOptions(
        start=options.start,
        overwrite_column=options.overwrite_column,
        force=options.force,
        work_dir=options.work_dir,
        max_failures=options.max_failures,
        drop_columns=tuple(options.drop_col),
        probability=options.probability,
        calibration=options.calibration,
        fallback_model="mini" if options.fall_back and not fixed else None,
    )
    with Stopping() as stopping, closing(progress_bar(options, "pairs")) as bar, _engine(options, config) as engine:
        comparison = compare(options, config, engine)
        summary = score_table(
            options.in_path,
            options.out_path,
            config,
            options.url_col,
            options.caption_col,
            col_references=options.references_col,
            models=models if len(models) > 1 or options.ensemble else (),
            ensemble=options.ensemble,
            options=how,
            engine=engine,
            stop=stopping.asked,
            progress=None if options.quiet else bar.show,
        )
    if options.report is not None:
        columns = (summary.columns[0], (summary.columns[1], *again(options.caption_col)[1:]))
        tables = (options.in_path, options.out_path, options.in_path)
        page_of_table(tables, columns, summary.as_dict(), config, options.report)
    if not options.quiet:
        shown = [closing_table(summary, options.report), *([comparison_table(comparison)] if comparison else [])]
        sys.stdout.write("\n\n".join(shown) + "\n")
    if summary.rows and not summary.scored:
        from ..formats import with_base_dir

        said = explain_failures(summary.failures, with_base_dir(config, options.in_path), summary.columns_there)
        logger.error("none of the %s rows has a score: %s", f"{summary.rows:,}", said)
        return 4
    return 4 if options.strict and summary.scored < summary.rows else 0


def _check_files(options: argparse.Namespace) -> None:
    """Refuse to replace files, other than the table, that this command did not write."""
    out = options.out_path
    for path, mark, other in ((options.report, PAGE, None), (options.compare, _COMPARISON, options.report)):
        if path is not None:
            from ..formats import check_apart

            if not options.in_path.startswith("hf:"):
                check_apart(options.in_path, str(path))
            besides = (out, f"{out}.summary.json", f"{out}.parts", options.embedding_cache, other)
            check_output(path, mark=mark, force=options.force, besides=besides)


def _check_several(options: argparse.Namespace) -> None:
    """Refuse options that cannot be combined with several models."""
    if options.service_url is not None or options.engine != "local":
        raise UsageError("scoring with several models works only in this process; leave out --engine and --service-url")
    if options.report is not None and options.ensemble != "mean":
        raise UsageError("--report shows one score for each pair; with several models, add --ensemble mean")


def _engine(options: argparse.Namespace, config: Config) -> AbstractContextManager[Engine | None]:
    conf = dict(options.engine_conf)
    if options.service_url is not None:
        return service_engine(options, config)
    if given := [name for name in ("compare", "service_key_file") if getattr(options, name) is not None]:
        raise UsageError(f"--{given[0].replace('_', '-')} needs --service-url")
    if options.engine == "spark":
        from ..spark import SparkEngine

        return SparkEngine(conf)
    if options.engine == "ray":
        from ..ray_data import RayEngine

        return RayEngine(conf)
    if conf:
        raise UsageError("--engine-conf works only with --engine spark or --engine ray")
    return nullcontext()


def _spread(similarity: Mapping[str, float] | None) -> list[tuple[str, str]]:
    if similarity is None:
        return []
    low, median, high = (f"{similarity[name]:.4g}" for name in ("p5", "median", "p95"))
    return [("mean", f"{similarity['mean']:.4g}"), ("median (5 % .. 95 %)", f"{median} ({low} .. {high})")]


def closing_table(summary: Summary, report: Path | None = None) -> str:
    """Lay out a summary for a terminal."""
    return lay_out(
        [
            ("rows", f"{summary.rows:,}"),
            ("scored", f"{summary.scored:,}"),
            *((f"failed: {code}", f"{count:,}") for code, count in summary.failures.items()),
            *([("captions cut", f"{summary.captions_cut:,}")] if summary.captions_cut else []),
            ("pairs/s", f"{summary.pairs_per_second:,.1f}"),
            ("score", summary.score),
            *_spread(summary.similarity),
            *([("mean probability", f"{summary.probability['mean']:.3f}")] if summary.probability else []),
            ("model", summary.info.model),
            ("device", ", ".join(filter(None, (summary.info.device, summary.info.precision, summary.info.backend)))),
            ("output", summary.output),
            *([("report", report)] if report else []),
            *(("warning", text) for text in summary.warnings),
        ]
    )
