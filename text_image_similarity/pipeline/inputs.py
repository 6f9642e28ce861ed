"""Check arguments: a value that can mean only one thing is accepted, and any other value is rejected at once.

A missing value is data, and fails only its row; a value of the wrong type is a mistake in the program, and raises an
error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, TypeVar, cast

import numpy as np
from PIL import Image

from ..encoders import Encoder
from ..errors import ConfigError, InputTypeError
from ..records import EncodedImage, Record, is_missing

Item = TypeVar("Item")
Check = Callable[[object, str], None]

RecordLike = Record | tuple[Any, ...] | Mapping[str, Any]

_NAMES = ("url", "image"), ("text", "caption")  # keys of mappings for the two parts of a record
_CELLS = (str, bytes)  # types of most references and files
_UINT8 = np.dtype(np.uint8)
_IMAGES = "a PIL image, an RGB array or tensor, an encoded file's bytes, a path or a URL"


def checked(
    items: Iterable[Item], name: str, check: Check | None = None, *, plain: type | None = None
) -> Iterable[Item]:
    """Return the items to iterate over; those of a list are checked now, those of other iterables during iteration.

    Args:
        items: Value of the parameter.
        name: Name of the parameter.
        check: Function of an item and its name in messages, which raises an error if the item's type is not supported.
        plain: Type of items that need no check.

    Raises:
        InputTypeError: The value is not iterable, or can only be a mistake: a text, a dictionary, a table.
    """
    is_table, is_array = hasattr(items, "columns"), getattr(items, "ndim", 0) == 3  # a single image
    is_single = is_array or isinstance(items, str | os.PathLike | Image.Image | Record | EncodedImage)
    if is_table or is_single or isinstance(items, Mapping) or not isinstance(items, Iterable):
        hint = "put it in a list" if is_single else ""
        if is_table:
            rows = "[Record.of(*row) for row in zip(df['url'], df['caption'])]"
            hint = f"pass the values of its columns, such as {rows if check is check_record else 'df[...]'}"
        raise InputTypeError.of(name, f"a list or another iterable of {name}", items, hint)
    if check is None:
        return items
    if isinstance(items, (list, tuple)):
        for number, item in enumerate(items):
            check(item, f"{name}[{number}]")
        return items
    return _as_they_come(items, name, check, plain)


def _as_they_come(items: Iterable[Item], name: str, check: Check, plain: type | None) -> Iterator[Item]:
    for number, item in enumerate(items):
        if type(item) is not plain:
            check(item, f"{name}[{number}]")
        yield item


def images_of(images: Iterable[Item], name: str = "images") -> Iterable[Item]:
    """Return images to iterate over, checked by `checked`; arrays and tensors are converted by `as_image`."""
    images = checked(images, name)
    if isinstance(images, (list, tuple)):
        return [as_image(image, f"{name}[{number}]") for number, image in enumerate(images)]
    return _Images(images, name) if isinstance(images, Sized) else _converted(images, name)


class _Images(Iterable[Any]):
    """A known number of images, such as those of an array or a data set, converted during iteration."""

    def __init__(self, images: Iterable[Any], name: str) -> None:
        self._images, self._name = images, name

    def __iter__(self) -> Iterator[Any]:
        return _converted(self._images, self._name)

    def __len__(self) -> int:
        return len(cast(Sized, self._images))


def _converted(images: Iterable[Any], name: str) -> Iterator[Any]:
    for number, image in enumerate(images):
        yield image if _is_rgb(image) else as_image(image, f"{name}[{number}]")


def texts_of(texts: Iterable[Item]) -> Iterable[Item]:
    """Return captions to iterate over, checked by `checked`."""
    return checked(texts, "texts", check_caption, plain=str)


def records_of(records: Iterable[RecordLike]) -> Iterable[Record]:
    """Return records to iterate over, checked by `checked`; tuples and mappings that mean records are converted."""
    if isinstance(records, (list, tuple)):
        return checked([as_record(each) for each in records], "records", check_record)
    return _as_records(checked(records, "records"))


def _as_records(records: Iterable[RecordLike]) -> Iterator[Record]:
    for number, each in enumerate(records):
        record = as_record(each)
        if not _is_plain(record):
            check_record(record, f"records[{number}]")
        yield record


def as_record(record: Any) -> Any:
    """Return `(image, text)`, `(image, text, references)` or a mapping as a `Record`, and any other value unchanged.

    Example:
        >>> as_record(("a.jpg", "a dog")) == as_record({"image": "a.jpg", "caption": "a dog"}) == Record("a.jpg", "a dog")
        True
    """
    if type(record) is Record or (hasattr(record, "url") and hasattr(record, "text")):  # such as a named tuple
        return record
    if isinstance(record, (tuple, list)) and len(record) in (2, 3):
        return Record(record[0], record[1], tuple(record[2]) if len(record) == 3 else ())
    if isinstance(record, Mapping):
        image, text = (next((name for name in names if name in record), None) for names in _NAMES)
        if image and text:
            return Record(record[image], record[text], tuple(record.get("references") or ()))
    return record


def check_record(record: object, name: str) -> None:
    """Raise an `InputTypeError` unless a value is a record that holds a reference or an encoded image."""
    if _is_plain(record):  # fast path for most records
        return
    if isinstance(record, type) or not (hasattr(record, "url") and hasattr(record, "text")):
        hint = (
            "its keys must be 'url' and 'text'"
            if isinstance(record, Mapping)
            else "use Record(image, text) or (image, text)"
        )
        raise InputTypeError.of(name, "a Record", record, hint)
    if is_content(record.url) and not isinstance(record.url, EncodedImage):
        wanted = "a path, a URL or an encoded file's bytes"
        raise InputTypeError.of(f"{name}.url", wanted, record.url, "score images in memory with score_images")
    if is_content(record.text) and not isinstance(record.text, EncodedImage):  # bytes may be a table's text
        raise InputTypeError.of(f"{name}.text", "a string", record.text)


def _is_plain(record: object) -> bool:
    return type(record) is Record and type(record.url) in _CELLS and type(record.text) is str


def check_tagged(row: object, name: str) -> None:
    """Raise an `InputTypeError` unless a value is a pair of a tag and a record or a result."""
    if not isinstance(row, tuple) or len(row) != 2:
        raise InputTypeError.of(name, "a tag and a record, such as (7, Record(...))", row)


def check_caption(text: object, name: str) -> None:
    """Raise an `InputTypeError` for a value that can only be an image or bytes; any other value fails only its row."""
    if type(text) is not str and is_content(text):
        raise InputTypeError.of(name, "a string", text, "decode it" if isinstance(text, EncodedImage) else "")


def as_image(image: Any, name: str) -> Any:
    """Return an RGB array or tensor as (h, w, 3) uint8, and an image, a reference or a missing value unchanged.

    Args:
        image: The image. Arrays and tensors of any library may be (h, w, 3) or (3, h, w), of uint8 from 0 to 255 or
            floats from 0 to 1.
        name: Name of the image in messages.

    Raises:
        InputTypeError: The value has another type, or is an array that could mean several images.
    """
    if _is_rgb(image):  # fast path: the other checks take longer
        return image
    if is_missing(image) or isinstance(image, str | os.PathLike | Image.Image | EncodedImage):
        return image
    if isinstance(image, Mapping) and ("bytes" in image or "path" in image):
        return image
    array = _array_of(image)
    if array is None:
        hint = ""
        if isinstance(image, Mapping):
            hint = "a dict that holds an image has the key 'bytes' (an encoded file) or 'path'"
        elif hasattr(image, "read"):
            hint = "pass the result of its read()"
        raise InputTypeError.of(name, _IMAGES, image, hint)
    if hint := _array_hint(array):
        raise InputTypeError.of(name, _IMAGES, image, hint)
    if array.shape[2] != 3:
        array = np.ascontiguousarray(array.transpose(1, 2, 0))  # (3, h, w) -> (h, w, 3)
    return array if array.dtype == np.uint8 else (array * 255.0).round().astype(np.uint8)


def _is_rgb(image: object) -> bool:
    if type(image) is not np.ndarray or image.dtype != _UINT8 or image.ndim != 3:
        return False
    height, width, colours = image.shape
    return bool(height > 3 and width > 0 and colours == 3)


def _array_of(image: Any) -> np.ndarray | None:
    """Return any library's array or tensor as a NumPy array, and None for any other value; torch is not imported."""
    if isinstance(image, np.ndarray):
        return image
    if not all(hasattr(image, name) for name in ("__array__", "shape", "dtype")):
        return None
    if hasattr(image, "detach"):  # a torch tensor, which may have a gradient, be on a GPU or in bfloat16
        image = image.detach().cpu()
        image = image.float() if image.is_floating_point() else image
    return np.asarray(image)


