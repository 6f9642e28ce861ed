"""`export`: write a model as a folder that runs elsewhere."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from typing import TYPE_CHECKING

from ..config import Config
from ..errors import UsageError
from ..export.options import ExportOptions
from .options import add_log_options
from .parser import add_field
from .terminal import lay_out, lay_out_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..export import ExportSummary, Parity


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    text = "Export a model to a folder, to run it elsewhere, and check that the export gives the same scores."
    command = commands.add_parser("export", help=text, description=text)
    option = command.add_argument
    option(
        "model",
        metavar="MODEL",
        help="hub id, local folder or alias of the model; with --check-only, the export to check",
    )
    option(
        "out",
        metavar="OUT",
        nargs="?",
        help="folder to write, which appears only once it is complete; not with --check-only",
    )
    add_field(command, ExportOptions, "to")
    add_field(command, ExportOptions, "precision")
    add_field(command, ExportOptions, "recipe")
    add_field(command, ExportOptions, "opset", metavar="N", type=int)
    add_field(command, ExportOptions, "triton_backend", metavar="BACKEND")
    add_field(command, ExportOptions, "max_batch")
    add_field(command, ExportOptions, "check_data", metavar="TABLE")
    add_field(command, ExportOptions, "allow_drift")
    add_field(command, ExportOptions, "force")
    add_field(command, Config, "revision")
    option(
        "--check-only",
        action="store_true",
        help="write nothing, but check that an existing export gives the same results on this machine as its source "
        "gave at the time of the export; with `--check-data`, the source model itself is needed too",
    )
    add_log_options(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    if options.check_only == (options.out is not None):
        raise UsageError("give either OUT, or --check-only to check an existing export")
    # Imported here so that `--help` and wrong options are handled at once.
    from ..export import check_export, export_model

    if options.check_only:
        parities = check_export(options.model, check_data=options.check_data)
        sys.stdout.write(parity_table(parities) + "\n")
        return 0 if all(parity.passed for parity in parities) else 1
    names = [field.name for field in fields(ExportOptions)]
    wanted = ExportOptions(**{name: getattr(options, name) for name in names})
    tell = None if options.quiet else _tell
    found = export_model(Config(model=options.model, revision=options.revision), options.out, wanted, progress=tell)
    if not options.quiet:
        sys.stdout.write(closing_table(found) + "\n")
    return 0


def _tell(step: str) -> None:
    sys.stderr.write(f"{step}\n")


def closing_table(found: ExportSummary) -> str:
    """Lay out the facts about an export and how it compares with its source."""
    made = f"{found.target}, {found.precision}" + (f" ({found.recipe})" if found.recipe else "")
    first, image_ms, text_ms = found.parities[0], *found.source_ms
    facts = lay_out(
        [
            ("source", found.source),
            ("export", made),
            ("size", f"{found.bytes / 1e6:,.1f} MB"),
            ("ms per image", f"{first.image.ms:.2f} (source: {image_ms:.2f})"),
            ("ms per caption", f"{first.text.ms:.2f} (source: {text_ms:.2f})"),
            ("seconds", f"{found.seconds:.1f}"),
            ("output", found.out),
        ]
    )
    return f"{facts}\n\n{parity_table(found.parities)}"


def parity_table(parities: Sequence[Parity]) -> str:
    """Lay out how an export compares with its source."""
    heads = ["pairs", "lowest cosine", "score difference", "rank correlation", "recall@10", "verdict"]
    rows = [
        [
            f"{parity.pairs:,} of {parity.data}",
            f"{min(parity.image.cosine_min, parity.text.cosine_min):.6f}",
            f"{parity.score_max:.1e}",
            "" if parity.rank_correlation is None else f"{parity.rank_correlation:.5f}",
            (
                ""
                if parity.recall_source is None or parity.recall_export is None
                else f"{parity.recall_export:.3f} (source: {parity.recall_source:.3f}"
                + (")" if parity.recall_counts else ", no better than chance)")
            ),
            "passed" if parity.passed else "; ".join(parity.failures),
        ]
        for parity in parities
    ]
    return lay_out_table(heads, rows, numbers=0)
