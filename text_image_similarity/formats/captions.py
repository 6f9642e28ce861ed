"""Captions files as the Flickr sets have them: a line for each caption, after the name of its image.

Either a header such as `image,caption` comes first (also with tabs or pipes, and columns in between), or every line is
`name.jpg#0<tab>a caption`. A caption never spans lines; with commas it may stand in quotes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import NamedTuple

from ..errors import TableError, UsageError
from .names import ending_of
from .storage import open_bytes, reading

_IMAGE_NAMES = ("image", "image_name", "file_name", "filename")
_CAPTION_NAMES = ("caption", "comment", "text")
_TAGGED = re.compile(r"[^\t]+\.[A-Za-z0-9]{3,5}(#\d+)?\t")
_NUMBER = re.compile(r"#\d+$")


class _Layout(NamedTuple):
    delimiter: str
    fields: int
    header: bool


def is_captions_file(place: str) -> bool:
    """Say whether a name is that of a captions file: `captions.txt`, `Flickr8k.token.txt`, `results.token`."""
    return not ending_of(place) and place.lower().endswith((".txt", ".token"))


def read_captions(place: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield where each caption is, such as "line 3 of captions.txt", and the name of its image with it; either may be empty.

    Raises:
        UsageError: The file does not exist, or is not a captions file.
        TableError: It cannot be read, or a quote is left open.
    """
    with reading(place), io.TextIOWrapper(io.BufferedReader(open_bytes(place)), "utf-8-sig") as file:  # type: ignore[type-var]
        layout: _Layout | None = None
        try:
            for number, line in enumerate(file, 1):
                text = line.rstrip("\r\n")
                if not text.strip():
                    continue
                if layout is None:
                    layout = _layout_of(text, place)
                    if layout.header:
                        continue
                yield f"line {number} of {place}", _fields(text, layout, f"line {number} of {place}")
        except UnicodeDecodeError as exc:
            raise TableError(f"{place} is not UTF-8; convert it, e.g. with iconv") from exc


def _layout_of(first: str, place: str) -> _Layout:
    for delimiter in "\t|,":
        names = [name.strip(' "').lower() for name in first.split(delimiter)]
        if len(names) > 1 and names[0] in _IMAGE_NAMES and names[-1] in _CAPTION_NAMES:
            return _Layout(delimiter, len(names), header=True)
    if _TAGGED.match(first):
        return _Layout("\t", 2, header=False)
    raise UsageError(
        f"cannot tell the format of {place}: a captions file has the header image,caption, or lines such as "
        "name.jpg#0<tab>a caption; name a table .csv, .tsv, .jsonl or .parquet"
    )


def _fields(line: str, layout: _Layout, where: str) -> tuple[str, str]:
    name, *others = (field.strip() for field in line.split(layout.delimiter, layout.fields - 1))
    caption = others[-1] if len(others) == layout.fields - 1 else ""
    if layout.delimiter == "," and caption.startswith('"'):
        if caption.count('"') % 2:
            raise TableError(f"{where} opens a quote and does not close it; a caption must stand on one line")
        if caption.endswith('"'):
            caption = caption[1:-1].replace('""', '"')
    return (name.strip('"') if layout.header else _NUMBER.sub("", name)), caption
