"""What the Qdrant store asks of its client, answered by qdrant-edge: Qdrant's engine in this process, one shard a collection."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import qdrant_edge as edge
from qdrant_client import models

_KINDS = {
    "keyword": edge.PayloadSchemaType.Keyword,
    "float": edge.PayloadSchemaType.Float,
    "integer": edge.PayloadSchemaType.Integer,
}


class EdgeClient:
    """Stands in for a `QdrantClient`.

    Args:
        folder: Where the shards are kept.
        indexing_threshold: From how many kB of vectors on `optimize` builds a graph; None for the engine's default.
    """

    def __init__(self, folder: Path, indexing_threshold: int | None = None) -> None:
        self._folder, self._threshold = folder, indexing_threshold
        self._shards = {path.name: edge.EdgeShard.load(str(path)) for path in sorted(folder.glob("*"))}

    def collection_exists(self, name: str) -> bool:
        return name in self._shards

    def create_collection(self, name: str, vectors_config: models.VectorParams) -> None:
        (self._folder / name).mkdir(parents=True)
        assert vectors_config.distance is models.Distance.DOT
        config = edge.EdgeConfig(
            vectors=edge.EdgeVectorParams(size=vectors_config.size, distance=edge.Distance.Dot),
            optimizers=edge.EdgeOptimizersConfig(indexing_threshold=self._threshold),
        )
        self._shards[name] = edge.EdgeShard.create(str(self._folder / name), config)

    def delete_collection(self, name: str) -> None:
        self._shards.pop(name).close()
        shutil.rmtree(self._folder / name)

    def create_payload_index(self, name: str, key: str, field_schema: models.PayloadSchemaType) -> None:
        self._shards[name].update(edge.UpdateOperation.create_field_index(key, _KINDS[field_schema.value]))

    def upsert(self, name: str, points: Sequence[Any], *, wait: bool) -> None:
        assert wait
        # By way of JSON, as to a server.
        found = [edge.Point(point.id, point.vector, json.loads(json.dumps(point.payload))) for point in points]
        self._shards[name].update(edge.UpdateOperation.upsert_points(found))

    def delete(self, name: str, selector: models.FilterSelector, *, wait: bool) -> None:
        assert wait
        self._shards[name].update(edge.UpdateOperation.delete_points_by_filter(_filter(selector.filter)))

    def retrieve(self, name: str, ids: list[Any], timeout: int | None = None) -> list[Any]:
        return self._shards[name].retrieve(ids, with_payload=True, with_vector=False)

    def query_batch_points(
        self, name: str, requests: Sequence[models.QueryRequest], timeout: int | None = None
    ) -> list[Any]:
        return [SimpleNamespace(points=self._shards[name].query(_request(request))) for request in requests]

    def scroll(
        self,
        name: str,
        where: models.Filter | None,
        *,
        limit: int,
        offset: Any,
        with_payload: bool | list[str],
        with_vectors: bool = False,
        timeout: int | None = None,
    ) -> tuple[list[Any], Any]:
        asked = edge.ScrollRequest(
            offset=offset, limit=limit, filter=_filter(where), with_payload=with_payload, with_vector=with_vectors
        )
        return self._shards[name].scroll(asked)

    def count(self, name: str, where: models.Filter | None, *, exact: bool, timeout: int | None = None) -> Any:
        return SimpleNamespace(count=self._shards[name].count(edge.CountRequest(exact=exact, filter=_filter(where))))

    def facet(
        self, name: str, key: str, where: models.Filter | None, *, limit: int, exact: bool, timeout: int | None = None
    ) -> Any:
        return self._shards[name].facet(edge.FacetRequest(key, limit=limit, exact=exact, filter=_filter(where)))

    def optimize(self) -> None:
        """Do what a server does by itself in time."""
        for shard in self._shards.values():
            while shard.optimize():
                pass

    def indexed(self, name: str) -> int:
        """Return how many vectors are in the graph."""
        return int(self._shards[name].info().indexed_vectors_count)

    def close(self) -> None:
        for shard in self._shards.values():
            shard.close()
        self._shards.clear()


def _request(request: Any) -> edge.QueryRequest:
    return edge.QueryRequest(
        limit=request.limit,
        query=edge.Query.Nearest(request.query),
        filter=_filter(request.filter),
        score_threshold=request.score_threshold,
        params=edge.SearchParams(hnsw_ef=request.params.hnsw_ef, exact=bool(request.params.exact)),
        with_vector=True,
        with_payload=False,
    )


def _filter(where: models.Filter | None) -> Any:
    if where is None:
        return None
    parts: dict[str, Any] = {
        name: [_condition(part) for part in found]
        for name in ("must", "should", "must_not")
        if (found := getattr(where, name)) is not None
    }
    return edge.Filter(**parts)


def _condition(part: Any) -> Any:
    match part:
        case models.Filter():
            return _filter(part)
        case models.HasIdCondition():
            return edge.HasIdCondition(set(part.has_id))
        case models.IsEmptyCondition():
            return edge.IsEmptyCondition(part.is_empty.key)
        case models.FieldCondition(range=models.Range() as range):
            return edge.FieldCondition(part.key, range=edge.RangeFloat(range.gte, range.gt, range.lte, range.lt))
        case models.FieldCondition(match=models.MatchAny() as match):
            return edge.FieldCondition(part.key, match=edge.MatchAny(match.any))
        case models.FieldCondition(match=models.MatchValue() as match):
            return edge.FieldCondition(part.key, match=edge.MatchValue(match.value))
    raise AssertionError(part)
