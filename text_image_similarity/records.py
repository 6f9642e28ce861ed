"""The values that go in and come out: one `Record` per row, one `ScoreResult` per record."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .errors import ErrorCode, RowError

OUT_COLUMNS = ("similarity", "error")  # of a scored table

# (done, of these failed, in all), called before the first and after every one
Progress = Callable[[int, int, int], None]


@dataclass(frozen=True, slots=True)
class Record:
    """A picture and the text it is compared with.

    Args:
        url: Where the picture is: an http(s) URL, a path, a `file:` or a `data:` URL.
        text: The caption.
    """

    url: str
    text: str

    @classmethod
    def of(cls, url: Any, text: Any) -> Record:
        """Return a table's row as a record: a number counts as its text, as CSV would hold it."""
        return cls(*(str(v) if isinstance(v, (int, float)) and not isinstance(v, bool) else v for v in (url, text)))


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """The score of one record, or why it has none; exactly one of the two fields carries a value.

    Args:
        similarity: The score, in the range of the run's score kind; NaN if the row failed.
        error: `"<code>: <detail>"` if the row failed, else None.

    Example:
        >>> ScoreResult(similarity=0.31).error is None
        True
    """

    similarity: float = math.nan
    error: str | None = None

    def __post_init__(self) -> None:
        if math.isfinite(self.similarity) == (self.error is not None):
            raise ValueError("a ScoreResult holds either a finite similarity or an error")

    @property
    def code(self) -> ErrorCode | None:
        """The category of the failure, or None."""
        return None if self.error is None else ErrorCode(self.error.partition(":")[0])

    @classmethod
    def failed(cls, error: RowError) -> ScoreResult:
        """Turn a row's exception into its result, in text that every format can hold: a path may carry other bytes."""
        return cls(error=str(error).encode("utf-8", "backslashreplace").decode("utf-8"))
