"""One pass over the rows: fetch and decode on threads, encode in batches, answer in order.

    records -> distinct pictures -> fetch, decode, resize (threads) -> batches -> encode -> score -> ordered results

While one batch is encoded the threads fetch and decode the next ones, up to a fixed look-ahead. Batches are filled in
input order, so the same outcomes give the same batches and the same numbers on every run. Nothing is kept per row.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..config import Config
from ..decode import decode
from ..encoders import Encoder, PreparingEncoder
from ..errors import ErrorCode, RowError
from ..records import ScoreResult
from ..similarity import Embeddings, cosine, score
from .loaders import Loaders
from .stats import RunStats

logger = logging.getLogger("text_image_similarity")

Vector = NDArray[np.float32]  # (embed_dim,)
Outcome = Vector | RowError
_NONE = np.empty((0, 1), np.float32)
_AHEAD_BYTES = 256 * 1024 * 1024  # look-ahead ends here too, so that large rows do not fill the memory

Item = TypeVar("Item")
Value = TypeVar("Value")


class Run(Generic[Item]):
    """One pass over (key, item, text) rows; rows with the same key share one picture.

    Args:
        read: Gives an item's encoded bytes, or its picture in RGB; called on loader threads.
    """

    def __init__(
        self, config: Config, encoder: Encoder, read: Callable[[Item], bytes | Image.Image], stats: RunStats
    ) -> None:
        self.config, self.encoder, self.read, self.stats = config, encoder, read, stats
        self.look_ahead = max(8 * config.batch_size, 4 * config.io_workers)
        self.prepare: Callable[[Image.Image], Any] = lambda image: image
        self.encode_prepared: Callable[[list[Any]], Embeddings] = encoder.encode_image
        if isinstance(encoder, PreparingEncoder):
            self.prepare, self.encode_prepared = encoder.prepare, encoder.encode_pixels
        else:  # pictures wait at their full size, so fewer of them
            self.look_ahead = max(2 * config.batch_size, config.io_workers)
        self.decoders = BoundedSemaphore(os.cpu_count() or 1)  # large pictures are decoded a few at a time
        self.loaders: Loaders[Item, Any | RowError] = Loaders(config.io_workers, self._load)
        self.pictures: _Recent[Hashable, _Picture] = _Recent(2 * self.look_ahead)
        self.captions: _Recent[str, Outcome] = _Recent(2 * self.look_ahead)

    def close(self) -> None:
        """Stop the loader threads; work that has not started is dropped."""
        self.loaders.close()

    def results(self, rows: Iterable[tuple[Hashable, Item, object]]) -> Iterator[ScoreResult]:
        """Yield one result per row, in order."""
        waiting: deque[_Row] = deque()
        source = _Source(rows)
        ahead_bytes = 0  # what the rows waiting bring along: data: URLs and pictures in memory may be large

        def refill() -> None:
            nonlocal ahead_bytes
            while len(waiting) < self.look_ahead and ahead_bytes < _AHEAD_BYTES and (row := source.next()) is not None:
                waiting.append(self._start(*row))
                ahead_bytes += waiting[-1].size

        refill()
        while waiting:
            batch: list[_Row] = []
            new: dict[int, _Picture] = {}
            while waiting and len(new) < self.config.batch_size and len(batch) < 4 * self.config.batch_size:
                row = waiting.popleft()
                ahead_bytes -= row.size
                refill()
                batch.append(row)
                picture = row.picture
                if isinstance(picture, _Picture) and picture.outcome is None and picture.loaded():
                    new[id(picture)] = picture
            self._encode_pictures(list(new.values()))
            self._encode_captions(row.text for row in batch if not row.failed)
            for result in self._score(batch):
                self.stats.count(result)
                yield result
        if source.problem is not None:
            raise source.problem

    def _start(self, key: Hashable, item: Item, text: object) -> _Row:
        """Check a row's caption and set its picture loading, unless one with the same key is within reach."""
        if not isinstance(text, str) or not text.strip():
            return _Row(RowError(ErrorCode.EMPTY_CAPTION, "the caption is empty or missing"), "", 0)
        picture = self.pictures.get(key)
        if picture is None:
            picture = self.pictures.put(key, _Picture(self.loaders.submit(item)))
        return _Row(picture, text, _size(item) + len(text))

    def _load(self, item: Item) -> Any | RowError:
        """Read, decode and resize one picture; runs on a loader thread."""
        try:
            content = self.read(item)
            with self.decoders, self.stats.timed("decode"):
                return self.prepare(decode(content, self.config.limits) if isinstance(content, bytes) else content)
        except RowError as error:
            return error
        except Exception as exc:  # a row must never end the run
            logger.debug("a picture could not be loaded", exc_info=True)
            return RowError(ErrorCode.DECODER_CRASH, f"{type(exc).__name__}: {exc}")

    def _encode_pictures(self, pictures: Sequence[_Picture]) -> None:
        with self.stats.timed("encode_image"):
            outcomes = _encode_each(self.encode_prepared, [picture.pixels for picture in pictures])
        for picture, outcome in zip(pictures, outcomes, strict=True):
            picture.finish(outcome)

    def _encode_captions(self, texts: Iterable[str]) -> None:
        size = self.config.batch_size
        new = [text for text in dict.fromkeys(texts) if self.captions.get(text) is None]
        with self.stats.timed("encode_text"):
            for start in range(0, len(new), size):
                chunk = new[start : start + size]
                for text, outcome in zip(chunk, _encode_each(self.encoder.encode_text, chunk), strict=True):
                    self.captions.put(text, outcome)

    def _score(self, batch: Sequence[_Row]) -> Iterator[ScoreResult]:
        found = [self._vectors(row) for row in batch]
        good = [vectors for vectors in found if not isinstance(vectors, RowError)]
        with self.stats.timed("score"):
            images, texts = (np.stack(side) for side in zip(*good, strict=True)) if good else (_NONE, _NONE)  # (n, d)
            scores = iter(score(cosine(images, texts), self.config.score))
        for vectors in found:
            if isinstance(vectors, RowError):
                yield ScoreResult.failed(vectors)
            else:
                # The shortest decimal that names the float32, so that a table and a notebook show the same number.
                yield ScoreResult(float(str(next(scores))))

    def _vectors(self, row: _Row) -> tuple[Vector, Vector] | RowError:
        """Return a row's two vectors, or what went wrong first."""
        image = row.picture.outcome if isinstance(row.picture, _Picture) else row.picture
        if isinstance(image, RowError):
            return image
        text = self.captions.get(row.text)
        if isinstance(text, RowError):
            return text
        if image is None or text is None:
            raise AssertionError("a row is scored after both are encoded")
        return image, text


