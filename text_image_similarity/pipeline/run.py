"""One pass over the rows, in which fetching, decoding and encoding overlap.

While one batch is encoded, threads fetch and decode the next ones, up to a fixed look-ahead. Batches are filled in
input order and end with their part. Nothing is kept per row.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Generic

import numpy as np
from PIL import Image

from ..config import Config
from ..embeddings import EmbeddingMemory, PartEmbeddings, Recent, Vector
from ..errors import RowError
from ..records import ScoreResult, image_of, reference_problem, visible_texts
from .encoding import one_late
from .feeders import LazyFeeders, look_ahead_of
from .loaders import Loaders
from .rows import Batches, Item, LoadedImage, Outcome, PendingImage, PendingRow, Row, RowBatch, Tag, in_a_row
from .stages import Stages, cut_of, vectors_of
from .stats import RunStats

_AHEAD_BYTES = 256 * 1024 * 1024  # bytes that also limit the look-ahead, so that large rows do not fill the memory
_REFERENCES = 256  # multiple of the batch size: reference captions after which a batch ends
_AHEAD_KNOWN = 64  # multiple of the look-ahead for rows that already have their result and need no loading


@dataclass(frozen=True, slots=True)
class RunContext:
    """The resources that runs of one session share.

    Args:
        stages: The steps of scoring.
        memory: Remembered embeddings.
        loaders: Threads that fetch, decode and resize images.
        feeders: Processes that do the work of `loaders`, if there are any.
    """

    config: Config
    stages: Stages
    memory: EmbeddingMemory
    loaders: Loaders
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
        self._loaders, self._feeders = context.loaders, context.feeders
        self._stages = context.stages.with_stats(stats)
        self._embeddings = PartEmbeddings(context.memory)
        self._look_ahead = self._feeders.look_ahead or look_ahead_of(self._config, self._stages.prepares)
        self._compares_references = False
        self._begun = 0  # images
        self._images: Recent[Hashable, PendingImage] = Recent(2 * self._look_ahead)
        self._in_progress: dict[Hashable, list[PendingImage]] = {}  # images that a device is encoding
        self._waiting: deque[PendingRow[Tag] | None] = deque()  # None is the end of a part
        self._problem: Exception | None = None  # raised while rows were read
        self._ahead = 0  # waiting rows that need a score
        self._ahead_bytes = 0  # bytes of these rows: data: URLs and images in memory may be large

    def results(self, parts: Iterable[Iterable[Row[Tag, Item]]]) -> Batches[Tag, ScoreResult]:
        """Yield the tags of consecutive rows and their results, in order; a row that already has a result keeps it."""
        self._compares_references = self._config.score == "ref_clipscore"
        begun = ((batch, self._begin(batch)) for batch in self._batches(in_a_row(parts)))
        for batch, encoded in one_late(begun, lambda work: work[0].ends_part, late=self._stages.overlaps):
            captions, cut = encoded()
            results = self._score(batch, captions)
            if batch.ends_part:  # before the last result is yielded: its receiver may stop here
                self._embeddings.end_part()
            new_results = [result for result, image in zip(results, batch.images, strict=True) if result is not image]
            scored = zip(batch.texts, results, strict=True) if cut else ()
            self._stats.count(new_results, cut=sum(text in cut and result.error is None for text, result in scored))
            yield batch.tags, results

    def embeddings(self, items: Iterable[tuple[Tag, Hashable, Item]]) -> Batches[tuple[Tag, bytes | None], Outcome]:
        """Yield the vectors or errors of consecutive (tag, key, item), in order, with the tags and keys of contents."""
        rows = ((tag, key, item, "", ()) for tag, key, item in items)
        begun = ((batch, self._begin_images(batch.new)) for batch in self._batches(rows))
        for batch, wait_for_images in one_late(begun, lambda _: False, late=self._stages.overlaps):
            wait_for_images()
            self._embeddings.save()
            images = [image for image in batch.images if isinstance(image, PendingImage)]
            outcomes = [self._stages.own(image.outcome) for image in images if image.outcome is not None]
            yield [(tag, image.key) for tag, image in zip(batch.tags, images, strict=True)], outcomes

    def _begin(self, batch: RowBatch[Tag]) -> Callable[[], tuple[Mapping[str, Outcome], set[str]]]:
        """Begin to encode a batch; return a function that waits for it and returns caption outcomes and cut captions.

        Captions are tokenized here, not on a separate thread, because passing them there and back would take longer.
        """
        captions, new = self._known_captions(batch.captions())
        texts = list(new)
        wait_for_images = self._begin_images(batch.new)
        # In the meantime, a device that computes in parallel with this process encodes the images.
        tokens = self._stages.tokens(texts)
        wait_for_captions = self._stages.begin_captions(texts, tokens)
        cut = cut_of(texts, tokens) | self._stages.cut_among(list(captions))

        def encoded() -> tuple[Mapping[str, Outcome], set[str]]:
            wait_for_images()
            return captions | self._remembered(new, wait_for_captions()), cut

        return encoded

    def _batches(self, rows: Iterator[Row[Tag, Item] | None]) -> Iterator[RowBatch[Tag]]:
        """Start rows with a bounded look-ahead, and yield them in batches; exceptions come after the earlier rows."""
        process = os.getpid()
        try:
            self._refill(rows)
            while self._waiting:
                yield self._next_batch(rows)
        finally:
            # A fork copies no threads, but it copies the locks that they hold, so cancelling their work there might
            # wait forever.
            for row in self._waiting if process == os.getpid() else ():
                if row is not None and isinstance(row[1], PendingImage):
                    row[1].cancel()
        if self._problem is not None:
            raise self._problem

    def _next_batch(self, to_come: Iterator[Row[Tag, Item] | None]) -> RowBatch[Tag]:
        rows: list[PendingRow[Tag]] = []
        new: dict[Hashable, list[PendingImage]] = {}
        size, scored, compared, waiting, ends_part = self._config.batch_size, 0, 0, self._waiting, False
        most, most_compared = _AHEAD_KNOWN * size, _REFERENCES * size
        while waiting and len(new) < size and scored < 4 * size and len(rows) < most and compared < most_compared:
            if (row := waiting.popleft()) is None:  # the end of a part that has no rows, or whose last row was large
                ends_part = True
                break
            rows.append(row)
            _, image, _, row_bytes, references = row
            self._ahead_bytes -= row_bytes
            compared += len(references)
            if not isinstance(image, ScoreResult):
                scored += 1
                self._ahead -= 1
            if self._ahead + size <= self._look_ahead:  # in whole batches, so that this check costs little
                self._refill(to_come)
            if type(image) is PendingImage and image.outcome is None:
                self._sort_in(image, new)
        if not ends_part and waiting and waiting[0] is None:
            waiting.popleft()
            ends_part = True
        self._refill(to_come)
        return RowBatch(rows, list(new.values()), ends_part)

    def _refill(self, rows: Iterator[Row[Tag, Item] | None]) -> None:
        """Start more rows, up to the look-ahead."""
        waiting, most = self._waiting, _AHEAD_KNOWN * self._look_ahead
        try:
            while self._ahead < self._look_ahead and self._ahead_bytes < _AHEAD_BYTES and len(waiting) < most:
                waiting.append(self._started(next(rows)))
        except StopIteration:
            return
        except Exception as exc:  # raised again after the earlier rows
            self._problem = exc

    def _started(self, row: Row[Tag, Item] | None) -> PendingRow[Tag] | None:
        """Start loading the image of a row, and count the row; None is the end of a part."""
        if row is None:
            self._images.clear()
            return None
        tag, key, item, text, references = row
        if not text and isinstance(item, (RowError, ScoreResult)):  # asking for the text takes less time
            self._ahead += isinstance(item, RowError)
            return tag, item, "", 0, ()
        self._ahead += 1
        references = visible_texts(references) if self._compares_references else ()
        if self._compares_references and (problem := reference_problem(references)) is not None:
            return tag, problem, "", 0, ()
        if type(item) is np.ndarray and (ready := self._stages.ready(item)) is not None:
            image, size = PendingImage(None, ready), item.nbytes
        else:
            image = self._start_image(key, item)  # type: ignore[arg-type]  # neither error nor result
            size = len(item) if type(item) is str else _size(item)
        size += len(text) + (sum(map(len, references)) if references else 0)
        self._ahead_bytes += size
        return tag, image, text, size, references

    def _sort_in(self, image: PendingImage, new: dict[Hashable, list[PendingImage]]) -> None:
        """Finish a loaded image whose embedding is known, or add it to those to encode."""
        if (content := image.loaded()) is None:
            return
        if (key := content.key) is None:  # an image without a key has no copies
            new[id(image)] = [image]
            return
        if (twins := self._in_progress.get(key)) is not None:  # in the batch before this one
            if image not in twins:
                twins.append(image)
            return
        # Vectors that this part encoded take precedence over remembered ones, so that results do not depend on timing;
        # an image of this batch is encoded even if another thread has remembered it since.
        vector = None if key in new else self._embeddings.get(key, content.vector)
        if vector is not None:
            image.finish(vector)
            return
        twins = new.setdefault(key, [])
        if image not in twins:
            twins.append(image)

    def _start_image(self, key: Hashable, item: Item) -> PendingImage:
        """Start loading an image, unless one with the same key is in the look-ahead."""
        if key is None:
            return PendingImage(self._loading(item))
        image = self._images.get(key)
        return self._images.put(key, PendingImage(self._loading(item))) if image is None else image

    def _loading(self, item: Item) -> Future[LoadedImage | RowError]:
        """Have one image read, decoded and resized, by a feeder or on a loader thread."""
        self._begun += 1
        feeders = None if isinstance(item, (Image.Image, np.ndarray)) else self._feeders.after(self._begun)
        if feeders is None or isinstance(found := image_of(item), RowError):
            return self._loaders.submit(partial(self._load, item), id(self))
        return feeders.load(found, self._stats)

    def _load(self, item: Item) -> LoadedImage | RowError:
        """Read, decode and resize one image; runs on a loader thread."""
        return self._stages.load(partial(self._read, item))

    def _begin_images(self, images: Sequence[list[PendingImage]]) -> Callable[[], None]:
        """Begin to encode images, and return a function that waits for them and assigns each its outcome."""
        mine: dict[Hashable, list[PendingImage]] = {twins[0].key or id(twins[0]): twins for twins in images}
        self._in_progress |= mine
        pixels = [content.pixels for twins in images if (content := twins[0].content)]
        begun = [self._stages.begin_images(pixels)]

        def finish() -> None:
            for key in mine:
                del self._in_progress[key]
            outcomes = begun.pop()()  # popped, so that no pixels stay in memory until the next batch
            for twins, outcome in zip(images, outcomes, strict=True):
                for image in twins:
                    image.finish(outcome)
            keyed = zip(mine, outcomes, strict=True)
            self._embeddings.put({key: outcome for key, outcome in keyed if isinstance(key, bytes)})

        return finish

    def _known_captions(self, texts: Collection[str]) -> tuple[dict[str, Outcome], dict[str, bytes]]:
        """Return the known captions with their vectors, and the other captions with their keys, sorted by length."""
        keys = self._stages.caption_keys(texts)
        known = self._embeddings.get_many(list(keys.values()))
        found: dict[str, Outcome] = {text: known[key] for text, key in keys.items() if key in known} if known else {}
        return found, {text: keys[text] for text in sorted((text for text in keys if text not in found), key=len)}

    def _remembered(self, keys: Mapping[str, bytes], outcomes: Sequence[Outcome]) -> dict[str, Outcome]:
        """Remember captions that were encoded, under their keys, and return them with their outcomes."""
        self._embeddings.put(dict(zip(keys.values(), outcomes, strict=True)))
        return dict(zip(keys, outcomes, strict=True))

    def _score(self, batch: RowBatch[Tag], captions: Mapping[str, Outcome]) -> list[ScoreResult]:
        found: list[Sequence[Vector] | RowError | ScoreResult] = []
        for image, text, references in zip(batch.images, batch.texts, batch.references, strict=True):
            outcome = image.outcome if isinstance(image, PendingImage) else image
            assert outcome is not None, "the outcome of a row is known only after its image is encoded"
            if not isinstance(outcome, np.ndarray):  # the caption of a failed image need not be encoded
                found.append(outcome)
            elif references:
                found.append(vectors_of(outcome, captions[text], *map(captions.__getitem__, references)))
            else:
                caption = captions[text]
                found.append((outcome, caption) if isinstance(caption, np.ndarray) else caption)
        return self._stages.score(found, self._config.score)


def _size(item: object) -> int:
    """Return the approximate size in bytes of a row's own image or reference."""
    if isinstance(item, (str, bytes, bytearray)):
        return len(item)
    if isinstance(item, (np.ndarray, memoryview)):
        return item.nbytes
    return item.width * item.height * len(item.getbands()) if isinstance(item, Image.Image) else 0
