"""A store in a Qdrant collection, which Qdrant can shard and replicate over many machines.

Tests use qdrant-client's local mode and qdrant-edge, Qdrant's engine as a library, but no Qdrant server.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from ipaddress import ip_address
from math import ceil, inf
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException

from ...errors import ConfigError, DatabaseError
from ...similarity import Embeddings
from ..fields import BUILT_IN, Field, FieldKind, Value
from ..filters import Filter
from ..filters.qdrant import compile_qdrant, qdrant_value
from ..filters.sql import column_names
from ..time_limit import check_time, remaining
from .exact import Block, best_of, ranked
from .protocol import Alone, Changes, Hits, Rows

_EF = 1024  # lowest effort of an approximate search; with 128, whole clusters of 200,000 images were missed: recall .89, now 1.000
_SPARE = 16  # additional images to request, because Qdrant's order differs in the last bits
_SLACK = 1e-5
_POINTS = 500  # points sent or read at a time: 5 MB of JSON with 512 dimensions
_SLOTS = 256  # maximum number of images of a product
_MOST_VALUES = 10_000_000
_PATIENCE_S = 60
_FIRST, _NUMBER = "first", "number"
_READING = {"read", "searched", "counted"}
_INDEXES: dict[FieldKind, models.PayloadSchemaType] = {
    "text": models.PayloadSchemaType.KEYWORD,
    "number": models.PayloadSchemaType.FLOAT,
    "bool": models.PayloadSchemaType.INTEGER,
    "date": models.PayloadSchemaType.FLOAT,
    "texts": models.PayloadSchemaType.KEYWORD,
}


def connect(url: str) -> QdrantClient:
    """Return a client for a URL that begins with `qdrant://host:port`, or with `qdrants://` for TLS.

    The value of the environment variable `QDRANT_API_KEY`, if set, is sent, but only over TLS or to this machine.

    Raises:
        ConfigError: The URL has no host, or the key would be sent to another machine in plain text.
    """
    parts = urlsplit(url)
    if not parts.hostname:
        raise ConfigError(f"store={url!r} has no host; write qdrant://host:6333/name")
    key = os.environ.get("QDRANT_API_KEY") or None
    if key is not None and parts.scheme != "qdrants" and not _is_loopback(parts.hostname):
        raise ConfigError(
            f"store={url!r} would send QDRANT_API_KEY to {parts.hostname} in plain text; write qdrants:// for a server "
            "behind TLS, or unset the variable"
        )
    scheme = "https" if parts.scheme == "qdrants" else "http"
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    place = f"{scheme}://{host}:{parts.port or 6333}"
    return QdrantClient(place, api_key=key, timeout=_PATIENCE_S, check_compatibility=False)


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


class QdrantStore:
    """A store in a collection of Qdrant; see `Store`.

    Args:
        client: Qdrant client, which is closed with this store.
        collection: Name of the collection; a second one, with the suffix `-applied`, records the applied version.
        fields: All fields, including the built-in ones.
        embed_dim: Length of the vectors.
        identity: Token of the catalogue.

    Raises:
        DatabaseError: Qdrant does not respond, or the collection cannot be created or belongs to another catalogue.
    """

    def __init__(
        self, client: QdrantClient, collection: str, fields: Sequence[Field], embed_dim: int, identity: str = ""
    ) -> None:
        self.shared = self.approximates = True
        self.exact_up_to = 20_000
        self._client, self._name, self._applied = client, collection, f"{collection}-applied"
        self._embed_dim, self._identity = embed_dim, identity
        self._declared = tuple(fields)[len(BUILT_IN) :]
        self._kinds: dict[str, FieldKind] = {field.name: field.kind for field in fields}
        self._keys = column_names(self._declared)
        with self._speaking("created"):
            if self._make(self._applied, 1):
                self._note(0)
            owner = self._noted().get("catalog", identity)
        if owner != identity:
            raise DatabaseError(
                f"another catalogue stores its vectors in Qdrant as {collection}; use another name, or delete that collection and "
                f"{self._applied} if their catalogue is gone"
            )
        with self._speaking("created"):
            if self._make(self._name, embed_dim):
                kinds = {key: _INDEXES[self._kinds[name]] for name, key in self._keys.items()}
                kinds |= {_FIRST: models.PayloadSchemaType.INTEGER, _NUMBER: models.PayloadSchemaType.INTEGER}
                for key, kind in kinds.items():
                    client.create_payload_index(self._name, key, field_schema=kind)

    @property
    def version(self) -> int:
        with self._speaking("read"):
            return int(self._noted().get("version", 0))

    def apply(self, changes: Changes) -> None:
        ids = changes.owners * _SLOTS + changes.slots
        with self._speaking("written"):
            points = list(self._points(changes))
            for start in range(0, len(points), _POINTS):
                self._client.upsert(self._name, points[start : start + _POINTS], wait=True)
            self._delete_all_but(changes.rows, ids)
            self._delete_all_but(changes.deleted, np.empty(0, np.int64))
            self._note(changes.version)  # last, so that all of this is repeated after a crash

    def search(
        self, queries: Embeddings, where: Filter | None, limit: int | None, *, least: float = -1.0, exact: bool = False
    ) -> list[Hits]:
        passing = self._filter(where)
        with self._speaking("searched"):
            if limit is None and least <= -1.0:
                return best_of(self._blocks(passing), queries, None, least)
            most = limit
            if most is None:
                most, exact = self._client.count(self._name, passing, exact=True, **_patience()).count, True
            found = self._nearest(queries, passing, most, least, exact=exact)
            short = [place for place, block in enumerate(found) if len(block.rows) < most]
            if short and not exact:  # fewer images pass, or the graph missed some
                again = self._nearest(queries[short], passing, most, least, exact=True)
                for place, block in zip(short, again, strict=True):
                    found[place] = block
        return [ranked(query, block, limit, least) for query, block in zip(queries, found, strict=True)]

    def count(self, where: Filter | None) -> int:
        with self._speaking("counted"):
            return int(self._client.count(self._name, self._filter(where, first=True), exact=True, **_patience()).count)

    def values(self, field: str, where: Filter | None) -> dict[Value, int]:
        key, passing = self._keys[field], self._filter(where, first=True)
        with self._speaking("counted"):
            if self._kinds[field] not in ("number", "date"):
                found = self._client.facet(self._name, key, passing, limit=_MOST_VALUES, exact=True, **_patience())
                truth = self._kinds[field] == "bool"
                return {bool(hit.value) if truth else hit.value: hit.count for hit in found.hits}
            numbers = Counter[Value]()  # Qdrant's facets do not count numbers
            for records in self._pages(passing, with_payload=[key]):
                payloads = [record.payload or {} for record in records]
                numbers.update(float(payload[key]) for payload in payloads if key in payload)
            return dict(numbers)

    def optimize(self, alone: Alone = nullcontext) -> None:
        """Do nothing, because Qdrant optimises by itself."""

    def clear(self) -> None:
        with self._speaking("emptied"):
            self._client.delete(self._name, models.FilterSelector(filter=models.Filter()), wait=True)
            self._note(0)

    def close(self) -> None:
        self._client.close()

    def drop(self) -> None:
        with self._speaking("removed"):
            for name in (self._name, self._applied):
                self._client.delete_collection(name)
        self.close()

    def _note(self, version: int) -> None:
        payload = {"version": version, "catalog": self._identity}
        self._client.upsert(self._applied, [models.PointStruct(id=0, vector=[0.0], payload=payload)], wait=True)

    def _noted(self) -> dict[str, Any]:
        found = self._client.retrieve(self._applied, [0], **_patience())
        return (found[0].payload or {}) if found else {}

    def _make(self, name: str, width: int) -> bool:
        """Create a collection unless it exists, and return whether it was created."""
        if self._client.collection_exists(name):
            return False
        vectors = models.VectorParams(size=width, distance=models.Distance.DOT)  # COSINE would change bits
        with suppress(ApiException):  # another process may have been faster; if not, later calls fail
            self._client.create_collection(name, vectors_config=vectors)
        return True

    def _points(self, changes: Changes) -> Iterator[models.PointStruct]:
        places = {number: place for place, number in enumerate(changes.rows.tolist())}
        firsts: dict[int, int] = {}
        for owner, slot in zip(changes.owners.tolist(), changes.slots.tolist(), strict=True):
            firsts[owner] = min(slot, firsts.get(owner, slot))
        for owner, slot, vector in zip(changes.owners.tolist(), changes.slots.tolist(), changes.vectors, strict=True):
            payload: dict[str, Any] = {_NUMBER: owner, _FIRST: int(slot == firsts[owner])}
            for name, key in self._keys.items():
                if (value := changes.columns[name][places[owner]]) is not None:
                    payload[key] = qdrant_value(value)
            yield models.PointStruct(id=owner * _SLOTS + slot, vector=vector.tolist(), payload=payload)

    def _delete_all_but(self, rows: Rows, kept: Rows) -> None:
        """Delete the images of products, except those to keep."""
        for start in range(0, len(rows), _POINTS):
            some = rows[start : start + _POINTS]
            among = kept[np.isin(kept // _SLOTS, some)].tolist()
            theirs = models.FieldCondition(key=_NUMBER, match=models.MatchAny(any=some.tolist()))
            others = models.Filter(must=[theirs], must_not=[models.HasIdCondition(has_id=among)])
            self._client.delete(self._name, models.FilterSelector(filter=others), wait=True)

    def _filter(self, where: Filter | None, *, first: bool = False) -> models.Filter | None:
        parts: list[models.Condition] = []
        if first:
            parts.append(models.FieldCondition(key=_FIRST, match=models.MatchValue(value=1)))
        if where is not None:
            parts.append(compile_qdrant(where, self._declared))
        return models.Filter(must=parts) if parts else None

    def _nearest(
        self, queries: Embeddings, passing: models.Filter | None, limit: int, least: float, *, exact: bool
    ) -> list[Block]:
        requests = [
            models.QueryRequest(
                query=query.tolist(),
                filter=passing,
                limit=limit + _SPARE,
                score_threshold=None if least <= -1.0 else least - _SLACK,
                params=models.SearchParams(exact=True) if exact else models.SearchParams(hnsw_ef=max(_EF, 2 * limit)),
                with_vector=True,
                with_payload=False,
            )
            for query in queries
        ]
        if not requests:
            return []
        found = self._client.query_batch_points(self._name, requests, **_patience())
        return [self._block(each.points) for each in found]

    def _blocks(self, passing: models.Filter | None) -> Iterator[Block]:
        """Yield all images that pass a filter."""
        for records in self._pages(passing, with_payload=False, with_vectors=True):
            yield self._block(records)

    def _pages(self, passing: models.Filter | None, **wanted: Any) -> Iterator[list[models.Record]]:
        offset: Any = None
        while True:
            given = wanted | _patience()
            records, offset = self._client.scroll(self._name, passing, limit=_POINTS, offset=offset, **given)
            yield records
            if offset is None:
                return

    def _block(self, points: Sequence[models.ScoredPoint | models.Record]) -> Block:
        ids = np.array([point.id for point in points], np.int64)
        vectors = np.array([point.vector for point in points], np.float32).reshape(len(points), self._embed_dim)
        return Block(ids // _SLOTS, ids % _SLOTS, vectors)

    @contextmanager
    def _speaking(self, doing: str) -> Iterator[None]:
        """Convert Qdrant's errors into a `DatabaseError`, or a `TimeoutError` if the time of `time_limit` is up."""
        try:
            yield
        except (ApiException, OSError, RuntimeError, ValueError) as exc:
            if doing in _READING:
                check_time()
            raise DatabaseError(
                f"Qdrant's collection {self._name} cannot be {doing}: {exc!s:.500}; check that the server is running and "
                "QDRANT_API_KEY is correct; if so, delete the collection, and it will be rebuilt from the catalogue"
            ) from exc


def _patience() -> dict[str, Any]:
    """Return the limit of a request that reads, in whole seconds, if `time_limit` sets one."""
    check_time()
    left_s = remaining()
    return {} if left_s == inf else {"timeout": max(1, min(_PATIENCE_S, ceil(left_s)))}