class _Picture:
    """One distinct picture: loading, then loaded, then encoded or failed."""

    __slots__ = ("_loading", "outcome", "pixels")

    def __init__(self, loading: Future[Any | RowError]) -> None:
        self._loading: Future[Any | RowError] | None = loading
        self.pixels: Any = None
        self.outcome: Outcome | None = None

    def loaded(self) -> bool:
        """Wait for the pixels and say whether there are any."""
        if self._loading is not None:
            found, self._loading = self._loading.result(), None
            if isinstance(found, RowError):
                self.outcome = found
            else:
                self.pixels = found
        return self.pixels is not None

    def finish(self, outcome: Outcome) -> None:
        """Keep the vector or the error, drop the pixels."""
        self.outcome, self.pixels = outcome, None


@dataclass(frozen=True, slots=True)
class _Row:
    picture: _Picture | RowError  # an error: the row has no score, whatever its picture
    text: str
    size: int  # in bytes, of the row's own content

    @property
    def failed(self) -> bool:
        return isinstance(self.picture.outcome if isinstance(self.picture, _Picture) else self.picture, RowError)


class _Recent(Generic[Item, Value]):
    """The most recently used values, up to a number of them."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._values: OrderedDict[Item, Value] = OrderedDict()

    def get(self, key: Item) -> Value | None:
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key]

    def put(self, key: Item, value: Value) -> Value:
        self._values[key] = value
        if len(self._values) > self._capacity:
            self._values.popitem(last=False)
        return value


class _Source(Generic[Item]):
    """An iterable whose exception waits until the rows before it are answered."""

    def __init__(self, rows: Iterable[Item]) -> None:
        self._rows = iter(rows)
        self.problem: Exception | None = None

    def next(self) -> Item | None:
        if self.problem is not None:
            return None
        try:
            return next(self._rows, None)
        except Exception as exc:  # raised again once the earlier rows are out
            self.problem = exc
            return None


def _size(item: object) -> int:
    """Return roughly how many bytes a row's own picture or reference takes."""
    if isinstance(item, Image.Image):
        return item.width * item.height * len(item.getbands())
    return item.nbytes if isinstance(item, np.ndarray) else len(item) if isinstance(item, (bytes, str)) else 0


def _encode_each(encode: Callable[[list[Any]], NDArray[np.float32]], items: list[Any]) -> list[Outcome]:
    """Encode a batch; if it fails, encode its items one by one, so that only the guilty ones fail."""
    if not items:
        return []
    try:
        vectors = list(encode(items))
    except Exception as exc:  # whatever a model raises belongs to rows, not to the run
        if len(items) == 1:
            logger.debug("an item could not be encoded", exc_info=True)
            return [RowError(ErrorCode.ENCODER_ERROR, f"{type(exc).__name__}: {exc}")]
        return [outcome for item in items for outcome in _encode_each(encode, [item])]
    return [
        vector if np.isfinite(vector).all() else RowError(ErrorCode.NON_FINITE, "the model gave no finite embedding")
        for vector in vectors
    ]
