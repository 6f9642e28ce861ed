"""Captions files as in the Flickr data sets: a line for each caption, after the name of its image.

Either a header such as `image,caption` comes first (tabs or pipes may replace the comma, and other columns may lie in
between), or every line is `name.jpg#0<tab>a caption`. A caption never spans lines; in a file with commas it may be
quoted.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import NamedTuple

from ..config import Dialect
from ..errors import TableError, UsageError
from .names import ending_of
from .storage import open_bytes, reading
from .text import Lines

_IMAGE_NAMES = ("image", "image_name", "file_name", "filename")
_CAPTION_NAMES = ("caption", "comment", "text")
_TAGGED = re.compile(r"[^\t]+\.[A-Za-z0-9]{3,5}(#\d+)?\t")
_QUOTED = re.compile(r'"((?:[^"]++|"")*+)"')  # possessive, because backtracking would take memory for each step
_QUOTED_NAME = re.compile(_QUOTED.pattern + r"\s*(?=,)")
_PLACEHOLDER = "name"
_NUMBER = re.compile(r"#\d+$")


class _Layout(NamedTuple):
    delimiter: str
    fields: int
    header: bool


def is_captions_file(place: str) -> bool:
    """Tell whether a name is that of a captions file: `captions.txt`, `Flickr8k.token.txt`, `results.token`."""
    return not ending_of(place) and place.lower().endswith((".txt", ".token"))


def read_captions(place: str, dialect: Dialect | None = None) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the location of each caption, such as "line 3 of captions.txt", with its image's name and its text.

    Args:
        place: The file.
        dialect: Encoding of the file; with `quoting` none, quotation marks are text. The delimiter follows from the
            header.

    Raises:
        UsageError: The file does not exist, or is not a captions file.
        TableError: The file cannot be read, or a quote is left open.
    """
    dialect = dialect or Dialect()
    encoding = dialect.encoding or "utf-8-sig"
    with reading(place), Lines(io.BufferedReader(open_bytes(place)), encoding) as file:  # type: ignore[type-var]
        file.place = place
        layout: _Layout | None = None
        try:
            for number, line in enumerate(file.lines(), 1):
                text = line.rstrip("\r\n")
                if not text.strip():
                    continue
                if layout is None:
                    layout = _layout_of(text, place)
                    if layout.header:
                        continue
                where = f"line {number} of {place}"
                yield where, _fields(text, layout, where, quoted=dialect.quoting != "none")
        except UnicodeError as exc:
            said = encoding.removesuffix("-sig").upper()
            raise TableError(f"{place} is not {said}; name its encoding, e.g. --encoding cp1252") from exc


def _layout_of(first: str, place: str) -> _Layout:
    for delimiter in "\t|,":
        names = [name.strip(' "').lower() for name in first.split(delimiter)]
        if len(names) > 1 and names[0] in _IMAGE_NAMES and names[-1] in _CAPTION_NAMES:
            return _Layout(delimiter, len(names), header=True)
    if _TAGGED.match(first):
        return _Layout("\t", 2, header=False)
    raise UsageError(
        f"cannot tell the format of {place}: a captions file has the header `image,caption`, or lines such as "
        "`name.jpg#0<tab>a caption`; if it is a table, give it the extension .csv, .tsv, .jsonl or .parquet"
    )


def _fields(line: str, layout: _Layout, where: str, *, quoted: bool) -> tuple[str, str]:
    quoted = quoted and layout.delimiter == ","
    start = _QUOTED_NAME.match(line) if quoted and layout.header else None
    if start:  # a name may contain a comma
        line = _PLACEHOLDER + line[start.end() :]
    name, *others = (field.strip() for field in line.split(layout.delimiter, layout.fields - 1))
    caption = others[-1] if len(others) == layout.fields - 1 else ""
    if quoted and caption.startswith('"'):
        if caption.count('"') % 2:
            raise TableError(
                f"{where} opens a quote that is not closed; a caption must be on one line; if the quotation marks are part "
                "of the text, add --quoting none"
            )
        if whole := _QUOTED.fullmatch(caption):
            caption = whole[1].replace('""', '"')
    if start:
        return start[1].replace('""', '"'), caption
    return (name.strip('"') if layout.header else _NUMBER.sub("", name)), caption
