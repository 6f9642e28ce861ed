"""Memory that the parent and its feeders share: a slot for each image in transit, and the state of each feeder.

A file's bytes go to the feeder in a slot if they fit, and the pixels come back in the same slot. The parent encodes
them in place: a slot becomes free again once nothing refers to its arrays. Images that do not fit, or for which no slot
is free, go through the pipe, so nothing ever waits for a slot.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Any
from weakref import finalize

import numpy as np

from ...decode.area import SharedArea

Layout = tuple[bool, tuple[tuple[tuple[int, ...], str], ...]]  # whether it is a tuple; the arrays' shapes and types
_LINE = 64  # alignment of slots in bytes, for caches and SIMD
_CELL = 8


class Board:
    """The state of a feeder: a heartbeat counter, and the image that each of its threads is decoding.

    Args:
        memory: The shared memory.
        threads: Number of threads of a feeder.
        place: Index of the feeder.
    """

    def __init__(self, memory: mmap.mmap, threads: int, place: int) -> None:
        start = place * (threads + 1) * _CELL
        self._cells = (ctypes.c_uint64 * (threads + 1)).from_buffer(memory, start)

    def beat(self) -> None:
        """Show that the process is alive."""
        self._cells[0] += 1

    def begin(self, thread: int, number: int) -> None:
        """Record that a thread has begun to decode an image."""
        self._cells[1 + thread] = number

    def end(self, thread: int) -> None:
        """Record that a thread has finished decoding."""
        self._cells[1 + thread] = 0

    def read(self) -> list[int]:
        """Return the heartbeat counter, then the number of each thread's image, or 0."""
        return list(self._cells)

    def clear(self) -> None:
        """Clear the state of a feeder that ended."""
        ctypes.memset(self._cells, 0, ctypes.sizeof(self._cells))


def board_bytes(feeders: int, threads: int) -> int:
    """Return the size of all boards in bytes, in whole pages."""
    taken = feeders * (threads + 1) * _CELL
    return -(-taken // mmap.PAGESIZE) * mmap.PAGESIZE


class Ring:
    """The parent's side of the slots. Safe to share between threads.

    Args:
        area: The shared memory.
        begin: Offset of the first slot in the area, in bytes.
        slot_bytes: Size of a slot in bytes.
        slots: Number of slots.
    """

    def __init__(self, area: SharedArea, begin: int, slot_bytes: int, slots: int) -> None:
        self._memory, self._begin = area.memory, begin
        self.slot_bytes, self._stride = slot_bytes, stride_of(slot_bytes)
        self._free = list(range(slots if slot_bytes else 0))

    def take(self) -> int | None:
        """Return the offset of a free slot in the memory, in bytes, or None."""
        try:
            slot = self._free.pop()  # the one freed last, whose memory the processor's caches still hold
        except IndexError:
            return None
        return self._begin + slot * self._stride

    def give_back(self, place: int) -> None:
        """Free a slot that no array refers to."""
        self._free.append((place - self._begin) // self._stride)

    def free(self) -> int:
        """Return how many slots are free."""
        return len(self._free)

    def put(self, place: int, content: bytes) -> None:
        """Write a file, which must fit, into a slot."""
        self._memory[place : place + len(content)] = content

    def arrays(self, place: int, layout: Layout) -> Any:
        """Return the arrays in a slot, which becomes free when they are gone."""
        whole: Any = (ctypes.c_uint8 * self.slot_bytes).from_buffer(self._memory, place)
        finalize(whole, self.give_back, place).atexit = False
        flat: Any = np.frombuffer(whole, np.uint8)
        return arrays_in(flat, layout)


def stride_of(slot_bytes: int) -> int:
    """Return the distance between slots, in bytes."""
    return -(-slot_bytes // _LINE) * _LINE


def arrays_in(flat: Any, layout: Layout) -> Any:
    """Return the arrays that lie one after another in `flat`, as views."""
    several, shapes = layout
    found, start = [], 0
    for shape, kind in shapes:
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        found.append(flat[start : start + size].view(kind).reshape(shape))
        start += size
    return tuple(found) if several else found[0]


def layout_of(prepared: Any, most: int) -> Layout | None:
    """Return a prepared image's layout in a slot of `most` bytes; None if it is too large or not made of arrays."""
    arrays = prepared if isinstance(prepared, tuple) else (prepared,)
    if not all(isinstance(array, np.ndarray) and not array.dtype.hasobject for array in arrays):
        return None
    if sum(array.nbytes for array in arrays) > most:
        return None
    return isinstance(prepared, tuple), tuple((array.shape, array.dtype.str) for array in arrays)


def put_arrays(memory: mmap.mmap, place: int, prepared: Any) -> None:
    """Write a prepared image's arrays into a slot."""
    for array in prepared if isinstance(prepared, tuple) else (prepared,):
        with memoryview(memory) as whole:
            target: Any = np.frombuffer(whole, np.uint8, array.nbytes, place)
            target.view(array.dtype).reshape(array.shape)[...] = array
            del target
        place += array.nbytes
