"""`catalog`: create a catalogue of products, fill it, inspect it, and change its model."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import Config
from ..errors import UsageError
from .generations import add_generation_actions
from .match import as_text
from .match_log import add_log_action
from .options import MODEL, PAGE, add_force, add_log_options, add_runtime_options, check_output, config_of, progress_bar
from .parser import add_field
from .products import (
    add_action,
    add_encoding_options,
    add_product_columns,
    add_reading_options,
    add_table_options,
    added_counts,
    added_table,
    columns_of,
    create_command,
    declared_field,
    open_existing,
)
from .stopping import Stopping
from .terminal import lay_out, shown

if TYPE_CHECKING:
    from ..search import AddReport, Catalog

Subparsers = Any
_MOST_FAILURES = 1000  # limit on the products with a failed image that a report shows
_TABLE = "a table that `score` reads, or `mongodb://HOST/DATABASE/COLLECTION`"


def add(commands: Subparsers) -> dict[str, argparse.ArgumentParser]:
    """Add the command to the parser, and return the parsers of its subcommands by name."""
    text = "Create and maintain a catalogue of products that can be searched by image, by text or by both."
    command = commands.add_parser("catalog", help=text, description=text)
    actions = command.add_subparsers(required=True, metavar="ACTION")
    for each in (_create, _add, _delete, _show, _export, _optimize):
        each(actions)
    add_generation_actions(actions)
    add_log_action(actions)
    return {f"catalog {name}": parser for name, parser in actions.choices.items()}


def _reading(
    actions: Subparsers, name: str, text: str, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    return add_reading_options(add_action(actions, name, text, run))


def _create(actions: Subparsers) -> None:
    parser = add_action(actions, "create", "Create an empty catalogue.", run_create)
    parser.add_argument(
        "--field",
        metavar="NAME[:KIND]",
        action="append",
        default=[],
        help="declare a field that products have in addition to a name and images; its kind is `text` (the default), "
        "`number`, `bool`, `date`, or `texts` for lists; may be repeated",
    )
    parser.add_argument(
        "--fields-from",
        metavar="TABLE",
        help="declare all columns of a table as fields, except those of ids, names, descriptions, groups and images; "
        "each field gets a kind that fits its values",
    )
    parser.add_argument(
        "--store",
        metavar="KIND",
        help="where vectors are stored and searched: `sqlite`, `lancedb`, `lancedb:URI`, `qdrant://HOST:PORT/NAME` or `pgvector`; see docs/catalog.md#stores; by "
        "default `sqlite` in a folder and `pgvector` in PostgreSQL",
    )
    model = parser.add_argument_group(MODEL)
    model.add_argument(
        "--model",
        metavar="MODEL",
        help="`mini`, the default, which is for trying things out; `fast` (CLIP ViT-B/32), `accurate` (CLIP ViT-L/14), or any other "
        "model; see docs/models.md",
    )
    add_field(model, Config, "revision")
    add_runtime_options(parser)
    add_table_options(parser)
    add_log_options(parser)
    parser.set_defaults(limits=[])


def run_create(options: argparse.Namespace) -> int:
    """Create a catalogue."""
    from ..search import open_catalog
    from ..search.opening import is_catalog

    if is_catalog(options.catalog):
        raise UsageError(f"there is already a catalogue at {options.catalog}; add to it, or name another place")
    declared = {field.name: field for field in _guessed(options)} | {
        field.name: field for field in map(declared_field, options.field)
    }
    config = config_of(options)
    if options.model is None:
        config = replace(config, model="mini")
    with open_catalog(options.catalog, fields=list(declared.values()), store=options.store, config=config) as catalog:
        if not options.quiet:
            sys.stdout.write(_summary(catalog, options.catalog) + "\n")
    return 0


def _guessed(options: argparse.Namespace) -> list[Any]:
    if options.fields_from is None:
        return []
    from ..search import open_source

    return list(open_source(options.fields_from, columns_of(options), config_of(options).dialect).guess_fields())


def _add(actions: Subparsers) -> None:
    text = "Add a table's products, or replace those with the same ids; an interrupted run resumes when it is repeated."
    parser = add_action(actions, "add", text, run_add)
    parser.add_argument("table", metavar="TABLE", nargs="?", help=_TABLE)
    parser.add_argument(
        "--retry",
        action="store_true",
        help="retry images that failed earlier; if TABLE is given, its products are added first",
    )
    parser.add_argument(
        "--strict", action="store_true", help="exit with code 4 if any product was refused or any image failed"
    )
    parser.add_argument(
        "--report",
        metavar="PAGE",
        type=Path,
        help="HTML page to write, with counts, the products that were refused, and the images that failed",
    )
    add_force(parser)
    add_table_options(parser)
    add_encoding_options(parser)
    parser.set_defaults(interrupted="everything written so far is kept, and the same command resumes from there")


def run_add(options: argparse.Namespace) -> int:
    """Add products and return the exit code: 4 if all were refused; with `--strict`, if any was refused or failed."""
    if options.table is None and not options.retry:
        raise UsageError("name a table of products, or retry the images that failed with --retry")
    if options.report is not None:
        check_output(options.report, mark=PAGE, force=options.force, besides=(options.table,))
    from ..search import open_source
    from ..search.opening import is_catalog

    if options.table is not None and not is_catalog(options.catalog):
        fields = open_source(options.table, columns_of(options), config_of(options).dialect).guess_fields()
        raise UsageError(
            f"there is no catalogue at {options.catalog}; create one for this table with: {create_command(options.catalog, fields)}"
        )
    with Stopping() as stopping, open_existing(options) as catalog:
        reports = []
        if options.table is not None:
            with closing(progress_bar(options, "products")) as bar:
                show = None if options.quiet else bar.show
                reports.append(
                    catalog.add_table(options.table, columns_of(options), progress=show, stop=stopping.asked)
                )
        if options.retry:
            with closing(progress_bar(options, "products")) as bar:
                reports.append(catalog.retry(progress=None if options.quiet else bar.show))
        if options.report is not None:
            _write_report(options, catalog, reports)
        if not options.quiet:
            tables = [added_table(report, options.catalog, len(catalog)) for report in reports]
            sys.stdout.write("\n\n".join(tables) + "\n")
    refused, failed = sum(report.refused for report in reports), sum(report.failures.total() for report in reports)
    nothing = any(report.refused and report.refused == report.products for report in reports)
    return 4 if nothing or (options.strict and (refused or failed)) else 0


def _write_report(options: argparse.Namespace, catalog: Catalog, reports: Sequence[AddReport]) -> None:
    from ..report import write_additions

    failed = [
        (product.id, product.name, next(iter(product.images), ""), error)
        for product, error in islice(catalog.failures(), _MOST_FAILURES)
    ]
    counts = [count for report in reports for count in added_counts(report)]
    refusals = [reason for report in reports for reason in report.refusals]
    write_additions(options.report, options.catalog, counts, refusals, failed)


def _delete(actions: Subparsers) -> None:
    parser = _reading(actions, "delete", "Remove products by their ids.", run_delete)
    parser.add_argument("ids", metavar="ID", nargs="*", default=[], help="a product's id")
    parser.add_argument(
        "--from", dest="ids_file", metavar="FILE", type=Path, help="a text file with an id on each line"
    )


def run_delete(options: argparse.Namespace) -> int:
    """Remove products."""
    ids = list(options.ids)
    if options.ids_file is not None:
        try:
            lines = options.ids_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeError) as exc:
            raise UsageError(f"{options.ids_file} cannot be read: {exc}") from exc
        ids += [line for line in lines if line.strip()]
    if not ids:
        raise UsageError("name the ids of the products to remove, or a file of them with --from FILE")
    with open_existing(options) as catalog:
        deleted = catalog.delete(ids)
        if not options.quiet:
            unknown = len(set(ids)) - deleted
            lines = [("deleted", f"{deleted:,}"), *([("not found", f"{unknown:,}")] if unknown else [])]
            sys.stdout.write(lay_out([*lines, ("products left", f"{len(catalog):,}")]) + "\n")
    return 0


def _show(actions: Subparsers) -> None:
    parser = _reading(
        actions, "show", "Show a summary of a catalogue, or one of its products with all values.", run_show
    )
    parser.add_argument("id", metavar="ID", nargs="?", help="a product's id; without it, the catalogue itself is shown")
    parser.add_argument("--json", action="store_true", help="write one JSON object")


def run_show(options: argparse.Namespace) -> int:
    """Show a catalogue or a product."""
    with open_existing(options) as catalog:
        if options.id is None:
            text = json.dumps(catalog.describe()) if options.json else _summary(catalog, options.catalog)
        else:
            product = catalog.get(options.id)
            if product is None:
                raise UsageError(f"there is no product {options.id!r} in {options.catalog}")
            found = product.as_dict()
            fields = found.pop("fields")
            lines = [
                (name, shown(as_text(value), 1000))
                for name, value in (*found.items(), *fields.items())
                if value not in (None, "", [])
            ]
            text = json.dumps(product.as_dict()) if options.json else lay_out(lines)
        sys.stdout.write(text + "\n")
    return 0


def _summary(catalog: Catalog, place: str) -> str:
    """Lay out the description and contents of a catalogue."""
    found = catalog.describe()
    fields = ", ".join(f"{field['name']} ({field['kind']})" for field in found["fields"]) or "none"
    return lay_out(
        [
            ("catalogue", place),
            ("products", f"{found['products']:,}"),
            *((f"images failed: {code}", f"{count:,}") for code, count in found["failures"].items()),
            ("fields", shown(fields, 2000)),
            ("store", found["store"]),
            *(
                (
                    f"generation {each['number']}",
                    f"{each['state']}, {each['model']}, {each['embed_dim']} numbers per vector",
                )
                for each in found["generations"]
            ),
        ]
    )


def _export(actions: Subparsers) -> None:
    parser = _reading(actions, "export", "Write products as a table that `catalog add` can read.", run_export)
    parser.add_argument("out", metavar="OUT", help="table to write, in the format given by its suffix")
    parser.add_argument(
        "--where",
        metavar="FILTER",
        help="export only the products that pass this filter, as for `match`; by default, all",
    )
    add_product_columns(parser, images="column for the references to images; by default `images`")
    add_force(parser)


def run_export(options: argparse.Namespace) -> int:
    """Write products as a table."""
    with open_existing(options) as catalog:
        count = catalog.export(options.out, columns_of(options), where=options.where, force=options.force)
    if not options.quiet:
        sys.stdout.write(lay_out([("products", f"{count:,}"), ("output", options.out)]) + "\n")
    return 0


def _optimize(actions: Subparsers) -> None:
    text = "Reclaim space and rebuild search indexes after many changes."
    _reading(actions, "optimize", text, run_optimize)


def run_optimize(options: argparse.Namespace) -> int:
    """Optimise a catalogue."""
    with open_existing(options) as catalog:
        catalog.optimize()
    return 0
