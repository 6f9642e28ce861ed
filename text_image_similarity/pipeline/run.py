"""One pass over the rows: fetch and decode on threads, encode in batches, answer in order.

    records -> distinct pictures -> fetch, decode, resize (threads) -> batches -> encode -> score -> ordered results

While one batch is encoded the threads fetch and decode the next ones, up to a fixed look-ahead. Batches are filled in
input order and end with their part, and no embedding is handed on to the next part, so that a part gives the same numbers
whatever was scored before it, or whether anything was. Nothing is kept per row.
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
from PIL import Image

from ..config import Config
from ..embeddings import EmbeddingCache, Recent, Vector
from ..encoders import Encoder
from ..errors import ConfigError, RowError
from ..records import ScoreResult
from .encoding import is_caption, no_caption
from .loaders import Loaders
from .rows import Loaded, Outcome, Picture, Row, Source
from .stages import Stages, pair_of
from .stats import RunStats

logger = logging.getLogger("text_image_similarity")

_AHEAD_BYTES = 256 * 1024 * 1024  # look-ahead ends here too, so that large rows do not fill the memory
_KNOWN = 8192  # embeddings remembered by content, even without an embedding cache: 19 MB for CLIP ViT-B/32

Item = TypeVar("Item")


class _Mark(Enum):
    """Where a part ends, among its rows."""

    END = "end of a part"


class Run(Generic[Item]):
    """One pass over rows: pictures with captions (`results`) or pictures alone (`embeddings`).

    Rows of a part with the same key share one picture; so do pictures, and captions, with the same content.

    Args:
        read: Gives an item's encoded bytes, or its picture in RGB; called on loader threads.

    Raises:
        ConfigError: An embedding cache is asked for that cannot be used, or not with this encoder.
    """

    def __init__(
        self, config: Config, encoder: Encoder, read: Callable[[Item], bytes | Image.Image], stats: RunStats
    ) -> None:
        self.config, self.read, self.stats = config, read, stats
        self.cache = open_cache(config, encoder)
        self.stages = Stages(config, encoder, self._kept, stats)
        self.look_ahead = max(8 * config.batch_size, 4 * config.io_workers)
        if not self.stages.prepares:  # pictures wait at their full size, so fewer of them
            self.look_ahead = max(2 * config.batch_size, config.io_workers)
        self.known: Recent[bytes, Vector] = Recent(_KNOWN)
        self.unsaved: dict[bytes, Vector] = {}  # of the part in work: a run that goes on must find all of them, or none
        self.pictures: Recent[Hashable, Picture] = Recent(2 * self.look_ahead)
        self.loaders: Loaders[Item, Loaded | RowError] = Loaders(config.io_workers, self._load)
        self.reader: Loaders[list[str], list[Any] | None] = Loaders(1, self.stages.tokens)

    def close(self) -> None:
        """Stop the threads and processes; work that has not started is dropped."""
        if sys.is_finalizing():  # the threads are dead, and the locks that they held stay locked
            return
        self.stages.close()
        self.loaders.close()
        self.reader.close()
        if self.cache is not None:
            self.cache.close()

    def results(self, parts: Iterable[Iterable[tuple[Hashable, Item, object]]]) -> Iterator[ScoreResult]:
        """Yield one result per row of (key, item, text), in order."""
        for batch, pictures, ends_part in self._batches(self._started(parts)):
            captions, new = self._known_captions(row.text for row in batch if not row.failed)
            tokens = self.reader.submit(new)  # while the pictures are encoded
            self._encode_images(pictures)
            captions |= self._encode_captions(new, tokens.result())
            results = list(self._score(batch, captions))
            if ends_part:  # before the last result is out: who has it may stop here
                self._end_part()
            for result in results:
                self.stats.count(result)
                yield result

    def embeddings(self, items: Iterable[tuple[Hashable, Item]]) -> Iterator[Outcome]:
        """Yield the vector of each (key, item), or what went wrong, in order."""
        for batch, pictures, _ in self._batches(self._start_image(*item, text="") for item in items):
            self._encode_images(pictures)
            self._save()
            yield from (row.image for row in batch)

    def _started(self, parts: Iterable[Iterable[tuple[Hashable, Item, object]]]) -> Iterator[Row | _Mark]:
        """Set rows loading, one after the other, and mark where parts end."""
        for part in parts:
            yield from (self._start(*row) for row in part)
            self.pictures.clear()
            yield _Mark.END

    def _end_part(self) -> None:
        """Forget what the part made, but for the embedding cache."""
        self.known.clear()
        self._save()

    def _save(self) -> None:
        if self.cache is not None:
            self.cache.put(self.unsaved)
        self.unsaved.clear()

    def _batches(self, started: Iterable[Row | _Mark]) -> Iterator[tuple[list[Row], list[list[Picture]], bool]]:
        """Start rows a bounded way ahead and yield them in batches.

        Each comes with the pictures to encode, twins together, and with whether its part ends with it.
        """
        waiting: deque[Row | _Mark] = deque()
        source = Source(started)
        ahead_bytes = 0  # what the rows waiting bring along: data: URLs and pictures in memory may be large

        def refill() -> None:
            nonlocal ahead_bytes
            while len(waiting) < self.look_ahead and ahead_bytes < _AHEAD_BYTES and (row := source.next()) is not None:
                waiting.append(row)
                ahead_bytes += row.size if isinstance(row, Row) else 0

        refill()
        while waiting:
            batch: list[Row] = []
            ends_part = False
            new: dict[Hashable, list[Picture]] = {}
            while waiting and len(new) < self.config.batch_size and len(batch) < 4 * self.config.batch_size:
                row = waiting.popleft()
                if not isinstance(row, Row):  # of a part without rows
                    refill()
                    break
                ahead_bytes -= row.size
                refill()
                batch.append(row)
                if isinstance(row.picture, Picture):
                    self._sort_in(row.picture, new)
                if waiting and waiting[0] is _Mark.END:
                    waiting.popleft()
                    ends_part = True
                    refill()
                    break
            yield batch, list(new.values()), ends_part
        if source.problem is not None:
            raise source.problem

    def _sort_in(self, picture: Picture, new: dict[Hashable, list[Picture]]) -> None:
        """Finish a loaded picture whose content is known, or put it to those that are to be encoded."""
        if picture.outcome is not None or (content := picture.loaded()) is None:
            return
        # What this run encoded comes before what its threads found in the cache, so that timing decides nothing.
        vector = content.vector if content.key is None else self._known(content.key, content.vector)
        if vector is not None:
            picture.finish(vector)
            return
        twins = new.setdefault(content.key or id(picture), [])
        if picture not in twins:
            twins.append(picture)

    def _start(self, key: Hashable, item: Item, text: object) -> Row:
        """Check a row's caption and set its picture loading."""
        if not is_caption(text):
            return Row(no_caption(), "", 0)
        return self._start_image(key, item, text)

    def _start_image(self, key: Hashable, item: Item, text: str) -> Row:
        """Set a picture loading, unless one with the same key is within reach."""
        picture = self.pictures.get(key)
        if picture is None:
            picture = self.pictures.put(key, Picture(self.loaders.submit(item)))
        return Row(picture, text, _size(item) + len(text))

    def _kept(self, key: bytes) -> Vector | None:
        """Return the embedding that an earlier run kept."""
        return None if self.cache is None else self.cache.get(key)

    def _load(self, item: Item) -> Loaded | RowError:
        """Read, decode and resize one picture; runs on a loader thread."""
        return self.stages.load(partial(self.read, item))

    def _encode_images(self, pictures: Sequence[list[Picture]]) -> None:
        contents = [twins[0].content for twins in pictures]
        outcomes = self.stages.encode_images([content.pixels for content in contents if content])
        for twins, content, outcome in zip(pictures, contents, outcomes, strict=True):
            if content is not None and content.key is not None:
                self._remember(content.key, outcome)
            for picture in twins:
                picture.finish(outcome)

    def _known_captions(self, texts: Iterable[str]) -> tuple[dict[str, Outcome], list[str]]:
        """Return the captions whose vectors are known, with them, and the others, those of like length together."""
        found: dict[str, Outcome] = {}
        new: list[str] = []
        for text in dict.fromkeys(texts):
            vector = self._known(self.stages.caption_key(text))
            if vector is None:
                new.append(text)
            else:
                found[text] = vector
        return found, sorted(new, key=len)

    def _encode_captions(self, texts: list[str], tokens: list[Any] | None) -> Mapping[str, Outcome]:
        """Encode captions and remember them."""
        outcomes = self.stages.encode_captions(texts, tokens)
        for text, outcome in zip(texts, outcomes, strict=True):
            self._remember(self.stages.caption_key(text), outcome)
        return dict(zip(texts, outcomes, strict=True))

    def _known(self, key: bytes, kept: Vector | None = None) -> Vector | None:
        """Return the embedding that this part made, or that an earlier part or run kept: `kept`, if it was found already."""
        vector = self.known.get(key)
        if vector is None:
            vector = kept
        return vector if vector is not None else self._kept(key)

    def _remember(self, key: bytes, outcome: Outcome) -> None:
        if isinstance(outcome, RowError):
            return
        self.known.put(key, outcome)
        if self.cache is not None:
            self.unsaved[key] = outcome

    def _score(self, batch: Sequence[Row], captions: Mapping[str, Outcome]) -> Iterator[ScoreResult]:
        # The caption of a row whose picture failed need not be among them.
        found = [pair_of(row.image, captions.get(row.text, row.image)) for row in batch]
        return self.stages.score(found, self.config.score)


def open_cache(config: Config, encoder: Encoder, *, max_entries: int | None = None) -> EmbeddingCache | None:
    """Open the embedding cache that `config` names, if it names one, to keep at most so many embeddings.

    Raises:
        ConfigError: It cannot be used, or not with this encoder.
    """
    if config.embedding_cache is None:
        return None
    if not getattr(encoder, "fingerprint", None):
        raise ConfigError("embedding_cache needs an encoder with a `fingerprint`, what its embeddings depend on")
    return EmbeddingCache(config.embedding_cache, encoder.embed_dim, max_entries=max_entries)


def _size(item: object) -> int:
    """Return roughly how many bytes a row's own picture or reference takes."""
    if isinstance(item, Image.Image):
        return item.width * item.height * len(item.getbands())
    return item.nbytes if isinstance(item, np.ndarray) else len(item) if isinstance(item, (bytes, str)) else 0
