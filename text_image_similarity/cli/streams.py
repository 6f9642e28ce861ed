"""Stdout and stderr that never make a command fail: they accept any text, and may be closed at any time.

Libraries may write any text from a model to stderr, in warnings, in lines from their own log handlers, or in progress
bars, so characters that could control the terminal are escaped there.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from ..errors import printable_lines

_UP = re.compile(r"(\x1b\[A)+")  # from a progress bar below another one
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class _Stream:
    """A stream that drops text it cannot write, and remembers why.

    Args:
        stream: The stream to write to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.problem: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._remembered():
            return self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._remembered():
            self._stream.flush()

    def end(self) -> None:
        """Flush, and discard the output that a closed stream cannot accept, so that Python does not fail at exit."""
        self.flush()
        if self.problem is not None:
            with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:  # noqa: PTH123 - a device
                os.dup2(nowhere.fileno(), self._stream.fileno())
                self._stream.flush()

    @contextmanager
    def _remembered(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            self.problem = exc


class _Errors(_Stream):
    """Stderr, on which no text can control the terminal."""

    def write(self, text: str) -> int:
        super().write(text if text.isprintable() or _UP.fullmatch(text) else _harmless(text))
        return len(text)


def _harmless(text: str) -> str:
    """Return a text with control characters escaped, except carriage returns at its ends, which progress bars need."""
    rest = text.lstrip("\r")
    shown = rest.rstrip("\r")
    before, after = text[: len(text) - len(rest)], rest[len(shown) :]
    return f"{before}{printable_lines(_COLOURS.sub('', shown.expandtabs()))}{after}"


@contextmanager
def lenient_streams() -> Iterator[None]:
    """Make stdout and stderr accept any text: characters that their encoding lacks become escapes like `\\u732b`.

    On stderr, characters that could control the terminal are escaped, too.
    """
    given = sys.stdout, sys.stderr
    opened = [_open(stream) for stream in given]
    lenient = [_Stream(opened[0]), _Errors(opened[1])]
    sys.stdout, sys.stderr = lenient
    try:
        yield
    finally:
        sys.stdout, sys.stderr = given
        for stream, inner, was in zip(lenient, opened, given, strict=True):
            stream.end()
            if was is None:
                inner.close()


def unwrapped(stream: TextIO) -> TextIO:
    """Return the stream that `lenient_streams` replaced."""
    return stream._stream if isinstance(stream, _Stream) else stream


def lost_output() -> OSError | None:
    """Return why stdout lost output; None if nothing was lost or its reader only stopped early, as `head` does."""
    sys.stdout.flush()
    problem: OSError | None = getattr(sys.stdout, "problem", None)
    return None if isinstance(problem, BrokenPipeError) else problem


def _open(stream: TextIO | None) -> TextIO:
    if stream is None:  # the stream was closed before Python started
        return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 - closed by the caller
    as_it_is = stream.errors == "surrogateescape" and stream.encoding.lower().replace("-", "") == "utf8"
    if not as_it_is and hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
    return stream
