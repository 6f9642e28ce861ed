"""Convert rows of a ledger's tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from ...similarity import Embeddings
from ..fields import FieldKind, Value
from ..products import ImageOutcome, Product, fields_as_json
from .database import Database, Row, Transaction, intact

_CHUNK = 500  # parameters in one IN (...)

# The columns for `found_of`. Built-in fields come first among the numbered ones: f0 is the id, f1 the group.
PRODUCT = "product.number, f0, name, images, description, fields, f1"


@dataclass(frozen=True, slots=True)
class Found:
    """A product in a ledger.

    Args:
        number: Number of the product, for stores.
        product: The product.
    """

    number: int
    product: Product


@dataclass(frozen=True, slots=True)
class Listed:
    """A product in a list, without its texts, which may be long.

    Args:
        number: Number of the product.
        id: Id of the product.
        group: Group of the product; None if it has none.
    """

    number: int
    id: str
    group: str | None


def read_counter(database: Database, name: str) -> int:
    """Return a counter of a ledger."""
    with intact(database):
        return int(database.read("SELECT value FROM counter WHERE name = ?", (name,))[0][0])


def values_of(database: Database, kind: FieldKind, column: list[Any]) -> list[Value | None]:
    """Convert a column's values to stored values of a kind of field."""
    if kind == "bool":
        return [None if value is None else bool(value) for value in column]
    if kind == "texts":
        return [None if value is None else database.texts(value) for value in column]
    return column


def put_image_outcomes(
    transaction: Transaction, image_outcomes: Mapping[int, Mapping[int, Sequence[ImageOutcome]]]
) -> None:
    """Write the outcomes of images, by number of the product and of the generation."""
    transaction.run_many(
        "INSERT INTO picture (generation, number, slot, content, vector, error) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (generation, number, slot) DO UPDATE SET "
        "content = excluded.content, vector = excluded.vector, error = excluded.error",
        [
            (generation, number, slot, image.content, blob_of(image.vector), image.error)
            for number, generations in image_outcomes.items()
            for generation, found in generations.items()
            for slot, image in enumerate(found)
        ],
    )


def in_chunks(
    run: Callable[[str, Sequence[object]], list[Row]], query: str, keys: Sequence[object], rest: str = ""
) -> list[Row]:
    """Return the rows of a query that ends in `IN`, for any number of keys."""
    found: list[Row] = []
    for start in range(0, len(keys), _CHUNK):
        part = keys[start : start + _CHUNK]
        found += run(f"{query}({', '.join('?' * len(part))}){rest}", part)
    return found


def with_last(chunks: Iterator[list[Row]]) -> Iterator[tuple[list[Row], bool]]:
    """Yield each chunk with whether it is the last one; if there is none, yield an empty one."""
    now = next(chunks, [])
    for then in chunks:
        yield now, False
        now = then
    yield now, True


def beyond(column: str, down: bool, after: tuple[Value | None, str]) -> tuple[str, list[object]]:
    """Return the condition that a product comes after another one in the order of `browse`, and its parameters."""
    value, id = after
    if value is None:
        return f"({column} IS NULL AND f0 > ?)", [id]
    further = f"{column} {'<' if down else '>'} ?"
    return f"({further} OR ({column} = ? AND f0 > ?) OR {column} IS NULL)", [value, value, id]


def texts_of(product: Product) -> tuple[str, str, str, str]:
    """Return the columns name, description, images and fields of a product."""
    return product.name, product.description, json.dumps(list(product.images)), fields_as_json(product)


def found_of(row: Row) -> Found:
    """Return the product in a row with the columns `PRODUCT`."""
    number, id, name, images, description, fields, family = row[:7]
    given = MappingProxyType(json.loads(fields))
    return Found(int(number), Product(id, name, tuple(json.loads(images)), description, given, family))


def blob_of(vector: Embeddings | None) -> bytes | None:
    """Return a vector as a column's value."""
    return None if vector is None else np.ascontiguousarray(vector, "<f4").tobytes()


def vector_of(blob: Any) -> Embeddings | None:
    """Return the vector in a column's value, shape (embed_dim,), float32."""
    return None if blob is None else np.frombuffer(memoryview(blob), "<f4").astype(np.float32, copy=False)


def bytes_of(blob: Any) -> bytes | None:
    """Return the bytes in a column's value, whose type depends on the database.

    Raises:
        TypeError: The value is a number or a text; `bytes` would allocate as many bytes as a number says.
    """
    return None if blob is None else bytes(memoryview(blob))
