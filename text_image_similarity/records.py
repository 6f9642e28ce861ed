"""Input and output values: one `Record` per row, one `ScoreResult` per record."""

from __future__ import annotations

import codecs
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any, TypeGuard
from unicodedata import category

from .bounded_json import parse_json
from .errors import ErrorCode, RowError

_UNSEEN = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})  # Unicode categories of control, format and separator characters
_PIECE = 65_536  # characters
_BLANK_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"
OUT_COLUMNS = ("similarity", "error")  # columns of a scored table
# Characters of a caption: a tokenizer needs hundreds of times the memory of its text. No model reads more than a few
# thousand characters, but tables contain longer captions.
MOST_CAPTION = 2_000_000
MOST_LISTED = 10_000  # captions in a cell, each of which costs as much as a row; also parts of a product's cell
MOST_REFERENCES = 1000  # reference captions of a row; published data sets have up to 50

EncodedImage = bytes | bytearray | memoryview
# A path or URL, an encoded file, or the value of a Hugging Face `Image` column: {"bytes": ..., "path": ...}.
ImageCell = str | EncodedImage | Mapping[str, Any]

# Called with the numbers of rows done, failed and in total, before the first row and after every row.
Progress = Callable[[int, int, int], None]


@dataclass(frozen=True, slots=True)
class Record:
    """An image and the text it is compared with.

    Args:
        url: Reference to the image (an http(s) URL, a path, a `file:` or a `data:` URL), or the image itself: the bytes
            of its encoded file, or a mapping `{"bytes": ..., "path": ...}`, whose path is used if it has no bytes.
        text: The caption.
        references: Captions that people wrote for the image; `score="ref_clipscore"` compares the caption with them.
    """

    url: ImageCell
    text: str
    references: tuple[str, ...] = ()

    @classmethod
    def of(cls, url: Any, text: Any, references: tuple[str, ...] = ()) -> Record:
        """Return a table's row as a record; a finite number becomes text, as in a CSV file."""
        return cls(_text_of(url), _text_of(text), references)


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """The score of one record, or the reason why it has none; exactly one of `similarity` and `error` is set.

    Args:
        similarity: The score, in the range of the run's score kind; NaN if the row failed.
        error: `"<code>: <detail>"` if the row failed, otherwise None.
        by_model: If several models scored the row, the score of each; `similarity` is then the combined score.

    Example:
        >>> ScoreResult(similarity=0.31).error is None
        True
    """

    similarity: float = math.nan
    error: str | None = None
    by_model: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if math.isfinite(self.similarity) == (self.error is not None):
            raise ValueError("a ScoreResult must have either a finite similarity or an error")

    @property
    def code(self) -> ErrorCode | None:
        """The error code of the failure, or None."""
        return None if self.error is None else ErrorCode(self.error.partition(":")[0])

    @classmethod
    def failed(cls, error: RowError) -> ScoreResult:
        """Return the result for a row's error; bytes of a path that are not UTF-8 are escaped in the text."""
        return cls(error=str(error).encode("utf-8", "backslashreplace").decode("utf-8"))


def parts_of(record: Record) -> tuple[str | bytes, str, tuple[str, ...]] | RowError:
    """Return a record's image (reference or encoded file), caption and references, or why the record has no score."""
    caption = caption_of(record.text)
    if isinstance(caption, RowError):
        return caption
    image = image_of(record.url)
    if isinstance(image, RowError):
        return image
    return image, caption, getattr(record, "references", ())  # other objects may have no references


def image_of(value: object) -> str | bytes | RowError:
    """Return a cell's image (a reference or an encoded file), or the reason why it has none.

    Example:
        >>> image_of({"bytes": None, "path": "a.jpg"}), str(image_of(b"a.jpg"))
        ('a.jpg', "not_an_image: the bytes are the text 'a.jpg'; if that is a reference, cast the column to strings")
    """
    if type(value) is str:  # fast path for most images
        return reference_of(value)
    if isinstance(value, Mapping):
        if "bytes" not in value and "path" not in value:
            return RowError(ErrorCode.INVALID_URL, "the image is a dict with neither 'bytes' nor 'path'")
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
    """Return the beginning of bytes that look like a line of text, such as a reference in a binary column, or ''.

    No supported image begins like text. Markup, such as SVG or HTML, is not treated as text here.
    """
    if b"\0" in content[:200]:  # fast path for most images
        return ""
    try:
        begin = codecs.getincrementaldecoder("utf-8")().decode(content[:200])  # the cut may be within a character
    except UnicodeDecodeError:
        return ""
    return begin[:40] if begin.isprintable() and not begin.lstrip().startswith("<") else ""


def references_of(*cells: object) -> tuple[str, ...]:
    """Return the reference captions in some cells of a row, without missing and blank ones; long ones are not cut.

    Args:
        cells: Cells, each a list of texts, a JSON list of texts, or a text, which is a single reference.

    Example:
        >>> references_of('["a dog", "a brown dog"]', "a pet", None)
        ('a dog', 'a brown dog', 'a pet')
    """
    return visible_texts(item for cell in cells for item in _items(cell))


def visible_texts(items: Iterable[object]) -> tuple[str, ...]:
    """Return texts, and finite numbers as texts, without missing and blank ones."""
    texts = map(_text_of, items)
    return tuple(text for text in texts if isinstance(text, str) and _is_visible(text))


