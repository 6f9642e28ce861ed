"""`match-table`: find the best product of a catalogue for each row of a table."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from contextlib import closing
from dataclasses import replace

from ..config import Config
from ..errors import UsageError
from .match import add_ranking_options
from .options import add_dialect, add_drop_columns, add_force, config_of, progress_bar
from .parser import add_field
from .products import add_encoding_options
from .stopping import Stopping
from .terminal import lay_out


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    text = "Find the best product of a catalogue for each row of a table, and write the table with the results as new columns."
    command = commands.add_parser("match-table", help=text, description=text)
    option = command.add_argument
    option("catalog", metavar="CATALOG", help="the catalogue: a folder, or `postgresql://...`")
    option("in_path", metavar="IN", help="a table that `score` reads")
    option("out_path", metavar="OUT", help="table to write, in the format given by its suffix")
    option("--text-col", metavar="COLUMN", help="column of texts to search for")
    option("--image-col", metavar="COLUMN", help="column of paths or URLs of images to search for")
    add_ranking_options(command)
    add_dialect(command)
    add_field(command, Config, "chunk_size")
    option(
        "--restart",
        action="store_true",
        help="start from the first row; by default, a run resumes after the parts that an earlier run finished",
    )
    add_force(command)
    option(
        "--overwrite-column", action="store_true", help="replace columns of IN that have the same names as the results"
    )
    add_drop_columns(command)
    option(
        "--work-dir",
        metavar="FOLDER",
        help="folder that keeps finished parts until OUT is complete; by default next to OUT, or in the user's cache folder "
        "if OUT is at a URL",
    )
    option(
        "--max-failures",
        metavar="N|P%",
        help="stop with exit code 4 once more rows than this have failed, as in `score`",
    )
    option(
        "--strict",
        action="store_true",
        help="exit with code 4 if any row failed; by default, only if all rows failed",
    )
    add_encoding_options(command)
    command.set_defaults(run=run, interrupted="finished parts are kept, and the same command resumes from them")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    if options.text_col is None and options.image_col is None:
        raise UsageError("name the column of texts with --text-col, the column of images with --image-col, or both")
    config = replace(config_of(options), model="mini")
    from ..search import AWAY, Query, Term, is_source, open_catalog
    from ..search.filters import parse_filter
    from ..search.table_answers import MATCH_FIELDS, BestMatch, MatchEngine
    from ..tables import TableOptions, Task, run_table

    if is_source(options.catalog):
        raise UsageError(
            f"{options.catalog} is not a catalogue; create one from it with `catalog create` and `catalog add`, and name that catalogue"
        )
    how = TableOptions(
        start="restart" if options.restart else "resume",
        overwrite_column=options.overwrite_column,
        force=options.force,
        work_dir=options.work_dir,
        max_failures=options.max_failures,
        drop_columns=tuple(options.drop_col),
    )
    common = Query(where=options.where, fusion=options.fusion)
    away = tuple(Term(text, weight=AWAY) for text in options.without)
    with open_catalog(options.catalog, config=config) as catalog:
        parse_filter(options.where, catalog.fields)  # parsed once, before IN is read
        engine = MatchEngine(catalog, common, away=away, min_similarity=options.min_similarity)
        task = Task(
            (options.image_col, options.text_col),
            MATCH_FIELDS,
            BestMatch.cells,
            engine.identity(options.catalog),
            ("--image-col", "--text-col"),
        )
        with Stopping() as stopping, closing(progress_bar(options, "rows")) as bar:
            show = None if options.quiet else bar.show
            paths = (options.in_path, options.out_path)
            summary = run_table(paths, config, task, engine, options=how, progress=show, stop=stopping.asked)
    if not options.quiet:
        sys.stdout.write(
            lay_out(
                [
                    ("rows", f"{summary.rows:,}"),
                    ("answered", f"{summary.scored:,}"),
                    *((f"failed: {code}", f"{count:,}") for code, count in Counter(summary.failures).items()),
                    ("model", summary.info.model),
                    ("output", summary.output),
                ]
            )
            + "\n"
        )
    return 4 if (summary.rows and not summary.scored) or (options.strict and summary.scored < summary.rows) else 0
