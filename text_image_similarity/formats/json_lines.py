"""JSON Lines: one object per line; every object keeps its exact text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyarrow as pa

from ..bounded_json import JsonLimitError, parse_json
from ..errors import TableError
from .columns import check_count
from .hashing import one_digest
from .json_text import BLANK, without
from .rows import JsonRows, ValueKind, json_schema, kind_of, size_of_json, wider
from .text import Lines, in_parts, open_text, undecodable


@dataclass(slots=True)
class JsonTable:
    """A table of JSON objects, in one or several files. The columns are all keys that occur, known after `scan`.

    Args:
        files: Places of the table's files.
        dropped: Keys to skip.
    """

    files: list[str]
    dropped: frozenset[str] = frozenset()
    kinds: dict[str, ValueKind] = field(init=False, default_factory=dict)
    lists: set[str] = field(init=False, default_factory=set)  # columns with at least one list
    row_count: int = field(init=False, default=0)
    digest: str = field(init=False, default="")

    images: ClassVar[str | None] = None
    captions: ClassVar[str | None] = None

    @property
    def columns(self) -> list[str]:
        return list(self.kinds)

    @property
    def schema(self) -> pa.Schema:
        return json_schema(self.kinds)

    def scan(self) -> None:
        """Read the whole table: count its rows, collect its columns, hash the files.

        Raises:
            TableError: A line is not an object, or there are too many columns.
        """
        digests = []
        for place in self.files:
            with open_text(place) as (file, raw):
                for _, row in self._data(place, file):
                    self.row_count += 1
                    for name, value in row.items():
                        self.kinds[name] = wider(self.kinds.get(name, "null"), kind_of(value))
                        if isinstance(value, list):
                            self.lists.add(name)
                    check_count(len(self.kinds), place)
                digests.append(raw.finish())
        self.digest = one_digest(digests)

    def read(self, start: int, most: int) -> Iterator[JsonRows]:
        """Yield rows from index `start` on, counted from 0, `most` at a time, or fewer if they are very long."""
        first = start + 1
        for part in in_parts(self._all(), start, most, lambda row: size_of_json(row[0])):
            yield JsonRows(
                range(first, first + len(part)), self.kinds, [line for line, _ in part], [value for _, value in part]
            )
            first += len(part)

    def _all(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for place in self.files:
            with open_text(place) as (file, _):
                yield from self._data(place, file)

    def _data(self, place: str, file: Lines) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (text, value) of every object, skipping blank lines."""
        number = 0
        try:
            for line in file.lines():
                if not (text := line.strip(BLANK)):
                    file.skip_blank(number)
                    continue
                number += 1
                row = self._value(text, number, place)
                if not self.dropped.isdisjoint(row):
                    text = without(text, self.dropped)
                    row = {name: value for name, value in row.items() if name not in self.dropped}
                yield text, row
        except UnicodeDecodeError as exc:
            raise TableError(
                f"{self._undecodable(place)} is not {exc.encoding.upper()}; convert it to UTF-8, for example with iconv"
            ) from exc

    def _undecodable(self, place: str) -> str:
        """Return the location of the first row with bytes in another encoding."""
        with suppress(UnicodeDecodeError), open_text(place, errors="surrogateescape") as (file, _):
            for number, line in enumerate(filter(None, (line.strip(BLANK) for line in file.lines())), 1):
                if undecodable(line):
                    return f"row {number} of {place}"
        return place

    def _value(self, text: str, number: int, place: str) -> dict[str, Any]:
        try:
            row = parse_json(text)
        except JsonLimitError as exc:
            raise TableError(f"row {number} of {place} cannot be read: {exc}") from exc
        except ValueError as exc:
            raise TableError(f"row {number} of {place} is not valid JSON: {exc}{_hint(text, number, exc)}") from exc
        if not isinstance(row, dict):
            raise TableError(f"row {number} of {place} is not a JSON object but {text[:40]!r}{_hint(text, number)}")
        return row


def _hint(text: str, number: int, problem: Exception | None = None) -> str:
    """Return a hint about the format of a file whose line is not an object."""
    if "\0" in text:
        return "; if it is UTF-16 without a byte-order mark, convert it to UTF-8, for example with iconv"
    if number > 1:
        return ""
    if text.startswith("["):
        return "; the file contains an array: write one object per line, for example with jq -c '.[]'"
    if text.startswith("{"):
        if text.endswith(","):
            return "; remove the comma at the end of each line"
        cut_off = isinstance(problem, json.JSONDecodeError) and problem.pos >= len(text) - 1
        return "; each object must be on one line, as jq -c . writes it" if cut_off else ""
    return "; if it is a CSV or TSV file, give it the extension .csv or .tsv"
