"""The values that go in and come out: one `Record` per row, one `ScoreResult` per record."""

from __future__ import annotations

import codecs
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any
from unicodedata import category

from .bounded_json import parse_json
from .errors import ErrorCode, RowError

_UNSEEN = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})  # Unicode's categories of controls, formats and separators
_BLANK_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"
OUT_COLUMNS = ("similarity", "error")  # of a scored table

EncodedImage = bytes | bytearray | memoryview
# A reference, an encoded file, or what a Hugging Face `Image` column holds: {"bytes": ..., "path": ...}.
ImageCell = str | EncodedImage | Mapping[str, Any]

# (done, of these failed, in all), called before the first and after every one
Progress = Callable[[int, int, int], None]


@dataclass(frozen=True, slots=True)
class Record:
    """An image and the text it is compared with.

    Args:
        url: Where the image is: an http(s) URL, a path, a `file:` or a `data:` URL. Or the image itself: the bytes of its encoded
            file, or a mapping `{"bytes": ..., "path": ...}`, whose path counts where it has no bytes.
        text: The caption.
        references: Captions that people wrote for the image; `score="ref_clipscore"` compares the caption with them.
    """

    url: ImageCell
    text: str
    references: tuple[str, ...] = ()

    @classmethod
    def of(cls, url: Any, text: Any, references: tuple[str, ...] = ()) -> Record:
        """Return a table's row as a record: a finite number counts as its text, as CSV would hold it."""
        return cls(_text_of(url), _text_of(text), references)


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """The score of one record, or why it has none; exactly one of the two fields carries a value.

    Args:
        similarity: The score, in the range of the run's score kind; NaN if the row failed.
        error: `"<code>: <detail>"` if the row failed, else None.
        by_model: Where several models scored the row, the score of each; `similarity` is that of all together then.

    Example:
        >>> ScoreResult(similarity=0.31).error is None
        True
    """

    similarity: float = math.nan
    error: str | None = None
    by_model: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if math.isfinite(self.similarity) == (self.error is not None):
            raise ValueError("a ScoreResult holds either a finite similarity or an error")

    @property
    def code(self) -> ErrorCode | None:
        """The category of the failure, or None."""
        return None if self.error is None else ErrorCode(self.error.partition(":")[0])

    @classmethod
    def failed(cls, error: RowError) -> ScoreResult:
        """Turn a row's exception into its result, in text that every format can hold: a path may carry other bytes."""
        return cls(error=str(error).encode("utf-8", "backslashreplace").decode("utf-8"))


def parts_of(record: Record) -> tuple[str | bytes, str, tuple[str, ...]] | RowError:
    """Return a record's image, as a reference or as an encoded file, its caption and its references; or why it has no score."""
    caption = caption_of(record.text)
    if isinstance(caption, RowError):
        return caption
    image = image_of(record.url)
    if isinstance(image, RowError):
        return image
    return image, caption, getattr(record, "references", ())  # others that have a url and a text may have none


def image_of(value: object) -> str | bytes | RowError:
    """Return a cell's image, as a reference or as an encoded file, or why it has none.

    Example:
        >>> image_of({"bytes": None, "path": "a.jpg"}), str(image_of(b"a.jpg"))
        ('a.jpg', "not_an_image: the bytes are the text 'a.jpg'; if that is a reference, cast the column to strings")
    """
    if isinstance(value, Mapping):
        if "bytes" not in value and "path" not in value:
            return RowError(ErrorCode.INVALID_URL, "the image is a dict without 'bytes' and without 'path'")
        content, path = value.get("bytes"), value.get("path")
        value = path if is_missing(content) or (not content and not is_missing(path)) else content
    if not isinstance(value, EncodedImage):
        return reference_of(value)
    content = bytes(value)
    if text := text_in(content):
        said = f"the bytes are the text {text!r}; if that is a reference, cast the column to strings"
        return RowError(ErrorCode.NOT_AN_IMAGE, said)
    return content


