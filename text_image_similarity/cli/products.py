"""Functions that the commands for catalogues share: options, opening a catalogue, and reports of added products."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from ..config import Config
from ..errors import UsageError
from .options import (
    INPUT,
    add_base_dir,
    add_dialect,
    add_fetch_options,
    add_log_options,
    add_runtime_options,
    add_worker_options,
    config_of,
    setting,
)
from .terminal import lay_out, shown
from .wording import command_line

Subparsers = argparse._SubParsersAction  # argparse has no public name for this class

_KINDS: tuple[Literal["text", "number", "bool", "date", "texts"], ...] = ("text", "number", "bool", "date", "texts")

if TYPE_CHECKING:
    from ..search import AddReport, Catalog, Field, ProductColumns


def add_action(
    actions: Subparsers[argparse.ArgumentParser], name: str, text: str, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    """Add an action of `catalog`, with the argument that names the catalogue."""
    parser = actions.add_parser(name, help=text, description=text)
    parser.add_argument("catalog", metavar="CATALOG", help="the catalogue: a folder, or `postgresql://...`")
    parser.set_defaults(run=run)
    return parser


def add_reading_options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the log options to an action that does not encode anything, and return its parser."""
    add_log_options(parser)
    parser.set_defaults(limits=[])
    return parser


def add_encoding_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for fetching images and encoding them with the catalogue's model."""
    add_runtime_options(parser)
    add_base_dir(parser)
    add_fetch_options(parser)
    add_worker_options(parser, io_workers=Config().io_workers)
    add_log_options(parser)


def add_product_columns(parser: argparse.ArgumentParser, *, images: str) -> None:
    """Add the options that name the columns of a table of products."""
    add = parser.add_argument_group(INPUT).add_argument
    add("--id-col", metavar="COLUMN", default="id", help="column of the products' ids")
    add(
        "--name-col",
        metavar="COLUMN",
        help="column of the products' names; by default `name`, or else `title` if a table is read; '' for none",
    )
    add("--image-col", metavar="COLUMN", action="append", default=[], help=images)
    add(
        "--description-col",
        metavar="COLUMN",
        help="column of additional text, such as a description; by default `description`; '' for none",
    )
    add(
        "--group-col",
        metavar="COLUMN",
        help="column of an id that the variants of a product share; by default `group`; '' for none",
    )
    add(
        "--field-col",
        metavar="FIELD=COLUMN",
        type=field_column,
        action="append",
        default=[],
        help="column of a declared field, if its name differs from the field's; `FIELD=` leaves the field out; may be repeated",
    )


def add_table_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for reading a table of products."""
    add_product_columns(
        parser,
        images="column of images, or of paths or URLs of images; may be repeated; '' if products have no images; by default the first of "
        "`images`, `image`, `image_url` and `url`",
    )
    add_dialect(parser)


def field_column(text: str) -> tuple[str, str]:
    """Parse `FIELD=COLUMN`, where the column may be empty."""
    return setting(text)


def columns_of(options: argparse.Namespace) -> ProductColumns:
    """Return the columns that the options name."""
    from ..search import ProductColumns

    return ProductColumns(
        id=options.id_col,
        name=options.name_col,
        images=tuple(options.image_col),
        description=options.description_col,
        group=options.group_col,
        fields=dict(options.field_col),
    )


def open_existing(options: argparse.Namespace) -> Catalog:
    """Open the catalogue that the options name."""
    from ..search import open_catalog

    return open_catalog(options.catalog, config=replace(config_of(options), model="mini"))


def create_command(place: str, fields: Sequence[Field]) -> str:
    """Return the command that creates a catalogue with these fields."""
    declared = [
        f"{field.name}:{field.kind}" if field.kind != "text" or ":" in field.name else field.name for field in fields
    ]
    words = ["text-image-similarity", "catalog", "create", place]
    return command_line([*words, *(word for name in declared for word in ("--field", name))])


def declared_field(text: str) -> Field:
    """Parse `NAME` or `NAME:KIND`; a part after the last colon that is not a word belongs to the name."""
    from ..search import Field

    name, _, kind = text.rpartition(":")
    found = next((each for each in _KINDS if each == kind and name), None)
    if found is None and name and kind.isidentifier():
        raise UsageError(f"--field {text}: {kind!r} is not one of the kinds {', '.join(_KINDS)}")
    return Field(text) if found is None else Field(name, found)


def added_table(report: AddReport, catalog: str, products: int) -> str:
    """Lay out how many products were added or refused, and how many images failed."""
    return lay_out(
        [
            *added_counts(report),
            *(("", shown(reason, 200)) for reason in report.refusals),
            *([("", "...")] if report.refused > len(report.refusals) else []),
            ("catalogue", f"{catalog}, {products:,} products"),
        ]
    )


def added_counts(report: AddReport) -> list[tuple[str, str]]:
    """Return labels and counts of the products added or refused, and of the images that failed."""
    return [
        ("products", f"{report.products:,}"),
        ("added", f"{report.added:,}"),
        ("updated", f"{report.updated:,}"),
        ("unchanged", f"{report.unchanged:,}"),
        ("images encoded", f"{report.encoded:,}"),
        *((f"images failed: {code}", f"{count:,}") for code, count in sorted(report.failures.items())),
        *([("refused", f"{report.refused:,}")] if report.refused else []),
    ]
