"""A page with the results of a search: images, similarities, names and fields in a sortable table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

from ..files import write_whole
from .document import document, image_cell, section, table
from .markup import escape, fold


@dataclass(frozen=True, slots=True)
class FoundItem:
    """One row of the page.

    Args:
        rank: Rank, from 1.
        id: Id of the item.
        name: Name of the item.
        description: Description of the item.
        image: Reference to the item's image; None if there is none.
        similarity: Cosine; None without an image or search terms.
        probability: Probability of a match, 0..1; None if there is no calibration.
        fields: Names and values of the item's fields.
        why: Contributions to the item's rank, one text each.
    """

    rank: int
    id: str
    name: str
    description: str = ""
    image: str | None = None
    similarity: float | None = None
    probability: float | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    why: Sequence[str] = ()


def write_matches(
    path: str | PathLike[str],
    items: Sequence[FoundItem],
    *,
    asked: Sequence[str],
    total: int,
    facets: Mapping[str, Mapping[str, int]],
    images: Mapping[str, bytes],
) -> None:
    """Write the page, completely or not at all.

    Args:
        path: The file to write.
        items: Items that were found, in order of rank.
        asked: Parts of the query, one text each.
        total: Total number of matches.
        facets: For each field, the number of items with each value.
        images: Small JPEGs by reference, as from `thumbnails`; a missing one is shown as a placeholder.

    Raises:
        TableError: The file cannot be written.
    """
    title = "; ".join(asked)[:200] or "all products"
    lede = f"{total:,} products found, {len(items):,} shown."
    parts = [
        section("Products", _items(items, images) if items else '<p class="empty">Nothing was found.</p>', "found")
    ]
    parts += [section(escape(name), _facet(name, counts)) for name, counts in facets.items()]
    links = [("found", "products")] if facets else []
    write_whole(Path(path), document(f"{title}: products found", title, lede, "\n".join(parts), links))


def _items(items: Sequence[FoundItem], images: Mapping[str, bytes]) -> str:
    heads = [
        ("rank", "n"),
        ("image", "fixed"),
        ("similarity", "n"),
        ("product", ""),
        ("fields", "fixed"),
        ("why", "fixed"),
    ]
    with_probability = any(item.probability is not None for item in items)
    if with_probability:
        heads.insert(3, ("probability", "n"))
    body = "".join(_row(item, images, with_probability=with_probability) for item in items)
    return table("Products found", heads, body, kind="rows")


def _row(item: FoundItem, images: Mapping[str, bytes], *, with_probability: bool) -> str:
    jpeg = None if item.image is None else images.get(item.image)
    fields = "".join(f"<div>{escape(name)}: {fold(value)}</div>" for name, value in item.fields.items())
    why = "".join(f"<div>{fold(each)}</div>" for each in item.why)
    words = f"<b>{fold(item.name)}</b><div>{fold(item.description)}</div><code>{escape(item.id[:200])}</code>"
    probability = _number(item.probability, "") if with_probability else ""
    return (
        f'<tr><td class="n" data-v="{item.rank}">{item.rank:,}</td>{image_cell(jpeg, item.name[:200] or item.id[:200])}'
        f'{_number(item.similarity, " score")}{probability}<td class="caption">{words}</td>'
        f'<td class="detail">{fields}</td><td class="detail">{why}</td></tr>'
    )


def _number(value: float | None, kind: str) -> str:
    if value is None:
        return f'<td class="n{kind}">–</td>'
    return f'<td class="n{kind}" data-v="{value!r}">{value:.4f}</td>'


def _facet(name: str, counts: Mapping[str, int]) -> str:
    rows = "".join(
        f'<tr><td>{fold(value)}</td><td class="n" data-v="{count}">{count:,}</td></tr>'
        for value, count in counts.items()
    )
    return table(f"Products by {escape(name)}", [("value", ""), ("products", "n")], rows)
