"""Store the scores of a table in a file, and find the exact k-th highest score in constant memory.

The method is a radix selection: the bits of float64 values, transformed so that they sort like unsigned integers, are
counted 16 at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_AT_ONCE = 1 << 20  # scores in memory
_SIGN = np.uint64(1 << 63)
_DIGIT = 16

Scores = NDArray[np.float64]


class Rank(NamedTuple):
    """The k-th highest score, and how many scores equal it: among the k highest (`taken`) and in all (`there`)."""

    score: float
    taken: int
    there: int


class ScoreFile:
    """Scores in a file, without NaN. Remove the file with `close`, or use this as a context manager.

    Args:
        folder: Folder for the file, which has no name that others could use; None for the folder of temporary files.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file = TemporaryFile(dir=folder)  # noqa: SIM115 - closed by `close`
        self.count = 0

    def __enter__(self) -> ScoreFile:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def append(self, scores: Scores) -> None:
        """Add scores, shape (n,)."""
        found = scores[~np.isnan(scores)] + 0.0  # turns negative zero into zero
        self.count += len(found)
        self._file.seek(0, os.SEEK_END)
        self._file.write(found.tobytes())

    def at_least(self, least: float) -> int:
        """Return how many scores are at least this high."""
        return sum(int((part >= least).sum()) for part in self._parts())

    def highest(self, k: int) -> Rank:
        """Return the k-th highest score, k from 1 to `count`.

        Example:
            >>> with ScoreFile() as scores:
            ...     scores.append(np.array([0.1, 0.3, np.nan, 0.2, 0.2]))
            ...     scores.highest(2)
            Rank(score=0.2, taken=1, there=2)
        """
        found, left, there = 0, k, 0
        for done in range(0, 64, _DIGIT):
            counts = np.zeros(1 << _DIGIT, np.int64)
            for keys in map(_keys, self._parts()):
                if done:
                    keys = keys[keys >> np.uint64(64 - done) == np.uint64(found)]
                digits = (keys >> np.uint64(64 - done - _DIGIT)).astype(np.int64) & ((1 << _DIGIT) - 1)
                counts += np.bincount(digits, minlength=len(counts))
            above = counts[::-1].cumsum()  # from the highest digit down
            place = int(np.searchsorted(above, left))
            left -= int(above[place] - counts[::-1][place])
            digit = len(counts) - 1 - place
            there = int(counts[digit])
            found = found << _DIGIT | digit
        return Rank(_score(found), left, there)

    def _parts(self) -> Iterator[Scores]:
        self._file.seek(0)
        while part := self._file.read(8 * _AT_ONCE):
            yield np.frombuffer(part, np.float64)


def _keys(scores: Scores) -> NDArray[np.uint64]:
    """Return integers that sort in the same order as the scores."""
    bits = scores.view(np.uint64)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def _score(key: int) -> float:
    bits = np.array([key], np.uint64)
    return float(np.where(bits & _SIGN, bits & ~_SIGN, ~bits).view(np.float64)[0])
