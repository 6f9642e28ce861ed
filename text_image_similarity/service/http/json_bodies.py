"""Read and write JSON as bytes, without decoding the whole text and without blocking other requests.

A single character outside the Basic Multilingual Plane, such as an emoji, makes a Python string four bytes wide
throughout. With one such character, a decoded body would take four times its length in memory, and its parts as much
again.

A body is counted as it arrives and examined piece by piece, so that other requests get a turn in between. Only the
parser processes it in one go, and anything that would make the parser slow is limited first.
"""

from __future__ import annotations

import asyncio
import codecs
import re
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

from fastapi import Response
from pydantic_core import from_json, to_json

from ..problems import ProblemError

_MOST_PARTS = 100_000  # parts of a body: values and members take far more memory and time than their text
_MOST_QUOTES = 4 * (_MOST_PARTS + 1)  # quotation marks around the values and names of that many parts
_MOST_CODED = 12 << 20  # bytes that are not ASCII, plus `_ESCAPE` for each escape
_ESCAPE = 6  # an escape counts as this many bytes, because it is slow to parse
_LONG_NUMBER = b"0" * 100  # parsing a number takes time quadratic in its length
_GZIP = b"\x1f\x8b"
_NOT_ASCII = bytes(range(128, 256))
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_PIECE = 1 << 16
_DIGITS = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))
_WIDEST = 4  # bytes per character in a string with an emoji

Steps = Generator[None, None, Any]  # yields when other requests may get a turn, and returns a value


class JsonAnswer(Response):
    """A response whose JSON is written as bytes.

    Args:
        content: JSON values; lists may be iterators.
        status_code: The HTTP status.
        count: Function that is called with the size in bytes of each piece of a long response, and raises an error if
            the piece does not fit; None if the response is never long.
        levels: Levels of lists and objects whose items are written one by one.
    """

    media_type = "application/json"

    def __init__(
        self, content: Any, status_code: int = 200, *, count: Callable[[int], None] | None = None, levels: int = 2
    ) -> None:
        self._count, self._levels = count, levels
        super().__init__(content, status_code)

    def render(self, content: Any) -> bytes:
        """Return the content's JSON."""
        if self._count is None:
            return to_json(content, inf_nan_mode="null")
        parts: list[bytes] = []
        length = counted = 0
        for part in _written(content, self._levels):
            parts.append(part)
            length += len(part)
            if length - counted > _PIECE:
                self._count(length - counted)
                counted = length
        if counted:
            self._count(length - counted)
        return b"".join(parts)


def _written(content: Any, levels: int) -> Iterator[bytes]:
    """Yield the JSON of a value in parts."""
    if levels and isinstance(content, dict):
        for number, (name, value) in enumerate(content.items()):
            yield (b"," if number else b"{") + to_json(name) + b":"
            yield from _written(value, levels - 1)
        yield b"}" if content else b"{}"
    elif levels and isinstance(content, (list, Iterator)):
        mark = b"["
        for part in _items(content) if levels == 1 else ():
            yield mark + part
            mark = b","
        for value in content if levels > 1 else ():
            yield mark
            yield from _written(value, levels - 1)
            mark = b","
        yield b"]" if mark == b"," else b"[]"
    else:
        yield to_json(content, inf_nan_mode="null")


def _items(content: Iterable[Any]) -> Iterator[bytes]:
    """Yield the JSON of items, several together if they are short, because that is faster."""
    items, size = iter(content), 1
    while some := list(islice(items, size)):
        part = to_json(some, inf_nan_mode="null")
        yield part[1:-1]
        size = 2 * size if len(part) < _PIECE // 2 else max(1, size // 2)


class JsonBody:
    """A request's body: counted as it arrives, then read in steps; `advice` says how to make it shorter."""

    def __init__(self, advice: str = "send a shorter body") -> None:
        self._advice = advice
        self._bytes = bytearray()
        self._coded = 0

    def __len__(self) -> int:
        return len(self._bytes)

    def take(self, piece: bytes) -> None:
        """Add the next piece of the body.

        Raises:
            ProblemError: `too_many_bytes` if too much of the body is not ASCII; `unsupported_media_type` if it is
                compressed.
        """
        self._bytes += piece
        if b"\\" in piece:  # a check that is far faster than counting
            self._coded += _ESCAPE * piece.count(b"\\")
        if not piece.isascii():
            self._coded += len(piece) - len(piece.translate(None, _NOT_ASCII))
        if self._coded > _MOST_CODED:
            detail = f"the body has more than {_MOST_CODED:,} bytes of escapes and characters that are not ASCII"
            raise ProblemError("too_many_bytes", f"{detail}; {self._advice}")
        if self._bytes.startswith(_GZIP):
            raise compressed("the body is compressed with gzip")

    def read(self, count: Callable[[int], None] = lambda size: None) -> Steps:
        """Return the body's value.

        Args:
            count: Function that is called with the maximum memory of the body's strings, in bytes, before they are
                created.

        Raises:
            ProblemError: `invalid_json`; `invalid_request` for too many parts, or a duplicate member of an object.
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
    """Run all steps at once, and return their value."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


