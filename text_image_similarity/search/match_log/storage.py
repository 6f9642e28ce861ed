"""What the match log needs of a database: two tables of texts by their ids, to which rows are only ever added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

Table = Literal["entry", "event"]
TABLES: tuple[Table, ...] = ("entry", "event")
StoredRow = tuple[str, str]  # an id in ASCII, and JSON in ASCII


class LogStorage(Protocol):
    """An open database with the tables of a log. Safe to share between threads.

    Raises:
        DatabaseError: From every method: the database fails, and how to continue.
    """

    def insert(self, rows: Mapping[Table, Sequence[StoredRow]]) -> None:
        """Add rows, durably, and leave those alone whose id is there already."""

    def get(self, table: Table, id: str) -> str | None:
        """Return the JSON of one row, or None."""

    def page(self, table: Table, after: str, before: str, most: int, *, newest: bool = False) -> list[StoredRow]:
        """Return rows whose ids lie between two others.

        Args:
            table: The table.
            after: Ids are greater.
            before: Ids are less.
            most: How many rows at most.
            newest: Whether the greatest ids come first, instead of the least.
        """

    def delete(self, table: Table, before: str, most: int) -> int:
        """Remove up to `most` rows whose ids are less than another one, and return how many there were."""

    def close(self) -> None:
        """Close files and connections."""
