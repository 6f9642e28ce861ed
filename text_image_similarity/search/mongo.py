"""Read products from a MongoDB collection.

Documents are ordered by `_id`, which is the products' id by default. Changes to a collection cannot be detected, so an
interrupted run starts over; known images are not encoded again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import TableError, UsageError
from ..system import require
from .fields import Field
from .guessing import guess_fields
from .product_columns import ProductColumns, RowReader, read_columns
from .product_tables import NumberedProduct, product_or_reason

SCHEMES = ("mongodb://", "mongodb+srv://")
_PATIENCE_MS = 10_000  # timeout for a server that does not respond
_LOOKED_AT = 1000  # number of documents whose members determine the columns


class MongoCollection:
    """The products of a collection.

    Args:
        url: `mongodb://host/database/collection`, with MongoDB's options after `?`.
        columns: Names of the members of a document.
        client: A client to use, for tests; None connects to the server.

    Raises:
        UsageError: The URL does not name a collection, or pymongo is not installed.
        TableError: The server cannot be reached.
    """

    identity: str | None = None
    folder: Path | None = None

    def __init__(self, url: str, columns: ProductColumns | None = None, *, client: Any = None) -> None:
        require("reading products from MongoDB", "pymongo", extra="search")
        parts = urlsplit(url)
        database, _, name = parts.path.strip("/").partition("/")
        if not (database and name):
            raise UsageError("a MongoDB URL must be mongodb://HOST/DATABASE/COLLECTION")
        self.place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"  # without a password
        chosen = ProductColumns() if columns is None else columns
        self._chosen = replace(chosen, id="_id") if chosen.id == "id" else chosen
        with self._failing():
            opened = _connect(parts._replace(path="/").geturl()) if client is None else client
            self._collection = opened[database][name]
            self.total = int(self._collection.count_documents({}))

    def check(self, declared: Sequence[Field]) -> None:
        """Make sure that there are members for ids, names and images."""
        self._reader(declared)

    def products(self, declared: Sequence[Field], start: int = 0) -> Iterator[NumberedProduct]:
        """Yield the products of the documents from index `start` on, counted from 0."""
        reader = self._reader(declared)
        with self._failing():
            for number, document in enumerate(islice(self._documents(), start, None), start + 1):
                yield number, product_or_reason(reader, _plain(document), number)

    def guess_fields(self) -> tuple[Field, ...]:
        """Guess fields for members other than id, name, description, group and images from the first documents."""
        known = self._reader(()).columns
        with self._failing():
            documents = [_plain(document) for document in self._documents().limit(_LOOKED_AT)]
        others = [name for name in dict.fromkeys(name for found in documents for name in found) if name not in known]
        return guess_fields(others, [{name: [found.get(name) for found in documents] for name in others}])

    def check_unchanged(self) -> None:
        """Do nothing: a collection may change while it is read."""

    def _reader(self, declared: Sequence[Field]) -> RowReader:
        with self._failing():
            there = {name for document in self._documents().limit(_LOOKED_AT) for name in document}
        columns = (
            self._chosen.fields.get(each.name, each.name) for each in declared
        )  # a member may occur only in later documents
        return read_columns(self._chosen, declared, sorted(there.union(filter(None, columns))), self.place)

    def _documents(self) -> Any:
        return self._collection.find({}).sort("_id", 1)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        from pymongo.errors import PyMongoError

        try:
            yield
        except PyMongoError as exc:
            raise TableError(f"{self.place} cannot be read: {exc}") from exc


def is_mongo(place: str) -> bool:
    """Tell whether a place is a MongoDB URL."""
    return place.lower().startswith(SCHEMES)


def _connect(url: str) -> Any:
    from pymongo import MongoClient

    return MongoClient(url, serverSelectionTimeoutMS=_PATIENCE_MS)


def _plain(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document with MongoDB's values as Python values: object ids as text, decimals as decimals."""
    return {name: _plain_value(value) for name, value in document.items()}


def _plain_value(value: Any) -> Any:
    kind = type(value).__name__
    if kind == "ObjectId":
        return str(value)
    if kind == "Decimal128":
        return value.to_decimal()
    return value
