"""Embeddings in Redis, by content, for all processes and machines that can reach it.

Redis must respond within 50 ms, or the request counts as failed; after three failures, Redis is not used for a while. A
value has a checksum over itself and its key, so a value that was damaged, moved or written by another program counts as
missing. The checksum protects against accidents, not against attackers: anyone who can write to that Redis can change
scores.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..system import require
from .breaker import CircuitBreaker
from .saved import Vector, read_vector, write_vector

if TYPE_CHECKING:
    from redis import Redis

logger = logging.getLogger("text_image_similarity")

T = TypeVar("T")

Event = Literal["failure", "off", "on"]  # a failed request; Redis is no longer used; Redis is used again

_PREFIX = b"tis:1:"  # 1 is the version of a value's layout: the vector and its checksum
_ANSWER_S, _CONNECT_S = 0.05, 0.1
_KEPT_S = 30 * 86_400
_AT_ONCE = 256  # values per request: 0.5 MB for CLIP ViT-B/32
_CHECKSUM = 8  # bytes


class SharedEmbeddings:
    """A store of embeddings in Redis, by content. Safe to share between threads.

    A value takes 4 bytes per dimension plus 8, and is kept for 30 days after it was last written, or until Redis evicts
    it.

    Args:
        place: `redis://[[user]:password@]host[:port][/database]`, or `rediss://...` for TLS.
        embed_dim: Length of an embedding; one of another length counts as missing.
        ca_file: PEM certificates to trust in addition to the system's: a file, or a folder prepared by `openssl
            rehash`.
        watch: Function that is called with each event, on any thread.

    Raises:
        MissingExtraError: redis-py is not installed.
    """

    def __init__(
        self,
        place: str,
        embed_dim: int,
        *,
        ca_file: str | None = None,
        watch: Callable[[Event], None] = lambda event: None,
    ) -> None:
        require("an embedding cache in Redis", "redis", extra="redis")
        from redis import Redis, RedisError
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        self._embed_dim, self._watch = embed_dim, watch
        self._shown = hide_password(place)
        self._errors = (RedisError, OSError)
        trust: dict[str, Any] = {}
        if ca_file is not None and place.startswith("rediss:"):
            trust["ssl_ca_path" if Path(ca_file).is_dir() else "ssl_ca_certs"] = ca_file
        self._client: Redis = Redis.from_url(
            place,
            socket_timeout=_ANSWER_S,
            socket_connect_timeout=_CONNECT_S,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            **trust,
        )
        self._breaker = CircuitBreaker(self._client.ping, self._tell)
        self._breaker.begin()

    def get(self, key: bytes) -> Vector | None:
        """Return the embedding of a key, shape (embed_dim,) float32, or None."""
        return self.get_many([key]).get(key)

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Vector]:
        """Return the stored embeddings by key, shape (embed_dim,) float32 each."""
        found: dict[bytes, Vector] = {}
        for part in _in_parts(keys):
            values = self._ask(lambda names: self._client.mget(names), [_PREFIX + key for key in part])
            if values is None:
                break
            vectors = {key: self._read(key, value) for key, value in zip(part, values, strict=True)}
            found |= {key: vector for key, vector in vectors.items() if vector is not None}
        return found

    def put(self, vectors: Mapping[bytes, Vector]) -> None:
        """Store embeddings by key, a few hundred at a time; after a failure, the rest is not stored."""
        for part in _in_parts(list(vectors)):
            values = {key: write_vector(vectors[key]) for key in part}
            if self._ask(self._write, {key: value + _checksum(key, value) for key, value in values.items()}) is None:
                break

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _write(self, values: Mapping[bytes, bytes]) -> list[Any]:
        with self._client.pipeline(transaction=False) as pipeline:
            for key, value in values.items():
                pipeline.set(_PREFIX + key, value, ex=_KEPT_S)
            return pipeline.execute()

    def _ask(self, ask: Callable[[Any], T], given: object) -> T | None:
        """Return Redis's response, or None if there is none."""
        if not self._breaker.allows():
            return None
        try:
            answer = ask(given)
        except self._errors as exc:
            self._watch("failure")
            self._breaker.fail(exc)
            return None
        self._breaker.succeed()
        return answer

    def _read(self, key: bytes, value: object) -> Vector | None:
        if not isinstance(value, bytes):
            return None
        content, checksum = value[:-_CHECKSUM], value[-_CHECKSUM:]
        return read_vector(content, self._embed_dim) if checksum == _checksum(key, content) else None

    def _tell(self, exc: Exception | None) -> None:
        if exc is None:
            logger.info("the embedding cache %s is back in use", self._shown)
        else:
            reason = " ".join(str(exc).split())
            logger.warning("the embedding cache %s is temporarily not used: %s", self._shown, reason)
        self._watch("off" if exc is not None else "on")


def hide_password(place: str) -> str:
    """Return an address with its user and password replaced by `***`."""
    return re.sub(r"://[^/?#]*@", "://:***@", place)


def _checksum(key: bytes, content: bytes) -> bytes:
    return blake2b(content, digest_size=_CHECKSUM, key=key).digest()


def _in_parts(keys: Sequence[bytes]) -> list[Sequence[bytes]]:
    return [keys[start : start + _AT_ONCE] for start in range(0, len(keys), _AT_ONCE)]
