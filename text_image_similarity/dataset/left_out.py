"""Counts of a data set's unusable rows by error code, and a log line that names the first three."""

from __future__ import annotations

import logging
from collections import Counter
from os import PathLike

from ..errors import ErrorCode

logger = logging.getLogger("text_image_similarity")

_NAMED = 3


class LeftOut:
    """The rows of a source that could not be used.

    Args:
        counts: Counter to update, by error code; None creates one.
    """

    def __init__(self, counts: Counter[str] | None = None) -> None:
        self._counts = Counter[str]() if counts is None else counts
        self._rows = 0
        self._named: list[str] = []

    def add(self, where: str, code: ErrorCode, reason: str) -> None:
        """Count a row, named as in "row 3 of pairs.csv", and remember the first few."""
        self._counts[code.value] += 1
        self._rows += 1
        if len(self._named) < _NAMED:
            self._named.append(f"{where} {reason}")

    def example(self) -> str:
        """Return the problem of the first row, as the end of a message."""
        return f": {self._named[0]}" if self._named else ""

    def warn(self, source: str | PathLike[str]) -> None:
        """Log how many rows were left out, and the first three of them."""
        if self._rows:
            more = "; ..." if self._rows > len(self._named) else ""
            rows = "row was" if self._rows == 1 else "rows were"
            logger.warning("%s: %d %s left out: %s%s", source, self._rows, rows, "; ".join(self._named), more)
