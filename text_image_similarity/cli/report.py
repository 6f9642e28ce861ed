"""`report`: write the page about a table that was scored earlier."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import Config
from ..errors import TableError, UsageError
from ..records import OUT_COLUMNS
from .options import (
    PAGE,
    add_base_dir,
    add_column_options,
    add_fetch_options,
    add_force,
    add_log_options,
    again,
    check_output,
    config_of,
)
from .parser import add_field
from .terminal import lay_out


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    text = "Write an HTML page about a scored table, with its scores, failures and images."
    command = commands.add_parser("report", help=text, description=text)
    command.add_argument("scored", metavar="SCORED", help="a table that `score` wrote")
    command.add_argument("page", metavar="OUT", type=Path, help="HTML page to write, such as report.html")
    add_column_options(command, several=True)
    add_base_dir(command)
    add_field(command, Config, "score", default=None)
    add_fetch_options(command)
    add_force(command)
    add_log_options(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    check_output(options.page, mark=PAGE, force=options.force, besides=(options.scored,))
    summary = _summary_of(options.scored)
    settings = (summary.get("job") or {}).get("settings") or {}
    url = options.url_col or settings.get("col_url") or "url"
    captions = again(options.caption_col) or (
        settings.get("col_text") or "caption",
        *((summary.get("job") or {}).get("captions") or ()),
    )
    summary["score"] = options.score or summary.get("score") or Config().score
    options.score = None
    # The summary may be a stranger's, so images are not read from the folder of its `input`.
    tables = (options.scored, options.scored, options.scored)
    missing = page_of_table(tables, (url, captions), summary, config_of(options), options.page)
    if not options.quiet:
        sys.stdout.write(lay_out([("page", options.page), *_missing(missing)]) + "\n")
    return 0


def _missing(count: int) -> list[tuple[str, str]]:
    """Return a line about local images that are not on the page, if there are any."""
    said = (
        f"local images missing from the page: {count:,}; use --base-dir to name the folder of the table that was scored"
    )
    return [("warning", said)] if count else []


def _summary_of(scored: str) -> dict[str, Any]:
    """Return the summary of the run that wrote a table; if it is missing, only the table's name."""
    from ..tables import read_summary

    try:
        return read_summary(scored)
    except UsageError:  # the summary is missing
        return {"output": scored}
    except (TableError, ValueError, TypeError) as exc:
        raise UsageError(
            f"{scored}.summary.json cannot be read ({exc}); delete it to make a report without facts about the run"
        ) from exc


def page_of_table(
    tables: tuple[str, str, str],
    columns: tuple[str, Sequence[str]],
    summary: Mapping[str, Any],
    config: Config,
    page: Path,
) -> int:
    """Write the report page.

    Args:
        tables: The table of pairs, the table of scores, and the table whose folder relative paths start from.
        columns: The column of images, and the columns of captions.
        summary: The contents of the run's summary file.
        config: The settings of the run.
        page: The file to write.

    Returns:
        The number of local images that the page should show but that could not be read.
    """
    from ..dataset import open_source
    from ..formats import cells_of, check_columns, open_output, with_base_dir
    from ..report import make_report, report_rows
    from ..tables import scoring

    source = open_source(tables[0], dialect=config.dialect, max_bytes=config.limits.max_bytes)
    same = tables[0] == tables[1]
    scored = source if same else open_output(tables[1], source, config.dialect)
    # The pairs come from the run's input, because the output may leave these columns out.
    task = scoring(columns[0], columns[1])
    read = (columns[0], *task.captions)
    found_in = [name for names in task.named(OUT_COLUMNS) for name in names]
    if same and source.columns:
        check_columns(source.columns, read, tables[0])
        check_columns(source.columns, found_in, tables[0], options="")
    given, found = (cells_of(table, names) for table, names in ((source, read), (scored, found_in)))
    rows = report_rows((row[0], row[1:], result) for row, result in zip(given, found, strict=True))
    return make_report(rows, summary, with_base_dir(config, tables[2]), page)
