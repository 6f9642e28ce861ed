"""The command line: one subcommand for each door, and no logic of its own.

Exit codes: 0 done, 1 the job failed, 2 wrong usage, 4 `--strict` and a row failed, 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, get_args

from tqdm import tqdm

from .config import Config, Limits, Precision, ScoreKind
from .errors import TextImageSimilarityError, UsageError

if TYPE_CHECKING:
    from .tables import Summary


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command `text-image-similarity` and exit."""
    parser = argparse.ArgumentParser(
        prog="text-image-similarity", description="Score how well each image matches its caption."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    text = "Score each row of a CSV and write it with two more columns, similarity and error."
    command = commands.add_parser("score", help=text, description=text)
    command.add_argument("in_path", metavar="IN", type=Path, help="CSV with a header")
    command.add_argument("out_path", metavar="OUT", type=Path, help="CSV to write; OUT.summary.json comes beside it")
    _add_score_options(command)
    _run_and_exit(parser.parse_args(arguments), fall_back=False)


def run_script(in_path: Path, out_path: Path, arguments: Sequence[str] | None = None) -> None:
    """Run the batch script and exit: `score` with default paths, and `mini` where nobody chose a model and the hub is
    out of reach.

    Args:
        in_path: The default input.
        out_path: The default output.
        arguments: The command line; None is this process's own.
    """
    parser = argparse.ArgumentParser(description=f"Score {in_path.name}, or any CSV of pictures and captions.")
    parser.add_argument("in_path", metavar="IN", nargs="?", type=Path, default=in_path, help="default: %(default)s")
    parser.add_argument("out_path", metavar="OUT", nargs="?", type=Path, default=out_path, help="default: %(default)s")
    _add_score_options(parser)
    _run_and_exit(parser.parse_args(arguments), fall_back=True)


def _add_score_options(parser: argparse.ArgumentParser) -> None:
    config = Config()
    add = parser.add_argument
    add("--model", help=f"hub id, local folder, or one of fast, accurate, mini (default: fast, {config.model})")
    add("--revision", help="commit, tag or branch of a hub model (default: the pinned one)")
    add("--device", default=config.device, help="auto, cpu, cuda, cuda:N or mps (default: %(default)s)")
    add("--precision", default=config.precision, choices=get_args(Precision), help="default: %(default)s")
    add("--batch-size", type=int, default=config.batch_size, help="pictures encoded at once (default: %(default)s)")
    add("--score", default=config.score, choices=get_args(ScoreKind), help="score kind (default: %(default)s)")
    add("--url-col", default="url", help="column of image references (default: %(default)s)")
    add("--caption-col", default="caption", help="column of captions (default: %(default)s)")
    add("--timeout", type=float, default=config.timeout_s, help="seconds a download try (default: %(default)s)")
    add(
        "--total-timeout", type=float, default=config.limits.total_s, help="seconds a row in all (default: %(default)s)"
    )
    add("--retries", type=int, default=config.retries, help="further tries of a download (default: %(default)s)")
    add("--io-workers", type=int, default=config.io_workers, help="fetching threads (default: %(default)s)")
    add("--chunk-size", type=int, default=config.chunk_size, help="rows between flushes (default: %(default)s)")
    add("--allow-private-addresses", action="store_true", help="let URLs reach private and loopback addresses")
    add("--strict", action="store_true", help="exit with 4 if a row has no score")
    add("--quiet", action="store_true", help="no progress bar and no closing table")


def _run_and_exit(options: argparse.Namespace, *, fall_back: bool) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        summary = _score(options, fall_back=fall_back)
    except TextImageSimilarityError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        sys.exit(130)
    if not options.quiet:
        print(_closing_table(summary))
    sys.exit(4 if options.strict and summary.scored < summary.rows else 0)


def _score(options: argparse.Namespace, *, fall_back: bool) -> Summary:
    config = Config(
        model=options.model or Config().model,
        revision=options.revision,
        device=options.device,
        precision=options.precision,
        batch_size=options.batch_size,
        score=options.score,
        timeout_s=options.timeout,
        retries=options.retries,
        io_workers=options.io_workers,
        chunk_size=options.chunk_size,
        limits=Limits(total_s=options.total_timeout, allow_private_addresses=options.allow_private_addresses),
    )
    from .tables import score_csv  # here, so that `--help` and a wrong option answer before torch is loaded

    with closing(_ProgressBar()) as bar:
        return score_csv(
            options.in_path,
            options.out_path,
            config,
            options.url_col,
            options.caption_col,
            fallback="mini" if fall_back and options.model is None else None,
            progress=None if options.quiet else bar.show,
        )


class _ProgressBar:
    """A bar with rate and failures; it appears once the model is loaded, so that its rate is the run's."""

    def __init__(self) -> None:
        self._bar: tqdm[NoReturn] | None = None

    def show(self, done: int, failed: int, total: int) -> None:
        bar = self._bar = self._bar or tqdm(total=total, unit=" pairs", dynamic_ncols=True)
        bar.set_postfix(failed=failed, refresh=False)
        bar.update(done - bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _closing_table(summary: Summary) -> str:
    """Lay out a summary for a terminal."""
    lines = [
        ("rows", f"{summary.rows:,}"),
        ("scored", f"{summary.scored:,}"),
        *((f"failed: {code}", f"{count:,}") for code, count in summary.failures.items()),
        ("pairs/s", f"{summary.pairs_per_second:,.1f}"),
        ("score", summary.score),
        ("model", summary.model),
        ("device", f"{summary.device}, {summary.precision}"),
        ("output", summary.output),
        *(("warning", text) for text in summary.warnings),
    ]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)
