"""Catalogues to search over HTTP: many products with random vectors, some with images that another model can encode."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from text_image_similarity import Config, Field, Product, open_catalog
from text_image_similarity.search.match_log import open_match_log
from text_image_similarity.search.opening import open_session
from text_image_similarity.search.products import Entry, ImageOutcome, stored_values

from .inputs import BUILD
from .scoring import MINI

FIELDS = (Field("category"), Field("color"), Field("price", "number"), Field("stock", "bool"))
_BLOCK, _SPREAD = 5000, 2.0


def drawn_catalog(rows: int) -> Path:
    """Return a catalogue of `mini` with random vectors; create it if it does not exist."""
    place = BUILD / f"products-{rows}.catalog"
    if place.exists():
        return place
    partial = place.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    open_catalog(partial, fields=FIELDS, model=MINI).close()
    session = open_session(partial, fields=None, store=None, model=None, config=None, encoder=None)
    try:
        for entries in _entries(rows, session.generations.live().identity.embed_dim):
            session.ledger.add(entries)
    finally:
        session.close()
    return partial.rename(place)


def pictured_catalog(place: Path, rows: int) -> Path:
    """Create a catalogue of `mini` whose products have images."""
    from tests.support.images import inline

    rng = np.random.default_rng(3)
    with open_catalog(place, fields=FIELDS, model=MINI, config=Config(device="cpu")) as catalog:
        catalog.add(
            Product(f"p{number}", f"thing {number}", inline(tuple(rng.integers(0, 256, 3).tolist())))
            for number in range(rows)
        )
    return place


def entries_of(place: Path) -> int:
    """Return the number of entries in a catalogue's log."""
    with open_match_log(place) as log:
        return sum(1 for _ in log.entries())


def _entries(rows: int, width: int) -> Iterator[list[Entry]]:
    rng = np.random.default_rng(18)
    for start in range(0, rows, _BLOCK):
        size = min(_BLOCK, rows - start)
        vectors = rng.standard_normal((size, width)) + _SPREAD * rng.standard_normal(width)
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        yield [_entry(start + place, vectors[place]) for place in range(size)]


def _entry(number: int, vector: np.ndarray) -> Entry:
    fields = {"category": f"c{number % 40}", "color": f"k{number % 7}", "price": number % 97, "stock": number % 2 == 0}
    product = Product(f"p{number}", f"thing {number}", f"/{number}.jpg", "What it is, in a line or two.", fields)
    return Entry(product, stored_values(product, FIELDS), {1: [ImageOutcome(number.to_bytes(20, "little"), vector)]})
