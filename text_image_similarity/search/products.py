"""A product as it is given and kept, and what is known of its images."""

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
    """Something that can be found by its images, its name and description, and its fields.

    Args:
        id: What it is called by machines, 1 to 1,000 characters, in Unicode's normal form C; a product that is added again under its id replaces the
            earlier one.
        name: What it is called by people; may be empty.
        images: Up to eight images: paths, http(s), `file:` and `data:` URLs; a single one may stand by itself. The bytes of an
            encoded file, or a mapping `{"bytes": ..., "path": ...}` that has them, become a `data:` URL, so that the catalogue keeps the
            image itself. A product without images is found by name, description and fields alone.
        description: More words.
        fields: Values of the catalogue's declared fields; those that are left out, None, NaN or empty are missing.
        group: What the variants of one product have in common, for results that show each group once.

    Raises:
        InputTypeError, UsageError: A value has a type or a length that cannot be used.

    Example:
        >>> Product("boots-7", "Brown leather boots", "images/boots-7.jpg", fields={"price": 79.99}).images
        ('images/boots-7.jpg',)
    """

    id: str
    name: str = ""
    images: Sequence[str] = ()  # a tuple, whatever was given
    description: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    group: str | None = None

    def __post_init__(self) -> None:
        for name, most in (("id", _MOST_ID), ("name", _MOST_TEXT), ("description", _MOST_TEXT)):
            _check_text(f"Product.{name}", getattr(self, name), most)
        if not self.id.strip():
            raise UsageError("Product.id is empty; each product needs an id of its own")
        if self.group is not None:
            _check_text("Product.group", self.group, _MOST_ID)
            object.__setattr__(self, "group", normal_form("NFC", self.group) or None)
        object.__setattr__(self, "id", normal_form("NFC", self.id))
        object.__setattr__(self, "images", _references(self.images))
        if not isinstance(self.fields, Mapping):
            raise InputTypeError.of("Product.fields", "a mapping from names to values", self.fields)

    def as_dict(self) -> dict[str, Any]:
        """Return the product in values that JSON holds."""
        return {
            "id": self.id,
            "name": self.name,
            "description": self.description,
            "images": list(self.images),
            "group": self.group,
            "fields": json.loads(fields_as_json(self)),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """What one model made of one image of a product: a vector, or an error.

    Args:
        content: Stands for the image's bytes and the model, as `embeddings.content_key` makes it; None if it could not be
            read.
        vector: The unit vector, shape (embed_dim,), float32.
        error: `"<code>: <detail>"` if it failed.
    """

    content: bytes | None = None
    vector: NDArray[np.float32] | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A product on its way into a ledger.

    Args:
        product: As it was given.
        values: The stored values of the built-in fields and then of the declared ones, in their order.
        images: For each generation what its model made of the product's images, in their order.
    """

    product: Product
    values: tuple[Value | None, ...]
    pictures: Mapping[int, Sequence[Picture]]


def stored_values(product: Product, declared: Sequence[Field]) -> tuple[Value | None, ...]:
    """Return a product's values as they are compared: those of the built-in fields, without an error, then of the declared ones.

    Raises:
        UsageError: A field is not declared, or a value is not of its kind; the message names product and field.
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
    """Return stored values with what went wrong first with the product's images, the third of the built-in fields."""
    return (*values[:2], error, *values[3:])


def fields_as_json(product: Product) -> str:
    """Return a product's fields as JSON, in the order of their names; dates become text.

    Raises:
        UsageError: A value is nothing that JSON can hold.
    """
    given = {name: value for name, value in product.fields.items() if not is_missing(value)}
    try:
        return json.dumps(given, sort_keys=True, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as exc:
        raise UsageError(f"product {product.id[:100]!r}: its fields cannot be kept as JSON: {exc}") from exc


def checked_id(given: object, name: str) -> str:
    """Return a product's id as it is kept.

    Raises:
        InputTypeError, UsageError: It cannot be one; the message calls it by the name of its argument.
    """
    check_type(name, given, str, "a product's id, which is a text")
    _check_text(name, given, _MOST_ID)
    return normal_form("NFC", str(given))


def checked_ids(given: object) -> list[str]:
    """Return ids as they are kept, of which a single one may stand by itself."""
    ids = [given] if isinstance(given, str) else several("ids", given, "a product's id, or several")
    return [checked_id(id, f"ids[{number}]") for number, id in enumerate(ids)]


def checked_products(given: object) -> Iterable[Product]:
    """Return products, of which a single one may stand by itself; each one is checked when it is taken."""
    return [given] if isinstance(given, Product) else several("products", given, "a Product, or several")


def code_of(error: str) -> str:
    """Return the code of an error as it is kept."""
    return error.partition(":")[0]


def first_error(pictures: Sequence[Picture]) -> str | None:
    """Return what went wrong first with a product's images."""
    return next((picture.error for picture in pictures if picture.error is not None), None)


def with_images(product: Product, images: Iterable[str]) -> Product:
    """Return a product with other references; one that has these already as it is."""
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
        raise InputTypeError.of(name, "a text", value)
    if len(value) > most:
        raise UsageError(f"{name} is {len(value):,} characters long, but at most {most:,} can be stored")
    if not is_whole(value):
        raise UsageError(f"{name} holds a lone surrogate, half of a UTF-16 pair")


def _reference(image: object) -> str | RowError:
    """Return an image as a reference; one that is a file itself becomes a `data:` URL."""
    if isinstance(image, Mapping):
        image = image.get("bytes") or image.get("path")
    if isinstance(image, EncodedImage):
        return "data:;base64," + b64encode(image).decode("ascii")
    return reference_of(image)


def _references(images: object) -> tuple[str, ...]:
    single = isinstance(images, str | os.PathLike | EncodedImage | Mapping)
    given = [images] if single else several("Product.images", images, "a path, a URL, or several")
    found = []
    for number, image in enumerate(given):
        kinds = (str, os.PathLike, bytes, bytearray, memoryview, Mapping)
        check_type(f"Product.images[{number}]", image, kinds, "a path, a URL or an encoded file's bytes")
        reference = _reference(image)
        if isinstance(reference, RowError):
            raise UsageError(f"Product.images[{number}] is {image!r}, which names no image; leave it out")
        found.append(reference)
    if len(found) > MOST_IMAGES:
        raise UsageError(f"a product has at most {MOST_IMAGES} images, not {len(found)}")
    return tuple(found)
