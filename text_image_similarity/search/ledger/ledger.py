"""The authoritative data of a catalogue: products, outcomes of models for their images, and which model is in use.

Each write is one transaction and gets the next version. A product keeps its number for as long as it exists, and
numbers are never reused, so a store can follow by reading the changes since a version.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from ...similarity import Embeddings
from ..fields import BUILT_IN, Field, Value, single
from ..filters import Filter
from ..filters.sql import column_names
from ..products import Entry, ImageOutcome, Product, first_error
from ..stores.protocol import Changes
from .database import Database, Row, Transaction, advance, intact
from .following import read_changes
from .generations import UNSEEN, check_there
from .rows import (
    PRODUCT,
    Found,
    Listed,
    beyond,
    bytes_of,
    found_of,
    in_chunks,
    put_image_outcomes,
    read_counter,
    texts_of,
    values_of,
    vector_of,
)

_LISTED = "product.number, f0, f1"  # the columns of `Listed`


class Ledger:
    """The products of a catalogue and all data about them. Safe to share between threads.

    Args:
        database: Database of the ledger.
        fields: The declared fields.
    """

    def __init__(self, database: Database, fields: Sequence[Field]) -> None:
        self.database = database
        self.fields = tuple(fields)
        self._all = (*BUILT_IN, *self.fields)
        self._columns = column_names(self.fields)

    @property
    def version(self) -> int:
        """Number of writes so far."""
        return self._counter("version")

    @property
    def pruned(self) -> int:
        """The version since which deletions are recorded; a follower with an earlier version must start over."""
        return self._counter("pruned")

    def add(self, entries: Sequence[Entry]) -> bool:
        """Add or replace all products or none; if several have the same id, the last one is used.

        Returns:
            Whether the products were added; False if an entry has no image outcomes for a generation that is not being
            built, such as one that appeared or was completed while the images were encoded.
        """
        latest = {entry.product.id: entry for entry in entries}
        with self.database.write() as transaction:
            states: dict[int, str] = dict(transaction.run("SELECT number, state FROM generation"))
            needed = {number for number, state in states.items() if state != "building"}
            if any(needed - entry.image_outcomes.keys() for entry in entries):
                return False
            self._put(transaction, latest, advance(transaction, "version"), states)
        return True

    def delete(self, ids: Iterable[str]) -> int:
        """Remove all products or none, and return how many existed."""
        with self.database.write() as transaction:
            gone = list(self._numbers(transaction, list(dict.fromkeys(ids))).values())
            if gone:
                self._remove(transaction, gone, advance(transaction, "version"))
        return len(gone)

    def put_image_outcomes(
        self, generation: int, found: Mapping[int, tuple[Sequence[str], Sequence[ImageOutcome]]]
    ) -> None:
        """Save a generation's outcomes for images of products, unless a product's images have changed by now.

        Args:
            generation: The generation.
            found: For the number of each product, its references and their outcomes.
        """
        with self.database.write() as transaction:
            now: dict[int, str] = dict(
                in_chunks(transaction.run, "SELECT number, images FROM product WHERE number IN ", list(found))
            )
            check_there(transaction, generation)
            fitting = [number for number, (images, _) in found.items() if now.get(number) == json.dumps(list(images))]
            version = advance(transaction, "version")
            live = transaction.run("SELECT 1 FROM generation WHERE number = ? AND state = 'live'", (generation,))
            errors = {number: first_error(found[number][1]) for number in fitting}
            transaction.run_many(
                "UPDATE product SET version = ?, f2 = CASE ? WHEN 1 THEN ? ELSE f2 END WHERE number = ?",
                [(version, int(bool(live)), errors[number], number) for number in fitting],
            )
            put_image_outcomes(transaction, {number: {generation: found[number][1]} for number in fitting})

    def get(self, ids: Sequence[str]) -> dict[str, Found]:
        """Return the products with the given ids, by id; unknown ids are left out."""
        rows = in_chunks(self.database.read, f"SELECT {PRODUCT} FROM product WHERE f0 IN ", ids)
        return {found.product.id: found for found in self._found(rows)}

    def by_number(self, numbers: Sequence[int], where: Filter | None = None) -> dict[int, Product]:
        """Return the products that exist and pass a filter, by their numbers."""
        return {found.number: found.product for found in self._found(self._passing(PRODUCT, numbers, where))}

    def listed(self, numbers: Sequence[int], where: Filter | None = None) -> dict[int, Listed]:
        """Return the ids and groups of products that exist and pass a filter, by number."""
        return {row[0]: Listed(*row) for row in self._passing(_LISTED, numbers, where)}

    def passing(self, numbers: Sequence[int], where: Filter | None) -> list[int]:
        """Return the numbers of products that exist and pass a filter, in order."""
        there = {row[0] for row in self._passing("number", numbers, where)}
        return [number for number in numbers if number in there]

    def column(self, field: str, numbers: Sequence[int], where: Filter | None = None) -> dict[int, Value | None]:
        """Return the stored values of a field, by number, for products that exist and pass a filter."""
        rows = self._passing(f"number, {self._columns[field]}", numbers, where)
        return dict(zip((row[0] for row in rows), self._values(field, [row[1] for row in rows]), strict=True))

    def image_outcomes(self, generation: int, numbers: Sequence[int]) -> dict[int, list[ImageOutcome]]:
        """Return the outcomes of a generation's model for the images of products, in order."""
        query = f"SELECT number, content, vector, error FROM picture WHERE generation = {generation:d} AND number IN "
        rows = in_chunks(self.database.read, query, numbers, " ORDER BY number, slot")
        with intact(self.database):
            return {
                number: [
                    ImageOutcome(bytes_of(content), vector_of(vector), error) for _, content, vector, error in group
                ]
                for number, group in groupby(rows, key=lambda row: int(row[0]))
            }

    def known(self, generation: int, content: bytes) -> Embeddings | None:
        """Return a generation's vector for the content of an image of any product; None if there is none."""
        query = "SELECT vector FROM picture WHERE generation = ? AND content = ? AND vector IS NOT NULL LIMIT 1"
        rows = self.database.read(query, (generation, content))
        with intact(self.database):
            return vector_of(rows[0][0]) if rows else None

    def known_contents(self, generation: int, contents: Collection[bytes]) -> set[bytes]:
        """Return those of the given image contents for which a generation has vectors."""
        query = f"SELECT content FROM picture WHERE generation = {generation:d} AND vector IS NOT NULL AND content IN "
        return {bytes(row[0]) for row in in_chunks(self.database.read, query, list(contents))}

    def count(self, where: Filter | None) -> int:
        """Return how many products pass a filter."""
        condition, values = self.database.where(where, self.fields)
        return int(self.database.read(f"SELECT count(*) FROM product WHERE {condition}", values)[0][0])

    def values(self, field: str, where: Filter | None) -> dict[Value, int]:
        """Return how many products that pass a filter have each value of a field; every text of a list is counted."""
        condition, values = self.database.where(where, self.fields)
        column = self._columns[field]
        query = f"SELECT {column}, count(*) FROM product WHERE {column} IS NOT NULL AND {condition} GROUP BY 1"
        found: Counter[Value] = Counter()
        for stored, count in self.database.read(query, values):
            for each in single(self._value(field, stored)):
                found[each] += int(count)
        return dict(found)

    def browse(
        self, where: Filter | None, order: tuple[str, bool] | None, after: tuple[Value | None, str] | None, most: int
    ) -> list[tuple[Found, Value | None]]:
        """Return the next products that pass a filter, each with its sort value.

        Args:
            where: The filter.
            order: A field, and whether the highest value comes first; products without a value come last. None orders
                by id.
            after: Sort value and id of the last product of the previous call.
            most: Maximum number of products to return.
        """
        rows, stored = self._browse(PRODUCT, where, order, after, most)
        return list(zip(self._found(rows), stored, strict=True))

    def list_ids(
        self, where: Filter | None, order: tuple[str, bool] | None, after: tuple[Value | None, str] | None, most: int
    ) -> list[tuple[Listed, Value | None]]:
        """Return the next products like `browse`, but only their ids and groups."""
        rows, stored = self._browse(_LISTED, where, order, after, most)
        return list(zip((Listed(*row[:3]) for row in rows), stored, strict=True))

    def _browse(
        self,
        columns: str,
        where: Filter | None,
        order: tuple[str, bool] | None,
        after: tuple[Value | None, str] | None,
        most: int,
    ) -> tuple[list[Row], list[Value | None]]:
        condition, values = self.database.where(where, self.fields)
        column, sequence = "f0", "f0"
        if order is not None:
            column = self._columns[order[0]]
            sequence = f"{column} IS NULL, {column} {'DESC' if order[1] else 'ASC'}, f0"
        if after is not None:
            behind, more = ("f0 > ?", [after[1]]) if order is None else beyond(column, order[1], after)
            condition, values = f"({condition}) AND {behind}", [*values, *more]
        query = f"SELECT {columns}, {column} FROM product WHERE {condition} ORDER BY {sequence} LIMIT {most:d}"
        rows = self.database.read(query, values)
        return rows, [None] * len(rows) if order is None else self._values(order[0], [row[-1] for row in rows])

    def find_words(self, text: str, where: Filter | None, most: int) -> list[int]:
        """Return the numbers of products whose name or description contains any of the words, most relevant first."""
        condition, values = self.database.where(where, self.fields)
        return [int(row[0]) for row in self.database.find_words(text, condition, values, most)]

    def pending(self, generation: int, after: int, most: int) -> list[Found]:
        """Return products after a number, by number, with images that a generation has not processed yet."""
        query = f"SELECT {PRODUCT} FROM product WHERE number > ? AND {UNSEEN} ORDER BY number LIMIT ?"
        return self._found(self.database.read(query, (after, generation, most)))

    def sample_vectors(self, generation: int, most: int, seed: int) -> Embeddings:
        """Return the vectors of a random sample of images, shape (n, embed_dim)."""
        last = self._counter("number")
        drawn = np.random.default_rng(seed).integers(1, last + 1, 4 * most).tolist() if last else []
        image_outcomes = self.image_outcomes(generation, sorted(set(drawn)))
        found = [each.vector for group in image_outcomes.values() for each in group if each.vector is not None]
        return np.stack(found[:: max(1, len(found) // most)][:most]) if found else np.empty((0, 0), np.float32)

    def count_pending(self, generation: int) -> int:
        """Return how many products have images that a generation has not processed yet."""
        return int(self.database.read(f"SELECT count(*) FROM product WHERE {UNSEEN}", (generation,))[0][0])

    def count_seen(self, generation: int) -> int:
        """Return how many products have an image with a vector in a generation."""
        query = "SELECT count(DISTINCT number) FROM picture WHERE generation = ? AND vector IS NOT NULL"
        return int(self.database.read(query, (generation,))[0][0])

    def compare(self, live: int, other: int) -> tuple[int, int]:
        """Return how many images have a vector in another generation, and how many have one in the live one only."""
        vectors = "SELECT count(*) FROM picture WHERE generation = ? AND vector IS NOT NULL"
        here = (
            f"{vectors} AND NOT EXISTS (SELECT 1 FROM picture AS other WHERE other.generation = ? AND other.number = picture.number "
            "AND other.slot = picture.slot AND other.vector IS NOT NULL)"
        )
        return int(self.database.read(vectors, (other,))[0][0]), int(self.database.read(here, (live, other))[0][0])

    def changes(self, generation: int, since: int, size: int = 8192) -> Iterator[Changes]:
        """Yield the changes to products since a version, for a store of a generation; see `read_changes`."""
        return read_changes(self.database, self.fields, generation, since, size)

    def prune(self) -> None:
        """Remove the records of deletions from before the previous call of this method.

        Followers are not registered. A follower that has fallen behind can tell from `pruned` that it must start over.
        """
        with self.database.write() as transaction:
            counters: dict[str, int] = dict(transaction.run("SELECT name, value FROM counter"))
            found = transaction.run("SELECT max(version) FROM removed WHERE version <= ?", (counters["optimized"],))
            if (last := found[0][0]) is not None:
                transaction.run("DELETE FROM removed WHERE version <= ?", (last,))
                transaction.run("UPDATE counter SET value = ? WHERE name = 'pruned'", (last,))
            transaction.run("UPDATE counter SET value = ? WHERE name = 'optimized'", (counters["version"],))

    def _put(
        self, transaction: Transaction, entries: Mapping[str, Entry], version: int, generations: Collection[int]
    ) -> None:
        """Insert or replace products, under their existing numbers or new ones."""
        known = self._numbers(transaction, list(entries))
        fresh = [id for id in entries if id not in known]
        last = advance(transaction, "number", len(fresh)) if fresh else 0
        numbers = known | {id: number for number, id in enumerate(fresh, last - len(fresh) + 1)}
        names = ["number", "version", "name", "description", "images", "fields", *self._columns.values()]
        updates = ", ".join(f"{name} = excluded.{name}" for name in names[1:])
        transaction.run_many(
            f"INSERT INTO product ({', '.join(names)}) VALUES ({', '.join('?' * len(names))}) "
            f"ON CONFLICT (number) DO UPDATE SET {updates}",
            [(numbers[id], version, *texts_of(entry.product), *entry.values) for id, entry in entries.items()],
        )
        transaction.run_many("DELETE FROM picture WHERE number = ?", [(number,) for number in known.values()])
        image_outcomes = {
            numbers[id]: {number: found for number, found in entry.image_outcomes.items() if number in generations}
            for id, entry in entries.items()
        }
        put_image_outcomes(transaction, image_outcomes)
        texts = [(numbers[id], entry.product.name, entry.product.description) for id, entry in entries.items()]
        self.database.index_words(transaction, texts)

    def _remove(self, transaction: Transaction, numbers: Sequence[int], version: int) -> None:
        for table in ("product", "picture"):
            transaction.run_many(f"DELETE FROM {table} WHERE number = ?", [(number,) for number in numbers])
        transaction.run_many("INSERT INTO removed VALUES (?, ?)", [(number, version) for number in numbers])
        self.database.forget_words(transaction, numbers)

    def _numbers(self, transaction: Transaction, ids: Sequence[str]) -> dict[str, int]:
        return dict(in_chunks(transaction.run, "SELECT f0, number FROM product WHERE f0 IN ", ids))

    def _passing(self, columns: str, numbers: Sequence[int], where: Filter | None) -> list[Row]:
        condition, values = self.database.where(where, self.fields)
        query = f"SELECT {columns} FROM product WHERE {condition} AND number IN "
        return in_chunks(lambda sql, keys: self.database.read(sql, [*values, *keys]), query, numbers)

    def _counter(self, name: str) -> int:
        return read_counter(self.database, name)

    def _found(self, rows: list[Row]) -> list[Found]:
        with intact(self.database):
            return [found_of(row) for row in rows]

    def _value(self, field: str, value: Any) -> Value | None:
        (found,) = self._values(field, [value])
        return found

    def _values(self, field: str, values: list[Any]) -> list[Value | None]:
        """Convert a column's values to stored values."""
        kind = next(each.kind for each in self._all if each.name == field)
        return values_of(self.database, kind, values)
