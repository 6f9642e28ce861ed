"""What programmers hand in: a value that can mean only one thing is taken, one of another type is refused at once.

A missing value is data, and fails its row alone; a tensor where an image belongs is a mistake in the program, and raises.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from ..encoders import Encoder
from ..errors import InputTypeError
from ..records import EncodedImage, Record, is_missing

Item = TypeVar("Item")
Check = Callable[[object, str], None]

RecordLike = Record | tuple[Any, ...] | Mapping[str, Any]

_NAMES = ("url", "image"), ("text", "caption")  # what mappings call the two parts of a record
_IMAGES = "a PIL image, an array (h, w, 3) uint8, an encoded file's bytes, a path or a URL"


def checked(items: Iterable[Item], name: str, check: Check | None = None) -> Iterable[Item]:
    """Return the items to iterate over: those of a list are checked now, those of any other iterable as they come.

    Args:
        items: What a parameter was given.
        name: The parameter.
        check: Told an item and what messages call it; raises where it is of a type that cannot be used.

    Raises:
        InputTypeError: It is not an iterable, or one that can only be a mistake: a text, a dictionary, a table.
    """
    is_table, is_array = hasattr(items, "columns"), getattr(items, "ndim", 0) == 3  # that is one image
    is_single = is_array or isinstance(items, str | os.PathLike | Image.Image | Record | EncodedImage)
    if is_table or is_single or isinstance(items, Mapping) or not isinstance(items, Iterable):
        hint = "put it in a list" if is_single else ""
        if is_table:
            rows = "[Record.of(*row) for row in zip(df['url'], df['caption'])]"
            hint = f"give what is in its columns, such as {rows if check is check_record else 'df[...]'}"
        raise InputTypeError.of(name, f"a list or another iterable of {name}", items, hint)
    if check is None:
        return items
    if isinstance(items, (list, tuple)):
        for number, item in enumerate(items):
            check(item, f"{name}[{number}]")
        return items
    return _as_they_come(items, name, check)


def _as_they_come(items: Iterable[Item], name: str, check: Check) -> Iterator[Item]:
    for number, item in enumerate(items):
        check(item, f"{name}[{number}]")
        yield item


def images_of(images: Iterable[Item]) -> Iterable[Item]:
    """Return images to iterate over, checked as `checked` does."""
    return checked(images, "images", check_image)


def texts_of(texts: Iterable[Item]) -> Iterable[Item]:
    """Return captions to iterate over, checked as `checked` does."""
    return checked(texts, "texts", check_caption)


def records_of(records: Iterable[RecordLike]) -> Iterable[Record]:
    """Return records to iterate over, checked as `checked` does; a tuple or a mapping that can only mean a record becomes one."""
    if isinstance(records, (list, tuple)):
        return checked([as_record(each) for each in records], "records", check_record)
    return map(as_record, checked(records, "records", lambda each, name: check_record(as_record(each), name)))


def as_record(record: Any) -> Any:
    """Return `(image, text)` or `(image, text, references)`, or a mapping of these names, as a `Record`; and anything else as it is.

    Example:
        >>> as_record(("a.jpg", "a dog")) == as_record({"image": "a.jpg", "caption": "a dog"}) == Record("a.jpg", "a dog")
        True
    """
    if hasattr(record, "url") and hasattr(record, "text"):  # such as a named tuple
        return record
    if isinstance(record, (tuple, list)) and len(record) in (2, 3):
        return Record(record[0], record[1], tuple(record[2]) if len(record) == 3 else ())
    if isinstance(record, Mapping):
        image, text = (next((name for name in names if name in record), None) for names in _NAMES)
        if image and text:
            return Record(record[image], record[text], tuple(record.get("references") or ()))
    return record


def check_record(record: object, name: str) -> None:
    """Raise an `InputTypeError` unless something is a record, with a reference or an encoded image in it."""
    if type(record) is Record and type(record.url) in (str, bytes) and type(record.text) is str:
        return  # at once, as most are
    if isinstance(record, type) or not (hasattr(record, "url") and hasattr(record, "text")):
        hint = (
            "its keys must be 'url' and 'text'"
            if isinstance(record, Mapping)
            else "give Record(image, text) or (image, text)"
        )
        raise InputTypeError.of(name, "a Record", record, hint)
    if is_content(record.url) and not isinstance(record.url, EncodedImage):
        wanted = "a path, a URL or an encoded file's bytes"
        raise InputTypeError.of(f"{name}.url", wanted, record.url, "score images in memory with score_images")
    if is_content(record.text) and not isinstance(record.text, EncodedImage):  # bytes may be a table's text
        raise InputTypeError.of(f"{name}.text", "a text", record.text)


def check_tagged(row: object, name: str) -> None:
    """Raise an `InputTypeError` unless something is a tag with a record or a result."""
    if not isinstance(row, tuple) or len(row) != 2:
        raise InputTypeError.of(name, "a tag and a record, such as (7, Record(...))", row)


def check_caption(text: object, name: str) -> None:
    """Raise an `InputTypeError` for what can only be an image or bytes; any other value fails its row alone."""
    if is_content(text):
        raise InputTypeError.of(name, "a text", text, "decode it" if isinstance(text, EncodedImage) else "")


def check_image(image: object, name: str) -> None:
    """Raise an `InputTypeError` unless something is an image, a reference to one, or missing."""
    if is_missing(image) or isinstance(image, str | os.PathLike | Image.Image | EncodedImage):
        return
    if isinstance(image, Mapping) and ("bytes" in image or "path" in image):
        return
    if not isinstance(image, np.ndarray):
        hint = ""
        if type(image).__name__ == "Tensor":
            hint = "convert it, e.g. with torchvision.transforms.functional.to_pil_image"
        elif isinstance(image, Mapping):
            hint = "one that holds an image has 'bytes', an encoded file, or 'path'"
        elif hasattr(image, "read"):
            hint = "give what its read() returns"
        raise InputTypeError.of(name, _IMAGES, image, hint)
    if image.size == 0:
        raise InputTypeError.of(name, _IMAGES, image, f"it has no pixels, its shape is {image.shape}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputTypeError.of(name, _IMAGES, image, _array_hint(image))


def _array_hint(array: np.ndarray) -> str:
    if array.dtype == object:
        return "give its items as a list"
    if array.dtype != np.uint8:
        return "turn floats from 0 to 1 into bytes with (array * 255).round().astype('uint8')"
    if array.ndim == 3 and array.shape[0] == 3:
        return "put the colours last with array.transpose(1, 2, 0)"
    return "Image.fromarray(array) reads grey and RGBA"


def check_reference(reference: object, name: str) -> None:
    """Raise an `InputTypeError` unless something is a path, a URL, or missing."""
    if not (is_missing(reference) or isinstance(reference, (str, os.PathLike))):
        hint = "compare images in memory with similarity_matrix" if is_content(reference) else ""
        raise InputTypeError.of(name, "a path or a URL", reference, hint)


def check_text(text: object, name: str) -> None:
    """Raise an `InputTypeError` unless something is a text, or missing."""
    if not (is_missing(text) or isinstance(text, str)):
        raise InputTypeError.of(name, "a text", text)


def check_encoder(encoder: Encoder) -> Encoder:
    """Return an encoder, or raise an `InputTypeError` for something that cannot encode."""
    if isinstance(encoder, type) or not (hasattr(encoder, "encode_image") and hasattr(encoder, "encode_text")):
        raise InputTypeError.of(
            "encoder", "an Encoder, as load_encoder returns", encoder, "a model's name is for Config"
        )
    return encoder


def check_pairs(images: Iterable[Item], texts: Iterable[str]) -> tuple[Iterable[Item], Iterable[str]]:
    """Return images and captions as `checked` does.

    Raises:
        ValueError: It is known already that they are not equally many.
    """
    images, texts = checked(images, "images", check_image), checked(texts, "texts", check_caption)
    if isinstance(images, Sized) and isinstance(texts, Sized) and len(images) != len(texts):
        raise ValueError(f"there are {len(images):,} images and {len(texts):,} texts; give one caption for each image")
    return images, texts


def is_content(value: object) -> bool:
    """Say whether a value is an image itself, encoded or not, or an open file: nothing that a table holds for text."""
    return (
        isinstance(value, Image.Image | EncodedImage)
        or getattr(value, "ndim", 0) > 1
        or hasattr(value, "read")
        or type(value).__name__ == "Tensor"
    )
