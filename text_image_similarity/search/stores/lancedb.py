"""A store in a LanceDB table, in a folder or an object store, for vectors that do not fit in memory.

An exact search reads the images that pass the filter and compares them here, all queries in one pass, which is faster
than LanceDB's own exact search with any filter. An approximate search requests more images than needed from LanceDB's
index, with settings for high recall, and compares these exactly.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from math import inf
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import Bitmap, BTree, IvfRq, LabelList

from ...errors import DatabaseError
from ...similarity import Embeddings
from ..fields import BUILT_IN, Field, FieldKind, Value
from ..filters import Filter
from ..filters.datafusion import DataFusionWriter
from ..filters.sql import column_names, compile_sql
from ..time_limit import check_time, remaining
from .exact import Block, best_of, ranked
from .lance_manifests import LanceManifests
from .protocol import Alone, Changes, Hits, Rows

# An index pays off above this number of images; below it, all images are compared.
INDEXED = 100_000
# Measured on 200,000 x 512: with one bit per number, LanceDB's default, recall@10 fell to .84 if a filter excluded the
# images near the query; with four bits it was 1.000. With a million, 100 of 244 partitions found .98; all of them took
# a tenth longer.
_BITS, _PARTITIONS, _REFINED = 4, 400, 5
# With 200,000 x 512, comparing 1,000 / 2,000 / 5,000 / 20,000 images that pass took 18 / 52 / 97 / 326 ms of CPU; the
# index took 18 to 21 ms and found all ten nearest images.
_EXACT_UP_TO = 2000
_SPARE = 16  # additional images to request, because the index's order differs in the last bits
_SMALL_PARTS = 20  # applied changes, each a separate file, before they are merged
_KEPT = timedelta(minutes=5)  # how long other processes may still read replaced data
_CHUNK = 8192  # numbers in one condition, and rows read at a time
_SLOTS = 256  # maximum number of images of a product
_TABLE, _APPLIED, _CATALOG, _ALL = "pictures", "applied", "catalog", "TRUE"
_READING = {"read", "searched", "counted"}
_FAILURES = (OSError, RuntimeError, ValueError, pa.ArrowException)
_TYPES: dict[FieldKind, pa.DataType] = {
    "text": pa.utf8(),
    "number": pa.float64(),
    "bool": pa.bool_(),
    "date": pa.float64(),
    "texts": pa.list_(pa.utf8()),
}


class LanceStore:
    """A store in a LanceDB table; see `Store`.

    The store cannot be used in a process that was forked from the one that opened it.

    Args:
        place: A folder, or its URI in an object store.
        fields: All fields, including the built-in ones.
        embed_dim: Length of the vectors.
        identity: Token of the catalogue.
        named: Whether the user has named the place; otherwise, its files must not lead to other places.

    Raises:
        DatabaseError: The store cannot be opened, leads to another place, or belongs to another catalogue.
    """

    def __init__(
        self, place: str, fields: Sequence[Field], embed_dim: int, identity: str = "", *, named: bool = False
    ) -> None:
        self.shared = self.approximates = True
        self.exact_up_to = _EXACT_UP_TO
        self._place, self._process = place, os.getpid()
        self._manifests = None if named else LanceManifests(Path(place), _TABLE)
        self._declared = tuple(fields)[len(BUILT_IN) :]
        self._kinds: dict[str, FieldKind] = {field.name: field.kind for field in fields}
        self._columns = column_names(self._declared)
        self._schema = pa.schema(
            [
                pa.field("picture", pa.int64(), nullable=False),  # number and slot in one value, as the key for merging
                pa.field("number", pa.int64(), nullable=False, metadata={_CATALOG: identity}),
                pa.field("slot", pa.int64(), nullable=False),
                pa.field("first", pa.bool_(), nullable=False),  # one image of each product, for counting
                *(pa.field(column, _TYPES[self._kinds[name]]) for name, column in self._columns.items()),
                pa.field("vector", pa.list_(pa.float32(), embed_dim), nullable=False),
            ]
        )
        with self._speaking("opened"):
            if self._manifests:
                self._manifests.check_all()
            self._database: Any = lancedb.connect(place, read_consistency_interval=timedelta(0))
            self._table: Any = self._open()
            owner = (self._table.schema.field("number").metadata or {}).get(_CATALOG.encode(), b"").decode()
        if owner != identity:
            raise DatabaseError(
                f"another catalogue stores its vectors in {place}; name another place, or remove that folder if its catalogue is gone"
            )

    @property
    def version(self) -> int:
        with self._speaking("read"):
            return int((self._table.schema.field("number").metadata or {}).get(_APPLIED.encode(), 0))

    def apply(self, changes: Changes) -> None:
        images = self._images(changes)
        with self._speaking("written"):
            if len(changes.owners) and self._are_new(changes.rows):
                self._table.add(images)
            else:
                # A reader sees each image in its old or new state, but never misses one.
                if len(changes.owners):
                    merging = self._table.merge_insert("picture").when_matched_update_all()
                    merging.when_not_matched_insert_all().execute(images)
                self._delete_all_but(changes.rows, images["picture"].to_numpy())
            self._delete_all_but(changes.deleted, np.empty(0, np.int64))
            # Last, as a separate step, so that all of this is repeated after a crash.
            self._table.update_field_metadata({"path": "number", "metadata": {_APPLIED: str(changes.version)}})
            if self._table.stats()["fragment_stats"]["num_small_fragments"] >= _SMALL_PARTS:
                self.optimize()

    def search(
        self, queries: Embeddings, where: Filter | None, limit: int | None, *, least: float = -1.0, exact: bool = False
    ) -> list[Hits]:
        condition = self._condition(where)
        with self._speaking("searched"):
            if exact or limit is None or not self._is_indexed("vector"):
                return best_of(self._blocks(condition), queries, limit, least)
            return [self._approximately(query, condition, limit, least) for query in queries]

    def count(self, where: Filter | None) -> int:
        with self._speaking("counted"):
            check_time()
            return int(self._table.count_rows(f"first AND {self._condition(where)}"))

    def values(self, field: str, where: Filter | None) -> dict[Value, int]:
        column, found = self._columns[field], Counter[Value]()
        condition = f"first AND {column} IS NOT NULL AND {self._condition(where)}"
        with self._speaking("counted"):
            for batch in _in_time(self._table.search().where(condition).select([column])):
                values = batch.column(column)
                counted = (values.flatten() if self._kinds[field] == "texts" else values).value_counts()
                found.update(dict(zip(counted.field(0).to_pylist(), counted.field(1).to_pylist(), strict=True)))
        return dict(found)

    def optimize(self, alone: Alone = nullcontext) -> None:
        with self._speaking("optimized"):
            with alone():
                self._table.optimize(cleanup_older_than=_KEPT)
            for column, config in self._missing_indexes():
                try:
                    self._table.create_index(column, config=config)  # changes may be applied in the meantime
                except _FAILURES:  # because of many changes, files were merged during the build
                    with alone():
                        self._table.create_index(column, config=config)

    def clear(self) -> None:
        with self._speaking("emptied"):
            self._table.delete(_ALL)
            self._table.update_field_metadata({"path": "number", "metadata": {_APPLIED: "0"}})

    def close(self) -> None:
        """Do nothing, because LanceDB holds only memory, which is freed with this object."""

    def drop(self) -> None:
        with self._speaking("removed"):
            self._database.drop_table(_TABLE, ignore_missing=True)
            if Path(self._place).is_dir():
                shutil.rmtree(self._place)

    def _open(self) -> Any:
        if _TABLE not in self._database.list_tables().tables:
            return self._database.create_table(_TABLE, schema=self._schema, exist_ok=True)
        table = self._database.open_table(_TABLE)
        if not table.schema.equals(self._schema, check_metadata=False):
            raise ValueError("they were built with other fields or another model")
        return table

    def _images(self, changes: Changes) -> pa.Table:
        """Return changed products' images as rows of the table."""
        order = np.lexsort((changes.slots, changes.owners))
        owners, slots = changes.owners[order], changes.slots[order]
        products = np.argsort(changes.rows, kind="stable")
        take = pa.array(products[np.searchsorted(changes.rows, owners, sorter=products)])  # (m,)
        first = np.r_[True, owners[1:] != owners[:-1]][: len(owners)]
        columns = [pa.array(changes.columns[name], _TYPES[self._kinds[name]]).take(take) for name in self._columns]
        flat = pa.array(np.ascontiguousarray(changes.vectors[order], np.float32).ravel())
        vectors = pa.FixedSizeListArray.from_arrays(flat, self._schema.field("vector").type.list_size)
        arrays = [pa.array(owners * _SLOTS + slots), pa.array(owners), pa.array(slots), pa.array(first)]
        return pa.Table.from_arrays([*arrays, *columns, vectors], schema=self._schema)

    def _are_new(self, rows: Rows) -> bool:
        """Tell whether the table has no product with a number in the range of these products' numbers."""
        return not self._table.count_rows(f"number >= {rows.min()} AND number <= {rows.max()}")

    def _delete_all_but(self, rows: Rows, kept: Rows) -> None:
        """Delete the images of products, except those to keep."""
        for start in range(0, len(rows), _CHUNK):
            some = rows[start : start + _CHUNK]
            among = kept[np.isin(kept // _SLOTS, some)]
            but = f" AND picture NOT IN ({_listed(among)})" if len(among) else ""
            self._table.delete(f"number IN ({_listed(some)}){but}")

    def _condition(self, where: Filter | None) -> str:
        return _ALL if where is None else compile_sql(where, DataFusionWriter(self._declared))

    def _blocks(self, condition: str) -> Iterator[Block]:
        """Yield all images that satisfy a condition."""
        found = self._table.search().where(condition).select(["number", "slot", "vector"])
        for batch in _in_time(found):
            if batch.num_rows:
                yield _block(batch)

    def _approximately(self, query: Embeddings, condition: str, limit: int, least: float) -> Hits:
        search = self._table.search(query, vector_column_name="vector").distance_type("cosine")
        search = search.nprobes(_PARTITIONS).refine_factor(_REFINED)
        if condition != _ALL:  # a filter that passes everything would double the time of a search among a million
            search = search.where(condition, prefilter=True)
        found = search.limit(limit + _SPARE).select(["number", "slot", "vector", "_distance"])
        found = found.to_arrow(timeout=_patience())
        if len(found) < limit:  # fewer images pass, or the index missed some
            return best_of(self._blocks(condition), query[None, :], limit, least)[0]
        return ranked(query, _block(found.combine_chunks().to_batches()[0]), limit, least)

    def _is_indexed(self, column: str) -> bool:
        return any(index.columns == [column] for index in self._table.list_indices())

    def _missing_indexes(self) -> list[tuple[str, Any]]:
        if self._table.count_rows() < INDEXED:
            return []
        kinds: dict[str, Any] = {"picture": BTree(), "number": BTree(), "first": Bitmap()}
        for name, column in self._columns.items():
            kind = self._kinds[name]
            kinds[column] = LabelList() if kind == "texts" else Bitmap() if kind == "bool" else BTree()
        wanted = {**kinds, "vector": IvfRq(distance_type="cosine", num_bits=_BITS)}
        return [(column, config) for column, config in wanted.items() if not self._is_indexed(column)]

    @contextmanager
    def _speaking(self, doing: str) -> Iterator[None]:
        """Convert LanceDB's errors into a `DatabaseError`, or a `TimeoutError` if the time of `time_limit` is up."""
        if os.getpid() != self._process:
            raise DatabaseError(
                "a LanceDB store was opened before this process was forked; open the catalogue after the fork"
            )
        try:
            if self._manifests:
                self._manifests.check_new()  # LanceDB follows newer versions by itself
            yield
        except _FAILURES as exc:
            if doing in _READING:
                check_time()
            raise DatabaseError(
                f"the vectors in {self._place} cannot be {doing}: {exc!s:.500}; if this keeps happening, remove that folder and "
                "open the catalogue again, which restores them"
            ) from exc


def _in_time(query: Any) -> Iterator[pa.RecordBatch]:
    """Yield the results of a query in batches, unless the time of `time_limit` is up."""
    for batch in query.to_batches(_CHUNK, timeout=_patience()):
        check_time()
        yield batch


def _patience() -> timedelta | None:
    """Return the time that remains for a query of LanceDB; None without a limit."""
    check_time()
    left_s = remaining()
    return None if left_s == inf else timedelta(seconds=max(0.001, left_s))


def _block(batch: pa.RecordBatch) -> Block:
    vectors = batch.column("vector")
    found = vectors.flatten().to_numpy().reshape(len(vectors), -1)  # (n, d)
    return Block(batch.column("number").to_numpy(), batch.column("slot").to_numpy(), found)


def _listed(numbers: Rows) -> str:
    return ", ".join(map(str, numbers.tolist()))