def reference_problem(references: Sequence[object]) -> RowError | None:
    """Return why a caption cannot be compared with some reference captions, or None."""
    if not references:
        return RowError(ErrorCode.EMPTY_CAPTION, "the row has no reference captions")
    if len(references) > MOST_REFERENCES:
        reason = f"the row has {len(references):,} reference captions, but at most {MOST_REFERENCES:,} are accepted"
        return RowError(ErrorCode.TOO_MANY_BYTES, reason)
    longest = max((len(text) for text in references if isinstance(text, str)), default=0)
    if longest <= MOST_CAPTION:
        return None
    reason = f"a reference caption of the row has {longest:,} characters, but at most {MOST_CAPTION:,} are accepted"
    return RowError(ErrorCode.TOO_MANY_BYTES, reason)


def _items(cell: object) -> Sequence[object]:
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            listed = parse_json(cell)
        except ValueError:  # text that only begins like a list
            return [cell]
        return listed if all(isinstance(item, str) or item is None for item in listed) else [cell]
    if hasattr(cell, "tolist"):  # a NumPy array
        cell = cell.tolist()
    return cell if isinstance(cell, (list, tuple)) else [cell]


def caption_of(value: object) -> str | RowError:
    """Return a caption as text, or why it cannot be encoded; a finite number becomes text, as in a CSV file.

    A caption that is too long is an error, because cutting it might change what the model reads: tokenizers drop some
    characters and merge others.

    Example:
        >>> caption_of(7), str(caption_of(math.nan))
        ('7', 'empty_caption: the caption is missing (nan)')
    """
    if is_caption(value):  # fast path for most captions
        return value
    text = _text_of(value)
    # The length is checked first, because the other check takes time for each character.
    if isinstance(text, str) and len(text) > MOST_CAPTION:
        reason = f"the caption has {len(text):,} characters, but at most {MOST_CAPTION:,} are accepted"
        return RowError(ErrorCode.TOO_MANY_BYTES, reason)
    if isinstance(text, str) and _is_visible(text):
        return text
    return RowError(ErrorCode.EMPTY_CAPTION, f"the caption {_explain(text, 'caption')}")


def reference_of(value: object) -> str | RowError:
    """Return an image reference as text, or the reason why there is none; a path or a finite number becomes text."""
    if is_plain(value):  # fast path for most references
        return value
    text = str(value) if isinstance(value, os.PathLike) else _text_of(value)
    if isinstance(text, str) and _is_visible(text):
        return text
    return RowError(ErrorCode.INVALID_URL, f"the image {_explain(text, 'image')}")


def is_plain(value: object) -> TypeGuard[str]:
    """Tell whether a value is a text that begins with a visible ASCII character, as most captions and references do."""
    return type(value) is str and "!" <= value[:1] <= "~"


def is_caption(value: object) -> TypeGuard[str]:
    """Tell whether a value is a caption that needs no further check."""
    return is_plain(value) and len(value) <= MOST_CAPTION


def required(found: str | bytes | RowError) -> str | bytes:
    """Return the value, or raise the error that explains why there is none.

    Raises:
        RowError: The value is missing.
    """
    if isinstance(found, RowError):
        raise found
    return found


def _text_of(value: Any) -> Any:
    """Return the text of a finite number; any other value is unchanged."""
    if type(value) is str:  # fast path: checking whether a value is a number takes longer
        return value
    if isinstance(value, bool) or not isinstance(value, (Real, Decimal)):
        return value
    try:
        return str(value) if isinstance(value, int) or math.isfinite(value) else value
    except ValueError:  # a signalling NaN, or an integer with more digits than Python converts to text
        return value


def _is_visible(text: str) -> bool:
    """Tell whether a text has a visible character; a character that is repeated within a piece is checked only once."""
    if "!" <= text[:1] <= "~":  # as in most texts
        return True
    pieces = (text[start : start + _PIECE] for start in range(0, len(text), _PIECE))
    return any(not all(map(is_invisible, set(piece))) for piece in pieces)


def is_invisible(character: str) -> bool:
    """Tell whether a character is invisible: white space, a control or format character, or a blank letter."""
    return category(character) in _UNSEEN or character in _BLANK_LETTERS


def is_whole(text: str) -> bool:
    """Tell whether a text has no lone surrogates, so that UTF-8 can encode it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def is_missing(value: object) -> bool:
    """Tell whether a value is missing: None, NaN of any kind, or pandas' NA or NaT."""
    if value is None or type(value).__name__ in ("NaTType", "NAType"):
        return True
    return isinstance(value, (Real, Decimal)) and not isinstance(value, int) and "nan" in str(value).lower()


def _explain(value: object, noun: str) -> str:
    """Describe a value that is not a usable text."""
    kind = type(value).__name__
    if value is None or isinstance(value, str):
        return "is empty or missing"
    if isinstance(value, int) and not isinstance(value, bool):
        return "is a number with too many digits"
    if is_missing(value):
        return f"is missing ({value})"
    if isinstance(value, (Real, Decimal)):
        return f"is {value}, not text"
    if isinstance(value, (list, tuple, set, dict)) or kind == "ndarray":
        return f"is a {kind}; one row per {noun} is needed"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"is a {kind} value, not text"
    return f"is a value of type {kind}, not text"
