"""`match`: find the products of a catalogue or a table that match words, images, or both."""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .one_off import is_image
from .options import PAGE, add_force, check_output, config_of, progress_bar
from .products import add_encoding_options, add_table_options, columns_of
from .terminal import lay_out, lay_out_table, shown
from .wording import command_line

if TYPE_CHECKING:
    from ..config import Config
    from ..search import Catalog, Field, Matches, Query

logger = logging.getLogger("text_image_similarity")

_MOST_FIELDS = 3  # in a table on a terminal


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    text = "Find the products that match words, images, or both, with filters on their fields."
    command = commands.add_parser("match", help=text, description=text)
    option = command.add_argument
    option("catalog", metavar="CATALOG", help="a catalogue, or a table of products, which is then read into memory")
    option(
        "texts",
        metavar="TEXT",
        nargs="*",
        default=[],
        help="words to search for; without any search term, products are listed",
    )
    option(
        "--image",
        metavar="FILE",
        action="append",
        default=[],
        help="path or URL of an image to search for; may be repeated",
    )
    option(
        "--like",
        metavar="ID",
        action="append",
        default=[],
        help="search for products similar to the one with this id; may be repeated",
    )
    add_ranking_options(command)
    option("--top-k", metavar="N", type=int, default=10, help="number of products to show, 1 to 1,000")
    option(
        "--facet",
        metavar="FIELD",
        action="append",
        default=[],
        help="count the values of a field among all products found; may be repeated",
    )
    option(
        "--sort",
        metavar="FIELD",
        help="sort by a field instead of by similarity; `-FIELD` puts the highest values first",
    )
    option("--group", action="store_true", help="show only the best variant of each product")
    option("--after", metavar="CURSOR", help="show the next page, with the cursor that the previous page printed")
    option("--json", action="store_true", help="write one JSON object")
    option(
        "--html", metavar="OUT", type=Path, help="HTML page to write that shows the products found, with their images"
    )
    add_force(command)
    option("--model", metavar="MODEL", help="model for a table, by default `mini`; a catalogue has its own")
    add_table_options(command)
    add_encoding_options(command)
    command.set_defaults(run=run)


