"""The values that go in and come out: one `Record` per row, one `ScoreResult` per record."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any
from unicodedata import category

from .errors import ErrorCode, RowError

_UNSEEN = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})  # Unicode's categories of controls, formats and separators
_BLANK_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"
OUT_COLUMNS = ("similarity", "error")  # of a scored table

# (done, of these failed, in all), called before the first and after every one
Progress = Callable[[int, int, int], None]


@dataclass(frozen=True, slots=True)
class Record:
    """A picture and the text it is compared with.

    Args:
        url: Where the picture is: an http(s) URL, a path, a `file:` or a `data:` URL.
        text: The caption.
        references: Captions that people wrote for the picture; `score="ref_clipscore"` compares the caption with them.
    """

    url: str
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

    Example:
        >>> ScoreResult(similarity=0.31).error is None
        True
    """

    similarity: float = math.nan
    error: str | None = None

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


def with_texts(record: Record) -> Record | RowError:
    """Return a record whose two values are texts, or why one of them is not."""
    caption = caption_of(record.text)
    reference = reference_of(record.url)
    if isinstance(caption, RowError):
        return caption
    if isinstance(reference, RowError):
        return reference
    return Record(reference, caption, getattr(record, "references", ()))  # what else has a url and a text has none


def references_of(*cells: object) -> tuple[str, ...]:
    """Return the reference captions in some cells of a row; what is missing or blank is left out.

    Args:
        cells: Each a list of texts, a list of texts in JSON, or a text that is one reference.

    Example:
        >>> references_of('["a dog", "a brown dog"]', "a pet", None)
        ('a dog', 'a brown dog', 'a pet')
    """
    found = (caption_of(item) for cell in cells for item in _items(cell))
    return tuple(text for text in found if isinstance(text, str))


def _items(cell: object) -> Sequence[object]:
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            listed = json.loads(cell)
        except ValueError:  # a text that begins like a list
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
    if isinstance(text, str) and not all(map(is_invisible, text)):
        return text
    return RowError(ErrorCode.EMPTY_CAPTION, f"the caption {_explain(text, 'caption')}")


def reference_of(value: object) -> str | RowError:
    """Return an image reference as text, or why there is none; a path and a finite number count as their text."""
    text = str(value) if isinstance(value, os.PathLike) else _text_of(value)
    if isinstance(text, str) and not all(map(is_invisible, text)):
        return text
    return RowError(ErrorCode.INVALID_URL, f"the image reference {_explain(text, 'image')}")


def required(found: str | RowError) -> str:
    """Return a text, or raise why there is none.

    Raises:
        RowError: There is none.
    """
    if isinstance(found, RowError):
        raise found
    return found


def _text_of(value: Any) -> Any:
    """Return the text of a finite number; any other value stays as it is."""
    if isinstance(value, bool) or not isinstance(value, (Real, Decimal)):
        return value
    try:
        return str(value) if isinstance(value, int) or math.isfinite(value) else value
    except ValueError:  # a signalling NaN, or an integer of more digits than Python spells out
        return value


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
