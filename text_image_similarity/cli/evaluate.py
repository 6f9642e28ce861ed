"""`evaluate`: measure a model on a data set, or its agreement with people's ratings."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import Config
from ..errors import TableError, UsageError, printable_lines
from .one_off import is_single_image
from .options import (
    PAGE,
    add_base_dir,
    add_column_options,
    add_feeders,
    add_fetch_options,
    add_force,
    add_log_options,
    add_model_options,
    add_worker_options,
    check_output,
    columns_given,
    config_of,
    progress_bar,
)
from .terminal import lay_out

if TYPE_CHECKING:
    from ..evaluation import ModelComparison

# How a report begins; a file that does not begin like this is replaced only with --force.
_REPORT = rb'\{\n  "source": .*\n  "model": .*\n  "revision": .*\n  "device": '


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    text = "Measure a model on images with captions: retrieval, separation of matching from mismatching pairs, calibration."
    command = commands.add_parser("evaluate", help=text, description=text)
    option = command.add_argument
    option(
        "source",
        metavar="SOURCE",
        help="a table that `score` reads, a folder with train.parquet, metadata.jsonl or captions.txt, or a hub id such as jxie/flickr8k",
    )
    option("--split", help="`train`, `validation` or `test`, if the source has splits; by default, the whole source")
    add_model_options(command)
    add_column_options(command)
    add_fetch_options(command)
    add_worker_options(command, io_workers=Config().io_workers)
    add_feeders(command)
    add_base_dir(command)
    option(
        "--rating-col",
        metavar="COLUMN",
        action="append",
        help="compare scores with people's ratings in this column, instead of measuring retrieval; may be repeated",
    )
    option(
        "--calibrate",
        metavar="FOLDER",
        nargs="?",
        const="",
        help="save a calibration, which turns this model's cosines into probabilities, as `calibration.json` in the model's folder or in FOLDER",
    )
    option(
        "--against",
        metavar="MODEL",
        help="also measure this model on the same images, and report how certain the differences are, how similarly the two models rank pairs, and which pairs they rank most differently",
    )
    option("--out", metavar="REPORT", type=Path, help="JSON report to write")
    option(
        "--report",
        metavar="PAGE",
        type=Path,
        help="HTML page to write that compares the two models and shows the pairs that they rank most differently",
    )
    add_force(command)
    add_log_options(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    config = config_of(options)
    _check(options)
    if options.against is not None:
        return _compare(options, config)
    # Imported here so that `--help` and wrong options are handled without loading torch.
    from ..evaluation import Evaluation, RatingEvaluation, calibration_folder, evaluate, evaluate_ratings

    keep = (
        None
        if options.calibrate is None
        else calibration_folder(config, options.calibrate or None, force=options.force)
    )
    columns: dict[str, Any] = columns_given(options)
    with closing(progress_bar(options, "images" if not options.rating_col else "pairs")) as bar:
        progress = None if options.quiet else bar.show
        report: Evaluation | RatingEvaluation
        if options.rating_col:
            report = evaluate_ratings(options.source, config, options.rating_col, **columns, progress=progress)
        else:
            report = evaluate(options.source, config, split=options.split, **columns, progress=progress)
    saved: list[tuple[str, object]] = []
    if keep is not None and isinstance(report, Evaluation) and report.calibration is not None:
        saved.append(("calibration", report.calibration.save(keep)))
    if options.out is not None:
        report.write(options.out)
        saved.append(("report", options.out))
    if not options.quiet:
        sys.stdout.write("\n\n".join([printable_lines(report.table()), *([lay_out(saved)] if saved else [])]) + "\n")
    if keep is not None and isinstance(report, Evaluation) and report.calibration is None:
        raise TableError(f"{options.source} has too few pairs, or scores that are too similar, to fit a calibration")
    return 0


def _check(options: argparse.Namespace) -> None:
    """Refuse a single image, options that cannot be combined, and files that must not be replaced."""
    if is_single_image(options.source):
        raise UsageError(f"{options.source} is one image; name a table of images and captions, or a folder of both")
    if options.rating_col and (options.split is not None or options.calibrate is not None):
        raise UsageError("--rating-col cannot be combined with --split or --calibrate; run evaluate twice")
    if options.against is not None and (options.rating_col or options.calibrate is not None):
        raise UsageError("--against cannot be combined with --rating-col or --calibrate; run evaluate twice")
    if options.report is not None and options.against is None:
        raise UsageError("--report shows how two models differ; name the other one with --against")
    for path, mark, other in ((options.out, _REPORT, options.report), (options.report, PAGE, None)):
        if path is not None:
            besides = (options.source, options.embedding_cache, other)
            check_output(path, mark=mark, force=options.force, besides=besides)


def _compare(options: argparse.Namespace, config: Config) -> int:
    """Measure two models and return the exit code."""
    from ..evaluation import compare_models

    against = replace(config, model=options.against, revision=None)
    columns: dict[str, Any] = columns_given(options)
    with closing(progress_bar(options, "images")) as bar:
        progress = None if options.quiet else bar.show
        found = compare_models(options.source, config, against, split=options.split, **columns, progress=progress)
    saved: list[tuple[str, object]] = []
    if options.out is not None:
        found.write(options.out)
        saved.append(("report", options.out))
    if options.report is not None:
        _write_page(found, config, options.report)
        saved.append(("page", options.report))
    if not options.quiet:
        sys.stdout.write("\n\n".join([printable_lines(found.table()), *([lay_out(saved)] if saved else [])]) + "\n")
    return 0


def _write_page(found: ModelComparison, config: Config, path: Path) -> None:
    from ..report import ComparedPair, thumbnails, write_comparison

    images = thumbnails([each.source for each in found.disagreements], config)
    pairs = [
        ComparedPair(each.image, each.caption, each.cosines, each.places, images.get(each.source))
        for each in found.disagreements
    ]
    models = (found.first.info.model, found.second.info.model)
    write_comparison(path, found.source, models, found.rows(), found.facts(), pairs)
