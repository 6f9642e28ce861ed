"""Measure this package's vector stores, and libraries with their defaults, with the same queries and filters."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import import_module
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, Protocol, cast

import numpy as np
import psutil

from text_image_similarity.search.fields import BUILT_IN, Field, Value
from text_image_similarity.search.filters import And, Compare, Filter
from text_image_similarity.search.ranking import compares_all
from text_image_similarity.search.stores import Changes, MemoryStore, Store

from .inputs import BUILD
from .meter import Meter
from .vectors import WIDTH, Ask, Rows, Shop, nearest_rows

TOP_K = 10
_FIELDS = (*BUILT_IN, Field("category"), Field("draw", "number"))


class Engine(Protocol):
    """A store or library to compare."""

    def add(self, rows: Rows) -> None:
        """Add rows."""

    def finish(self) -> None:
        """Build the index for searches."""

    def find(self, ask: Ask) -> list[int]:
        """Return the numbers of the nearest rows that pass the filter, up to `TOP_K`."""


class Ours:
    """One of this package's stores, with the planner's rule: count the rows that pass, and search exactly if few do."""

    def __init__(self, store: Store, wait: Callable[[], None] | None = None) -> None:
        self._store, self._wait = store, wait
        self._version = 0

    def add(self, rows: Rows) -> None:
        self._version += 1
        numbers = np.arange(rows.start, rows.start + len(rows.vectors))
        missing: list[Value | None] = [None] * len(numbers)
        columns = {field.name: missing for field in BUILT_IN}
        columns["_id"] = [str(number) for number in numbers]
        columns |= {"category": [f"c{each}" for each in rows.categories], "draw": rows.draws.tolist()}
        none = np.empty(0, np.int64)
        zeros = np.zeros(len(numbers), np.int64)
        self._store.apply(Changes(self._version, numbers, columns, numbers, zeros, rows.vectors, none))

    def finish(self) -> None:
        self._store.optimize()
        if self._wait is not None:
            self._wait()

    def find(self, ask: Ask) -> list[int]:
        where = _where(ask)
        exact = compares_all(self._store, self._store.count(where))
        (hits,) = self._store.search(ask.vector[None, :], where, TOP_K, exact=exact)
        return [int(row) for row in hits.rows[:TOP_K]]

    def find_together(self, asks: list[Ask]) -> None:
        """Search for several queries at once, without a filter."""
        self._store.search(np.stack([ask.vector for ask in asks]), None, TOP_K)


class RawLance:
    """LanceDB's IVF_RQ with its default number of probes."""

    def __init__(self, folder: Path) -> None:
        import lancedb

        self._database: Any = lancedb.connect(folder)
        self._table: Any = None

    def add(self, rows: Rows) -> None:
        import pyarrow as pa

        flat = pa.FixedSizeListArray.from_arrays(pa.array(rows.vectors.ravel()), WIDTH)
        numbers = pa.array(np.arange(rows.start, rows.start + len(rows.vectors)))
        table = pa.table({"number": numbers, "category": rows.categories, "draw": rows.draws, "vector": flat})
        if self._table is None:
            self._table = self._database.create_table("raw", table)
        else:
            self._table.add(table)

    def finish(self) -> None:
        from lancedb.index import IvfRq

        self._table.create_index("vector", config=IvfRq(distance_type="cosine"))
        for column in ("category", "draw"):
            self._table.create_scalar_index(column)
        self._table.optimize()

    def find(self, ask: Ask) -> list[int]:
        search = self._table.search(ask.vector).distance_type("cosine").refine_factor(10).limit(TOP_K)
        category = "" if ask.category is None else f" AND category = {ask.category}"
        if ask.below < 1.0 or category:
            search = search.where(f"draw < {ask.below}{category}")
        return cast(list[int], search.select(["number", "_distance"]).to_arrow()["number"].to_pylist())


class RawEdge:
    """Qdrant's engine in this process, with its default search effort."""

    def __init__(self, folder: Path) -> None:
        import qdrant_edge as edge

        self._edge: Any = edge
        folder.mkdir()
        config = edge.EdgeConfig(vectors=edge.EdgeVectorParams(size=WIDTH, distance=edge.Distance.Cosine))
        self._shard: Any = edge.EdgeShard.create(str(folder), config)
        self._update("create_field_index", "category", edge.PayloadSchemaType.Integer)
        self._update("create_field_index", "draw", edge.PayloadSchemaType.Float)

    def add(self, rows: Rows) -> None:
        both = zip(rows.vectors.tolist(), rows.categories.tolist(), rows.draws.tolist(), strict=True)
        points = [
            self._edge.Point(number, vector, {"category": category, "draw": draw})
            for number, (vector, category, draw) in enumerate(both, rows.start)
        ]
        self._update("upsert_points", points)

    def finish(self) -> None:
        while self._shard.optimize():
            pass

    def find(self, ask: Ask) -> list[int]:
        edge, parts = self._edge, []
        if ask.below < 1.0:
            parts.append(edge.FieldCondition("draw", range=edge.RangeFloat(lt=ask.below)))
        if ask.category is not None:
            parts.append(edge.FieldCondition("category", match=edge.MatchValue(ask.category)))
        query = edge.Query.Nearest(ask.vector.tolist())
        request = edge.QueryRequest(limit=TOP_K, query=query, filter=edge.Filter(must=parts) if parts else None)
        return [point.id for point in self._shard.query(request)]

    def _update(self, operation: str, *arguments: Any) -> None:
        self._shard.update(getattr(self._edge.UpdateOperation, operation)(*arguments))


