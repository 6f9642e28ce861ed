"""`embed`: read a table and write it with vectors, for a vector store."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from pathlib import Path

from ..config import Config
from ..errors import UsageError
from .one_off import is_single_image
from .options import (
    INPUT,
    OUTPUT,
    RUN,
    add_base_dir,
    add_dialect,
    add_drop_columns,
    add_feeders,
    add_fetch_options,
    add_force,
    add_log_options,
    add_model_options,
    add_worker_options,
    check_output,
    config_of,
    progress_bar,
)
from .parser import ADVICE, Parser, add_field
from .stopping import Stopping
from .terminal import lay_out

_MATRIX = b"\x93NUMPY"
_COLUMN = "name the column of images with --col, or the column of captions with --of captions and --col"
_ADVICE = {**ADVICE, "--url-col": _COLUMN, "--caption-col": _COLUMN, "--image-col": _COLUMN, "--text-col": _COLUMN}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    text = "Encode each row's image or caption and write the table with its vectors, for any vector store."
    command = commands.add_parser("embed", help=text, description=text)
    if isinstance(command, Parser):
        command.advice = _ADVICE
    command.add_argument("in_path", metavar="IN", help="a table, as for `score`")
    command.add_argument("out_path", metavar="OUT", help="table to write, such as vectors.parquet")
    add = command.add_argument_group(INPUT).add_argument
    add("--of", choices=("images", "captions"), default="images", help="whether to encode `images` or `captions`")
    add("--col", metavar="COLUMN", help="column of images or captions; by default the one that `score` would use")
    add_dialect(command)
    add_base_dir(command)
    add_model_options(command)
    add_fetch_options(command)
    add_worker_options(command, io_workers=Config().io_workers)
    add_feeders(command)
    add = command.add_argument_group(OUTPUT).add_argument
    text = "also write the vectors to this file, as one float32 matrix with a row for each row of OUT; rows that failed are NaN"
    add("--npy", metavar="FILE", type=Path, help=text)
    add_force(command)
    add(
        "--overwrite-column",
        action="store_true",
        help="replace the columns `embedding` and `error` if IN has them already",
    )
    add_drop_columns(command)
    group = command.add_argument_group(RUN)
    add_field(group, Config, "chunk_size")
    text = "start from the first row; by default, a run resumes after the parts that an earlier run finished"
    group.add_argument("--restart", action="store_true", help=text)
    text = "stop with exit code 4 once more rows than this have failed, as in `score`"
    group.add_argument("--max-failures", metavar="N|P%", help=text)
    add_log_options(command)
    command.set_defaults(run=run, interrupted="finished parts are kept, and the same command resumes from them")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    out = options.out_path
    if options.npy is not None:
        check_output(options.npy, mark=_MATRIX, force=options.force, besides=(out, options.in_path))
    config = config_of(options)
    from ..tables import TableOptions, embed_table, is_folder_output, write_matrix

    if is_single_image(options.in_path):
        raise UsageError(f"{options.in_path} is one image; name its folder, or a table with the column url")
    if is_folder_output(out):
        raise UsageError(f"{out} is a folder; name a file to write, such as vectors.parquet")
    how = TableOptions(
        start="restart" if options.restart else "resume",
        overwrite_column=options.overwrite_column,
        force=options.force,
        max_failures=options.max_failures,
        drop_columns=tuple(options.drop_col),
    )
    with Stopping() as stopping, closing(progress_bar(options, "rows")) as bar:
        summary = embed_table(
            options.in_path,
            out,
            config,
            options.col,
            side=options.of,
            options=how,
            progress=None if options.quiet else bar.show,
            stop=stopping.asked,
        )
    lines: list[tuple[str, object]] = [
        ("rows", f"{summary.rows:,}"),
        ("embedded", f"{summary.scored:,}"),
        *((f"failed: {code}", f"{count:,}") for code, count in summary.failures.items()),
        ("rows/s", f"{summary.pairs_per_second:,.1f}"),
        ("model", summary.info.model),
        ("output", summary.output),
    ]
    if summary.rows and not summary.scored:
        sys.stdout.write("" if options.quiet else lay_out(lines) + "\n")
        return 4
    if options.npy is not None and summary.rows:
        rows, dimension = write_matrix(summary.output, options.npy, summary.rows, config)
        lines.append(("matrix", f"{options.npy}, {rows:,} x {dimension:,}"))
    if not options.quiet:
        sys.stdout.write(lay_out(lines) + "\n")
    return 0
