"""Export clicked products as captions with images for `train`, so that a shop's log can improve its model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from typing import Any

import pyarrow as pa

from ...files import path_text
from ...formats import ArrowRows, Rows
from ...records import is_whole
from ..catalog import Catalog
from ..table_export import write_rows
from .entries import LogEntry
from .joined import terms_of, with_events
from .match_log import MatchLog

_AT_ONCE = 1000  # pairs to look up at a time
_SCHEMA = pa.schema([("url", pa.string()), ("caption", pa.string()), ("product", pa.string()), ("clicks", pa.int64())])
_Key = tuple[str, str]  # a case-folded text, and a product's id


@dataclass(frozen=True, slots=True)
class TrainingExport:
    """The result of exporting the clicks of a log.

    Args:
        pairs: Number of rows: distinct pairs of a text and a product.
        products: Number of different products in these rows.
        clicks: Sum of the `clicks` of these rows.
        wrong: Number of pairs left out because of a verdict `wrong`.
        missing: Number of pairs left out because the product has been removed or has no image.
    """

    pairs: int
    products: int
    clicks: int
    wrong: int
    missing: int


def export_training(
    log: MatchLog, catalog: Catalog, out: str | PathLike[str], since: float | None = None, *, force: bool = False
) -> TrainingExport:
    """Write search texts with the images of products that were clicked, put into the cart or bought, for `train`.

    Only searches whose single term with a positive weight is a text are used, because images, hashed texts and vectors
    cannot be captions. A row has the product's first image by reference (`url`), the text (`caption`), the product's
    id, and the number of searches (`clicks`); texts are compared ignoring case and repeated spaces. A verdict `wrong`
    excludes a pair of text and product, however often it was clicked.

    Args:
        log: The log.
        catalog: The catalogue that was searched.
        out: File to write, in the format given by its suffix.
        since: Time of the first search, in seconds since the epoch; None uses all.
        force: Whether to replace an existing file.

    Raises:
        UsageError: The file exists, or its suffix does not name a format.
        TableError: The file cannot be written.
        DatabaseError: The log or the catalogue cannot be read.
    """
    clicks, captions, wrong = _count(log, since)
    left = {key for key in clicks if key in wrong}
    chosen = {key: count for key, count in clicks.items() if key not in left}
    found: dict[_Key, str] = {}
    count = write_rows(path_text(out, "out"), _SCHEMA, _parts(chosen, captions, catalog, found), force=force)
    return TrainingExport(
        pairs=count,
        products=len({product for _, product in found}),
        clicks=sum(chosen[key] for key in found),
        wrong=len(left),
        missing=len(chosen) - count,
    )


def _count(log: MatchLog, since: float | None) -> tuple[dict[_Key, int], dict[str, str], set[_Key]]:
    """Return how often each pair was chosen, the first spelling of each text, and the pairs with a verdict `wrong`."""
    clicks: dict[_Key, int] = {}
    captions: dict[str, str] = {}
    wrong: set[_Key] = set()
    for entry, events in with_events(log, since):
        if not events or (caption := _caption(entry)) is None:
            continue
        text = caption.casefold()
        captions.setdefault(text, caption)
        wrong.update((text, event.product) for event in events if event.kind == "wrong")
        for product in dict.fromkeys(event.product for event in events if event.kind != "wrong"):
            clicks[text, product] = clicks.get((text, product), 0) + 1
    return clicks, captions, wrong


def _caption(entry: LogEntry) -> str | None:
    """Return the text of a search, on one line; None if it was not a search for a single text."""
    wanted = [term for term in terms_of(entry) if _weight(term) > 0]
    text = wanted[0].get("text") if len(wanted) == 1 else None
    caption = " ".join(text.replace("\0", " ").split()) if isinstance(text, str) and is_whole(text) else ""
    return caption or None


def _weight(term: Mapping[str, Any]) -> float:
    weight = term.get("weight", 1.0)
    return weight if isinstance(weight, (int, float)) else 1.0


def _parts(
    chosen: Mapping[_Key, int], captions: Mapping[str, str], catalog: Catalog, found: dict[_Key, str]
) -> Iterator[Rows]:
    """Yield the pairs whose product has an image, and record each of them in `found` with the image's reference."""
    waiting = iter(chosen)
    while keys := list(islice(waiting, _AT_ONCE)):
        images = {product: _image(catalog, product) for product in dict.fromkeys(product for _, product in keys)}
        there = {key: image for key in keys if (image := images[key[1]]) is not None}
        found.update(there)
        rows = [(image, captions[text], product, chosen[text, product]) for (text, product), image in there.items()]
        columns = [pa.array([row[place] for row in rows], each.type) for place, each in enumerate(_SCHEMA)]
        yield ArrowRows(pa.record_batch(columns, schema=_SCHEMA))


def _image(catalog: Catalog, id: str) -> str | None:
    product = catalog.get(id)
    return None if product is None else next(iter(product.images), None)
