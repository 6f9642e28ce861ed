"""`score`: a CSV in, the same CSV with scores out."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from ..config import Config, Limits, ScoreKind
from .options import add_column_options, add_model_options, model_config
from .terminal import ProgressBar, lay_out

if TYPE_CHECKING:
    from ..tables import Summary


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    text = "Score each row of a CSV and write it with two more columns, similarity and error."
    command = commands.add_parser("score", help=text, description=text)
    command.add_argument("in_path", metavar="IN", type=Path, help="CSV with a header")
    command.add_argument("out_path", metavar="OUT", type=Path, help="CSV to write; OUT.summary.json comes beside it")
    add_score_options(command)


def add_score_options(parser: argparse.ArgumentParser) -> None:
    """Add all that the command and the batch script have in common."""
    config = Config()
    add_model_options(parser)
    add = parser.add_argument
    add("--score", default=config.score, choices=get_args(ScoreKind), help="score kind (default: %(default)s)")
    add_column_options(parser)
    add("--timeout", type=float, default=config.timeout_s, help="seconds a download try (default: %(default)s)")
    add(
        "--total-timeout", type=float, default=config.limits.total_s, help="seconds a row in all (default: %(default)s)"
    )
    add("--retries", type=int, default=config.retries, help="further tries of a download (default: %(default)s)")
    add("--io-workers", type=int, default=config.io_workers, help="fetching threads (default: %(default)s)")
    add("--isolate-decoder", action="store_true", help="decode in worker processes, so that a crash costs one row")
    add("--chunk-size", type=int, default=config.chunk_size, help="rows between flushes (default: %(default)s)")
    add("--allow-private-addresses", action="store_true", help="let URLs reach private and loopback addresses")
    add("--strict", action="store_true", help="exit with 4 if a row has no score")
    add("--quiet", action="store_true", help="no progress bar and no closing table")
    parser.set_defaults(run=run, fall_back=False)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    config = replace(
        model_config(options),
        score=options.score,
        timeout_s=options.timeout,
        retries=options.retries,
        io_workers=options.io_workers,
        isolate_decoder=options.isolate_decoder,
        chunk_size=options.chunk_size,
        limits=Limits(total_s=options.total_timeout, allow_private_addresses=options.allow_private_addresses),
    )
    from ..tables import score_csv  # here, so that `--help` and a wrong option answer before torch is loaded

    with closing(ProgressBar("pairs")) as bar:
        summary = score_csv(
            options.in_path,
            options.out_path,
            config,
            options.url_col,
            options.caption_col,
            fallback="mini" if options.fall_back and options.model is None else None,
            progress=None if options.quiet else bar.show,
        )
    if not options.quiet:
        sys.stdout.write(closing_table(summary) + "\n")
    return 4 if options.strict and summary.scored < summary.rows else 0


def closing_table(summary: Summary) -> str:
    """Lay out a summary for a terminal."""
    return lay_out(
        [
            ("rows", f"{summary.rows:,}"),
            ("scored", f"{summary.scored:,}"),
            *((f"failed: {code}", f"{count:,}") for code, count in summary.failures.items()),
            ("pairs/s", f"{summary.pairs_per_second:,.1f}"),
            ("score", summary.score),
            ("model", summary.model),
            ("device", ", ".join(filter(None, (summary.device, summary.precision, summary.engine)))),
            ("output", summary.output),
            *(("warning", text) for text in summary.warnings),
        ]
    )
