"""The truth of a catalogue: products, what models made of their pictures, and which model answers.

Each write is one transaction and gets the next version. A product keeps its number as long as it is there, and no number
is given twice, so a store can follow by asking what has changed since a version.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType
from typing import Any

import numpy as np

from ...similarity import Embeddings
from ..fields import BUILT_IN, Field, Value
from ..filters import Filter
from ..filters.sql import column_names
from ..products import Entry, Picture, Product, fields_as_json
from ..stores.protocol import Changes, Rows
from .database import Database, Row, Transaction

_CHUNK = 500  # parameters in one IN (...)
# The built-in fields are the first columns of all: f0 is the id, f1 the group, f2 the error.
_PRODUCT = "product.number, f0, name, images, description, fields, f1"


@dataclass(frozen=True, slots=True)
class Found:
    """A product in a ledger.

    Args:
        number: Its number, for stores.
        product: The product.
    """

    number: int
    product: Product


class Ledger:
    """The products of a catalogue and all that is known of them. Safe to share between threads.

    Args:
        database: Where it is kept.
        fields: The declared fields.
    """

    def __init__(self, database: Database, fields: Sequence[Field]) -> None:
        self.database = database
        self.fields = tuple(fields)
        self._all = (*BUILT_IN, *self.fields)
        self._columns = column_names(self.fields)

    @property
    def version(self) -> int:
        """How many writes there were."""
        return self._counter("version")

    def write(self, entries: Sequence[Entry], delete: Iterable[str] = ()) -> int:
        """Add or replace products and delete others, all or nothing, and return how many were deleted.

        Args:
            entries: Products with their pictures; of several with the same id the last one counts. Pictures of generations
                that an entry does not name are forgotten, and have to be encoded again.
            delete: Ids; unknown ones are left alone.
        """
        latest = {entry.product.id: entry for entry in entries}
        with self.database.write() as transaction:
            gone = self._numbers(transaction, [id for id in dict.fromkeys(delete) if id not in latest])
            version = _next(transaction, "version")
            self._remove(transaction, list(gone.values()), version)
            self._put(transaction, latest, version)
        return len(gone)

    def put_pictures(self, generation: int, found: Mapping[int, tuple[Sequence[str], Sequence[Picture]]]) -> None:
        """Keep what a generation's model made of pictures, of products that still have these pictures.

        Args:
            generation: The generation.
            found: For the number of each product its references and what became of them.
        """
        with self.database.write() as transaction:
            now: dict[int, str] = dict(
                _in_chunks(transaction.run, "SELECT number, images FROM product WHERE number IN ", list(found))
            )
            fitting = [number for number, (images, _) in found.items() if now.get(number) == json.dumps(list(images))]
            version = _next(transaction, "version")
            transaction.run_many(
                "UPDATE product SET version = ? WHERE number = ?", [(version, number) for number in fitting]
            )
            _put_pictures(transaction, {number: {generation: found[number][1]} for number in fitting})

    def get(self, ids: Sequence[str]) -> dict[str, Found]:
        """Return products by their ids; unknown ones are left out."""
        rows = _in_chunks(self.database.read, f"SELECT {_PRODUCT} FROM product WHERE f0 IN ", ids)
        return {row[1]: _found(row) for row in rows}

    def by_number(self, numbers: Sequence[int]) -> dict[int, Product]:
        """Return products by their numbers; deleted ones are left out."""
        rows = _in_chunks(self.database.read, f"SELECT {_PRODUCT} FROM product WHERE number IN ", numbers)
        return {row[0]: _found(row).product for row in rows}

    def passing(self, numbers: Sequence[int], where: Filter | None) -> list[int]:
        """Return those of products that are there and pass a filter, in their order."""
        condition, values = self.database.where(where, self.fields)
        query = f"SELECT number FROM product WHERE {condition} AND number IN "
        rows = _in_chunks(lambda sql, keys: self.database.read(sql, [*values, *keys]), query, numbers)
        there = {row[0] for row in rows}
        return [number for number in numbers if number in there]

    def column(self, field: str, numbers: Sequence[int]) -> dict[int, Value | None]:
        """Return the stored values of a field by the products' numbers; deleted ones are left out."""
        query = f"SELECT number, {self._columns[field]} FROM product WHERE number IN "
        return {number: self._value(field, value) for number, value in _in_chunks(self.database.read, query, numbers)}

    def pictures(self, generation: int, numbers: Sequence[int]) -> dict[int, list[Picture]]:
        """Return what a generation's model made of the pictures of products, in their order."""
        query = f"SELECT number, content, vector, error FROM picture WHERE generation = {generation:d} AND number IN "
        rows = _in_chunks(self.database.read, query, numbers, " ORDER BY number, slot")
        return {
            number: [Picture(_bytes(content), _vector(vector), error) for _, content, vector, error in group]
            for number, group in groupby(rows, key=lambda row: int(row[0]))
        }

    def known(self, generation: int, content: bytes) -> Embeddings | None:
        """Return the vector that a generation's model made of a picture's content, whatever product has it; or None."""
        query = "SELECT vector FROM picture WHERE generation = ? AND content = ? AND vector IS NOT NULL LIMIT 1"
        rows = self.database.read(query, (generation, content))
        return _vector(rows[0][0]) if rows else None

    def known_contents(self, generation: int, contents: Collection[bytes]) -> set[bytes]:
        """Return those pictures' contents that a generation has vectors of."""
        query = f"SELECT content FROM picture WHERE generation = {generation:d} AND vector IS NOT NULL AND content IN "
        return {bytes(row[0]) for row in _in_chunks(self.database.read, query, list(contents))}

    def count(self, where: Filter | None) -> int:
        """Return how many products pass a filter."""
        condition, values = self.database.where(where, self.fields)
        return int(self.database.read(f"SELECT count(*) FROM product WHERE {condition}", values)[0][0])

    def values(self, field: str, where: Filter | None) -> dict[Value, int]:
        """Return how many of the products that pass a filter have each value of a field; one of a list counts each of its texts."""
        condition, values = self.database.where(where, self.fields)
        column = self._columns[field]
        query = f"SELECT {column}, count(*) FROM product WHERE {column} IS NOT NULL AND {condition} GROUP BY 1"
        found: Counter[Value] = Counter()
        for stored, count in self.database.read(query, values):
            value = self._value(field, stored)
            for each in value if isinstance(value, tuple) else () if value is None else (value,):
                found[each] += int(count)
        return dict(found)

    def browse(
        self, where: Filter | None, order: tuple[str, bool] | None, after: tuple[Value | None, str] | None, most: int
    ) -> list[tuple[Found, Value | None]]:
        """Return the next products that pass a filter, each with its value of the field that they are ordered by.

        Args:
            where: The filter.
            order: A field, and whether the highest comes first; those without a value come last. None orders by id.
            after: The value and the id of the last product that was returned before.
            most: The most products.
        """
        condition, values = self.database.where(where, self.fields)
        column, down = (self._columns[order[0]], order[1]) if order is not None else ("f0", False)
        if after is not None:
            beyond, more = ("f0 > ?", [after[1]]) if order is None else _beyond(column, down, after)
            condition, values = f"({condition}) AND {beyond}", [*values, *more]
        query = (
            f"SELECT {_PRODUCT}, {column} FROM product WHERE {condition} "
            f"ORDER BY {column} IS NULL, {column} {'DESC' if down else 'ASC'}, f0 LIMIT {most:d}"
        )
        rows = self.database.read(query, values)
        return [(_found(row), None if order is None else self._value(order[0], row[-1])) for row in rows]

    def find_words(self, text: str, where: Filter | None, most: int) -> list[int]:
        """Return the numbers of products whose name or description has any of some words, the most relevant first."""
        condition, values = self.database.where(where, self.fields)
        return [int(row[0]) for row in self.database.find_words(text, condition, values, most)]

    def pending(self, generation: int, after: int, most: int) -> list[Found]:
        """Return products, by number, with pictures that a generation has not seen yet."""
        query = (
            f"SELECT {_PRODUCT} FROM product WHERE number > ? AND images <> '[]' AND NOT EXISTS "
            "(SELECT 1 FROM picture WHERE generation = ? AND picture.number = product.number) ORDER BY number LIMIT ?"
        )
        return [_found(row) for row in self.database.read(query, (after, generation, most))]

    def changes(self, generation: int, since: int, size: int = 8192) -> Iterator[Changes]:
        """Yield what became of products since a version, for a store of a generation, some products at once.

        Only the last one moves the store's version on; there is none if nothing has happened.
        """
        version = self.version
        if version == since:
            return
        names = [field.name for field in self._all]
        chosen = ", ".join(self._columns[name] for name in names)
        # By number where all are read, because that is how they lie.
        since_sql = "" if since == 0 else f"version > {since:d} AND "
        products = f"SELECT number, {chosen} FROM product WHERE {since_sql}version <= {version:d} ORDER BY number"
        for chunk, ends in _with_last(self.database.stream(products, size)):
            numbers, *columns = [list(column) for column in zip(*chunk, strict=True)] or [[] for _ in (0, *names)]
            owners, slots, vectors = self._vectors(generation, numbers, in_one_piece=since == 0)
            gone = self.database.read("SELECT number FROM removed WHERE version > ?", (since,)) if ends else []
            yield Changes(
                version=version if ends else since,
                rows=np.array(numbers, np.int64),
                columns={name: self._values(name, column) for name, column in zip(names, columns, strict=True)},
                owners=owners,
                slots=slots,
                vectors=vectors,
                deleted=np.array([row[0] for row in gone], np.int64),
            )

    def _vectors(self, generation: int, numbers: list[int], *, in_one_piece: bool) -> tuple[Rows, Rows, Embeddings]:
        """Return the vectors of products' pictures: their products' numbers, their slots, and the vectors themselves."""
        query = f"SELECT number, slot, vector FROM picture WHERE generation = {generation:d} AND vector IS NOT NULL AND number "
        if in_one_piece and numbers:
            rows = self.database.read(f"{query}BETWEEN ? AND ? ORDER BY number, slot", (numbers[0], numbers[-1]))
            here = set(numbers)
            rows = [row for row in rows if row[0] in here]
        else:
            rows = _in_chunks(self.database.read, f"{query}IN ", numbers, " ORDER BY number, slot")
        found = np.frombuffer(b"".join(row[2] for row in rows), "<f4").astype(np.float32, copy=False)
        return (
            np.array([row[0] for row in rows], np.int64),
            np.array([row[1] for row in rows], np.int64),
            found.reshape(len(rows), -1) if rows else np.empty((0, 0), np.float32),  # (m, d)
        )

    def _put(self, transaction: Transaction, entries: Mapping[str, Entry], version: int) -> None:
        """Insert or replace products, under the numbers that they have or the next ones."""
        known = self._numbers(transaction, list(entries))
        fresh = [id for id in entries if id not in known]
        last = _next(transaction, "number", len(fresh)) if fresh else 0
        numbers = known | {id: number for number, id in enumerate(fresh, last - len(fresh) + 1)}
        names = ["number", "version", "name", "description", "images", "fields", *self._columns.values()]
        updates = ", ".join(f"{name} = excluded.{name}" for name in names[1:])
        transaction.run_many(
            f"INSERT INTO product ({', '.join(names)}) VALUES ({', '.join('?' * len(names))}) "
            f"ON CONFLICT (number) DO UPDATE SET {updates}",
            [(numbers[id], version, *_texts(entry.product), *entry.values) for id, entry in entries.items()],
        )
        transaction.run_many("DELETE FROM picture WHERE number = ?", [(number,) for number in known.values()])
        _put_pictures(transaction, {numbers[id]: entry.pictures for id, entry in entries.items()})
        texts = [(numbers[id], entry.product.name, entry.product.description) for id, entry in entries.items()]
        self.database.index_words(transaction, texts)

    def _remove(self, transaction: Transaction, numbers: Sequence[int], version: int) -> None:
        for table in ("product", "picture"):
            transaction.run_many(f"DELETE FROM {table} WHERE number = ?", [(number,) for number in numbers])
        transaction.run_many("INSERT INTO removed VALUES (?, ?)", [(number, version) for number in numbers])
        self.database.forget_words(transaction, numbers)

    def _numbers(self, transaction: Transaction, ids: Sequence[str]) -> dict[str, int]:
        return dict(_in_chunks(transaction.run, "SELECT f0, number FROM product WHERE f0 IN ", ids))

    def _counter(self, name: str) -> int:
        return int(self.database.read("SELECT value FROM counter WHERE name = ?", (name,))[0][0])

    def _value(self, field: str, value: Any) -> Value | None:
        (found,) = self._values(field, [value])
        return found

    def _values(self, field: str, values: list[Any]) -> list[Value | None]:
        """Turn what a column holds into stored values."""
        kind = next(each.kind for each in self._all if each.name == field)
        if kind == "bool":
            return [None if value is None else bool(value) for value in values]
        if kind == "texts":
            return [
                None if value is None else tuple(json.loads(value) if isinstance(value, str) else value)
                for value in values
            ]
        return values


