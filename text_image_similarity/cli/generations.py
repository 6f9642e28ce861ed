"""The actions of `catalog` that change its model, and that measure how well it finds."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing

from .options import progress_bar
from .products import add_action, add_encoding_options, add_reading_options, open_existing
from .stopping import Stopping
from .terminal import lay_out

Subparsers = argparse._SubParsersAction  # argparse has no public name for it


def add_generation_actions(actions: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the actions to those of `catalog`."""
    text = "Build the vectors of another model beside those that answer; the same command resumes what was interrupted."
    parser = add_action(actions, "reindex", text, run_reindex)
    parser.add_argument("--model", metavar="MODEL", required=True, help="hub id, folder or alias of the other model")
    add_encoding_options(parser)
    parser.set_defaults(interrupted="what is built is kept, and the same command goes on from there")
    for name, text in (
        ("switch", "Let the model answer that `reindex` has built, from one query to the next, in every process."),
        ("rollback", "Let the model answer again that did so before the last `switch`."),
    ):
        add_reading_options(add_action(actions, name, text, run_switch)).set_defaults(action=name)
    text = "Remove all models but the one that answers, with their vectors."
    add_reading_options(add_action(actions, "drop", text, run_drop))
    text = "Measure how much of what is nearest the store finds, on these products and under filters of your own."
    parser = add_reading_options(add_action(actions, "check", text, run_check))
    parser.add_argument("--recall", metavar="N", type=int, default=100, help="queries to ask")
    parser.add_argument(
        "--where", metavar="FILTER", action="append", default=[], help="a filter, as for `match`; may be given again"
    )


def run_reindex(options: argparse.Namespace) -> int:
    """Build another generation."""
    model = options.model
    with Stopping() as stopping, closing(progress_bar(options, "products")) as bar, open_existing(options) as catalog:
        show = None if options.quiet else bar.show
        report = catalog.reindex(model, progress=show, stop=stopping.asked)
    if not options.quiet:
        lines: list[tuple[str, object]] = [
            ("generation", report.generation),
            ("products encoded", f"{report.products:,}"),
            ("pictures", f"{report.pictures:,}"),
            *((f"pictures failed: {code}", f"{count:,}") for code, count in sorted(report.failures.items())),
            *([("pictures lost", f"{report.lost:,}")] if report.lost else []),
            *(
                [("recall", f"{report.recall.mean:.4f}, worst query {report.recall.worst:.2f}")]
                if report.recall
                else []
            ),
            ("next", f"text-image-similarity catalog switch {options.catalog}"),
        ]
        sys.stdout.write(lay_out(lines) + "\n")
    return 0


def run_switch(options: argparse.Namespace) -> int:
    """Let another generation answer."""
    with open_existing(options) as catalog:
        live = catalog.switch() if options.action == "switch" else catalog.rollback()
    if not options.quiet:
        sys.stdout.write(lay_out([("answers", f"generation {live.number}, {live.identity.model}")]) + "\n")
    return 0


def run_drop(options: argparse.Namespace) -> int:
    """Remove generations."""
    with open_existing(options) as catalog:
        dropped = catalog.drop()
    if not options.quiet:
        sys.stdout.write(lay_out([("dropped", ", ".join(map(str, dropped)) or "nothing")]) + "\n")
    return 0


def run_check(options: argparse.Namespace) -> int:
    """Measure recall."""
    with open_existing(options) as catalog:
        found = catalog.check(queries=options.recall, filters=options.where or (None,))
    sys.stdout.write(
        lay_out(
            [
                ("queries", f"{found.queries:,}"),
                ("filters", f"{found.filters:,}"),
                ("recall@10, mean", f"{found.mean:.4f}"),
                ("recall@10, worst", f"{found.worst:.4f}"),
                ("answers too short", f"{found.short:,}"),
                ("answered exactly", f"{found.exact:,}"),
            ]
        )
        + "\n"
    )
    return 0
