"""Recently used embeddings in memory, in front of a file or Redis that keeps more."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from threading import Lock
from typing import Generic, TypeVar

from ..errors import RowError
from .saved import SavedEmbeddings, Vector

Key = TypeVar("Key")
Value = TypeVar("Value")

REMEMBERED = 8192  # embeddings in memory: 19 MB for CLIP ViT-B/32
_MOST_UNSAVED = 512 * 1024 * 1024  # bytes of a part's embeddings; a part of 5,000 rows with one caption has 20 MB


class Recent(Generic[Key, Value]):
    """A bounded number of the most recently used values. Not safe to share between threads."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def get(self, key: Key) -> Value | None:
        """Return a value and mark it as the most recently used."""
        if (value := self._values.get(key)) is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: Key, value: Value) -> Value:
        """Store a value, and drop the least recently used one if there are too many."""
        self._values[key] = value
        if len(self._values) > self._capacity:
            self._values.popitem(last=False)
        return value

    def get_many(self, keys: Collection[Key]) -> dict[Key, Value]:
        """Return the values of those keys that have one, and mark them as the most recently used."""
        values = self._values
        if values.keys().isdisjoint(keys):  # the case for most captions; this is three times as fast
            return {}
        found = {key: values[key] for key in keys if key in values}
        for key in found:
            values.move_to_end(key)
        return found

    def put_many(self, values: Mapping[Key, Value]) -> None:
        """Store values, and drop the least recently used ones if there are too many."""
        self._values.update(values)
        for _ in range(len(self._values) - self._capacity):
            self._values.popitem(last=False)

    def clear(self) -> None:
        """Drop all values."""
        self._values.clear()


class EmbeddingMemory:
    """A bounded number of embeddings, by content. Safe to share between threads.

    A vector that is a row of a batch keeps the whole batch in memory. Rows of a batch come and go together, so keeping
    the batch does no harm until one of its rows is used again; that row then gets a separate copy.

    Args:
        entries: Maximum number of embeddings in memory.
        saved: Store that keeps embeddings between runs; None keeps them in memory only.
        known: Function that returns an embedding from elsewhere, or None for an unknown key.
    """

    def __init__(
        self, entries: int, saved: SavedEmbeddings | None = None, known: Callable[[bytes], Vector | None] | None = None
    ) -> None:
        self._known, self._entries = known, entries
        self._recent: Recent[bytes, Vector] = Recent(entries)
        self._saved = saved
        self._lock = Lock()

    def get(self, key: bytes) -> Vector | None:
        """Return the embedding of a key, shape (embed_dim,) float32, or None."""
        return self.get_many([key]).get(key)

    def get_many(self, keys: Iterable[bytes]) -> dict[bytes, Vector]:
        """Return the known embeddings by key; those not in memory are read from the store in one request."""
        keys = list(keys)
        with self._lock:
            found = self._recent.get_many(keys)
            found |= (own := {key: _copy(vector) for key, vector in found.items() if vector.base is not None})
            self._recent.put_many(own)
        if self._known is not None:
            found |= {key: vector for key in keys if key not in found and (vector := self._known(key)) is not None}
        if self._saved is not None and (missing := [key for key in keys if key not in found]):
            saved = self._saved.get_many(missing)
            with self._lock:
                self._recent.put_many(saved)
            found |= saved
        return found

    def put(self, vectors: Mapping[bytes, Vector]) -> None:
        """Store embeddings by key; a store, if there is one, keeps them between runs."""
        if self._entries:
            with self._lock:
                self._recent.put_many(vectors)
        if self._saved is not None:
            self._saved.put(vectors)

    def close(self) -> None:
        """Close the store that keeps embeddings between runs."""
        if self._saved is not None:
            self._saved.close()


class PartEmbeddings:
    """The embeddings of the part that is being scored, in front of those from earlier parts.

    The embeddings of a part are remembered together when it ends, so that a run that is stopped and resumed finds
    either all embeddings of a part or none, except for a part so large that they are remembered in several steps. Not
    safe to share between threads.

    Args:
        memory: The embeddings that are remembered beyond the part.
    """

    def __init__(self, memory: EmbeddingMemory) -> None:
        self._memory = memory
        self._made: Recent[bytes, Vector] = Recent(REMEMBERED)
        self._unsaved: dict[bytes, Vector] = {}

    def get(self, key: bytes, found: Vector | None = None) -> Vector | None:
        """Return the embedding from this part, or else the remembered one, which is `found` if already looked up."""
        vector = self._unsaved.get(key)
        if vector is None:
            vector = self._made.get(key)
        if vector is None:
            vector = found
        return vector if vector is not None else self._memory.get(key)

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Vector]:
        """Return the known embeddings by key."""
        unsaved = self._unsaved
        made = self._made.get_many(keys) | {key: unsaved[key] for key in keys if key in unsaved}
        return made | self._memory.get_many(key for key in keys if key not in made)

    def put(self, outcomes: Mapping[bytes, Vector | RowError]) -> None:
        """Store the outcomes of an encoder, except errors."""
        self._unsaved |= {key: outcome for key, outcome in outcomes.items() if not isinstance(outcome, RowError)}
        if self._unsaved and len(self._unsaved) * next(iter(self._unsaved.values())).nbytes > _MOST_UNSAVED:
            self.save()

    def save(self) -> None:
        """Remember the embeddings that were stored since the last call."""
        self._memory.put(self._unsaved)
        self._made.put_many(self._unsaved)
        self._unsaved.clear()

    def end_part(self) -> None:
        """Remember the embeddings of the part, and begin the next one."""
        self._memory.put(self._unsaved)
        self._unsaved.clear()
        self._made.clear()


def _copy(vector: Vector) -> Vector:
    own = vector.copy()
    own.setflags(write=False)
    return own