async def finish_in_turns(steps: Steps, pay: Callable[[float], None]) -> Any:
    """Run steps with turns for other tasks in between, pass the steps' seconds to `pay`, and return their value."""
    took = 0.0
    try:
        while True:
            began = time.perf_counter()
            try:
                next(steps)
            except StopIteration as end:
                return end.value
            finally:
                took += time.perf_counter() - began
            await asyncio.sleep(0)
    finally:
        pay(took)


def compressed(said: str) -> ProblemError:
    """Return the problem for a compressed body."""
    detail = f"{said}; send the body uncompressed"
    return ProblemError("unsupported_media_type", detail, headers={"Accept-Encoding": "identity"})  # RFC 9110, 15.5.16


def _pieces(body: bytes | bytearray) -> Iterator[bytes]:
    """Yield JSON in pieces without escaped quotation marks, so that each remaining one begins or ends a string."""
    start = 0
    while start < len(body):
        piece = bytes(body[start : start + _PIECE])
        start += len(piece)
        if b"\\" in piece:
            if (len(piece) - len(piece.rstrip(b"\\"))) % 2 and start < len(body):  # an escape may continue
                piece = piece[:-1]
                start -= 1
            piece = piece.replace(b"\\\\", b"-").replace(b'\\"', b"-")
        yield piece


class _Look:
    """Measurements of JSON before it is parsed.

    `size` is the maximum memory that the strings can take, in bytes; `names` is the number of members of all objects.
    """

    def __init__(self) -> None:
        self.size = self.names = 0
        self._parts = self._quotes = 0
        self._inside = False  # whether a string continues between two pieces
        self._length, self._width = 0, 1  # characters of that string so far
        self._end = b""  # the last bytes outside strings, where a number may continue

    def take(self, bare: bytes) -> None:
        """Measure the next piece from `_pieces`."""
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
        """Count the strings of a piece; the first may have begun before it, and the last `ends` in it or continues."""
        for left, text in enumerate(texts, 1 - len(texts)):
            self._length += len(text)
            if not is_plain and (not text.isascii() or b"\\u" in text):
                self._width = _WIDEST
            if left or ends:
                self.size += self._length * self._width
                self._length, self._width = 0, 1

    def _look_outside(self, found: Sequence[bytes]) -> None:
        """Count parts and members outside strings, and refuse too many parts, or a number that is too long."""
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
    """Return the total number of members of the objects in a value."""
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
    """Refuse an object with a duplicate member; the parser has kept only the last one."""
    kept = Counter(chain.from_iterable(_objects(found)))
    names: Counter[bytes] = Counter()
    inside = False
    for bare in _pieces(body):
        yield
        parts = bare.split(b'"')
        texts = zip(parts[1 + inside :: 2], parts[2 + inside :: 2], strict=False)  # the members in this piece
        names.update(text for text, behind in texts if behind.lstrip().startswith(b":"))
        inside ^= len(parts) % 2 == 0
    twice = next((name for name, count in names.items() if count > kept[name.decode(errors="replace")]), b"")
    said = twice.decode(errors="replace")[:50]
    raise ProblemError("invalid_request", f"an object in the body has the member {said!r} twice")


def _explain(said: str, body: bytes | bytearray) -> Steps:
    """Return what is wrong with a body, in words for its sender."""
    if not body or body.isspace():
        return "it is empty"
    place = yield from _not_utf8(body)
    if place is not None:
        return f"it is not valid UTF-8 at byte {place:,}"
    if "recursion" in said:
        return "it is nested too deeply"
    if "out of range" in said:
        return "a number in it is too long"
    if "hex escape" in said and _SURROGATE.search(body):
        return "a string in it contains a lone surrogate (half of a UTF-16 pair)"
    for constant in (b"NaN", b"-Infinity", b"Infinity"):
        yield
        if body[max(0, (place := body.find(constant)) - 100) : max(0, place)].rstrip().endswith((b":", b",", b"[")):
            return f"{constant.decode()} is not a JSON value; a missing value is null"
    return said


def _not_utf8(body: bytes | bytearray) -> Steps:
    """Return the position of the first byte of a body that is not UTF-8; None if all of it is."""
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
