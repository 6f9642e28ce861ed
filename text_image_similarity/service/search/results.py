"""A cache of results: the same query has the same results until something is written."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import sha256
from threading import Lock

from ...search import Matches, Query
from ...search.cursor import digest_of

_MOST_PRODUCTS = 50_000  # products in all cached results
_CHARACTERS = 2000  # characters of a typical product
_DIGEST = 32  # bytes; a cursor's own digest is shorter, and clients could find two queries that share it
Key = tuple[int, int, str, int, bytes]


def key_of(query: Query, generation: int, version: int) -> Key:
    """Return the key of results: the query with its page, the model, and the version of the data."""
    return generation, version, digest_of(query, _DIGEST), query.top_k, sha256((query.after or "").encode()).digest()


class Results:
    """The most recently used results, in memory. Safe to share between threads."""

    def __init__(self, most_products: int = _MOST_PRODUCTS) -> None:
        self._most, self._held = most_products, 0
        self._found: OrderedDict[Key, Matches] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Key) -> Matches | None:
        """Return cached results, or None."""
        with self._lock:
            found = self._found.get(key)
            if found is not None:
                self._found.move_to_end(key)
            return found

    def put(self, key: Key, matches: Matches) -> None:
        """Store results, replacing the least recently used ones."""
        with self._lock:
            if key in self._found:
                return
            self._found[key] = matches
            self._held += _size_of(matches)
            while self._held > self._most and len(self._found) > 1:
                _, oldest = self._found.popitem(last=False)
                self._held -= _size_of(oldest)


def _size_of(matches: Matches) -> int:
    """Return the size of results in typical products; a facet's value counts as a tenth of one."""
    values = [value for counts in matches.facets.values() for value in counts]
    texts = [matches.next or "", *(value for value in values if isinstance(value, str))]
    for match in matches:
        product = match.product
        texts += [product.name, product.description, *product.images, *map(str, product.fields.values())]
    return 1 + len(matches) + len(values) // 10 + sum(map(len, texts)) // _CHARACTERS
