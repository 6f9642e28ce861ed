"""Sessions: a model with connections, threads and remembered embeddings, opened once and used for many calls."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import CancelledError
from contextlib import closing
from itertools import islice, repeat
from threading import Lock, RLock
from types import TracebackType
from typing import NoReturn
from weakref import finalize

import httpx
import numpy as np
from PIL import Image

from ..checks import settings_in_config
from ..config import ConfigLike, as_config, pair_score
from ..decode import decode_image
from ..embeddings import REMEMBERED, EmbeddingMemory, Vector
from ..encoders import Encoder, as_preparing, load_encoder
from ..errors import RowError, UsageError
from ..fetch import Fetcher, check_files
from ..preprocess import as_image
from ..records import Record, ScoreResult, caption_of, image_of, required
from ..similarity import Embeddings, score_all
from .feeders import LazyFeeders, plan_feeders
from .inputs import RecordLike, check_encoder, check_pairs, check_tagged, checked, images_of, records_of, texts_of
from .loaders import Loaders, close_in, in_one_process
from .rows import Batches, Item, Outcome, Row, Tag, by_row, untagged
from .run import Run, RunContext
from .sources import ImageSource, in_parts, key_of, rows_in_memory, rows_of
from .stages import Stages, open_cache
from .stats import RunStats


class Scorer:
    """A session that scores and embeds with one model, one pool of threads, and one cache of embeddings.

    A scorer is a context manager, and is safe to share between threads. Threads and connections are opened on first
    use, and again in a forked process. Concurrent calls share the threads, in order, so give a long run over a table
    its own session.

    Args:
        config: The settings of all calls, or a model's name; None is `Config()`.
        encoder: A loaded encoder to use and share; None loads the one that `config` names.
        transport: Transport for HTTP requests, for tests; no feeders are then used. None is the network.
        known: Function from the key of an image's content to an embedding from elsewhere, or None; it must be
            thread-safe.

    Raises:
        ConfigError, ModelError: The model or the embedding cache cannot be used.

    Example:
        >>> from text_image_similarity.encoders.testing import ColourEncoder
        >>> red = np.zeros((8, 8, 3), np.uint8) + np.uint8([255, 0, 0])
        >>> with Scorer(encoder=ColourEncoder()) as scorer:
        ...     scorer.similarity_matrix([red], ["a red dot", "a magenta dot"]).round(4)
        array([[1.    , 0.7071]], dtype=float32)
    """

    @settings_in_config
    def __init__(
        self,
        config: ConfigLike = None,
        *,
        encoder: Encoder | None = None,
        transport: httpx.BaseTransport | None = None,
        known: Callable[[bytes], Vector | None] | None = None,
    ) -> None:
        self.config = config = as_config(config)
        check_files(config)
        self.encoder = load_encoder(config) if encoder is None else check_encoder(encoder)
        self._transport, self._known, self._closed = transport, known, False
        self._plan = None if transport else plan_feeders(config, self.encoder, skips=known is not None)
        self._begin()

    def _begin(self) -> None:
        """Open only the embedding cache; the rest is opened on first use."""
        self._process = os.getpid()
        # If a vector depends on the rest of its batch, a resumed run would find other vectors in memory.
        entries = REMEMBERED if as_preparing(self.encoder).batch_invariant else 0
        self._memory = EmbeddingMemory(entries, open_cache(self.config, self.encoder), self._known)
        self._opening = RLock()  # held while one of the next three is created, or all are closed
        self._made_stages: Stages | None = None
        self._made_fetcher: Fetcher | None = None
        self._made_context: RunContext | None = None
        # An image that Image.open has not read yet may occur twice, and two threads must not read it at the same time.
        self._reading = Lock()

    def __repr__(self) -> str:
        return f"Scorer({self.encoder.info.model})"

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Scorer cannot be pickled or copied; send its Config, and create a Scorer where you need one")

    def close(self) -> None:
        """Stop downloads and threads; calls in progress end with a `UsageError`."""
        if sys.is_finalizing():
            return  # the threads are dead, and the locks that they held stay locked
        self._begin_after_fork()
        with self._opening:
            self._closed = True
        if self._made_fetcher is not None:  # first, so that no thread stays in a download
            self._made_fetcher.close()
        if self._made_stages is not None:
            self._made_stages.close()
        if self._made_context is not None:
            self._made_context.feeders.close()
            self._made_context.loaders.close()
        self._memory.close()

    def score_pairs(self, records: Iterable[RecordLike], *, stats: RunStats | None = None) -> Generator[ScoreResult]:
        """Score records as the function `score_pairs` does.

        Args:
            records: Images and captions.
            stats: Counters to update during the call.
        """
        rows = zip(repeat(None), records_of(records))
        return untagged(self._score_parts(in_parts(rows, self.config.chunk_size), stats))

    def score_tagged(
        self, rows: Iterable[tuple[Tag, Record | ScoreResult]], *, stats: RunStats | None = None
    ) -> Generator[tuple[Tag, ScoreResult]]:
        """Score records with tags that are returned with their results.

        Args:
            rows: Tags with records, or with results that are already known, which are returned unchanged.
            stats: Counters to update during the call.

        Returns:
            Each tag with its result, in order.
        """
        return self.score_parts(in_parts(checked(rows, "rows", check_tagged), self.config.chunk_size), stats=stats)

    def score_parts(
        self, parts: Iterable[Iterable[tuple[Tag, Record | ScoreResult]]], *, stats: RunStats | None = None
    ) -> Generator[tuple[Tag, ScoreResult]]:
        """Score tagged records part by part; the scores of a part do not depend on other parts.

        A job that keeps its finished parts may therefore resume later and get the same scores.

        Args:
            parts: Iterables of rows as for `score_tagged`, one for each part.
            stats: Counters to update during the call.
        """
        return by_row(self._score_parts(parts, stats))

    def score_images(self, images: Iterable[ImageSource], texts: Iterable[str]) -> Generator[ScoreResult]:
        """Score images in memory as the function `score_images` does.

        Args:
            images: PIL images, RGB arrays or tensors, encoded files, mappings that hold a file, or references.
            texts: One caption for each image.
        """
        pair_score(self.config, "score_images")
        parts = in_parts(rows_in_memory(*check_pairs(images, texts)), self.config.chunk_size)
        return untagged(self._score(self._read_image, parts, RunStats()))  # type: ignore[arg-type]  # as above

    def embed_images(self, images: Iterable[ImageSource]) -> Generator[Outcome]:
        """Encode images as `score_pairs` and `score_images` do, lazily and with a bounded look-ahead.

        Args:
            images: References (paths or URLs), images in memory, encoded files, or mappings that hold a file.

        Returns:
            For each image, in order, its unit vector, (embed_dim,) float32, or a `RowError`, which is not raised.
        """
        given = images_of(images)
        return untagged(self._embed((None, image) for image in given))

    def embed_tagged(
        self, images: Iterable[tuple[Tag, ImageSource]]
    ) -> Generator[tuple[tuple[Tag, bytes | None], Outcome]]:
        """Encode images as `embed_images` does, each with a tag that is returned with its vector.

        The tag is followed by the key of the image's content, which is None if the image could not be read or is in
        memory.
        """
        return by_row(self._embed(images))

    def embed_texts(self, texts: Iterable[str]) -> Generator[Outcome]:
        """Encode captions in batches of `config.batch_size`, lazily.

        Args:
            texts: Captions.

        Returns:
            For each caption, in order, its unit vector or a `RowError`, as from `embed_images`.
        """
        self._check_open()
        rest = iter(texts_of(texts))

        def outcomes() -> Generator[Outcome]:
            while chunk := list(islice(rest, self.config.batch_size)):
                self._check_open()
                captions = [caption_of(text) for text in chunk]
                found = self._embedded(list(dict.fromkeys(text for text in captions if isinstance(text, str))))
                for caption in captions:
                    self._check_open()
                    yield self._stages.own(found[caption]) if isinstance(caption, str) else caption

        return outcomes()

    def similarity_matrix(self, images: Iterable[ImageSource], texts: Iterable[str]) -> Embeddings:
        """Score every image with every caption.

        Args:
            images: As for `embed_images`.
            texts: Captions.

        Returns:
            Scores, shape (images, captions), float32, in the score kind of `config.score`, equal to those from
            `score_pairs`. NaN where an image or a caption could not be encoded; `embed_images` and `embed_texts` return
            the reason.
        """
        kind, missing = pair_score(self.config, "a matrix"), np.full(self.encoder.embed_dim, np.nan, np.float32)
        rows, columns = (
            [missing if isinstance(outcome, RowError) else outcome for outcome in outcomes]
            for outcomes in (self.embed_images(images), self.embed_texts(texts))
        )
        return score_all(rows, columns, kind)

    def _score_parts(
        self, parts: Iterable[Iterable[tuple[Tag, Record | ScoreResult]]], stats: RunStats | None
    ) -> Batches[Tag, ScoreResult]:
        used = stats or RunStats()

        def read(image: str | bytes) -> bytes:
            with used.timed("fetch"):
                return image if isinstance(image, bytes) else self._fetcher.fetch(image)

        return self._score(read, map(rows_of, parts), used)  # type: ignore[arg-type]  # mypy joins str and bytes

    def _score(
        self,
        read: Callable[[Item], bytes | Image.Image],
        parts: Iterable[Iterable[Row[Tag, Item]]],
        stats: RunStats,
    ) -> Batches[Tag, ScoreResult]:
        return self._while_open(lambda: Run[Item, Tag](self._context, read, stats).results(parts))

    def _embed(self, images: Iterable[tuple[Tag, ImageSource]]) -> Batches[tuple[Tag, bytes | None], Outcome]:
        keyed = ((tag, key_of(image), image) for tag, image in images)
        return self._while_open(
            lambda: Run[ImageSource, Tag](self._context, self._read_image, RunStats()).embeddings(keyed)
        )

    def _embedded(self, texts: list[str]) -> dict[str, Outcome]:
        """Return the vectors of distinct captions, encoding the unknown ones together."""
        keys = self._stages.caption_keys(texts)
        known = self._memory.get_many(keys.values())
        found: dict[str, Outcome] = {text: known[key] for text, key in keys.items() if key in known}
        new = [text for text in texts if text not in found]
        made = dict(zip(new, self._stages.encode_captions(new, self._stages.tokens(new)), strict=True))
        self._memory.put({keys[text]: outcome for text, outcome in made.items() if not isinstance(outcome, RowError)})
        return found | made

    def _read_image(self, image: ImageSource) -> Image.Image | bytes:
        if isinstance(image, (Image.Image, np.ndarray)):
            with self._reading:
                return decode_image(as_image(image), self.config.limits)
        found = required(image_of(image))
        return found if isinstance(found, bytes) else self._fetcher.fetch(found)

    def _begin_after_fork(self) -> None:
        if self._process != os.getpid():  # keep what the parent opened: closing it would break its connections
            self._inherited = (self._memory, self._made_stages, self._made_fetcher, self._made_context)
            self._begin()

    def _check_open(self) -> None:
        self._begin_after_fork()
        if self._closed:
            raise UsageError("this Scorer is closed; create a new one")

    def _while_open(self, begin: Callable[[], Generator[Item]]) -> Generator[Item]:
        """Return the batches of a run until `close` is called; later results would be incomplete."""
        self._check_open()

        def batches() -> Generator[Item]:
            try:
                with closing(begin()) as found:
                    for batch in in_one_process(found):
                        self._check_open()
                        yield batch
            except CancelledError:
                self._check_open()  # otherwise, the caller cancelled it
                raise

        return batches()

    @property
    def _stages(self) -> Stages:
        self._check_open()
        with self._opening:
            if self._made_stages is None:
                self._made_stages = Stages(self.config, self.encoder, self._memory.get)
                finalize(self, close_in, os.getpid(), self._made_stages.close).atexit = False
            return self._made_stages

    @property
    def _fetcher(self) -> Fetcher:
        self._check_open()
        with self._opening:
            if self._made_fetcher is None:
                self._made_fetcher = Fetcher(self.config, transport=self._transport)
                finalize(self, close_in, os.getpid(), self._made_fetcher.close).atexit = False
            return self._made_fetcher

    @property
    def _context(self) -> RunContext:
        self._check_open()
        with self._opening:
            if self._made_context is None:
                loaders, feeders = Loaders(self.config.io_workers), LazyFeeders(self._plan, self._memory.get)
                self._made_context = RunContext(self.config, self._stages, self._memory, loaders, feeders)
            return self._made_context
