"""A page about products that were added to a catalogue: counts, refusals, and images that failed."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from ..files import write_whole
from .document import document, section, table
from .markup import escape, fold, reference


def write_additions(
    path: str | PathLike[str],
    catalog: str,
    counts: Sequence[tuple[str, str]],
    refusals: Sequence[str],
    failed: Sequence[tuple[str, str, str, str]],
) -> None:
    """Write the page, completely or not at all.

    Args:
        path: The file to write.
        catalog: Place of the catalogue.
        counts: Labels and numbers.
        refusals: Reasons why products could not be added, as far as they were recorded.
        failed: Products with an image that failed: id, name, first image, error.

    Raises:
        TableError: The file cannot be written.
    """
    rows = "".join(f'<tr><td>{escape(name)}</td><td class="n">{escape(value)}</td></tr>' for name, value in counts)
    parts = [section("Summary", table("Summary", [("", ""), ("", "n")], rows, sortable=False), "summary")]
    if refusals:
        listed = "".join(f"<tr><td>{fold(reason)}</td></tr>" for reason in refusals)
        parts.append(section("Refused", table("Products that were refused", [("reason", "")], listed), "refused"))
    if failed:
        listed = "".join(
            f"<tr><td><code>{escape(id[:200])}</code></td><td>{fold(name)}</td><td>{reference(image)}</td><td>{fold(error)}</td></tr>"
            for id, name, image, error in failed
        )
        heads = [("id", ""), ("name", ""), ("image", ""), ("error", "")]
        products = table("Products with an image that failed", heads, listed)
        parts.append(section("Images that failed", products, "failed"))
    lede = "The result of one run of `catalog add`. Products with an image that failed are kept."
    write_whole(Path(path), document(f"{catalog}: products added", catalog, lede, "\n".join(parts)))
