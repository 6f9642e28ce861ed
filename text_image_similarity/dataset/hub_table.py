"""A split of a data set on the hub as a table: `hf:<owner>/<name>[:configuration][@split]`.

The library `datasets` downloads the split to its own cache and maps the file into memory, so that reading takes little
memory, a run can resume, and a filled cache is enough when the hub is unreachable. To read files on the hub without a
local copy, name them as `hf://datasets/...`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyarrow as pa

from ..config import Dialect, Limits
from ..errors import TableError, UsageError
from ..formats import PART_SIZE, ArrowRows, Table, open_table
from ..system import require

_HUB = re.compile(r"hf:(?!//)(?P<name>[^:@]+)(?::(?P<config>[^@]+))?(?:@(?P<split>.+))?", re.DOTALL)


def is_hub(place: str) -> bool:
    """Tell whether a place names a data set on the hub."""
    return place.startswith("hf:") and not place.startswith("hf://")


def open_source(
    place: str,
    *,
    dialect: Dialect | None = None,
    dropped: frozenset[str] = frozenset(),
    max_bytes: int = Limits().max_bytes,
) -> Table:
    """Open a table of any format, or a split of a data set on the hub.

    Args:
        place: As for `open_table`, or `hf:<owner>/<name>[:configuration][@split]`.
        dialect, dropped, max_bytes: As for `open_table`.

    Raises:
        MissingExtraError: The library `datasets` is not installed.
        UsageError: The table or data set does not exist, or has several splits and none is named.
        TableError: The table or data set cannot be read, or the hub is unreachable and the set is not in the cache.
    """
    if not is_hub(place):
        return open_table(place, dialect=dialect, dropped=dropped, max_bytes=max_bytes)
    if dialect not in (None, Dialect()):
        raise UsageError(f"{place}: --delimiter, --quoting and --encoding (Dialect) are for CSV and TSV only")
    return HubTable(place, dropped)


@dataclass(slots=True)
class HubTable:
    """A split of a data set on the hub; see `open_source`.

    Args:
        place: The split, as `hf:<owner>/<name>[:configuration][@split]`.
        dropped: Columns to skip.
    """

    place: str
    dropped: frozenset[str] = frozenset()
    files: list[str] = field(init=False, default_factory=list)
    _data: Any = field(init=False)

    images: ClassVar[str | None] = None
    captions: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        require(self.place, "datasets", extra="train")
        from .hub import load_split

        found = _HUB.fullmatch(self.place)
        if found is None:
            raise UsageError(
                f"{self.place!r} is not the name of a data set; write hf:<owner>/<name>[:configuration][@split]"
            )
        data = load_split(found["name"], found["config"], found["split"])
        self._data = data.remove_columns([name for name in data.column_names if name in self.dropped]).with_format(
            "arrow"
        )

    @property
    def columns(self) -> list[str]:
        return list(self._data.column_names)

    @property
    def row_count(self) -> int:
        return len(self._data)

    @property
    def digest(self) -> str:
        return str(self._data._fingerprint)  # the library has no public name for this

    @property
    def schema(self) -> pa.Schema:
        found: pa.Schema = self._data.features.arrow_schema
        return found

    def scan(self) -> None:
        """Do nothing, because the library has already checked, counted and hashed the rows."""

    def read(self, start: int, most: int) -> Iterator[ArrowRows]:
        """Yield rows from index `start` on, counted from 0, in batches of `most`, or fewer if rows are large."""
        size = self._data.data.nbytes // max(1, len(self._data.data))
        most = max(1, min(most, PART_SIZE // max(1, size)))
        for at in range(start, len(self._data), most):
            table = self._data[at : at + most].cast(self.schema).combine_chunks()
            try:
                (batch,) = table.to_batches()
            except ValueError as exc:
                raise TableError(f"{self.place} has rows that are too large to be read in one batch") from exc
            yield ArrowRows(batch)
