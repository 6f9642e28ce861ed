"""Messages in the pipes between the parent and a feeder: pickled objects, each preceded by its length.

Both processes run the same program on the same machine, and a feeder is trusted as much as the parent, which would
otherwise decode the images itself. `isolate_decoder` moves decoding out of the feeders, too.
"""

from __future__ import annotations

import pickle
import struct
from typing import IO, Any, NamedTuple

from ...errors import RowError
from .ring import Layout

_LENGTH = struct.Struct(">Q")


class Order(NamedTuple):
    """A request to a feeder to load an image.

    Args:
        number: Number of the order, 1 or more.
        place: Offset of the image's slot in the shared memory, in bytes; None if it has no slot.
        item: The image's reference or file; or a number, the size in bytes of the file in its slot.
    """

    number: int
    place: int | None
    item: str | bytes | int


class Delivery(NamedTuple):
    """The result of an order.

    Args:
        number: Number of the order.
        key: Key of the image's content.
        found: The error, the layout of the pixels in the slot, or the pixels themselves.
        in_slot: Whether the pixels are in the slot.
        seconds: Seconds spent, by stage.
    """

    number: int
    key: bytes | None
    found: RowError | Layout | Any
    in_slot: bool
    seconds: dict[str, float]


def send(pipe: IO[bytes], message: Any) -> None:
    """Write a message.

    Raises:
        OSError, ValueError: The pipe is closed at either end.
    """
    content = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    pipe.write(_LENGTH.pack(len(content)))
    pipe.write(content)
    pipe.flush()


def receive(pipe: IO[bytes]) -> Any:
    """Return the next message, or None if the pipe ends before or within it.

    Raises:
        OSError, ValueError: The pipe was closed.
    """
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    content = pipe.read(length)
    return pickle.loads(content) if len(content) == length else None
