"""What a ledger needs of an SQL database: reading, one writer at a time, and a search for words.

SQL is written once, in `ledger`, with `?` for parameters; a database turns it into its own dialect.
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
    """What is done in one write transaction; all of it is there afterwards, or nothing."""

    def run(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """Run one statement and return its rows."""

    def run_many(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """Run one statement for each row of values."""


class Database(Protocol):
    """An open database with the tables of a ledger; as text, where it is. Safe to share between threads.

    Raises:
        DatabaseError: From every method: the database fails, and how to continue.
    """

    def read(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """Return the rows of a query; they are of one state of the database."""

    def stream(self, sql: str, size: int, *, everything: bool = False) -> Iterator[list[Row]]:
        """Yield the rows of a query, up to `size` at once; they are of one state of the database.

        Args:
            sql: The query.
            size: The most rows at once.
            everything: Most of what the database holds is about to be read, so it is worth fetching ahead.
        """

    def write(self) -> AbstractContextManager[Transaction]:
        """Begin a write transaction, once no other is open; it ends with the block, and is undone if the block raises."""

    def exclusive(self, purpose: Purpose, *, wait: bool) -> AbstractContextManager[bool]:
        """Keep other processes from doing the same, while the block runs.

        Args:
            purpose: `follow` for changing the stores that follow this database, `optimize` for making them fast,
                `check` for writing what depends on what is there.
            wait: Wait until nobody else does; if not, the block is told False where somebody does.
        """

    def where(self, given: Filter | None, fields: Sequence[Field]) -> tuple[str, list[object]]:
        """Return a filter over declared and built-in fields as an SQL condition on the table `product`, with its parameters."""

    def texts(self, stored: Any) -> tuple[str, ...]:
        """Return a list of texts as it was before a column held it."""

    def find_words(self, text: str, condition: str, values: Sequence[object], limit: int) -> list[Row]:
        """Return (number, relevance) of the products whose name or description has any of the words, most relevant first.

        Args:
            text: Words.
            condition: What the products must fulfil besides, as `where` gives it.
            values: Its parameters.
            limit: The most products.
        """

    def index_words(self, transaction: Transaction, texts: Sequence[tuple[int, str, str]]) -> None:
        """Make products findable by (number, name, description), in place of what was known of them."""

    def forget_words(self, transaction: Transaction, numbers: Sequence[int]) -> None:
        """Forget the words of products."""

    def optimize(self) -> None:
        """Give back space, and refresh what the planner knows."""

    def close(self) -> None:
        """Close the connections."""


@contextmanager
def intact(database: Database) -> Iterator[None]:
    """Run a block that makes sense of what a database holds.

    Raises:
        DatabaseError: The block cannot: somebody else has changed it.
    """
    try:
        yield
    except TextImageSimilarityError:
        raise
    except (ValueError, TypeError, LookupError) as exc:
        raise DatabaseError(
            f"the catalogue {database} contains something that this package did not write ({type(exc).__name__}: {exc!s:.200}); restore "
            "it from a backup, or add its products to a new catalogue"
        ) from exc


def advance(transaction: Transaction, counter: str, step: int = 1) -> int:
    """Advance a counter and return its value."""
    return int(
        transaction.run("UPDATE counter SET value = value + ? WHERE name = ? RETURNING value", (step, counter))[0][0]
    )
