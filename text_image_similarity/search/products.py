"""Products, and the outcomes of their images."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputTypeError, RowError, UsageError
from ..normal_forms import normal_form
from ..records import EncodedImage, is_missing, is_whole, reference_of
from .arguments import check_type, several
from .fields import Field, Value, named

MOST_IMAGES = 8
_MOST_ID, _MOST_TEXT = 1_000, 100_000  # characters


@dataclass(frozen=True, slots=True)
class Product:
    """A product, which can be found by its images, its name and description, and its fields.

    Args:
        id: Id of 1 to 1,000 characters, in Unicode normal form C; a product with an existing id replaces the earlier
            one.
        name: Name to show; may be empty.
        images: Up to eight images: paths, http(s), `file:` and `data:` URLs; a single one may be given by itself. The
            bytes of an encoded file, or a mapping `{"bytes": ..., "path": ...}` that has them, become a `data:` URL, so
            that the catalogue keeps the image itself. A product without images is found only by name, description and
            fields.
        description: Additional text.
        fields: Values of the catalogue's declared fields; None, NaN and empty values mean that a value is missing.
        group: Id shared by the variants of one product, for results that show each group only once.

    Raises:
        InputTypeError, UsageError: A value is not valid.

    Example:
        >>> Product("boots-7", "Brown leather boots", "images/boots-7.jpg", fields={"price": 79.99}).images
        ('images/boots-7.jpg',)
    """

    id: str
    name: str = ""
    images: Sequence[str] = ()  # always a tuple
    description: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    group: str | None = None

    def __post_init__(self) -> None:
        for name, most in (("id", _MOST_ID), ("name", _MOST_TEXT), ("description", _MOST_TEXT)):
            _check_text(f"Product.{name}", getattr(self, name), most)
        if not self.id.strip():
            raise UsageError("Product.id is empty; each product needs a unique id")
        if self.group is not None:
            _check_text("Product.group", self.group, _MOST_ID)
            object.__setattr__(self, "group", normal_form("NFC", self.group) or None)
        object.__setattr__(self, "id", normal_form("NFC", self.id))
        object.__setattr__(self, "images", _references(self.images))
        if not isinstance(self.fields, Mapping):
            raise InputTypeError.of("Product.fields", "a mapping from names to values", self.fields)

    def as_dict(self) -> dict[str, Any]:
        """Return the product as JSON values."""
        return {
            "id": self.id,
            "name": self.name,
            "description": self.description,
            "images": list(self.images),
            "group": self.group,
            "fields": json.loads(fields_as_json(self)),
        }


@dataclass(frozen=True, slots=True, eq=False)
class ImageOutcome:
    """The outcome of a model for one image of a product: a vector or an error.

    Args:
        content: Key of the image's bytes and the model, from `embeddings.content_key`; None if the image was not read.
        vector: Unit vector, shape (embed_dim,), float32.
        error: `"<code>: <detail>"` if the image failed.
    """

    content: bytes | None = None
    vector: NDArray[np.float32] | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A product to write into a ledger.

    Args:
        product: The product, as given.
        values: Stored values of the built-in fields, then of the declared ones, in order.
        image_outcomes: For each generation, the outcomes of the product's images, in order.
    """

    product: Product
    values: tuple[Value | None, ...]
    image_outcomes: Mapping[int, Sequence[ImageOutcome]]


def stored_values(product: Product, declared: Sequence[Field]) -> tuple[Value | None, ...]:
    """Return a product's stored values: of the built-in fields, without an error, then of the declared ones.

    Raises:
        UsageError: A field is not declared, or a value is not of its kind; the message names the product and the field.
    """
    try:
        for name in product.fields:
            named(declared, name)
        return (
            product.id,
            product.group or None,
            None,
            *(each.stored(product.fields.get(each.name)) for each in declared),
        )
    except UsageError as problem:
        raise UsageError(f"product {product.id[:100]!r}: {problem}") from None


def with_error(values: tuple[Value | None, ...], error: str | None) -> tuple[Value | None, ...]:
    """Return stored values with the first error of the product's images as the built-in field `_error`."""
    return (*values[:2], error, *values[3:])


def fields_as_json(product: Product) -> str:
    """Return a product's fields as JSON, ordered by name; dates become text.

    Raises:
        UsageError: JSON cannot represent a value.
    """
    given = {name: value for name, value in product.fields.items() if not is_missing(value)}
    try:
        return json.dumps(given, sort_keys=True, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as exc:
        raise UsageError(f"product {product.id[:100]!r}: its fields cannot be stored as JSON: {exc}") from exc


def checked_id(given: object, name: str) -> str:
    """Return the stored form of a product's id.

    Raises:
        InputTypeError, UsageError: The value is not a valid id; the message names the argument.
    """
    check_type(name, given, str, "a product's id, which is a string")
    _check_text(name, given, _MOST_ID)
    return normal_form("NFC", str(given))


def checked_ids(given: object) -> list[str]:
    """Return the stored form of ids; a single one may be given by itself."""
    ids = [given] if isinstance(given, str) else several("ids", given, "a product's id, or several")
    return [checked_id(id, f"ids[{number}]") for number, id in enumerate(ids)]


def checked_products(given: object) -> Iterable[Product]:
    """Return products, checked during iteration; a single one may be given by itself."""
    return [given] if isinstance(given, Product) else several("products", given, "a Product, or several")


def code_of(error: str) -> str:
    """Return the code of a stored error."""
    return error.partition(":")[0]


def first_error(image_outcomes: Sequence[ImageOutcome]) -> str | None:
    """Return the first error of a product's images, or None."""
    return next((image.error for image in image_outcomes if image.error is not None), None)


def with_images(product: Product, images: Iterable[str]) -> Product:
    """Return a product with other references, or the product itself if they are equal."""
    given = tuple(images)
    return product if given == product.images else replace(product, images=given)


def _plain(value: object) -> object:
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} values cannot be stored")


def _check_text(name: str, value: object, most: int) -> None:
    if not isinstance(value, str):
        raise InputTypeError.of(name, "a string", value)
    if len(value) > most:
        raise UsageError(f"{name} is {len(value):,} characters long, but at most {most:,} can be stored")
    if not is_whole(value):
        raise UsageError(f"{name} contains a lone surrogate (half of a UTF-16 pair); remove it")


def _reference(image: object) -> str | RowError:
    """Return an image as a reference; an encoded file becomes a `data:` URL."""
    if isinstance(image, Mapping):
        image = image.get("bytes") or image.get("path")
    if isinstance(image, EncodedImage):
        return "data:;base64," + b64encode(image).decode("ascii")
    return reference_of(image)


def _references(images: object) -> tuple[str, ...]:
    single = isinstance(images, str | os.PathLike | EncodedImage | Mapping)
    given = [images] if single else list(several("Product.images", images, "a path, a URL, or several"))
    if len(given) > MOST_IMAGES:
        raise UsageError(f"a product has at most {MOST_IMAGES} images, not {len(given):,}")
    found = []
    for number, image in enumerate(given):
        kinds = (str, os.PathLike, bytes, bytearray, memoryview, Mapping)
        check_type(f"Product.images[{number}]", image, kinds, "a path, a URL or an encoded file's bytes")
        reference = _reference(image)
        if isinstance(reference, RowError):
            raise UsageError(f"Product.images[{number}] is {image!r}, which is not an image; leave it out")
        found.append(reference)
    return tuple(found)
