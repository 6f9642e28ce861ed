"""Open sources of products: tables and MongoDB collections."""

from __future__ import annotations

from os import PathLike
from types import NoneType

from ..config import Dialect
from ..files import path_text
from ..formats import ending_of
from .arguments import check_type
from .mongo import MongoCollection, is_mongo
from .product_columns import ProductColumns
from .product_tables import ProductSource, ProductTable


def open_source(
    place: str | PathLike[str], columns: ProductColumns | None = None, dialect: Dialect | None = None
) -> ProductSource:
    """Open a source of products.

    Args:
        place: A table, or `mongodb://host/database/collection`.
        columns: Columns of the products.
        dialect: Dialect of CSV and TSV files.

    Raises:
        UsageError: The place does not exist, or pymongo is not installed.
        TableError: The products cannot be read.
    """
    place = path_text(place, "place")
    check_type("columns", columns, (ProductColumns, NoneType), "a ProductColumns")
    return MongoCollection(place, columns) if is_mongo(place) else ProductTable(place, columns, dialect=dialect)


def is_source(place: str | PathLike[str]) -> bool:
    """Tell from its name whether a place is a source of products rather than a catalogue."""
    place = path_text(place, "place")
    return is_mongo(place) or bool(ending_of(place))
