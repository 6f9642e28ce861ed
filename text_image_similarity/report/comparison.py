"""A page that compares two models on one data set: their figures, and the pairs that they rank most differently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from ..files import write_whole
from .document import document, image_cell, section, table
from .markup import escape, fold


@dataclass(frozen=True, slots=True)
class ComparedPair:
    """A caption and its image, with the cosines of two models.

    Args:
        image: Name of the image.
        caption: The caption.
        cosines: Cosine from each model.
        places: Share of all matching pairs below this one, 0..1, for each model.
        thumbnail: A small JPEG of the image, or None.
    """

    image: str
    caption: str
    cosines: tuple[float, float]
    places: tuple[float, float]
    thumbnail: bytes | None


def write_comparison(
    path: str | PathLike[str],
    source: str,
    models: tuple[str, str],
    figures: Sequence[Sequence[str]],
    facts: Mapping[str, str],
    pairs: Sequence[ComparedPair],
) -> None:
    """Write the page, completely or not at all.

    Args:
        path: The file to write.
        source: The data set.
        models: Names of the two models.
        figures: Rows of figures: name, first, second, difference, interval.
        facts: Additional facts about the comparison.
        pairs: Pairs that the models rank most differently.

    Raises:
        TableError: The file cannot be written.
    """
    names = [escape(name) for name in models]
    listed = "".join(
        f"<tr><td>{escape(row[0])}</td>{''.join(f'<td class=n>{escape(cell)}</td>' for cell in row[1:])}</tr>"
        for row in figures
    )
    heads = [("", ""), *((name, "n") for name in names), ("difference", "n"), ("95 % interval", "n")]
    note = (
        '<p class="note">Each difference is the second figure minus the first. Intervals are bootstrap intervals over '
        "images; an interval that contains 0 means that this data set cannot tell the two models apart.</p>"
    )
    known = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    parts = [
        section("Figures", table("Figures of both models", heads, listed, sortable=False) + note, "figures"),
        section("Pairs that the models rank most differently", _pairs(pairs, names), "pairs"),
        section("The comparison", f'<dl class="facts">{known}</dl>', "facts"),
    ]
    lede = f"<b>{names[0]}</b> and <b>{names[1]}</b> on the same images and captions."
    title = f"{models[0]} and {models[1]} compared"
    links = [("figures", "figures"), ("pairs", "pairs"), ("facts", "comparison")]
    write_whole(Path(path), document(title, source, lede, "\n".join(parts), links))


def _pairs(pairs: Sequence[ComparedPair], names: Sequence[str]) -> str:
    if not pairs:
        return '<p class="empty">The models rank all pairs alike.</p>'
    body = "".join(
        f"<tr>{image_cell(pair.thumbnail, pair.image[:200])}"
        f"{''.join(_place(*each) for each in zip(pair.places, pair.cosines, strict=True))}"
        f'<td class="caption">{fold(pair.caption)}</td><td class="url">{fold(pair.image)}</td></tr>'
        for pair in pairs
    )
    heads = [("image", "fixed"), *((name, "n") for name in names), ("caption", ""), ("name", "")]
    note = (
        '<p class="note">Each number is the share of all matching pairs that score lower, followed by the cosine.</p>'
    )
    return note + table("Matching pairs, by model", heads, body, kind="rows")


def _place(place: float, cosine: float) -> str:
    return f'<td class="n score" data-v="{place!r}">{100 * place:.1f} % <small>{cosine:.4f}</small></td>'
