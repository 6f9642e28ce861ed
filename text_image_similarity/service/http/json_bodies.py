"""JSON in and out without a text of the whole, and without holding up the others: a body stays bytes until its values are cut out of it.

One character outside the Basic Multilingual Plane, such as an emoji, makes a Python text four bytes wide from end to end. A body that
was decoded first would take four times its length because of one, and its parts as much again.

A body is counted as it arrives and looked through piece by piece, so that other requests have their turn in between. Only the parser
takes it whole; what makes a parser slow is limited before.
"""

from __future__ import annotations

import asyncio
import codecs
import re
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import chain
from typing import Any

from fastapi import Response
from pydantic_core import from_json, to_json

from ..problems import ProblemError

_MOST_PARTS = 100_000  # of a body: values and members take far more memory and time than their text does
_MOST_QUOTES = 4 * (_MOST_PARTS + 1)  # in JSON of so many parts: around each value, and each member's name
_MOST_CODED = 12 << 20  # bytes that are not ASCII, and `_ESCAPE` for each escape
_ESCAPE = 6  # a parser takes several times as long for it
_LONG_NUMBER = b"0" * 100  # to read one takes the square of its digits
_GZIP = b"\x1f\x8b"
_NOT_ASCII = bytes(range(128, 256))
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_PIECE = 1 << 16
_DIGITS = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))
_WIDEST = 4  # bytes of a character in a text that has an emoji

Steps = Generator[None, None, Any]  # pauses where others may have their turn, and then returns a value


class JsonAnswer(Response):
    """An answer whose JSON is written as bytes."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the content's JSON."""
        return to_json(content, inf_nan_mode="null")


class JsonBody:
    """A request's body: counted as it arrives, then read in steps."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._coded = 0

    def __len__(self) -> int:
        return len(self._bytes)

    def take(self, piece: bytes) -> None:
        """Take what has arrived.

        Raises:
            ProblemError: `too_many_bytes` if too much of the body is not plain ASCII; `unsupported_media_type` if it is compressed.
        """
        self._bytes += piece
        if b"\\" in piece:  # which is found far faster than it is counted
            self._coded += _ESCAPE * piece.count(b"\\")
        if not piece.isascii():
            self._coded += len(piece) - len(piece.translate(None, _NOT_ASCII))
        if self._coded > _MOST_CODED:
            detail = f"the body has more than {_MOST_CODED:,} bytes of escapes and characters that are not ASCII"
            raise ProblemError("too_many_bytes", f"{detail}; send fewer texts at a time")
        if self._bytes.startswith(_GZIP):
            raise compressed("the body is compressed with gzip")

    def read(self, count: Callable[[int], None] = lambda size: None) -> Steps:
        """Return the body's value.

        Args:
            count: Takes how many bytes the body's texts take at most once they are Python's, before they are.

        Raises:
            ProblemError: `invalid_json`; `invalid_request` if an object says something twice.
        """
        look = _Look()
        for bare in _pieces(self._bytes):
            look.take(bare)
            yield
        count(look.size)
        plain = self._bytes
        if plain.startswith(codecs.BOM_UTF8):
            del plain[: len(codecs.BOM_UTF8)]
        try:
            found = from_json(plain, allow_inf_nan=False, cache_strings="keys")
        except ValueError as exc:
            yield
            said = yield from _explain(str(exc), plain)
            raise ProblemError("invalid_json", f"the body is not valid JSON: {said}") from None
        yield
        if _member_count(found) != look.names:
            yield from _refuse_twice(found, plain)
        return found


def finish(steps: Steps) -> Any:
    """Return the value at the end of steps that are taken at once."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


