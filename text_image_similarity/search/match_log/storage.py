"""The protocol of databases for the match log: two append-only tables of texts by id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

Table = Literal["entry", "event"]
TABLES: tuple[Table, ...] = ("entry", "event")
StoredRow = tuple[str, str]  # an id in ASCII, and JSON in ASCII


class LogStorage(Protocol):
    """An open database with the tables of a log. Safe to share between threads.

    Raises:
        DatabaseError: Raised by every method if the database fails; the message says what to do.
    """

    def insert(self, rows: Mapping[Table, Sequence[StoredRow]]) -> None:
        """Add rows durably, skipping those whose id already exists."""

    def get(self, table: Table, id: str) -> str | None:
        """Return the JSON of one row, or None."""

    def page(self, table: Table, after: str, before: str, most: int, *, newest: bool = False) -> list[StoredRow]:
        """Return rows whose ids are between two bounds.

        Args:
            table: The table.
            after: Lower bound of ids, exclusive.
            before: Upper bound of ids, exclusive.
            most: Maximum number of rows to return.
            newest: Whether to return the highest ids first instead of the lowest.
        """

    def delete(self, table: Table, before: str, most: int) -> int:
        """Remove up to `most` rows with ids less than `before`, and return the number of rows removed."""

    def close(self) -> None:
        """Close files and connections."""
