"""Results as JSON, and a cache of them: a query has the same results until the catalogue is written to."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from threading import Lock
from typing import NamedTuple

from ...pipeline import Outcome
from ...search import Query
from ...search.cursor import digest_of
from ..audit import is_blocked

MOST_BYTES = 64 << 20  # of all cached results of a catalogue
_SHOWN_BYTES = 300  # memory of each `Shown`, without its id, which is counted separately
_DIGEST = 32  # bytes; a cursor's own digest is shorter, and clients could find two queries that share it
Key = tuple[int, int, str, int, bytes]


def key_of(query: Query, generation: int, version: int) -> Key:
    """Return the cache key of results: the query with its page, the generation, and the version of the data."""
    return generation, version, digest_of(query, _DIGEST), query.top_k, sha256((query.after or "").encode()).digest()


def blocked_images(queries: Sequence[Query], outcomes: Sequence[Outcome]) -> list[tuple[object, ...]]:
    """Return each query's images at blocked addresses, given the outcomes of all images of the queries, in order."""
    left = iter(outcomes)
    found = [[(term.image, next(left)) for term in query.parts if term.image is not None] for query in queries]
    return [tuple(image for image, outcome in each if is_blocked(outcome)) for each in found]


class Shown(NamedTuple):
    """A product that was found, as the match log records it; the fields are those of `Match`."""

    id: str
    similarity: float | None
    score: float | None


@dataclass(frozen=True, slots=True)
class Written:
    """The results of a query.

    Args:
        json: JSON of the results, without the id of the match at the beginning.
        shown: The products, for the match log.
        total, generation, plan: As in `Matches`.
    """

    json: bytes
    shown: tuple[Shown, ...]
    total: int
    generation: int
    plan: str

    @property
    def size(self) -> int:
        """The bytes that the results take in memory."""
        return len(self.json) + self.shown_size

    @property
    def shown_size(self) -> int:
        """The bytes that `shown` takes in memory."""
        return sum(_SHOWN_BYTES + 4 * len(each.id) for each in self.shown)


class Results:
    """The most recently used results, in memory. Safe to share between threads."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._held = most_bytes, 0
        self._found: OrderedDict[Key, Written] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Key) -> Written | None:
        """Return cached results, or None."""
        with self._lock:
            found = self._found.get(key)
            if found is not None:
                self._found.move_to_end(key)
            return found

    def put(self, key: Key, found: Written) -> None:
        """Store results, and drop the least recently used results while all together take too much memory."""
        with self._lock:
            if key in self._found or found.size > self._most:
                return
            self._found[key] = found
            self._held += found.size
            while self._held > self._most:
                _, oldest = self._found.popitem(last=False)
                self._held -= oldest.size
