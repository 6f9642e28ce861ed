"""The state of a run: the rows in its look-ahead and their images."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import closing
from itertools import chain, compress
from typing import Any, Generic, NamedTuple, TypeVar

from ..embeddings import Vector
from ..errors import RowError
from ..records import ScoreResult

Item = TypeVar("Item")
Tag = TypeVar("Tag")
Outcome = Vector | RowError
Batches = Generator[tuple[Sequence[Tag], Sequence[Item]]]  # tags of consecutive rows, and their results, in order


# Rows are tuples on their way through a run, and columns in a batch: an object for each row in each step would take
# longer than the rest of the work around a fast encoder.

# A row that enters a run: the caller's tag, the key of its image, the source of the image (or the row's error, or its
# result if that is known), its caption, and its reference captions. Rows with the same key share one image; None is the
# key of an image that no other row can have.
Row = tuple[Tag, Hashable, Item | RowError | ScoreResult, str, Sequence[str]]


class LoadedImage(NamedTuple):
    """An image that has been loaded.

    Args:
        key: Key of the image's content and the model, or None for an image that came without a file.
        pixels: The encoder's input, or None if `vector` is known.
        vector: Embedding of the image, if it is remembered.
    """

    key: bytes | None
    pixels: Any = None
    vector: Vector | None = None


class PendingImage:
    """One distinct image: loading, then loaded, then encoded or failed."""

    __slots__ = ("_loading", "content", "key", "outcome")

    def __init__(self, loading: Future[LoadedImage | RowError] | None, content: LoadedImage | None = None) -> None:
        self._loading = loading
        self.content = content
        self.key: bytes | None = None  # key of the content, once it is loaded
        self.outcome: Outcome | None = None

    def loaded(self) -> LoadedImage | None:
        """Wait for the image; None if it failed or is already encoded."""
        if self._loading is not None:
            found, self._loading = self._loading.result(), None
            if isinstance(found, RowError):
                self.outcome = found
            else:
                self.content, self.key = found, found.key
        return self.content

    def cancel(self) -> None:
        """Drop the image if its loading has not started."""
        if self._loading is not None:
            self._loading.cancel()

    def finish(self, outcome: Outcome) -> None:
        """Keep the vector or the error, and drop the pixels."""
        self.outcome, self.content = outcome, None


# A row in the look-ahead: the caller's tag, its image (or the error that fails the row regardless of the image, or a
# result that is already known), its caption, the size of its own content in bytes, and its reference captions.
PendingRow = tuple[Tag, PendingImage | RowError | ScoreResult, str, int, Sequence[str]]


class RowBatch(Generic[Tag]):
    """Consecutive rows of a run, in columns.

    Args:
        rows: Rows of one part, of which no image is still loading.
        new: Images to encode, with copies grouped together.
        ends_part: Whether these are the last rows of their part.
    """

    __slots__ = ("ends_part", "images", "new", "references", "tags", "texts")

    def __init__(self, rows: Sequence[PendingRow[Tag]], new: Sequence[list[PendingImage]], ends_part: bool) -> None:
        self.tags: Sequence[Tag]
        self.images: Sequence[PendingImage | RowError | ScoreResult]
        self.texts: Sequence[str]
        self.references: Sequence[Sequence[str]]
        self.tags, self.images, self.texts, _, self.references = zip(*rows, strict=True) if rows else ((),) * 5
        self.new, self.ends_part = new, ends_part

    def captions(self) -> dict[str, None]:
        """Return the distinct captions that scores depend on, as far as they are known yet."""
        scored = [isinstance(image, PendingImage) and not isinstance(image.outcome, RowError) for image in self.images]
        references = chain.from_iterable(compress(self.references, scored))
        return dict.fromkeys(chain(compress(self.texts, scored), references))


class DeferredErrors(Generic[Item]):
    """Wraps an iterable so that its exception is raised only after the earlier rows have their results."""

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


def in_a_row(parts: Iterable[Iterable[Item]]) -> Generator[Item | None]:
    """Yield the items of parts, with None after each part."""
    for part in parts:
        yield from part
        yield None


def by_row(batches: Batches[Tag, Item]) -> Generator[tuple[Tag, Item]]:
    """Yield results one by one, with their tags."""
    with closing(batches):
        for tags, results in batches:
            yield from zip(tags, results, strict=True)


def untagged(batches: Batches[Tag, Item]) -> Generator[Item]:
    """Yield results one by one, without their tags."""
    with closing(batches):
        for _, results in batches:
            yield from results