class RawFaiss:
    """faiss' HNSW, restricted to the ids of the rows that pass the filter."""

    def __init__(self) -> None:
        faiss = import_module("faiss")

        self._faiss: Any = faiss
        self._index: Any = faiss.IndexHNSWFlat(WIDTH, 32, faiss.METRIC_INNER_PRODUCT)
        self._rows: list[Rows] = []

    def add(self, rows: Rows) -> None:
        self._index.add(rows.vectors)
        self._rows.append(Rows(rows.start, rows.vectors[:0], rows.categories, rows.draws))

    def finish(self) -> None:
        """Do nothing: the index is built as rows are added."""

    def find(self, ask: Ask) -> list[int]:
        passing = np.flatnonzero(np.concatenate([ask.passes(rows) for rows in self._rows]))
        params = self._faiss.SearchParametersHNSW(sel=self._faiss.IDSelectorBatch(passing))
        _, found = self._index.search(ask.vector[None, :], TOP_K, params=params)
        return [int(row) for row in found[0] if row >= 0]


def measure(engine: str, rows: int, queries: int = 200) -> dict[str, Any]:
    """Fill an engine, and measure its recall, incomplete results and times under each filter."""
    shop = Shop()
    folder = Path(tempfile.mkdtemp(dir=BUILD))
    try:
        with ExitStack() as stack:
            made = _make(engine, folder, stack)
            with Meter() as building:
                for block in shop.blocks(rows):
                    made.add(block)
                made.finish()
            asks = shop.asks(queries)
            truth = iter(nearest_rows(shop, rows, [ask for some in asks.values() for ask in some], TOP_K))
            found = {name: _measure(made, some, list(islice(truth, len(some)))) for name, some in asks.items()}
            resident = psutil.Process().memory_info().rss / 2**20
            together = _together(made, asks["100.0%"][:32])
        disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        **{"rows": rows, "queries": queries, "filters": found, "seconds": building.seconds},
        **{"resident_mib": resident, "disk_mib": disk, "together_ms": together},
    }


def _measure(engine: Engine, asks: list[Ask], truth: list[list[int]]) -> dict[str, float]:
    for ask in asks[:5]:
        engine.find(ask)
    times, recalls, short = [], [], 0
    for ask, right in zip(asks, truth, strict=True):
        began = time.perf_counter()
        found = engine.find(ask)
        times.append(1000 * (time.perf_counter() - began))
        recalls.append(len(set(found) & set(right)) / max(1, len(right)) if right else 1.0)
        short += len(found) < len(right)
    return {
        **{"p50_ms": median(times), "p99_ms": float(np.percentile(times, 99))},
        **{"recall": float(np.mean(recalls)), "worst": min(recalls), "short": short},
    }


def _together(engine: Engine, asks: list[Ask]) -> float | None:
    """Return the milliseconds per query for several queries at once; None if the engine takes one at a time."""
    if not isinstance(engine, Ours):
        return None
    times = []
    for _ in range(5):
        began = time.perf_counter()
        engine.find_together(asks)
        times.append(1000 * (time.perf_counter() - began) / len(asks))
    return median(times)


def _where(ask: Ask) -> Filter | None:
    parts = list(_parts(ask))
    return And(tuple(parts)) if len(parts) > 1 else parts[0] if parts else None


def _parts(ask: Ask) -> Iterator[Filter]:
    if ask.below < 1.0:
        yield Compare("draw", "lt", ask.below)
    if ask.category is not None:
        yield Compare("category", "eq", f"c{ask.category}")


def _make(engine: str, folder: Path, stack: ExitStack) -> Engine:
    match engine:
        case "sqlite":
            return Ours(MemoryStore(_FIELDS, WIDTH))
        case "lancedb":
            from text_image_similarity.search.stores.lancedb import LanceStore

            return Ours(LanceStore(str(folder / "ours"), _FIELDS, WIDTH))
        case "qdrant":
            from tests.support.edge import EdgeClient
            from text_image_similarity.search.stores.qdrant import QdrantStore

            client = EdgeClient(folder / "edge")
            return Ours(QdrantStore(cast(Any, client), "shop", _FIELDS, WIDTH), client.optimize)
        case "pgvector":
            from tests.support.postgres import postgres_server, schema_at
            from text_image_similarity.search.stores.pgvector import PgVectorStore

            stack.enter_context(postgres_server())
            store = PgVectorStore(schema_at(folder), 1, _FIELDS, WIDTH)
            stack.callback(store.close)
            return Ours(store)
        case "raw LanceDB":
            return RawLance(folder / "raw")
        case "raw qdrant-edge":
            return RawEdge(folder / "raw")
        case _:
            return RawFaiss()
