"""One pass over the rows, in which fetching, decoding and encoding overlap.

While one batch is encoded, threads fetch and decode the next ones, up to a fixed look-ahead. Batches are filled in
input order and end with their part. Nothing is kept per row.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, Generic

import numpy as np
from PIL import Image

from ..config import Config
from ..embeddings import EmbeddingMemory, PartEmbeddings, Recent, Vector
from ..errors import ErrorCode, RowError
from ..records import ScoreResult, caption_of, image_of
from .feeders import LazyFeeders, look_ahead_of
from .loaders import Loaders
from .rows import DeferredErrors, Item, LoadedImage, Outcome, PendingImage, PendingRow, Tag, Work
from .stages import Stages, cut_of, vectors_of
from .stats import RunStats

_AHEAD_BYTES = 256 * 1024 * 1024  # bytes that also limit the look-ahead, so that large rows do not fill the memory
_AHEAD_KNOWN = 64  # times the look-ahead, for rows that already have their result and need no loading


class _Mark(Enum):
    """A marker of the end of a part among its rows."""

    END = "end of a part"


@dataclass(frozen=True, slots=True)
class RunContext:
    """The resources that runs of one session share.

    Args:
        stages: The steps of scoring.
        memory: Remembered embeddings.
        loaders: Threads that fetch, decode and resize images.
        tokenizer: Thread that tokenizes captions while images are encoded.
        feeders: Processes that do the work of `loaders`, if there are any.
    """

    config: Config
    stages: Stages
    memory: EmbeddingMemory
    loaders: Loaders
    tokenizer: Loaders
    feeders: LazyFeeders


class Run(Generic[Item, Tag]):
    """One pass over rows: images with captions (`results`) or images alone (`embeddings`).

    Rows of a part with the same key share one image; so do images, and captions, with the same content.

    Args:
        context: Resources shared with other runs.
        read: Function that returns an item's encoded bytes, or its image in RGB; called on loader threads.
        stats: Counters to update.
    """

    def __init__(self, context: RunContext, read: Callable[[Item], bytes | Image.Image], stats: RunStats) -> None:
        self._config, self._read, self._stats = context.config, read, stats
        self._loaders, self._tokenizer, self._feeders = context.loaders, context.tokenizer, context.feeders
        self._stages = context.stages.with_stats(stats)
        self._embeddings = PartEmbeddings(context.memory)
        self._look_ahead = self._feeders.look_ahead or look_ahead_of(self._config, self._stages.prepares)
        self._begun = 0  # images
        self._images: Recent[Hashable, PendingImage] = Recent(2 * self._look_ahead)
        self._waiting: deque[PendingRow[Tag] | _Mark] = deque()
        self._ahead = 0  # waiting rows that need a score
        self._ahead_bytes = 0  # bytes of these rows: data: URLs and images in memory may be large

    def results(
        self, parts: Iterable[Iterable[tuple[Tag, Work[Item] | RowError | ScoreResult]]]
    ) -> Generator[tuple[Tag, ScoreResult]]:
        """Yield one result per row with the row's tag, in order; a row that already has a result keeps it."""
        for batch, images, ends_part in self._batches(self._started(parts)):
            captions, new = self._known_captions(
                text for row in batch if row.needs_caption for text in (row.text, *row.references)
            )
            texts = list(new)
            tokens = self._tokenizer.submit(partial(self._stages.tokens, texts))  # while the images are encoded
            known = self._tokenizer.submit(partial(self._stages.cut_among, list(captions))) if captions else None
            self._encode_images(images)
            captions |= self._encode_captions(new, tokens.result())
            cut = cut_of(texts, tokens.result()) | (known.result() if known else set())
            results = list(self._score(batch, captions))
            if ends_part:  # before the last result is yielded: its receiver may stop here
                self._embeddings.end_part()
            for row, result in zip(batch, results, strict=True):
                if result is not row.image:
                    self._stats.count(result, cut=row.text in cut)
                yield row.tag, result

    def embeddings(
        self, items: Iterable[tuple[Tag, Hashable, Item]]
    ) -> Generator[tuple[tuple[Tag, bytes | None], Outcome]]:
        """Yield the vector or the error of each (tag, key, item), in order, with its tag and the key of its content."""
        started = (self._start_image(tag, Work(key, item, ""), "") for tag, key, item in items)
        for batch, images, _ in self._batches(started):
            self._encode_images(images)
            self._embeddings.save()
            yield from (((row.tag, row.content_key), self._stages.own(row.outcome)) for row in batch)

    def _started(
        self, parts: Iterable[Iterable[tuple[Tag, Work[Item] | RowError | ScoreResult]]]
    ) -> Iterator[PendingRow[Tag] | _Mark]:
        """Start loading rows, one after another, and mark the ends of parts."""
        for part in parts:
            yield from (self._start(tag, work) for tag, work in part)
            self._images.clear()
            yield _Mark.END

    def _batches(
        self, started: Iterable[PendingRow[Tag] | _Mark]
    ) -> Iterator[tuple[list[PendingRow[Tag]], list[list[PendingImage]], bool]]:
        """Start rows with a bounded look-ahead, and yield them in batches.

        Each batch comes with the images to encode, copies together, and whether it is the last of its part.
        """
        source, process = DeferredErrors(started), os.getpid()
        try:
            self._refill(source)
            while self._waiting:
                yield self._next_batch(source)
        finally:
            # A fork copies no threads, but the locks that they hold, so cancelling their work there might wait forever.
            for row in self._waiting if process == os.getpid() else ():
                if isinstance(row, PendingRow) and isinstance(row.image, PendingImage):
                    row.image.cancel()
        if source.problem is not None:
            raise source.problem

    def _next_batch(
        self, source: DeferredErrors[PendingRow[Tag] | _Mark]
    ) -> tuple[list[PendingRow[Tag]], list[list[PendingImage]], bool]:
        batch: list[PendingRow[Tag]] = []
        new: dict[Hashable, list[PendingImage]] = {}
        size, scored = self._config.batch_size, 0
        while self._waiting and len(new) < size and scored < 4 * size and len(batch) < _AHEAD_KNOWN * size:
            row = self._waiting.popleft()
            if isinstance(row, _Mark):  # of a part without rows, or whose last row was large
                self._refill(source)
                return batch, list(new.values()), True
            self._count_ahead(row, -1)
            self._refill(source)
            batch.append(row)
            scored += not isinstance(row.image, ScoreResult)
            if isinstance(row.image, PendingImage):
                self._sort_in(row.image, new)
            if self._waiting and self._waiting[0] is _Mark.END:
                self._waiting.popleft()
                self._refill(source)
                return batch, list(new.values()), True
        return batch, list(new.values()), False

    def _refill(self, source: DeferredErrors[PendingRow[Tag] | _Mark]) -> None:
        """Start further rows, up to the look-ahead."""
        while (
            self._ahead < self._look_ahead
            and self._ahead_bytes < _AHEAD_BYTES
            and len(self._waiting) < _AHEAD_KNOWN * self._look_ahead
            and (row := source.next()) is not None
        ):
            self._waiting.append(row)
            if isinstance(row, PendingRow):
                self._count_ahead(row, 1)

    def _count_ahead(self, row: PendingRow[Tag], step: int) -> None:
        self._ahead += step * (not isinstance(row.image, ScoreResult))
        self._ahead_bytes += step * row.size

    def _sort_in(self, image: PendingImage, new: dict[Hashable, list[PendingImage]]) -> None:
        """Finish a loaded image whose embedding is known, or add it to those to encode."""
        if image.outcome is not None or (content := image.loaded()) is None:
            return
        key: Hashable = content.key or id(image)
        if key not in new:  # otherwise it is in this batch, whatever another thread has remembered since
            # Vectors that this part encoded take precedence over remembered ones, so that results do not depend on
            # timing.
            vector = content.vector if content.key is None else self._embeddings.get(content.key, content.vector)
            if vector is not None:
                image.finish(vector)
                return
        twins = new.setdefault(key, [])
        if image not in twins:
            twins.append(image)

    def _start(self, tag: Tag, work: Work[Item] | RowError | ScoreResult) -> PendingRow[Tag]:
        """Check a row's caption and start loading its image."""
        if isinstance(work, (RowError, ScoreResult)):
            return PendingRow(tag, work, "", 0)
        caption = caption_of(work.text)
        if not isinstance(caption, RowError) and self._config.score == "ref_clipscore" and not work.references:
            caption = RowError(ErrorCode.EMPTY_CAPTION, "the row has no reference captions")
        return (
            PendingRow(tag, caption, "", 0) if isinstance(caption, RowError) else self._start_image(tag, work, caption)
        )

    def _start_image(self, tag: Tag, work: Work[Item], text: str) -> PendingRow[Tag]:
        """Start loading an image, unless one with the same key is in the look-ahead."""
        image = self._images.get(work.key)
        if image is None:
            image = self._images.put(work.key, PendingImage(self._loading(work.item)))
        references = work.references if self._config.score == "ref_clipscore" else ()
        size = _size(work.item) + len(text) + sum(map(len, references))
        return PendingRow(tag, image, text, size, references)

    def _loading(self, item: Item) -> Future[LoadedImage | RowError]:
        """Have one image read, decoded and resized, by a feeder or on a loader thread."""
        self._begun += 1
        feeders = None if isinstance(item, (Image.Image, np.ndarray)) else self._feeders.after(self._begun)
        if feeders is None or isinstance(found := image_of(item), RowError):
            return self._loaders.submit(partial(self._load, item))
        return feeders.load(found, self._stats)

    def _load(self, item: Item) -> LoadedImage | RowError:
        """Read, decode and resize one image; runs on a loader thread."""
        return self._stages.load(partial(self._read, item))

    def _encode_images(self, images: Sequence[list[PendingImage]]) -> None:
        contents = [twins[0].content for twins in images]
        outcomes = self._stages.encode_images([content.pixels for content in contents if content])
        for twins, content, outcome in zip(images, contents, outcomes, strict=True):
            if content is not None and content.key is not None:
                self._embeddings.put(content.key, outcome)
            for image in twins:
                image.finish(outcome)

    def _known_captions(self, texts: Iterable[str]) -> tuple[dict[str, Outcome], dict[str, bytes]]:
        """Return the known captions with their vectors, and the other captions with their keys, sorted by length."""
        keys = {text: self._stages.caption_key(text) for text in dict.fromkeys(texts)}
        known = self._embeddings.get_many(list(keys.values()))
        found: dict[str, Outcome] = {text: known[key] for text, key in keys.items() if key in known}
        return found, {text: keys[text] for text in sorted((text for text in keys if text not in found), key=len)}

    def _encode_captions(self, keys: Mapping[str, bytes], tokens: list[Any] | None) -> Mapping[str, Outcome]:
        """Encode captions and remember them by their keys."""
        outcomes = self._stages.encode_captions(list(keys), tokens)
        for key, outcome in zip(keys.values(), outcomes, strict=True):
            self._embeddings.put(key, outcome)
        return dict(zip(keys, outcomes, strict=True))

    def _score(self, batch: Sequence[PendingRow[Tag]], captions: Mapping[str, Outcome]) -> Iterator[ScoreResult]:
        pairs: list[list[Vector] | RowError] = []
        for row in batch:
            if not isinstance(row.image, ScoreResult):
                outcome = row.outcome
                # The caption of a row whose image failed need not be encoded.
                pairs.append(
                    outcome
                    if isinstance(outcome, RowError)
                    else vectors_of(outcome, *[captions[text] for text in (row.text, *row.references)])
                )
        scores = self._stages.score(pairs, self._config.score)
        return (row.image if isinstance(row.image, ScoreResult) else next(scores) for row in batch)


def _size(item: object) -> int:
    """Return the approximate size in bytes of a row's own image or reference."""
    if isinstance(item, Image.Image):
        return item.width * item.height * len(item.getbands())
    if isinstance(item, (np.ndarray, memoryview)):
        return item.nbytes
    return len(item) if isinstance(item, (bytes, bytearray, str)) else 0