def _array_hint(array: np.ndarray) -> str:
    """Return what to do with an array that is not an RGB image; empty if it is one."""
    if array.dtype == object:
        return "pass its items as a list"
    if array.size == 0:
        return f"it has no pixels: its shape is {array.shape}"
    if array.ndim != 3 or 3 not in (array.shape[0], array.shape[2]):
        return (
            "an RGB image has the shape (h, w, 3) or (3, h, w), and Image.fromarray(array) reads grey and RGBA arrays"
        )
    if array.dtype == np.uint8:
        return ""
    if array.shape[0] == array.shape[2]:
        return f"its shape {array.shape} does not show which axis holds the colours; pass Image.fromarray(array), with uint8 values"
    if array.dtype.kind != "f":
        return "use uint8 from 0 to 255, or floats from 0 to 1"
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):  # also false for NaN
        return f"floats must be from 0 to 1, but these are from {low:.4g} to {high:.4g}; undo the normalisation, or divide by 255"
    return ""


def check_reference(reference: object, name: str) -> None:
    """Raise an `InputTypeError` unless a value is a path, a URL, or missing."""
    if not (is_missing(reference) or isinstance(reference, (str, os.PathLike))):
        hint = "for images in memory, use similarity_matrix" if is_content(reference) else ""
        raise InputTypeError.of(name, "a path or a URL", reference, hint)


