"""What a run holds on to: the rows within its reach, their pictures, and the last results."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..embeddings import Vector
from ..errors import RowError

Item = TypeVar("Item")
Outcome = Vector | RowError


@dataclass(frozen=True, slots=True)
class Loaded:
    """A picture that was read.

    Args:
        key: Stands for its content and the model, or None for a picture that came without a file.
        pixels: What the encoder takes, or None if `vector` is known.
        vector: Its embedding, where an earlier run kept it.
    """

    key: bytes | None
    pixels: Any = None
    vector: Vector | None = None


class Picture:
    """One distinct picture: loading, then loaded, then encoded or failed."""

    __slots__ = ("_loading", "content", "outcome")

    def __init__(self, loading: Future[Loaded | RowError]) -> None:
        self._loading: Future[Loaded | RowError] | None = loading
        self.content: Loaded | None = None
        self.outcome: Outcome | None = None

    def loaded(self) -> Loaded | None:
        """Wait for the picture; None if it failed or is encoded already."""
        if self._loading is not None:
            found, self._loading = self._loading.result(), None
            if isinstance(found, RowError):
                self.outcome = found
            else:
                self.content = found
        return self.content

    def finish(self, outcome: Outcome) -> None:
        """Keep the vector or the error, drop the pixels."""
        self.outcome, self.content = outcome, None


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a run.

    Args:
        picture: Its picture, or what keeps the row from a score whatever the picture is.
        text: Its caption.
        size: Bytes of the row's own content.
    """

    picture: Picture | RowError
    text: str
    size: int

    @property
    def failed(self) -> bool:
        """Whether the row is known to get no score."""
        return isinstance(self.picture.outcome if isinstance(self.picture, Picture) else self.picture, RowError)

    @property
    def image(self) -> Outcome:
        """The picture's vector or its error; only after its batch is encoded."""
        outcome = self.picture.outcome if isinstance(self.picture, Picture) else self.picture
        if outcome is None:
            raise AssertionError("a row is answered after its picture is encoded")
        return outcome


class Source(Generic[Item]):
    """An iterable whose exception waits until the rows before it are answered."""

    def __init__(self, rows: Iterable[Item]) -> None:
        self._rows = iter(rows)
        self.problem: Exception | None = None

    def next(self) -> Item | None:
        """Return the next row, or None at the end or after an exception."""
        if self.problem is not None:
            return None
        try:
            return next(self._rows, None)
        except Exception as exc:  # raised again once the earlier rows are out
            self.problem = exc
            return None
