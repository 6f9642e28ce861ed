"""The protocol of SQL databases for ledgers: reading, one writer at a time, and word search.

SQL is written once, in `ledger`, with `?` for parameters; a database converts it to its own dialect.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, Protocol

from ...errors import DatabaseError, TextImageSimilarityError
from ..fields import Field
from ..filters import Filter

Row = tuple[Any, ...]
Purpose = Literal["follow", "optimize", "check"]


class Transaction(Protocol):
    """A write transaction, which is committed completely or not at all."""

    def run(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """Run one statement and return its rows."""

    def run_many(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """Run one statement for each row of values."""


class Database(Protocol):
    """An open database with the tables of a ledger; its `str` is its place. Safe to share between threads.

    Raises:
        DatabaseError: Raised by every method if the database fails; the message says what to do.
    """

    def read(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """Return the rows of a query, from one snapshot of the database."""

    def stream(self, sql: str, size: int, *, everything: bool = False) -> Iterator[list[Row]]:
        """Yield the rows of a query, up to `size` at a time, from one snapshot of the database.

        Args:
            sql: The query.
            size: Maximum number of rows at a time.
            everything: Whether most of the database will be read, so that reading ahead pays off.
        """

    def write(self) -> AbstractContextManager[Transaction]:
        """Run a block in a write transaction once no other is open; it is rolled back if the block raises an error."""

    def exclusive(self, purpose: Purpose, *, wait: bool) -> AbstractContextManager[bool]:
        """Hold an inter-process lock during a block.

        Args:
            purpose: `follow` to change the stores that follow this database, `optimize` to optimise them, and `check`
                to write something that depends on the current data.
            wait: Whether to wait for the lock; otherwise the block gets False if another process holds it.
        """

    def where(self, given: Filter | None, fields: Sequence[Field]) -> tuple[str, list[object]]:
        """Return a filter over any fields as an SQL condition on the table `product`, and its parameters."""

    def texts(self, stored: Any) -> tuple[str, ...]:
        """Return the list of texts in a column's value."""

    def find_words(self, text: str, condition: str, values: Sequence[object], limit: int) -> list[Row]:
        """Return (number, relevance) of products whose name or description has any of the words, most relevant first.

        Args:
            text: Words.
            condition: Additional condition on products, from `where`.
            values: Parameters of the condition.
            limit: Maximum number of products to return.
        """

    def index_words(self, transaction: Transaction, texts: Sequence[tuple[int, str, str]]) -> None:
        """Index products, given as (number, name, description), for word search, replacing earlier entries."""

    def forget_words(self, transaction: Transaction, numbers: Sequence[int]) -> None:
        """Remove products from the word index."""

    def optimize(self) -> None:
        """Reclaim space, and refresh the planner's statistics."""

    def close(self) -> None:
        """Close the connections."""


@contextmanager
def intact(database: Database) -> Iterator[None]:
    """Run a block that interprets the content of a database.

    Raises:
        DatabaseError: The block fails, presumably because another program has changed the content.
    """
    try:
        yield
    except TextImageSimilarityError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as exc:
        raise DatabaseError(
            f"the catalogue {database} contains something that this package did not write ({type(exc).__name__}: {exc!s:.200}); restore "
            "it from a backup, or add its products to a new catalogue"
        ) from exc


def advance(transaction: Transaction, counter: str, step: int = 1) -> int:
    """Advance a counter and return its value."""
    return int(
        transaction.run("UPDATE counter SET value = value + ? WHERE name = ? RETURNING value", (step, counter))[0][0]
    )
