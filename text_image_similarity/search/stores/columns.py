"""The stored values of one field in memory, as arrays for vectorised filters.

A column only grows: earlier reads stay valid while values are added, so readers need no lock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ..fields import FieldKind, Value

Mask = NDArray[np.bool_]
Positions = NDArray[np.intp]

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "eq": np.equal,
    "lt": np.less,
    "lte": np.less_equal,
    "gt": np.greater,
    "gte": np.greater_equal,
}


class Growing:
    """An array that grows at its end.

    Args:
        like: An empty array with the dtype and the other dimensions of the rows.
    """

    def __init__(self, like: NDArray[Any]) -> None:
        self._room = like
        self.size = 0

    @property
    def filled(self) -> NDArray[Any]:
        """The rows added so far."""
        return self._room[: self.size]

    def extend(self, rows: NDArray[Any], take: Positions | None = None) -> None:
        """Add rows at the end, all of them or those at some positions."""
        size = self.size + (len(rows) if take is None else len(take))
        if size > len(self._room):
            self.reserve(max(2 * size, 64))
        if take is None:
            self._room[self.size : size] = rows
        else:
            np.take(rows, take, axis=0, out=self._room[self.size : size], mode="clip")  # "raise" would copy twice
        self.size = size

    def reserve(self, size: int) -> None:
        """Reserve space for `size` rows in total; unused space takes no memory."""
        if size > len(self._room):
            room = np.empty((size, *self._room.shape[1:]), self._room.dtype)
            room[: self.size] = self.filled
            self._room = room


class Column(Protocol):
    """The values of one field, by position."""

    def extend(self, values: Sequence[Value | None], take: Positions) -> None:
        """Append the values at some positions of a sequence."""

    def compare(self, op: str, value: Value, size: int) -> Mask:
        """Return which of the first `size` positions have a value that satisfies `eq`, `lt`, `lte`, `gt` or `gte`."""

    def among(self, values: Sequence[Value], size: int) -> Mask:
        """Return which of the first `size` positions have one of some values."""

    def present(self, size: int) -> Mask:
        """Return which of the first `size` positions have a value."""

    def counts(self, chosen: Positions) -> dict[Value, int]:
        """Return how often each value occurs at some positions."""

    def only(self, kept: Positions) -> Column:
        """Return another column with the values at some positions, in order."""


class NumberColumn:
    """A column of numbers, dates (seconds) or booleans; NaN means missing."""

    def __init__(self, *, truth: bool) -> None:
        self._truth = truth
        self._values = Growing(np.empty(0, np.float64))

    def extend(self, values: Sequence[Value | None], take: Positions) -> None:
        self._values.extend(np.array(values, np.float64)[take])  # None becomes NaN

    def compare(self, op: str, value: Value, size: int) -> Mask:
        return np.asarray(_COMPARE[op](self._values.filled[:size], value))

    def among(self, values: Sequence[Value], size: int) -> Mask:
        return np.isin(self._values.filled[:size], np.array(values, np.float64))

    def present(self, size: int) -> Mask:
        return np.asarray(~np.isnan(self._values.filled[:size]))

    def counts(self, chosen: Positions) -> dict[Value, int]:
        values = self._values.filled[chosen]
        found, counts = np.unique(values[~np.isnan(values)], return_counts=True)
        return {
            bool(value) if self._truth else float(value): int(count) for value, count in zip(found, counts, strict=True)
        }

    def only(self, kept: Positions) -> Column:
        column = NumberColumn(truth=self._truth)
        column._values.extend(self._values.filled[kept])
        return column


class TextColumn:
    """A column of texts, as codes of a dictionary; -1 means missing."""

    def __init__(self) -> None:
        self._codes = Growing(np.empty(0, np.int32))
        self._known: dict[Value, int] = {}

    def extend(self, values: Sequence[Value | None], take: Positions) -> None:
        known = self._known
        new = [value for value in dict.fromkeys(values) if value is not None and value not in known]
        known.update(zip(new, range(len(known), len(known) + len(new)), strict=True))
        codes = map(known.get, cast("Sequence[Value]", values), repeat(-1))  # None is not among the known values
        self._codes.extend(np.fromiter(codes, np.int32, len(values)), take)

    def compare(self, op: str, value: Value, size: int) -> Mask:
        return np.asarray(_COMPARE[op](self._codes.filled[:size], self._known.get(value, -2)))

    def among(self, values: Sequence[Value], size: int) -> Mask:
        return _among(self._codes.filled[:size], values, self._known)

    def present(self, size: int) -> Mask:
        return np.asarray(self._codes.filled[:size] >= 0)

    def counts(self, chosen: Positions) -> dict[Value, int]:
        codes = self._codes.filled[chosen]
        counts = np.bincount(codes[codes >= 0], minlength=len(self._known))
        names = list(self._known)
        return {names[code]: int(counts[code]) for code in np.flatnonzero(counts)}

    def only(self, kept: Positions) -> Column:
        column = TextColumn()
        column._known, codes = _without_unused(self._known, self._codes.filled[kept])
        column._codes.extend(codes)
        return column


class TextsColumn:
    """A column of lists of texts, as pairs of a position and a code."""

    def __init__(self) -> None:
        self._size = 0
        self._places = Growing(np.empty(0, np.int64))
        self._codes = Growing(np.empty(0, np.int32))
        self._known: dict[Value, int] = {}

    def extend(self, values: Sequence[Value | None], take: Positions) -> None:
        places, codes = [], []
        for place, position in enumerate(take, self._size):
            texts = values[position]
            for text in texts if isinstance(texts, tuple) else ():
                places.append(place)
                codes.append(self._known.setdefault(text, len(self._known)))
        self._codes.extend(np.array(codes, np.int32))
        self._places.extend(np.array(places, np.int64))
        self._size += len(take)

    def compare(self, op: str, value: Value, size: int) -> Mask:
        places = self._places.filled
        codes = self._codes.filled[: len(places)]
        return _at(places[_COMPARE[op](codes, self._known.get(value, -2))], size)

    def among(self, values: Sequence[Value], size: int) -> Mask:
        places = self._places.filled
        return _at(places[_among(self._codes.filled[: len(places)], values, self._known)], size)

    def present(self, size: int) -> Mask:
        return _at(self._places.filled, size)

    def counts(self, chosen: Positions) -> dict[Value, int]:
        places = self._places.filled
        within = _at(chosen, int(max(chosen.max(initial=-1), places.max(initial=-1))) + 1)
        counts = np.bincount(self._codes.filled[: len(places)][within[places]], minlength=len(self._known))
        names = list(self._known)
        return {names[code]: int(counts[code]) for code in np.flatnonzero(counts)}

    def only(self, kept: Positions) -> Column:
        column = TextsColumn()
        column._size = len(kept)
        moved = np.full(self._size, -1, np.int64)
        moved[kept] = np.arange(len(kept))
        places = moved[self._places.filled]
        column._known, codes = _without_unused(self._known, self._codes.filled[places >= 0])
        column._codes.extend(codes)
        column._places.extend(places[places >= 0])
        return column


def _without_unused(known: dict[Value, int], codes: NDArray[np.int32]) -> tuple[dict[Value, int], NDArray[np.int32]]:
    """Return a dictionary with only the texts that some codes refer to, and these codes in the new dictionary."""
    names, used = list(known), np.unique(codes[codes >= 0])
    moved = np.full(len(names) + 1, -1, np.int32)  # the last element is for -1
    moved[used] = np.arange(len(used))
    return {names[code]: place for place, code in enumerate(used.tolist())}, moved[codes]


def make_column(kind: FieldKind) -> Column:
    """Return an empty column for a kind of field."""
    if kind == "text":
        return TextColumn()
    return TextsColumn() if kind == "texts" else NumberColumn(truth=kind == "bool")


def _among(codes: NDArray[np.int32], values: Sequence[Value], known: dict[Value, int]) -> Mask:
    """Return which codes represent one of some values."""
    wanted = np.zeros(len(known) + 1, bool)  # the last element is for -1
    wanted[[known[value] for value in values if value in known]] = True
    return wanted[codes]


def _at(places: NDArray[Any], size: int) -> Mask:
    mask = np.zeros(size, bool)
    mask[places[places < size]] = True
    return mask
