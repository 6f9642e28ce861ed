"""Records in, scores out: fetch and decode on threads, encode in batches, answer in order.

    records -> distinct pictures -> fetch, decode, resize (threads) -> batches -> encode -> score -> ordered results

While one batch is encoded the threads fetch and decode the next ones, up to a fixed look-ahead. Batches are filled in
input order, so the same outcomes give the same batches and the same numbers on every run. Nothing is kept per row.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from threading import BoundedSemaphore, Lock
from typing import Any, Generic, TypeVar

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .config import Config
from .decode import decode
from .encoders import Encoder, load_encoder
from .errors import ErrorCode, RowError
from .fetch import Fetcher
from .preprocess import ImageLike, Pixels, as_image
from .records import Record, ScoreResult
from .similarity import cosine, score

logger = logging.getLogger("text_image_similarity")

Vector = NDArray[np.float32]  # (embed_dim,)
Outcome = Vector | RowError
Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclass(slots=True)
class RunStats:
    """What a run has done so far; safe to update from many threads.

    Stage seconds are summed over threads, so fetch and decode may exceed the wall clock.
    """

    rows: int = 0
    scored: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    lock: Lock = field(default_factory=Lock)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time a block takes to a stage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            with self.lock:
                self.seconds[stage] += time.perf_counter() - began  # type: ignore[assignment]  # a Counter of floats

    def count(self, result: ScoreResult) -> None:
        """Count one finished row."""
        self.rows += 1
        if result.code is None:
            self.scored += 1
        else:
            self.failures[result.code.value] += 1


def score_pairs(
    records: Iterable[Record],
    config: Config,
    *,
    encoder: Encoder | None = None,
    transport: httpx.BaseTransport | None = None,
    stats: RunStats | None = None,
) -> Generator[ScoreResult]:
    """Score how well each record's picture matches its text.

    Lazy and streaming: results come in input order, look-ahead is bounded, and an endless iterable is fine. Closing the
    iterator stops its threads.

    Args:
        records: Pictures and captions.
        config: The settings of the run.
        encoder: A loaded encoder to use and share; None loads the one that `config` names.
        transport: Where http requests go, for tests; None is the network.
        stats: Counters to update while the run goes.

    Returns:
        One result per record. A row that fails carries its error and never raises.

    Raises:
        ConfigError, ModelError: At once, before a record is read.

    Example:
        >>> from text_image_similarity.encoders.colour import ColourEncoder
        >>> dot = Record("data:image/gif;base64,R0lGODlhAQABAIAAAP8AAP///ywAAAAAAQABAAACAkQBADs=", "a red dot")
        >>> [result.similarity for result in score_pairs([dot], Config(), encoder=ColourEncoder())]
        [1.0]
    """
    encoder = encoder or load_encoder(config)

    def results() -> Generator[ScoreResult]:
        fetcher = Fetcher(config, transport=transport)

        def read(url: str) -> bytes:
            with run.stats.timed("fetch"):
                return fetcher.fetch(url)

        run = _Run(config, encoder, read, stats or RunStats())
        pairs = ((_reference(r.url), _reference(r.url), r.text) for r in records)
        with closing(run), closing(fetcher):  # the fetcher first, so that no thread stays in a download
            yield from run.results(pairs)

    return results()


def score_images(
    images: Iterable[ImageLike | bytes],
    texts: Iterable[str],
    config: Config,
    *,
    encoder: Encoder | None = None,
) -> Generator[ScoreResult]:
    """Score pictures that are in memory already: PIL images, RGB arrays (h, w, 3) uint8, or encoded bytes.

    Args:
        images: The pictures.
        texts: One caption for each.
        config: The settings of the run.
        encoder: A loaded encoder to use and share; None loads the one that `config` names.

    Returns:
        One result per pair, in order, as from `score_pairs`.

    Raises:
        ConfigError, ModelError: At once.
        ValueError: While iterating, if there are more of one than of the other.
    """
    encoder = encoder or load_encoder(config)
    loading = Lock()

    def read(image: ImageLike | bytes) -> ImageLike | bytes:
        if isinstance(image, Image.Image):
            with loading:  # a picture that Image.open left unread may be given twice, and two threads must not read it
                image.load()
        return image

    def results() -> Generator[ScoreResult]:
        pairs = ((number, *pair) for number, pair in enumerate(zip(images, texts, strict=True)))
        with closing(_Run(config, encoder, read, RunStats())) as run:
            yield from run.results(pairs)

    return results()


class _Run(Generic[Item]):
    """One pass over (key, item, text) rows; rows with the same key share one picture.

    Args:
        read: Gives an item's encoded bytes or its picture; called on loader threads.
    """

    def __init__(
        self, config: Config, encoder: Encoder, read: Callable[[Item], bytes | ImageLike], stats: RunStats
    ) -> None:
        self.config, self.encoder, self.read, self.stats = config, encoder, read, stats
        self.look_ahead = max(8 * config.batch_size, 4 * config.io_workers)
        self.pool = ThreadPoolExecutor(config.io_workers, thread_name_prefix="score-io")
        self.decoders = BoundedSemaphore(os.cpu_count() or 1)  # large pictures are decoded a few at a time
        self.pictures: _Recent[Hashable, _Picture] = _Recent(2 * self.look_ahead)
        self.captions: _Recent[str, Outcome] = _Recent(2 * self.look_ahead)

    def close(self) -> None:
        """Stop the loader threads; work that has not started is dropped."""
        self.pool.shutdown(cancel_futures=True)

    def results(self, rows: Iterable[tuple[Hashable, Item, object]]) -> Iterator[ScoreResult]:
        """Yield one result per row, in order."""
        waiting: deque[_Row] = deque()
        source = _Source(rows)

        def refill() -> None:
            while len(waiting) < self.look_ahead and (row := source.next()) is not None:
                waiting.append(self._start(*row))

        refill()
        while waiting:
            batch: list[_Row] = []
            new: dict[int, _Picture] = {}
            while waiting and len(new) < self.config.batch_size and len(batch) < 4 * self.config.batch_size:
                row = waiting.popleft()
                refill()
                batch.append(row)
                if row.picture is not None and row.picture.outcome is None and row.picture.loaded():
                    new[id(row.picture)] = row.picture
            self._encode_pictures(list(new.values()))
            self._encode_captions([row.text for row in batch])
            for result in self._score(batch):
                self.stats.count(result)
                yield result
        if source.problem is not None:
            raise source.problem

    def _start(self, key: Hashable, item: Item, text: object) -> _Row:
        """Check a row's caption and set its picture loading, unless one with the same key is within reach."""
        if not isinstance(text, str) or not text.strip():
            return _Row(None, "", RowError(ErrorCode.EMPTY_CAPTION, "the caption is empty or missing"))
        picture = self.pictures.get(key)
        if picture is None:
            picture = self.pictures.put(key, _Picture(self.pool.submit(self._load, item)))
        return _Row(picture, text, None)

    def _load(self, item: Item) -> Pixels | RowError:
        """Read, decode and resize one picture; runs on a loader thread."""
        try:
            content = self.read(item)
            with self.decoders, self.stats.timed("decode"):
                image = decode(content, self.config.limits) if isinstance(content, bytes) else as_image(content)
                return self.encoder.prepare(image)
        except RowError as error:
            return error
        except Exception as exc:  # a row must never end the run
            logger.debug("a picture could not be loaded", exc_info=True)
            return RowError(ErrorCode.DECODER_CRASH, f"{type(exc).__name__}: {exc}")

    def _encode_pictures(self, pictures: Sequence[_Picture]) -> None:
        with self.stats.timed("encode_image"):
            outcomes = _encode_each(self.encoder.encode_image, [picture.pixels for picture in pictures])
        for picture, outcome in zip(pictures, outcomes, strict=True):
            picture.finish(outcome)

    def _encode_captions(self, texts: Iterable[str]) -> None:
        size = self.config.batch_size
        new = [text for text in dict.fromkeys(texts) if text and self.captions.get(text) is None]
        with self.stats.timed("encode_text"):
            for start in range(0, len(new), size):
                chunk = new[start : start + size]
                for text, outcome in zip(chunk, _encode_each(self.encoder.encode_text, chunk), strict=True):
                    self.captions.put(text, outcome)

    def _score(self, batch: Sequence[_Row]) -> Iterator[ScoreResult]:
        images = np.zeros((len(batch), self.encoder.embed_dim), np.float32)  # (n, d); failed rows stay zero
        texts = np.zeros_like(images)
        problems: list[RowError | None] = []
        for i, row in enumerate(batch):
            image = row.picture.outcome if row.picture is not None else row.error
            text = self.captions.get(row.text) if row.text else row.error
            problems.append(next((outcome for outcome in (image, text) if isinstance(outcome, RowError)), None))
            if problems[-1] is None:
                images[i], texts[i] = image, text  # type: ignore[assignment]  # both are vectors now
        with self.stats.timed("score"):
            scores = score(cosine(images, texts), self.config.score)
        for problem, value in zip(problems, scores, strict=True):
            # The shortest decimal that names the float32, so that a table and a notebook show the same number.
            yield ScoreResult(float(str(value))) if problem is None else ScoreResult.failed(problem)


class _Picture:
    """One distinct picture: loading, then loaded, then encoded or failed."""

    __slots__ = ("_loading", "outcome", "pixels")

    def __init__(self, loading: Future[Pixels | RowError]) -> None:
        self._loading: Future[Pixels | RowError] | None = loading
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
    picture: _Picture | None
    text: str
    error: RowError | None


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


def _reference(url: object) -> str:
    """Return a record's reference as text; anything but text or a path counts as empty."""
    return str(url) if isinstance(url, (str, os.PathLike)) else ""
