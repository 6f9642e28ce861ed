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
from typing import Any, Generic, TypeGuard, TypeVar

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
    """One pass over rows: pictures with captions (`results`) or pictures alone (`embeddings`).

    Rows with the same key share one picture.

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
        """Yield one result per row of (key, item, text), in order."""
        for batch in self._batches(self._start(*row) for row in rows):
            self._encode_captions(row.text for row in batch if not row.failed)
            for result in self._score(batch):
                self.stats.count(result)
                yield result

    def embeddings(self, items: Iterable[tuple[Hashable, Item]]) -> Iterator[Outcome]:
        """Yield the vector of each (key, item), or what went wrong, in order."""
        for batch in self._batches(self._start_picture(*item, text="") for item in items):
            yield from (row.image for row in batch)

    def _batches(self, started: Iterable[_Row]) -> Iterator[list[_Row]]:
        """Start rows a bounded way ahead and yield them in batches whose pictures are encoded."""
        waiting: deque[_Row] = deque()
        source = _Source(started)
        ahead_bytes = 0  # what the rows waiting bring along: data: URLs and pictures in memory may be large

        def refill() -> None:
            nonlocal ahead_bytes
            while len(waiting) < self.look_ahead and ahead_bytes < _AHEAD_BYTES and (row := source.next()) is not None:
                waiting.append(row)
                ahead_bytes += row.size

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
            yield batch
        if source.problem is not None:
            raise source.problem

    def _start(self, key: Hashable, item: Item, text: object) -> _Row:
        """Check a row's caption and set its picture loading."""
        if not is_caption(text):
            return _Row(no_caption(), "", 0)
        return self._start_picture(key, item, text)

    def _start_picture(self, key: Hashable, item: Item, text: str) -> _Row:
        """Set a picture loading, unless one with the same key is within reach."""
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
            outcomes = encode_each(self.encode_prepared, [picture.pixels for picture in pictures])
        for picture, outcome in zip(pictures, outcomes, strict=True):
            picture.finish(outcome)

    def _encode_captions(self, texts: Iterable[str]) -> None:
        size = self.config.batch_size
        new = [text for text in dict.fromkeys(texts) if self.captions.get(text) is None]
        with self.stats.timed("encode_text"):
            for start in range(0, len(new), size):
                chunk = new[start : start + size]
                for text, outcome in zip(chunk, encode_each(self.encoder.encode_text, chunk), strict=True):
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
        image = row.image
        if isinstance(image, RowError):
            return image
        text = self.captions.get(row.text)
        if isinstance(text, RowError):
            return text
        if text is None:
            raise AssertionError("a row is scored after its caption is encoded")
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
        return isinstance(self.image, RowError)

    @property
    def image(self) -> Outcome:
        """The picture's vector or its error; only after its batch is encoded."""
        outcome = self.picture.outcome if isinstance(self.picture, _Picture) else self.picture
        if outcome is None:
            raise AssertionError("a row is answered after its picture is encoded")
        return outcome


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


def is_caption(text: object) -> TypeGuard[str]:
    """Say whether there is anything to encode."""
    return isinstance(text, str) and bool(text.strip())


def no_caption() -> RowError:
    """Return the error of a row for which `is_caption` says no."""
    return RowError(ErrorCode.EMPTY_CAPTION, "the caption is empty or missing")


def _size(item: object) -> int:
    """Return roughly how many bytes a row's own picture or reference takes."""
    if isinstance(item, Image.Image):
        return item.width * item.height * len(item.getbands())
    return item.nbytes if isinstance(item, np.ndarray) else len(item) if isinstance(item, (bytes, str)) else 0


def encode_each(encode: Callable[[list[Any]], NDArray[np.float32]], items: list[Any]) -> list[Outcome]:
    """Encode a batch; if it fails, encode its items one by one, so that only the guilty ones fail."""
    if not items:
        return []
    try:
        vectors = list(encode(items))
    except Exception as exc:  # whatever a model raises belongs to rows, not to the run
        if len(items) == 1:
            logger.debug("an item could not be encoded", exc_info=True)
            return [RowError(ErrorCode.ENCODER_ERROR, f"{type(exc).__name__}: {exc}")]
        return [outcome for item in items for outcome in encode_each(encode, [item])]
    return [
        vector if np.isfinite(vector).all() else RowError(ErrorCode.NON_FINITE, "the model gave no finite embedding")
        for vector in vectors
    ]
