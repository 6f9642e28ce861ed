"""`filter`: write the rows of a scored table whose score is high enough."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from typing import TYPE_CHECKING

from ..errors import UsageError
from .options import add_dialect, add_force, add_log_options, dialect_of, progress_bar
from .terminal import lay_out, lay_out_table

if TYPE_CHECKING:
    from ..tables import FilterPlan, FilterRule, FilterSummary


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    text = "Write the rows of a scored table whose score is high enough."
    command = commands.add_parser("filter", help=text, description=text)
    option = command.add_argument
    option("in_path", metavar="SCORED", help="a table that `score` wrote, or any other table with a column of numbers")
    option(
        "out_path",
        metavar="OUT",
        nargs="?",
        help="table to write, in the format given by its suffix; not with --plan",
    )
    rule = command.add_mutually_exclusive_group()
    rule.add_argument("--min", dest="min_score", metavar="X", type=float, help="keep rows with at least this score")
    rule.add_argument(
        "--top",
        metavar="N|P%",
        help="keep this many rows with the highest scores, such as `10000`, or `30%` of the rows that have a score; among equal "
        "scores, the first rows are kept",
    )
    rule.add_argument(
        "--probability",
        metavar="P",
        type=float,
        help="keep rows whose probability of matching is at least this; the probability is taken from the column "
        "`probability` if there is one, otherwise from a calibration; see docs/thresholds.md",
    )
    rule.add_argument("--drop-failed", action="store_true", help="keep all rows that have a score")
    option("--score-col", metavar="COLUMN", default="similarity", help="column of scores")
    option(
        "--calibration",
        metavar="FOLDER",
        help="folder with the `calibration.json` that `evaluate --calibrate` wrote; by default, that of the model that scored the "
        "table",
    )
    option("--plan", action="store_true", help="show how many rows different thresholds would keep, and write nothing")
    add_dialect(command)
    add_force(command)
    add_log_options(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    if options.plan == (options.out_path is not None):
        raise UsageError("give either OUT or --plan, which shows thresholds and writes nothing")
    # Imported here so that `--help` and wrong options are handled at once.
    from ..tables import FilterRule, filter_table, plan_filter

    rule = {name: getattr(options, name) for name in ("min_score", "top", "probability", "drop_failed")}
    how = {"col_score": options.score_col, "calibration": options.calibration, "dialect": dialect_of(options)}
    if options.plan:
        given = FilterRule(**rule) if any(value not in (None, False) for value in rule.values()) else None
        sys.stdout.write(plan_table(plan_filter(options.in_path, given, **how), given) + "\n")
        return 0
    with closing(progress_bar(options, "rows")) as bar:
        progress = None if options.quiet else bar.show
        found = filter_table(options.in_path, options.out_path, **rule, **how, force=options.force, progress=progress)
    if not options.quiet:
        sys.stdout.write(closing_table(found) + "\n")
    return 0


def closing_table(found: FilterSummary) -> str:
    """Lay out how many rows a filter kept, and why others were left out."""
    if found.failed == found.rows:
        least = "no row has a score"
    else:
        least = "no limit" if found.threshold is None else f"{found.threshold:g}"
    return lay_out(
        [
            ("rows", f"{found.rows:,}"),
            ("without a score", f"{found.failed:,}"),
            ("kept", f"{found.kept:,}{_percent(found.kept, found.rows)}"),
            ("threshold", least),
            *([("ties left out", f"{found.ties_left_out:,}")] if found.ties_left_out else []),
            ("output", found.output),
        ]
    )


def plan_table(plan: FilterPlan, rule: FilterRule | None) -> str:
    """Lay out how many rows different thresholds would keep."""
    rows = [*([(plan.chosen, "with these options")] if plan.chosen else []), *((one, "") for one in plan.thresholds)]
    known = any(one.probability is not None for one, _ in rows)
    lines = [
        [
            "all" if one.threshold is None else f"{one.threshold:.6g}",
            f"{one.kept:,}",
            _percent(one.kept, plan.rows).strip(" ()") or "0 %",
            *(["" if one.probability is None else f"{one.probability:.3f}"] if known else []),
            note,
        ]
        for one, note in rows
    ]
    heads = ["at least", "rows kept", "of all", *(["probability"] if known else []), ""]
    counts = lay_out([("rows", f"{plan.rows:,}"), ("without a score", f"{plan.failed:,}")])
    if plan.failed == plan.rows:
        return f"{counts}\n\nno row has a score, so there is no threshold to choose"
    return f"{counts}\n\n{lay_out_table(heads, lines, numbers=len(heads) - 1)}"


def _percent(part: int, whole: int) -> str:
    return f" ({100 * part / whole:.1f} %)" if whole else ""
