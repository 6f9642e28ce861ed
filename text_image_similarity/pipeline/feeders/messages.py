"""What goes through the pipes between the parent and a feeder: pickled objects, each with its length before it.

Both are the same program on the same machine, and a feeder is trusted as this process is: without it, images would be decoded here.
`isolate_decoder` keeps images out of the feeders too.
"""

from __future__ import annotations

import pickle
import struct
from typing import IO, Any, NamedTuple

from ...errors import RowError
from .ring import Layout

_LENGTH = struct.Struct(">Q")


class Order(NamedTuple):
    """An image that a feeder is to load.

    Args:
        number: Of the order; 1 or more.
        place: Of its slot in the shared memory; None for none.
        item: Its reference, or its file; or, as a number, the bytes of the file in its slot.
    """

    number: int
    place: int | None
    item: str | bytes | int


class Delivery(NamedTuple):
    """What came of an order.

    Args:
        number: Of the order.
        key: Stands for the image's content.
        found: What went wrong, or how the pixels lie in the slot, or the pixels themselves.
        in_slot: Whether they are in the slot.
        seconds: What it took, by stage.
    """

    number: int
    key: bytes | None
    found: RowError | Layout | Any
    in_slot: bool
    seconds: dict[str, float]


def send(pipe: IO[bytes], message: Any) -> None:
    """Write a message.

    Raises:
        OSError, ValueError: The pipe has ended, or was closed.
    """
    content = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    pipe.write(_LENGTH.pack(len(content)))
    pipe.write(content)
    pipe.flush()


def receive(pipe: IO[bytes]) -> Any:
    """Return the next message, or None at the end of the pipe or in the middle of one.

    Raises:
        OSError, ValueError: The pipe was closed.
    """
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    content = pipe.read(length)
    return pickle.loads(content) if len(content) == length else None
