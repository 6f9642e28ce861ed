"""Read the fields of a message in Protocol Buffers' encoding (protobuf.dev), that of a sentencepiece model's file.

This module reads only what checks need: the numbers and values of fields, not their names and types. Groups, which no
such file has, are refused.
"""

from __future__ import annotations

from collections.abc import Iterator


def fields_of(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Yield the numbers and values of a message's fields.

    Raises:
        ValueError: The message is damaged.
    """
    at = 0
    while at < len(message):
        key, at = _number(message, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _number(message, at)
            yield number, value
            continue
        if kind not in (1, 2, 5):
            raise ValueError("the sentencepiece model is damaged")
        length, at = _number(message, at) if kind == 2 else (8 if kind == 1 else 4, at)
        yield number, message[at : at + length]
        at += length
    if at > len(message):
        raise ValueError("the sentencepiece model is damaged")


def _number(message: bytes, at: int) -> tuple[int, int]:
    """Return the number at a position, encoded in seven bits of each byte, and the position after it."""
    found = 0
    for shift, byte in enumerate(message[at : at + 10]):
        found |= (byte & 127) << 7 * shift
        if byte < 128:
            return found, at + shift + 1
    raise ValueError("the sentencepiece model is damaged")
