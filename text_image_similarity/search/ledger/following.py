"""Read changes to products since a version, for stores that follow a ledger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ...similarity import Embeddings
from ..fields import BUILT_IN, Field
from ..filters.sql import column_names
from ..stores.protocol import Changes, Rows
from .database import Database
from .rows import in_chunks, read_counter, values_of, with_last


def read_changes(
    database: Database, declared: Sequence[Field], generation: int, since: int, size: int
) -> Iterator[Changes]:
    """Yield the changes to products since a version, in batches.

    Only the last batch advances the store's version. Without changes, there is no batch. The last batch is missing if
    the records of deletions were pruned in the meantime; the caller must then start over.

    Args:
        database: Database of the ledger.
        declared: Declared fields of the ledger.
        generation: Generation whose vectors to read.
        since: Version of the follower, at least `Ledger.pruned`; 0 reads everything, for an empty follower.
        size: Maximum number of products in a batch.
    """
    version, pruned = read_counter(database, "version"), read_counter(database, "pruned")
    if version == since:
        return
    columns = column_names(declared)
    chosen = ", ".join(columns.values())
    # Without the condition, the database reads all products by number, which is their physical order.
    since_sql = "" if since == 0 else f"version > {since:d} AND "
    expected = 0 if since else _count_images(database, generation)
    products = f"SELECT number, {chosen} FROM product WHERE {since_sql}version <= {version:d} ORDER BY number"
    fields = (*BUILT_IN, *declared)
    for chunk, ends in with_last(database.stream(products, size, everything=since == 0)):
        numbers, *found = [list(column) for column in zip(*chunk, strict=True)] or [[] for _ in (0, *fields)]
        owners, slots, vectors = _vectors(database, generation, numbers, in_one_piece=since == 0)
        gone = database.read("SELECT number FROM removed WHERE version > ?", (since,)) if ends else []
        if ends and read_counter(database, "pruned") != pruned:
            return
        yield Changes(
            version=version if ends else since,
            rows=np.array(numbers, np.int64),
            columns={
                field.name: values_of(database, field.kind, column) for field, column in zip(fields, found, strict=True)
            },
            owners=owners,
            slots=slots,
            vectors=vectors,
            deleted=np.array([row[0] for row in gone], np.int64),
            expected=expected,
        )


def _count_images(database: Database, generation: int) -> int:
    return int(database.read("SELECT count(*) FROM picture WHERE generation = ?", (generation,))[0][0])


def _vectors(
    database: Database, generation: int, numbers: list[int], *, in_one_piece: bool
) -> tuple[Rows, Rows, Embeddings]:
    """Return the products' numbers, and the slots and vectors of their images."""
    query = (
        f"SELECT number, slot, vector FROM picture WHERE generation = {generation:d} AND vector IS NOT NULL AND number "
    )
    if in_one_piece and numbers:
        rows = database.read(f"{query}BETWEEN ? AND ? ORDER BY number, slot", (numbers[0], numbers[-1]))
        here = set(numbers)
        rows = [row for row in rows if row[0] in here]
    else:
        rows = in_chunks(database.read, f"{query}IN ", numbers, " ORDER BY number, slot")
    found = np.frombuffer(b"".join(row[2] for row in rows), "<f4").astype(np.float32, copy=False)
    return (
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.int64),
        found.reshape(len(rows), -1) if rows else np.empty((0, 0), np.float32),  # (m, d)
    )
