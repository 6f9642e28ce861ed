"""`score`: a table in, the same table with scores out."""

from __future__ import annotations

import argparse
import sys
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import Config
from ..errors import UsageError
from ..records import OUT_COLUMNS
from .client import add_client_options, compare, comparison_table, service_engine
from .options import (
    add_base_dir,
    add_column_options,
    add_fetch_options,
    add_log_options,
    add_model_options,
    add_worker_options,
    check_output,
    config_of,
    progress_bar,
    setting,
)
from .parser import add_field
from .stopping import Stopping
from .terminal import lay_out

if TYPE_CHECKING:
    from ..pipeline import Engine
    from ..tables import Summary


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    text = "Score each row of a table and write it with two more columns, similarity and error."
    command = commands.add_parser("score", help=text, description=text)
    command.add_argument(
        "in_path",
        metavar="IN",
        help=".csv, .tsv, .jsonl (also .gz, .zst) or .parquet: a file, a folder, a pattern, or an fsspec URL such as s3://...",
    )
    command.add_argument("out_path", metavar="OUT", help="table to write, in the format its name says")
    add_score_options(command)


def add_score_options(parser: argparse.ArgumentParser) -> None:
    """Add all that the command and the batch script have in common."""
    add_model_options(parser)
    add_field(parser, Config, "score")
    add_column_options(parser)
    add_base_dir(parser)
    add_fetch_options(parser)
    add_worker_options(parser, io_workers=Config().io_workers)
    add_field(parser, Config, "chunk_size")
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--restart",
        dest="start",
        action="store_const",
        const="restart",
        default="resume",
        help="start from the first row; without it a run resumes from the parts that an earlier one finished",
    )
    start.add_argument(
        "--retry-failed",
        dest="start",
        action="store_const",
        const="retry_failed",
        help="rescore rows of a finished OUT that failed for a temporary reason, such as timeouts",
    )
    add = parser.add_argument
    add("--overwrite-column", action="store_true", help="replace columns `similarity` and `error` that IN has already")
    add("--work-dir", metavar="FOLDER", help="where parts are kept until OUT is complete; by default beside OUT")
    add(
        "--engine",
        default="local",
        choices=("local", "spark", "ray"),
        help="where rows are scored: `local` is in this process; `spark` and `ray` need the extras of those names, see "
        "docs/distributed.md#the-command-line",
    )
    add(
        "--engine-conf",
        metavar="KEY=VALUE",
        type=setting,
        action="append",
        default=[],
        help="a setting of the engine, such as `spark.master=local[4]` or `concurrency=8`; may be given again",
    )
    add_client_options(parser)
    add(
        "--report",
        metavar="FILE",
        type=Path,
        help="page to write about the scored table: scores, failures, throughput, pictures, see docs/report.md",
    )
    add("--strict", action="store_true", help="exit with 4 if a row has no score")
    add_log_options(parser)
    parser.set_defaults(
        run=run, fall_back=False, interrupted="finished parts are kept, and the same command resumes from them"
    )


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    for path in filter(None, (options.report, options.compare)):
        from ..formats import check_apart

        out, other = options.out_path, options.report if path is options.compare else None
        check_output(path, besides=(out, f"{out}.summary.json", options.embedding_cache, other))
        check_apart(options.in_path, str(path))
    config = config_of(options)
    # Here, so that `--help` and a wrong option answer before torch is loaded.
    from ..tables import TableOptions, score_table

    falls_back = options.fall_back and options.model is None and options.service_url is None
    how = TableOptions(
        start=options.start,
        overwrite_column=options.overwrite_column,
        work_dir=options.work_dir,
        fallback_model="mini" if falls_back else None,
    )
    with Stopping() as stopping, closing(progress_bar(options, "pairs")) as bar, _engine(options, config) as engine:
        comparison = compare(options, config, engine)
        summary = score_table(
            options.in_path,
            options.out_path,
            config,
            options.url_col,
            options.caption_col,
            options=how,
            engine=engine,
            stop=stopping.asked,
            progress=None if options.quiet else bar.show,
        )
    if options.report is not None:
        _write_report(options, config, summary)
    if not options.quiet:
        tables = [closing_table(summary, options.report), *([comparison_table(comparison)] if comparison else [])]
        sys.stdout.write("\n\n".join(tables) + "\n")
    return 4 if options.strict and summary.scored < summary.rows else 0


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
        raise UsageError("--engine-conf is for --engine spark and --engine ray")
    return nullcontext()


def _write_report(options: argparse.Namespace, config: Config, summary: Summary) -> None:
    from ..formats import open_table, with_base_dir
    from ..report import make_report, report_rows

    columns = (options.url_col, options.caption_col)
    parts = open_table(options.out_path).read(0, config.chunk_size)
    rows = report_rows(tuple(part.column(name) for name in (*columns, *OUT_COLUMNS)) for part in parts)
    make_report(rows, summary.as_dict(), with_base_dir(config, options.in_path), options.report)


def closing_table(summary: Summary, report: Path | None = None) -> str:
    """Lay out a summary for a terminal."""
    return lay_out(
        [
            ("rows", f"{summary.rows:,}"),
            ("scored", f"{summary.scored:,}"),
            *((f"failed: {code}", f"{count:,}") for code, count in summary.failures.items()),
            ("pairs/s", f"{summary.pairs_per_second:,.1f}"),
            ("score", summary.score),
            ("model", summary.info.model),
            ("device", ", ".join(filter(None, (summary.info.device, summary.info.precision, summary.info.backend)))),
            ("output", summary.output),
            *([("report", report)] if report else []),
            *(("warning", text) for text in summary.warnings),
        ]
    )
