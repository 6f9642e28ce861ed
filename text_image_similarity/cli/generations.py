"""The actions of `catalog` that change its model and measure the quality of its searches."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing

from ..config import Config
from .options import MODEL, add_dialect, add_log_options, add_runtime_options, config_of, progress_bar
from .parser import add_field
from .products import add_action, add_encoding_options, add_reading_options, open_existing
from .stopping import Stopping
from .terminal import lay_out

Subparsers = argparse._SubParsersAction  # argparse has no public name for this class


def add_generation_actions(actions: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the actions for models and for the quality of searches to the `catalog` command."""
    text = (
        "Build another model's vectors while the current ones stay in use; an interrupted run resumes when it is "
        "repeated."
    )
    parser = add_action(actions, "reindex", text, run_reindex)
    parser.add_argument("--model", metavar="MODEL", required=True, help="hub id, folder or alias of the other model")
    parser.add_argument(
        "--allow-lost",
        metavar="N",
        type=int,
        default=0,
        help="number of images with a vector of the current model that may fail with the new one",
    )
    add_encoding_options(parser)
    parser.set_defaults(interrupted="everything built so far is kept, and the same command resumes from there")
    text = "Record where the catalogue's model is now if it has moved, or which export of it to use; any other model is refused."
    parser = add_action(actions, "set-model", text, run_set_model)
    parser.add_argument("model", metavar="MODEL", help="folder, hub id or alias of the same model, or an export of it")
    add_field(parser.add_argument_group(MODEL), Config, "revision")
    add_runtime_options(parser)
    add_log_options(parser)
    parser.set_defaults(limits=[])
    for name, text in (
        ("switch", "Switch every process, between two of its queries, to the vectors that `reindex` has built."),
        ("rollback", "Go back to the model that was in use before the last `switch`."),
    ):
        add_reading_options(add_action(actions, name, text, run_switch)).set_defaults(action=name)
    text = "Remove the vectors of every model except the one in use."
    add_reading_options(add_action(actions, "drop", text, run_drop))
    text = (
        "Measure the store's recall, the share of the nearest images that it finds, with or without your own filters."
    )
    parser = add_reading_options(add_action(actions, "check", text, run_check))
    parser.add_argument("--recall", metavar="N", type=int, default=100, help="number of queries to run")
    parser.add_argument(
        "--where", metavar="FILTER", action="append", default=[], help="a filter, as for `match`; may be repeated"
    )

    text = "Fit a calibration on judged pairs, so that matches have a probability."
    parser = add_action(actions, "calibrate", text, run_calibrate)
    parser.add_argument("pairs", metavar="PAIRS", help="a table of queries, products, and whether they match")
    add = parser.add_argument
    add("--text-col", metavar="COLUMN", help="column of texts to search for")
    add("--image-col", metavar="COLUMN", help="column of paths or URLs of images to search for")
    add("--product-col", metavar="COLUMN", default="product", help="column of the products' ids")
    add(
        "--match-col",
        metavar="COLUMN",
        default="match",
        help="column that states whether the query and the product match: true or false, yes or no, 1 or 0",
    )
    add_dialect(parser)
    add_encoding_options(parser)


def run_reindex(options: argparse.Namespace) -> int:
    """Build a generation with another model."""
    model = options.model
    with Stopping() as stopping, closing(progress_bar(options, "products")) as bar, open_existing(options) as catalog:
        show = None if options.quiet else bar.show
        report = catalog.reindex(model, progress=show, stop=stopping.asked, allow_lost=options.allow_lost)
    if not options.quiet:
        lines: list[tuple[str, object]] = [
            ("generation", report.generation),
            ("products encoded", f"{report.products:,}"),
            ("images", f"{report.images:,}"),
            *((f"images failed: {code}", f"{count:,}") for code, count in sorted(report.failures.items())),
            *([("images lost", f"{report.lost:,}")] if report.lost else []),
            *(
                [("recall", f"{report.recall.mean:.4f}, worst query {report.recall.worst:.2f}")]
                if report.recall
                else []
            ),
            ("next", f"text-image-similarity catalog switch {options.catalog}"),
        ]
        sys.stdout.write(lay_out(lines) + "\n")
    return 0


def run_set_model(options: argparse.Namespace) -> int:
    """Record where the catalogue's model is now, or which export of it to use."""
    from ..search import set_model

    numbers = set_model(options.catalog, config_of(options))
    if not options.quiet:
        sys.stdout.write(lay_out([("model", options.model), ("generations", ", ".join(map(str, numbers)))]) + "\n")
    return 0


def run_switch(options: argparse.Namespace) -> int:
    """Switch to another generation."""
    with open_existing(options) as catalog:
        live = catalog.switch() if options.action == "switch" else catalog.rollback()
    if not options.quiet:
        sys.stdout.write(lay_out([("in use", f"generation {live.number}, {live.identity.model}")]) + "\n")
    return 0


def run_drop(options: argparse.Namespace) -> int:
    """Remove the generations that are not in use."""
    with open_existing(options) as catalog:
        dropped = catalog.drop()
    if not options.quiet:
        sys.stdout.write(lay_out([("dropped", ", ".join(map(str, dropped)) or "nothing")]) + "\n")
    return 0


def run_check(options: argparse.Namespace) -> int:
    """Measure the recall of searches."""
    with open_existing(options) as catalog:
        found = catalog.check(queries=options.recall, filters=options.where or (None,))
    sys.stdout.write(
        lay_out(
            [
                ("queries", f"{found.queries:,}"),
                ("filters", f"{found.filters:,}"),
                ("recall@10, mean", f"{found.mean:.4f}"),
                ("recall@10, worst", f"{found.worst:.4f}"),
                ("results too short", f"{found.short:,}"),
                ("searched exactly", f"{found.exact:,}"),
                ("products missing", f"{found.missing:,}"),
            ]
        )
        + "\n"
    )
    return 0


def run_calibrate(options: argparse.Namespace) -> int:
    """Fit a calibration of similarities."""
    from ..search.judgements import read_judgements

    config = config_of(options)
    judged = read_judgements(
        options.pairs,
        (options.text_col, options.image_col),
        product=options.product_col,
        match=options.match_col,
        config=config,
    )
    with open_existing(options) as catalog:
        found = catalog.calibrate(judged)
    if not options.quiet:
        lines: list[tuple[str, object]] = []
        for kind, each in found.items():
            lines.append((f"{kind} queries", f"{100 * each.prevalence:.1f} % of the pairs match"))
            lines += [(f"probability at {cosine:g}", f"{each.probability(cosine):.4f}") for cosine in (0.2, 0.4, 0.6)]
        lines.append(("left out", f"{max(each.left_out for each in found.values()):,}"))
        sys.stdout.write(lay_out(lines) + "\n")
    return 0