async def finish_in_turns(steps: Steps) -> Any:
    """Return the value at the end of steps between which the event loop does what else there is to do."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
        await asyncio.sleep(0)


def compressed(said: str) -> ProblemError:
    """Return the problem of a body that is compressed."""
    detail = f"{said}; send the body uncompressed"
    return ProblemError("unsupported_media_type", detail, headers={"Accept-Encoding": "identity"})  # RFC 9110, 15.5.16


def _pieces(body: bytes | bytearray) -> Iterator[bytes]:
    """Yield some JSON piece by piece, with another character for each escaped quotation mark: those that are left begin or end a text."""
    start = 0
    while start < len(body):
        piece = bytes(body[start : start + _PIECE])
        start += len(piece)
        if b"\\" in piece:
            if (len(piece) - len(piece.rstrip(b"\\"))) % 2 and start < len(body):  # an escape goes on behind it
                piece = piece[:-1]
                start -= 1
            piece = piece.replace(b"\\\\", b"-").replace(b'\\"', b"-")
        yield piece


class _Look:
    """What is found in some JSON before it is parsed.

    `size` is how many bytes its texts take at most once they are Python's, and `names` how many members its objects have.
    """

    def __init__(self) -> None:
        self.size = self.names = 0
        self._parts = self._quotes = 0
        self._inside = False  # of a text, between two pieces
        self._length, self._width = 0, 1  # of that text so far
        self._end = b""  # of what stands outside of texts

    def take(self, bare: bytes) -> None:
        """Look at the next piece of `_pieces`."""
        is_plain = bare.isascii() and b"\\u" not in bare
        if self._inside and b'"' not in bare:
            self._length += len(bare)
            self._width = max(self._width, 1 if is_plain else _WIDEST)
            return
        found = bare.split(b'"')
        self._quotes += len(found) - 1
        if self._quotes > _MOST_QUOTES:
            raise ProblemError("invalid_json", "the body is not valid JSON: it has too many quotation marks")
        self._measure(found[not self._inside :: 2], ends=len(found) % 2 == (not self._inside), is_plain=is_plain)
        self._look_outside(found[self._inside :: 2])
        self._inside ^= len(found) % 2 == 0

    def _measure(self, texts: Sequence[bytes], *, ends: bool, is_plain: bool) -> None:
        """Count the texts of a piece, of which the first may have begun before it, and the last `ends` in it or goes on."""
        for left, text in enumerate(texts, 1 - len(texts)):
            self._length += len(text)
            if not is_plain and (not text.isascii() or b"\\u" in text):
                self._width = _WIDEST
            if left or ends:
                self.size += self._length * self._width
                self._length, self._width = 0, 1

    def _look_outside(self, found: Sequence[bytes]) -> None:
        """Count parts and members between texts, and refuse too many, or numbers that are too long."""
        outside = b'"'.join(found)
        self._parts += sum(map(outside.count, (b",", b"[", b"{")))
        if self._parts > _MOST_PARTS:
            raise ProblemError("invalid_request", f"the body has more than {_MOST_PARTS:,} commas and brackets")
        self.size += sum(map(len, found))
        self.names += outside.count(b":")
        number = outside if self._inside else self._end + outside
        if len(number) >= len(_LONG_NUMBER) and _LONG_NUMBER in number.translate(_DIGITS):
            raise ProblemError("invalid_json", "the body is not valid JSON: a number in it is too long")
        self._end = number[-len(_LONG_NUMBER) :]


def _member_count(found: Any) -> int:
    """Return how many members the objects in a value have together."""
    return sum(map(len, _objects(found)))


def _objects(found: Any) -> Iterator[dict[str, Any]]:
    waiting = [found]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _refuse_twice(found: Any, body: bytes | bytearray) -> Steps:
    """Refuse an object that says something twice: of that the parser has kept the last."""
    kept = Counter(chain.from_iterable(_objects(found)))
    names: Counter[bytes] = Counter()
    inside = False
    for bare in _pieces(body):
        yield
        parts = bare.split(b'"')
        texts = zip(parts[1 + inside :: 2], parts[2 + inside :: 2], strict=False)  # those that lie in this piece
        names.update(text for text, behind in texts if behind.lstrip().startswith(b":"))
        inside ^= len(parts) % 2 == 0
    twice = next((name for name, count in names.items() if count > kept[name.decode(errors="replace")]), b"")
    said = twice.decode(errors="replace")[:50]
    raise ProblemError("invalid_request", f"an object in the body has the member {said!r} twice")


def _explain(said: str, body: bytes | bytearray) -> Steps:
    """Return what is wrong with a body, in the words of whoever has sent it."""
    if not body or body.isspace():
        return "it is empty"
    place = yield from _not_utf8(body)
    if place is not None:
        return f"it is not UTF-8, at byte {place:,}"
    if "recursion" in said:
        return "it is nested too deeply"
    if "out of range" in said:
        return "a number in it is too long"
    if "hex escape" in said and _SURROGATE.search(body):
        return "a text in it has half a character (a lone surrogate)"
    for constant in (b"NaN", b"-Infinity", b"Infinity"):
        yield
        if body[max(0, (place := body.find(constant)) - 100) : max(0, place)].rstrip().endswith((b":", b",", b"[")):
            return f"{constant.decode()} is not a JSON value; a missing value is null"
    return said


def _not_utf8(body: bytes | bytearray) -> Steps:
    """Return where a body is not UTF-8; None where all of it is."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(body), _PIECE):
        yield
        piece = body[start : start + _PIECE]
        waiting = len(decoder.getstate()[0])
        try:
            decoder.decode(piece, final=start + _PIECE >= len(body))
        except UnicodeDecodeError as exc:
            return start - waiting + exc.start
    return None
