"""Cursors: the position of the next page of results, as text that is valid only for the same query."""

from __future__ import annotations

import base64
import json
import math
import os
from dataclasses import dataclass
from hashlib import blake2b
from typing import get_args

import numpy as np

from ..errors import UsageError
from ..records import is_whole
from .fields import Value
from .query import FusionKind, Query, Term, options_of

NO_CURSOR = "the cursor in `after` is not valid; use the `next` of the previous page"
_MARK = 6  # bytes
_MOST_REFERENCE = 1000  # characters of a reference that is not replaced by its digest
_Key = tuple[Value | None, str]


@dataclass(frozen=True, slots=True)
class Cursor:
    """A cursor, the position after a page.

    Args:
        generation: Number of the generation that answered.
        key: Score or sort value, and id, of the last product.
        seen: Number of products up to this position.
        fusion: Fusion of the terms.
        shown: Marks of products and groups that must not be shown again, regardless of their current rank.
    """

    generation: int
    key: _Key
    seen: int
    fusion: FusionKind
    shown: frozenset[bytes] = frozenset()


def mark_of(name: str) -> bytes:
    """Return the mark that represents a group or a product in a cursor.

    Marks are short, because a cursor holds one for each group or product shown. There are 2^48 marks; the probability
    that any of a million names has the mark of any of 1,000 shown names is 4 in 1,000,000.
    """
    return blake2b(name.encode(), digest_size=_MARK).digest()


def write_cursor(query: Query, cursor: Cursor) -> str:
    """Return a cursor as text."""
    content = [digest_of(query), cursor.generation, *cursor.key, cursor.seen, cursor.fusion]
    marks = b"".join(sorted(cursor.shown))
    return ".".join(_encoded(part) for part in (json.dumps(content).encode(), marks) if part)


def read_cursor(query: Query, generation: int, types: tuple[type, ...]) -> Cursor | None:
    """Return the cursor that a query resumes from, or None for the first page.

    Args:
        query: The query.
        generation: Number of the generation that answers.
        types: Types that the sort value of the last product may have.

    Raises:
        UsageError: The cursor is damaged or belongs to another query, or the catalogue has switched to another model.
    """
    if query.after is None:
        return None
    try:
        content, marks = map(_decoded, query.after.partition(".")[::2])
        digest, made_by, value, id, seen, fusion = json.loads(content)
    except (ValueError, TypeError, RecursionError) as exc:
        raise UsageError(NO_CURSOR) from exc
    if not isinstance(digest, str) or not _is_whole(made_by) or not _is_whole(seen) or not _is_key(value, id, types):
        raise UsageError(NO_CURSOR)
    if fusion not in get_args(FusionKind) or len(marks) % _MARK or len(marks) // _MARK > seen:
        raise UsageError(NO_CURSOR)
    if digest != digest_of(query):
        raise UsageError("the cursor in `after` belongs to another query; leave it out to get the first page")
    if made_by != generation:
        raise UsageError("the catalogue has switched to another model since that page; request the first page again")
    shown = frozenset(marks[start : start + _MARK] for start in range(0, len(marks), _MARK))
    return Cursor(made_by, (value, id), seen, fusion, shown)


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _is_whole(number: object) -> bool:
    return type(number) is int and 0 <= number < 10**9


def _is_key(value: object, id: object, types: tuple[type, ...]) -> bool:
    """Tell whether the arguments can be the sort value and the id of a product."""
    if isinstance(value, float) and not math.isfinite(value):
        return False
    texts = [each for each in (value, id) if isinstance(each, str)]
    return isinstance(id, str) and isinstance(value, types) and all(map(is_whole, texts))


def digest_of(query: Query, size: int = 9) -> str:
    """Return a digest of `size` bytes of a query without its page and page size."""
    terms = [(term.kind, term.text, term.product, term.weight, _content(term)) for term in query.parts]
    return blake2b(_bytes(repr((terms, options_of(query)))), digest_size=size).hexdigest()


def _content(term: Term) -> tuple[str, str]:
    """Return an image or a vector as a kind and a text: a short reference, or for anything else a digest."""
    value = term.vector if term.image is None else term.image
    if value is None or isinstance(value, (str, os.PathLike)):
        reference = "" if value is None else os.fspath(value)
        # The `repr` of a long text takes seconds, during which no other thread runs.
        if len(reference) <= _MOST_REFERENCE:
            return "reference", reference
        return "digest of text", blake2b(_bytes(reference)).hexdigest()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "digest", blake2b(value).hexdigest()
    return "digest", blake2b(np.ascontiguousarray(np.asarray(value)).data).hexdigest()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