def _next(transaction: Transaction, counter: str, step: int = 1) -> int:
    """Advance a counter and return its value."""
    return int(
        transaction.run("UPDATE counter SET value = value + ? WHERE name = ? RETURNING value", (step, counter))[0][0]
    )


def _put_pictures(transaction: Transaction, pictures: Mapping[int, Mapping[int, Sequence[Picture]]]) -> None:
    transaction.run_many(
        "INSERT INTO picture (generation, number, slot, content, vector, error) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (generation, number, slot) DO UPDATE SET "
        "content = excluded.content, vector = excluded.vector, error = excluded.error",
        [
            (generation, number, slot, picture.content, _blob(picture.vector), picture.error)
            for number, generations in pictures.items()
            for generation, found in generations.items()
            for slot, picture in enumerate(found)
        ],
    )


def _in_chunks(
    run: Callable[[str, Sequence[object]], list[Row]], query: str, keys: Sequence[object], rest: str = ""
) -> list[Row]:
    """Return the rows of a query that ends in `IN`, for any number of keys."""
    found: list[Row] = []
    for start in range(0, len(keys), _CHUNK):
        part = keys[start : start + _CHUNK]
        found += run(f"{query}({', '.join('?' * len(part))}){rest}", part)
    return found


def _with_last(chunks: Iterator[list[Row]]) -> Iterator[tuple[list[Row], bool]]:
    """Yield chunks, each with whether it is the last; there is at least one."""
    now = next(chunks, [])
    for then in chunks:
        yield now, False
        now = then
    yield now, True


def _beyond(column: str, down: bool, after: tuple[Value | None, str]) -> tuple[str, list[object]]:
    """Return the condition that a product comes behind another one, in the order of `browse`."""
    value, id = after
    if value is None:
        return f"({column} IS NULL AND f0 > ?)", [id]
    further = f"{column} {'<' if down else '>'} ?"
    return f"({further} OR ({column} = ? AND f0 > ?) OR {column} IS NULL)", [value, value, id]


def _texts(product: Product) -> tuple[str, str, str, str]:
    return product.name, product.description, json.dumps(list(product.images)), fields_as_json(product)


def _found(row: Row) -> Found:
    number, id, name, images, description, fields, family = row[:7]
    given = MappingProxyType(json.loads(fields))
    return Found(int(number), Product(id, name, tuple(json.loads(images)), description, given, family))


def _blob(vector: Embeddings | None) -> bytes | None:
    return None if vector is None else np.ascontiguousarray(vector, "<f4").tobytes()


def _vector(blob: Any) -> Embeddings | None:
    return None if blob is None else np.frombuffer(bytes(blob), "<f4").astype(np.float32, copy=False)


def _bytes(blob: Any) -> bytes | None:
    return None if blob is None else bytes(blob)