def add_ranking_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that restrict and rank the products."""
    option = parser.add_argument
    option("--without", metavar="TEXT", action="append", default=[], help="words to steer away from; may be repeated")
    option(
        "--where",
        metavar="FILTER",
        help='filter on the products to search, such as `category = "Footwear" and price <= 90`, or the same as JSON',
    )
    option("--min-similarity", metavar="X", type=float, help="lowest cosine, -1 to 1, that a product may have")
    option(
        "--fusion",
        choices=("sum", "rrf"),
        help="how several terms become one ranking: `sum` adds their vectors; `rrf` fuses the ranking for each "
        "term with that of a word search in names and descriptions; by default `sum`, or `rrf` if none of the "
        "products searched has an image",
    )


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    if options.html is not None:
        check_output(options.html, mark=PAGE, force=options.force, besides=(options.catalog,))
    if image := next((text for text in options.texts if is_image(text) and " " not in text), None):
        raise UsageError(
            f"{image} is the name of an image, but TEXT must be words; search for the image with --image {image}"
        )
    config = replace(config_of(options), model=options.model or "mini")
    query = _query(options)
    with _open(options, config, query) as catalog:
        found = catalog.match(query)
        fields = catalog.fields
    if options.html is not None:
        _write_page(options, config, query, found)
    if options.json:
        sys.stdout.write(json.dumps(found.as_dict()) + "\n")
    elif not options.quiet:
        sys.stdout.write("\n\n".join(_tables(options, found, fields)) + "\n")
    return 0


def _query(options: argparse.Namespace) -> Query:
    from ..search import AWAY, Query, Term

    terms = [Term(text) for text in options.texts]
    terms += [Term(image=image) for image in options.image]
    terms += [Term(product=id) for id in options.like]
    terms += [Term(text, weight=AWAY) for text in options.without]
    return Query(
        terms,
        where=options.where,
        top_k=options.top_k,
        min_similarity=options.min_similarity,
        facets=options.facet,
        group=options.group,
        sort=options.sort,
        fusion=options.fusion,
        after=options.after,
    )


def _open(options: argparse.Namespace, config: Config, query: Query) -> Catalog:
    """Open a catalogue, or build one in memory from the products of a table."""
    from ..search import is_source, open_catalog, open_table_catalog

    if not is_source(options.catalog):
        if options.model is not None:
            raise UsageError(
                f"--model is only for tables, and {options.catalog} has its own model; to change that model, run: "
                f"text-image-similarity catalog reindex {shlex.quote(options.catalog)} "
                f"--model {shlex.quote(options.model)}"
            )
        return open_catalog(options.catalog, config=config)
    with closing(progress_bar(options, "products")) as bar:
        progress = None if options.quiet else bar.show
        catalog, report = open_table_catalog(
            options.catalog, columns_of(options), config=config, progress=progress, query=query
        )
    for reason in report.refusals:
        logger.warning("%s", reason)
    for code, count in report.failures.items():
        logger.warning("images that cannot be read: %s, %s", code, f"{count:,}")
    return catalog


def _tables(options: argparse.Namespace, found: Matches, fields: Sequence[Field]) -> list[str]:
    """Lay out matches, facets, the number of products found, and the command for the next page."""
    asked = [name.removeprefix("-") for name in (options.sort or "", *options.facet)]
    names = list(dict.fromkeys([*filter(None, asked), *(field.name for field in fields)]))
    names = [name for name in names if not name.startswith("_")][:_MOST_FIELDS]
    likely = any(match.probability is not None for match in found)
    heads = ["rank", "similarity", *(["probability"] if likely else []), "id", "name", *names]
    rows = [
        [
            str(match.rank),
            _decimal(match.similarity),
            *([_decimal(match.probability)] if likely else []),
            shown(match.product.id, 40),
            shown(match.product.name, 40),
            *(shown(as_text(match.product.fields.get(name)), 20) for name in names),
        ]
        for match in found
    ]
    parts = [lay_out_table([shown(head, 20) for head in heads], rows, numbers=3 if likely else 2)] if rows else []
    parts += [
        lay_out_table(
            [shown(name, 40), ""], [[shown(as_text(value), 40), f"{count:,}"] for value, count in counts.items()]
        )
        for name, counts in found.facets.items()
        if counts
    ]
    lines = [("found", f"{found.total:,}{_why_none(options, found)}")]
    lines += [
        (shown(name, 40), "none of the products found has a value")
        for name, counts in found.facets.items()
        if not counts and rows
    ]
    if found.next is not None:
        lines.append(("next page", _next_command(options, found.next)))
    if options.html is not None:
        lines.append(("page", str(options.html)))
    return [*parts, lay_out(lines)]


def _why_none(options: argparse.Namespace, found: Matches) -> str:
    """Return the reason why no product was found, as the end of a line; empty if no reason is known."""
    given = {"--where": options.where, "--min-similarity": options.min_similarity}
    limits = [option for option, value in given.items() if value is not None]
    return f": no product meets {' and '.join(limits)}" if limits and not found.total else ""


def _next_command(options: argparse.Namespace, cursor: str) -> str:
    """Return the command that shows the next page: this command with the next cursor."""
    given: list[str] = list(options.arguments)
    if options.after is not None:
        place = next(place for place, word in enumerate(given) if word.rpartition("=")[2] == options.after)
        del given[place if given[place].startswith("--") else place - 1 : place + 1]
    return command_line(["text-image-similarity", given[0], f"--after={cursor}", *given[1:]])


def _decimal(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def as_text(value: Any) -> str:
    """Return a field's value as readable text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(as_text, value))
    return str(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else str(value)


def _write_page(options: argparse.Namespace, config: Config, query: Query, found: Matches) -> None:
    from ..report import FoundItem, thumbnails, write_matches

    items = [
        FoundItem(
            rank=match.rank,
            id=match.product.id,
            name=match.product.name,
            description=match.product.description,
            image=match.image,
            similarity=match.similarity,
            probability=match.probability,
            fields={name: as_text(value) for name, value in match.product.fields.items()},
            why=[f"{reason.term}: {reason.contribution:+.4f}" for reason in match.why],
        )
        for match in found
    ]
    asked = [f"{'without ' if term.weight < 0 else ''}{term}" for term in query.parts]
    asked += [options.where] if options.where else []
    facets: Mapping[str, Mapping[str, int]] = {
        name: {as_text(value): count for value, count in counts.items()} for name, counts in found.facets.items()
    }
    images = thumbnails((item.image for item in items if item.image is not None), config)
    write_matches(options.html, items, asked=asked, total=found.total, facets=facets, images=images)
