"""`catalog log`: inspect, export and prune the log of a catalogue's searches."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .options import add_force
from .products import add_action, add_reading_options, open_existing
from .terminal import lay_out, lay_out_table, shown

if TYPE_CHECKING:
    from ..search.match_log import LogEntry, LogSummary, MatchLog

Subparsers = argparse._SubParsersAction  # argparse has no public name for this class

_LATEST = 20  # most recent entries, which are shown by default
_DAY_S = 86_400.0


def add_log_action(actions: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the action `log` to the `catalog` command."""
    text = "Show the latest entries or the statistics of the match log, export the log, or remove old entries."
    parser = add_reading_options(add_action(actions, "log", text, run_log))
    parser.add_argument(
        "--log",
        metavar="PLACE",
        help="place of the log, if it is not stored with the catalogue: `postgresql://...`, `mongodb://HOST/DATABASE/COLLECTION`, or a file that ends in .sqlite",
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--summary",
        action="store_true",
        help="show how many searches there were, how many found nothing, how fast they were, and how many led to a click",
    )
    chosen.add_argument("--export", metavar="OUT", help="write the entries with their events, as .jsonl or .parquet")
    chosen.add_argument(
        "--train",
        metavar="OUT",
        help="write each search text with the image that was clicked, as a table that `train` reads",
    )
    chosen.add_argument(
        "--prune",
        metavar="DAYS",
        type=_days,
        help="remove entries that are more than this many days old, with their events",
    )
    parser.add_argument(
        "--since",
        metavar="DATE",
        type=_date,
        help="leave out entries that are older than this: a day such as 2026-11-28, or a time such as 2026-11-28T12:00, in UTC unless an offset is given",
    )
    parser.add_argument("--json", action="store_true", help="write one JSON object")
    add_force(parser)


def run_log(options: argparse.Namespace) -> int:
    """Show, export or prune a log."""
    if options.prune is not None and options.since is not None:
        raise UsageError("--prune and --since cannot be combined; leave out --since")
    from ..search.match_log import open_match_log

    with open_match_log(options.log or options.catalog, create=False) as log:
        found, lines = _chosen(options)(log, options)
    if options.json:
        sys.stdout.write(json.dumps(found) + "\n")
    elif lines and not (options.quiet and (options.export or options.train or options.prune is not None)):
        sys.stdout.write(lines + "\n")
    return 0


_Answer = tuple[dict[str, Any], str]  # the result for --json, and as text for people


def _chosen(options: argparse.Namespace) -> Callable[[MatchLog, argparse.Namespace], _Answer]:
    if options.prune is not None:
        return _prune
    if options.export is not None:
        return _export
    if options.train is not None:
        return _train
    return _summarize if options.summary else _latest


def _prune(log: MatchLog, options: argparse.Namespace) -> _Answer:
    removed = log.prune(time.time() - options.prune * _DAY_S)
    return {"removed": removed}, lay_out([("entries removed", f"{removed:,}")])


def _export(log: MatchLog, options: argparse.Namespace) -> _Answer:
    from ..search.match_log import export_log

    count = export_log(log, options.export, options.since, force=options.force)
    return {"entries": count, "output": options.export}, lay_out(
        [("entries", f"{count:,}"), ("output", options.export)]
    )


def _train(log: MatchLog, options: argparse.Namespace) -> _Answer:
    from ..search.match_log import export_training

    with open_existing(options) as catalog:
        found = export_training(log, catalog, options.train, options.since, force=options.force)
    lines = [
        ("pairs", f"{found.pairs:,}"),
        ("products", f"{found.products:,}"),
        ("searches", f"{found.clicks:,}"),
        ("left out: marked wrong", f"{found.wrong:,}"),
        ("left out: removed or no image", f"{found.missing:,}"),
        ("output", options.train),
    ]
    counts = {name: getattr(found, name) for name in ("pairs", "products", "clicks", "wrong", "missing")}
    return counts | {"output": options.train}, lay_out(lines)


def _summarize(log: MatchLog, options: argparse.Namespace) -> _Answer:
    from ..search.match_log import summarize

    found = summarize(log, options.since)
    return found.as_dict(), _figures(found)


def _figures(found: LogSummary) -> str:
    def share(part: float | None) -> str:
        return "-" if part is None else f"{100 * part:.1f} %"

    def milliseconds(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f} ms"

    lines: list[tuple[str, object]] = [
        ("requests", f"{found.requests:,}"),
        ("searches", f"{found.searches:,}"),
        ("without a result", f"{found.empty:,}"),
        *((f"refused: {shown(code, 40)}", f"{count:,}") for code, count in found.refused.items()),
        ("median", milliseconds(found.milliseconds_median)),
        ("99th percentile", milliseconds(found.milliseconds_p99)),
        *((f"click-through at {k}", share(part)) for k, part in found.click_through.items()),
        *((f"events: {kind}", f"{count:,}") for kind, count in found.events.items()),
    ]
    lists = [
        ("most frequent queries", "times", found.asked),
        ("without a result", "times", found.empty_queries),
        ("most clicked products", "searches", found.clicked),
    ]
    tables = [
        lay_out_table((unit, name), [(f"{count:,}", shown(what, 100)) for what, count in counts], numbers=1)
        for name, unit, counts in lists
        if counts
    ]
    return "\n\n".join([lay_out(lines), *tables])


def _latest(log: MatchLog, options: argparse.Namespace) -> _Answer:
    entries = [each for each in log.latest(_LATEST) if options.since is None or each.time >= options.since]
    heads = ("status", "ms", "found", "time (UTC)", "first product", "query")
    rows = [_row(entry) for entry in entries]
    found = {"entries": [entry.as_dict() for entry in entries]}
    return found, lay_out_table(heads, rows, numbers=3) if rows else lay_out([("entries", 0)])


def _row(entry: LogEntry) -> Sequence[str]:
    from ..search.match_log import describe_query

    spent = entry.milliseconds.get("total")
    first = entry.results[0].get("id", "") if entry.results else ""
    return (
        str(entry.status),
        "" if spent is None else f"{spent:.1f}",
        "" if entry.total is None else f"{entry.total:,}",
        datetime.fromtimestamp(entry.time, UTC).strftime("%Y-%m-%d %H:%M:%S"),
        shown(first, 24),
        shown(describe_query(entry) if entry.error is None else entry.error, 60),
    )


def _days(text: str) -> float:
    """Parse a number of days, 0 to 36,500."""
    if not 0 <= (value := float(text)) <= 36_500:
        raise argparse.ArgumentTypeError(f"{text} must be a number of days from 0 to 36,500")
    return value


def _date(text: str) -> float:
    """Parse a day or a time as seconds since the epoch."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text} must be a day such as 2026-11-28, or a time such as 2026-11-28T12:00"
        ) from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