def check_text(text: object, name: str) -> None:
    """Raise an `InputTypeError` unless a value is a text or missing."""
    if not (is_missing(text) or isinstance(text, str)):
        raise InputTypeError.of(name, "a string", text)


def check_encoder(encoder: Encoder) -> Encoder:
    """Return the encoder, or raise an `InputTypeError` if it is not one."""
    if isinstance(encoder, type) or not (hasattr(encoder, "encode_image") and hasattr(encoder, "encode_text")):
        raise InputTypeError.of(
            "encoder", "an Encoder, such as one from load_encoder", encoder, "a model's name belongs in Config"
        )
    return encoder


def check_pairs(images: Iterable[Item], texts: Iterable[str]) -> tuple[Iterable[Item], Iterable[str]]:
    """Return images and captions, checked by `checked`.

    Raises:
        ConfigError: The numbers of images and captions are known and differ.
    """
    images, texts = images_of(images), checked(texts, "texts", check_caption, plain=str)
    if isinstance(images, Sized) and isinstance(texts, Sized) and len(images) != len(texts):
        raise ConfigError(f"there are {len(images):,} images and {len(texts):,} texts; pass one caption for each image")
    return images, texts


def is_content(value: object) -> bool:
    """Tell whether a value is an image, encoded or not, or an open file, so that it cannot be meant as text."""
    return (
        isinstance(value, Image.Image | EncodedImage)
        or getattr(value, "ndim", 0) > 1
        or hasattr(value, "read")
        or type(value).__name__ == "Tensor"
    )
