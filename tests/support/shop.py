"""A small shop whose pictures are plain colours, so that every similarity can be predicted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.support.images import inline
from text_image_similarity import Catalog, Config, Field, Product, Query, open_catalog
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.preprocess import Pixels
from text_image_similarity.similarity import Embeddings

FIELDS = (Field("kind"), Field("price", "number"), Field("new", "bool"), Field("added", "date"), Field("tags", "texts"))


class CountingEncoder:
    """A `ColourEncoder` that counts the pictures it encodes."""

    def __init__(self) -> None:
        self._colours = ColourEncoder()
        self.images = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._colours, name)

    def encode_pixels(self, pixels: Sequence[Pixels]) -> Embeddings:
        self.images += len(pixels)
        return self._colours.encode_pixels(pixels)

    def encode_image(self, images: Sequence[object]) -> Embeddings:
        return self._colours.encode_image(images)  # type: ignore[arg-type]  # the probes of a model's identity

    def encode_text(self, texts: Sequence[str]) -> Embeddings:
        return self._colours.encode_text(texts)


def product(id: str, colour: str | tuple[int, ...] = "red", **fields: object) -> Product:
    """Return a product with one picture of a colour."""
    return Product(id, f"a {colour} thing" if isinstance(colour, str) else "", inline(colour), fields=fields)


@contextmanager
def shop(place: str | Path = ":memory:", encoder: object | None = None) -> Iterator[Catalog]:
    """Open an empty catalogue, or the one that is there."""
    config = Config(batch_size=4, io_workers=2)
    with open_catalog(place, fields=FIELDS, config=config, encoder=encoder or ColourEncoder()) as catalog:  # type: ignore[arg-type]
        yield catalog


def ids(matches: Sequence[object]) -> list[str]:
    """Return the ids of what was found."""
    return [match.product.id for match in matches]  # type: ignore[attr-defined]


def all_pages(catalog: Catalog, query: Query) -> list[str]:
    """Return the ids of all pages of a query."""
    found: list[str] = []
    while True:
        page = catalog.match(query)
        found += ids(page)
        if page.next is None:
            return found
        query = replace(query, after=page.next)
