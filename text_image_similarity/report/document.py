"""The frame of a page, a single HTML file with its style sheet and script, and the building blocks of pages.

All data is written by Python, through `markup`; the script only sorts tables. The content security policy allows only
our style sheet and our script, by hash, and no network address.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from hashlib import sha256
from importlib.resources import files
from string import Template

from .markup import escape

_HERE = files(__package__)  # a folder, or a path in a zip file


def document(title: str, name: str, lede: str, body: str, links: Sequence[tuple[str, str]] = ()) -> str:
    """Return a whole page as HTML.

    Args:
        title: Title of the window, as text.
        name: Heading, as text.
        lede: Line below the heading, as HTML.
        body: Sections, as HTML.
        links: Sections to link to: their ids and the texts of the links.
    """
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("style.css", "sort.js"))
    jumps = " ".join(f'<a href="#{place}">{said}</a>' for place, said in links)
    return Template((_HERE / "page.html").read_text(encoding="utf-8")).substitute(
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        title=escape(title),
        name=escape(name),
        lede=lede,
        nav=f'\n<nav aria-label="Parts of this page">{jumps}</nav>' if links else "",
        body=body,
    )


def section(title: str, content: str, place: str = "") -> str:
    """Return a section with a heading, both as HTML, and an id to link to."""
    return f"<section{f' id={place}' if place else ''}><h2>{title}</h2>{content}</section>"


def table(
    caption: str, heads: Iterable[tuple[str, str]], body: str, *, sortable: bool = True, kind: str = "plain"
) -> str:
    """Lay out a table; a head is a name with `n` for a column of numbers or `fixed` for one that is not sortable."""
    cells = "".join(
        f'<th scope="col"{" class=n" if sort == "n" else ""}{" data-fixed" if sort == "fixed" else ""}>{name}</th>'
        for name, sort in heads
    )
    classes = f"{kind} sortable" if sortable else kind
    return (
        f'<div class="scroll"><table class="{classes}"><caption>{caption}</caption>'
        f"<thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def image_cell(jpeg: bytes | None, description: str) -> str:
    """Return a table cell with a small JPEG, or with a placeholder."""
    if jpeg is None:
        return '<td class="picture"><span class="none">no image</span></td>'
    data = b64encode(jpeg).decode("ascii")
    return f'<td class="picture"><img src="data:image/jpeg;base64,{data}" alt="{escape(description)}"></td>'


def _hash(text: str) -> str:
    return b64encode(sha256(text.encode("utf-8")).digest()).decode("ascii")
