"""JSON in and out without a text of the whole: a body stays bytes until its values are cut out of it.

One character outside the Basic Multilingual Plane, such as an emoji, makes a Python text four bytes wide from end to end. A body that
was decoded first would take four times its length because of one, and its parts as much again.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from fastapi import Response
from pydantic_core import from_json, to_json

from ..problems import ProblemError

_MOST_PARTS = 100_000  # of a body: values and members take far more memory and time than their text does
_MOST_QUOTES = 4 * (_MOST_PARTS + 1)  # in JSON of so many parts: around each value, and each member's name
_GZIP = b"\x1f\x8b"
_TEXT = re.compile(rb'"([^"]*)"\s*+(:?)')  # where no quotation mark is escaped
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_PIECE = 1 << 16
_LARGE = 1 << 20  # bytes of a body that is looked through for long numbers: to read one takes the square of its digits
_LONG_NUMBER = b"0" * 500
_DIGITS = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))
_WIDEST = 4  # bytes of a character in a text that has an emoji


class JsonAnswer(Response):
    """An answer whose JSON is written as bytes."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the content's JSON."""
        return to_json(content, inf_nan_mode="null")


def text_bytes(body: bytes | bytearray) -> int:
    """Return how many bytes the texts of some JSON take at most once they are Python's."""
    if body.isascii() and not _has_escapes(body):
        return len(body)
    if _without_escapes(body).count(b'"') > _MOST_QUOTES:
        return _WIDEST * len(body)
    widths = ((len(text), 1 if text.isascii() and not _has_escapes(text) else _WIDEST) for text, _ in _texts(body))
    return sum(length * width for length, width in widths)


def read_json(body: bytes | bytearray) -> Any:
    """Return the value of a body.

    Raises:
        ProblemError: `invalid_json`; `invalid_request` if it has too many parts, or an object that says something twice;
            `unsupported_media_type` if it is compressed.
    """
    if sum(map(body.count, (b",", b"[", b"{"))) > _MOST_PARTS:
        raise ProblemError("invalid_request", f"the body has more than {_MOST_PARTS:,} commas and brackets")
    if len(body) > _LARGE and _has_long_number(body):
        raise ProblemError("invalid_json", "the body is not valid JSON: a number in it is too long")
    if body.startswith(_GZIP):
        raise compressed("the body is compressed with gzip")
    plain = body[len(codecs.BOM_UTF8) :] if body.startswith(codecs.BOM_UTF8) else body
    try:
        found = from_json(plain, allow_inf_nan=False, cache_strings="keys")
    except ValueError as exc:
        said = _explain(str(exc), plain)
        raise ProblemError("invalid_json", f"the body is not valid JSON: {said}") from None
    _check_members(found, plain)
    return found


def compressed(said: str) -> ProblemError:
    """Return the problem of a body that is compressed."""
    detail = f"{said}; send the body uncompressed"
    return ProblemError("unsupported_media_type", detail, headers={"Accept-Encoding": "identity"})  # RFC 9110, 15.5.16


def _texts(body: bytes | bytearray) -> Iterator[tuple[bytes, bool]]:
    """Yield the texts in some JSON, without what is escaped in them, and whether each is a member's name."""
    return ((found[1], bool(found[2])) for found in _TEXT.finditer(_without_escapes(body)))


def _without_escapes(body: bytes | bytearray) -> bytes | bytearray:
    """Return some JSON in which quotation marks stand around its texts, and nowhere else."""
    return body.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in body else body


def _has_long_number(body: bytes | bytearray) -> bool:
    """Say whether there is a number of many digits in a body, outside of its texts."""
    if _LONG_NUMBER not in body.translate(_DIGITS):
        return False
    plain = _without_escapes(body)
    if plain.count(b'"') > _MOST_QUOTES:
        return True  # which is not JSON in any case
    return _LONG_NUMBER in _TEXT.sub(b" ", plain).translate(_DIGITS)


def _check_members(found: Any, body: bytes | bytearray) -> None:
    """Refuse an object that says something twice: of that the parser has kept the last."""
    kept: Counter[str] = Counter()
    waiting = [found]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            kept.update(value.keys())
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    if kept.total() == body.count(b":") or kept.total() == sum(is_name for _, is_name in _texts(body)):
        return
    names = Counter(text for text, is_name in _texts(body) if is_name)
    twice = next((name for name, count in names.items() if count > kept[name.decode(errors="replace")]), b"")
    said = twice.decode(errors="replace")[:50]
    raise ProblemError("invalid_request", f"an object in the body has the member {said!r} twice")


def _explain(said: str, body: bytes | bytearray) -> str:
    if not body.strip():
        return "it is empty"
    if (place := _not_utf8(body)) is not None:
        return f"it is not UTF-8, at byte {place:,}"
    if "recursion" in said:
        return "it is nested too deeply"
    if "out of range" in said:
        return "a number in it is too long"
    if "hex escape" in said and _SURROGATE.search(body):
        return "a text in it has half a character (a lone surrogate)"
    for constant in (b"NaN", b"-Infinity", b"Infinity"):
        if body[max(0, (place := body.find(constant)) - 100) : max(0, place)].rstrip().endswith((b":", b",", b"[")):
            return f"{constant.decode()} is not a JSON value; a missing value is null"
    return said


def _has_escapes(text: bytes | bytearray) -> bool:
    """Say whether there are characters in it by their numbers."""
    return b"\\" in text and b"\\u" in text  # the first of which is found far faster


def _not_utf8(body: bytes | bytearray) -> int | None:
    """Return where a body is not UTF-8, looking at a piece of it at a time; None where all of it is."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(body), _PIECE):
        piece = body[start : start + _PIECE]
        waiting = len(decoder.getstate()[0])
        try:
            decoder.decode(piece, final=start + _PIECE >= len(body))
        except UnicodeDecodeError as exc:
            return start - waiting + exc.start
    return None