def text_in(content: bytes) -> str:
    """Return how bytes begin that are text on one line, such as a reference in a column of binary; empty for any others.

    No image that can be decoded begins so; markup, such as an SVG file or a page, is not meant either.
    """
    if b"\0" in content[:200]:  # at once, as in most images
        return ""
    try:
        begin = codecs.getincrementaldecoder("utf-8")().decode(content[:200])  # which may end within a character
    except UnicodeDecodeError:
        return ""
    return begin[:40] if begin.isprintable() and not begin.lstrip().startswith("<") else ""


def references_of(*cells: object) -> tuple[str, ...]:
    """Return the reference captions in some cells of a row; what is missing or blank is left out.

    Args:
        cells: Each a list of texts, a list of texts in JSON, or text, which is a single reference.

    Example:
        >>> references_of('["a dog", "a brown dog"]', "a pet", None)
        ('a dog', 'a brown dog', 'a pet')
    """
    found = (caption_of(item) for cell in cells for item in _items(cell))
    return tuple(text for text in found if isinstance(text, str))


def _items(cell: object) -> Sequence[object]:
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            listed = parse_json(cell)
        except (ValueError, RecursionError):  # a text that begins like a list
            return [cell]
        return listed if all(isinstance(item, str) or item is None for item in listed) else [cell]
    if hasattr(cell, "tolist"):  # an array of NumPy
        cell = cell.tolist()
    return cell if isinstance(cell, (list, tuple)) else [cell]


def caption_of(value: object) -> str | RowError:
    """Return a caption as text, or why there is none to encode; a finite number counts as its text, as in CSV.

    Example:
        >>> caption_of(7), str(caption_of(math.nan))
        ('7', 'empty_caption: the caption is missing (nan)')
    """
    text = _text_of(value)
    if isinstance(text, str) and _is_visible(text):
        return text
    return RowError(ErrorCode.EMPTY_CAPTION, f"the caption {_explain(text, 'caption')}")


def reference_of(value: object) -> str | RowError:
    """Return an image reference as text, or why there is none; a path and a finite number count as their text."""
    text = str(value) if isinstance(value, os.PathLike) else _text_of(value)
    if isinstance(text, str) and _is_visible(text):
        return text
    return RowError(ErrorCode.INVALID_URL, f"the image {_explain(text, 'image')}")


def required(found: str | bytes | RowError) -> str | bytes:
    """Return what was found, or raise why there is none.

    Raises:
        RowError: There is none.
    """
    if isinstance(found, RowError):
        raise found
    return found


def _text_of(value: Any) -> Any:
    """Return the text of a finite number; any other value stays as it is."""
    if type(value) is str:  # at once: to ask whether it is a number takes longer
        return value
    if isinstance(value, bool) or not isinstance(value, (Real, Decimal)):
        return value
    try:
        return str(value) if isinstance(value, int) or math.isfinite(value) else value
    except ValueError:  # a signalling NaN, or an integer of more digits than Python spells out
        return value


def _is_visible(text: str) -> bool:
    """Say whether a text shows anything."""
    return "!" <= text[:1] <= "~" or not all(map(is_invisible, text))  # most begin with a visible character of ASCII


def is_invisible(character: str) -> bool:
    """Say whether a character shows nothing: white space, a control or format character, a letter that is drawn blank."""
    return category(character) in _UNSEEN or character in _BLANK_LETTERS


def is_whole(text: str) -> bool:
    """Say whether a text has no half characters (lone surrogates), so that UTF-8 can write it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def is_missing(value: object) -> bool:
    """Say whether a value stands for none: None, NaN of any kind, pandas' NA and NaT."""
    if value is None or type(value).__name__ in ("NaTType", "NAType"):
        return True
    return isinstance(value, (Real, Decimal)) and not isinstance(value, int) and "nan" in str(value).lower()


def _explain(value: object, noun: str) -> str:
    """Say what a value that is not text is instead."""
    kind = type(value).__name__
    if value is None or isinstance(value, str):
        return "is empty or missing"
    if isinstance(value, int) and not isinstance(value, bool):
        return "is a number of too many digits"
    if is_missing(value):
        return f"is missing ({value})"
    if isinstance(value, (Real, Decimal)):
        return f"is {value}, not text"
    if isinstance(value, (list, tuple, set, dict)) or kind == "ndarray":
        return f"is a {kind}; one row per {noun} is needed"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"is a {kind} value, not text"
    return f"is a value of type {kind}, not text"
