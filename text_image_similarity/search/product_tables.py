"""Read products from tables of any format, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

from ..config import Dialect
from ..errors import RowError, TableError, UsageError
from ..files import path_text
from ..formats import KEY, Table, columns_of, folder_of, open_table, state_of
from .fields import Field
from .guessing import guess_fields
from .product_columns import ProductColumns, RowReader, read_columns
from .products import Product

_AT_ONCE = 256  # rows in memory

# The number of a row, from 1, with its product or the reason why it has none.
NumberedProduct = tuple[int, Product | UsageError]


class ProductSource(Protocol):
    """A source of products, in a stable order."""

    @property
    def place(self) -> str:
        """The name of the source."""

    @property
    def folder(self) -> Path | None:
        """The folder that relative references start from; None means the working directory."""

    @property
    def total(self) -> int:
        """The number of rows."""

    @property
    def identity(self) -> str | None:
        """A value that changes with the source's content and columns; None if changes cannot be detected."""

    def products(self, declared: Sequence[Field], start: int) -> Iterator[NumberedProduct]:
        """Yield the products of the rows from index `start` on, counted from 0."""

    def check(self, declared: Sequence[Field]) -> None:
        """Make sure that the columns exist.

        Raises:
            UsageError: A column is missing.
        """

    def guess_fields(self) -> tuple[Field, ...]:
        """Guess fields for the columns other than id, name, description, group and images from their values."""

    def check_unchanged(self) -> None:
        """Make sure that the source has not changed since it was opened.

        Raises:
            TableError: The source has changed.
        """


class ProductTable:
    """Products in a table of any format that `score` reads; the table is read once to count and check its rows.

    Args:
        place: A file, a folder or a pattern, as a path or an fsspec URL.
        columns: Columns of the products.
        dialect: Dialect of CSV and TSV files.

    Raises:
        UsageError: There is no such table.
        TableError: The table cannot be read.
    """

    def __init__(self, place: str, columns: ProductColumns | None = None, *, dialect: Dialect | None = None) -> None:
        self.place = path_text(place, "place")
        self._chosen = ProductColumns() if columns is None else columns
        self._table: Table = open_table(self.place, dialect=dialect)
        self._states = self._state()
        self._table.scan()

    @property
    def folder(self) -> Path | None:
        return folder_of(self.place)

    @property
    def total(self) -> int:
        return self._table.row_count

    @property
    def identity(self) -> str:
        return blake2b(f"{self._table.digest} {self._chosen!r}".encode(), digest_size=16).hexdigest()

    def check(self, declared: Sequence[Field]) -> None:
        self._reader(declared)

    def products(self, declared: Sequence[Field], start: int = 0) -> Iterator[NumberedProduct]:
        reader = self._reader(declared)
        number = start
        for rows in self._table.read(start, _AT_ONCE):
            for cells in zip(*map(rows.column, reader.columns), strict=True):
                number += 1
                yield number, product_or_reason(reader, dict(zip(reader.columns, cells, strict=True)), number)

    def check_unchanged(self) -> None:
        if self._state() != self._states:
            raise TableError(f"{self.place} was changed while it was being read; run the same command again")

    def guess_fields(self) -> tuple[Field, ...]:
        there = columns_of(self._table)
        known = self._reader(()).columns
        others = [name for name in there if name not in known and there.count(name) == 1]
        return guess_fields(
            others, ({name: rows.column(name) for name in others} for rows in self._table.read(0, _AT_ONCE))
        )

    def _reader(self, declared: Sequence[Field]) -> RowReader:
        there = columns_of(self._table)
        if self._table.images is None:
            return read_columns(self._chosen, declared, there, self.place)
        return read_columns(
            _of_samples(self._chosen, self._table, there), declared, [*there, self._table.images], self.place
        )

    def _state(self) -> list[str]:
        return [state_of(file) for file in self._table.files]


def _of_samples(chosen: ProductColumns, table: Table, there: Sequence[str]) -> ProductColumns:
    """Return the columns of products in shards: by default, a sample's key is the id and its caption the name."""
    return replace(
        chosen,
        id=KEY if chosen.id == "id" and "id" not in there else chosen.id,
        name=table.captions if chosen.name is None and not {"name", "title"}.intersection(there) else chosen.name,
        images=chosen.images or (table.images or "",),
    )


def product_or_reason(reader: RowReader, row: dict[str, Any], number: int) -> Product | UsageError:
    """Return the product of a row, or the reason why there is none, with the row's number."""
    try:
        if problem := next((value for value in row.values() if isinstance(value, RowError)), None):
            raise UsageError(str(problem))  # the row is a damaged part of a shard
        return reader.product(row)
    except UsageError as problem:
        return UsageError(f"row {number:,}: {problem}")
