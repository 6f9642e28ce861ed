"""The steps of scoring with one encoder, for an image, a batch and a pair, shared by runs over tables and the service.

Runs and the service therefore give the same scores. The steps may be called from any thread; callers decide when, and
in which batches.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from copy import copy
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..config import Config, Limits, RowScore, is_redis
from ..embeddings import EmbeddingCache, Event, SavedEmbeddings, SharedEmbeddings, Vector, content_keys
from ..encoders import CutIds, Encoder, OverlappingEncoder, SeveralEncoders, as_preparing
from ..errors import ConfigError, RowError
from ..preprocess import Preprocess
from ..records import ScoreResult
from ..similarity import Embeddings, Scores, as_floats, cosine, ref_clipscore, score
from ..system import usable_cores
from .encoding import begin_each, encode_each
from .pixel_loader import PixelLoader
from .rows import LoadedImage, Outcome
from .stats import RunStats

_AT_ONCE = (
    32  # rows that are scored at once: arrays of more than 128 KiB are allocated by the system, which takes far longer
)


class Stages:
    """The steps of scoring with one encoder.

    Args:
        find: Function that returns the remembered embedding for an image's content key, or None; called on loading
            threads.
    """

    def __init__(self, config: Config, encoder: Encoder, find: Callable[[bytes], Vector | None]) -> None:
        self._stats = RunStats()
        self._batch_size = config.batch_size
        self._encoder = as_preparing(encoder)
        self.prepares = self._encoder is encoder  # otherwise, images wait at full size
        self._several = encoder if isinstance(encoder, SeveralEncoders) else None
        self._overlapping = encoder if isinstance(encoder, OverlappingEncoder) and encoder.overlaps else None
        self._fingerprint = encoder.info.fingerprint or ""
        self._ready_shape = _ready_shape(encoder, config.limits)
        self._images = PixelLoader(config, self._encoder, self._fingerprint, find, cores=usable_cores())

    def with_stats(self, stats: RunStats) -> Stages:
        """Return the same steps with other counters of the time spent."""
        other = copy(self)
        other._stats = stats
        return other

    def close(self) -> None:
        """Stop the decoder's processes, if there are any."""
        if not sys.is_finalizing():
            self._images.close()

    def load(self, read: Callable[[], bytes | Image.Image]) -> LoadedImage | RowError:
        """Read, decode and resize one image; never raises.

        Args:
            read: Function that returns the image's encoded bytes, or the image in RGB.
        """
        return self._images.load(read, self._stats)

    def ready(self, image: NDArray[Any]) -> LoadedImage | None:
        """Return an RGB array of the model's size as a loaded image; None for an array that needs more than that."""
        return LoadedImage(None, image) if image.shape == self._ready_shape and image.dtype == np.uint8 else None

    def caption_keys(self, texts: Collection[str]) -> dict[str, bytes]:
        """Return distinct captions with the keys of their embeddings."""
        contents = [text.encode("utf-8", "surrogatepass") for text in texts]
        return dict(zip(texts, content_keys(self._fingerprint, "text", contents), strict=True))

    def tokens(self, texts: list[str]) -> list[Any] | None:
        """Tokenize captions; None if one of them breaks the tokenizer."""
        try:
            with self._stats.timed("tokenize"):
                tokens = list(self._encoder.tokenize(texts))
                return tokens if len(tokens) == len(texts) else None
        except Exception:  # the error is reported later, for each caption
            return None

    def cut_among(self, texts: Sequence[str]) -> set[str]:
        """Return those captions that are longer than the model can read."""
        return cut_among(self._encoder, texts)

    def encode_images(self, pixels: list[Any]) -> list[Outcome]:
        """Encode a batch of images prepared by `load`.

        Raises:
            DeviceLostError: Nothing more can be encoded.
        """
        with self._stats.timed("encode_image"):
            return encode_each(self._encoder.encode_pixels, pixels)

    def encode_captions(self, texts: list[str], tokens: list[Any] | None) -> list[Outcome]:
        """Encode captions, batch by batch.

        Args:
            texts: Captions.
            tokens: Result of `tokens` for the captions.

        Raises:
            DeviceLostError: Nothing more can be encoded.
        """
        encode, items = (self._encode_texts, texts) if tokens is None else (self._encoder.encode_tokens, tokens)
        with self._stats.timed("encode_text"):
            return [
                outcome
                for start in range(0, len(items), self._batch_size)
                for outcome in encode_each(encode, items[start : start + self._batch_size])
            ]

    @property
    def overlaps(self) -> bool:
        """Whether it helps to start a batch before the result of the last one is read."""
        return self._overlapping is not None

    def begin_images(self, pixels: list[Any]) -> Callable[[], list[Outcome]]:
        """Begin what `encode_images` does, and return a function that waits for the result; never raises."""
        if self._overlapping is None:
            return partial(self.encode_images, pixels)
        begin, encode = self._overlapping.begin_pixels, self._overlapping.encode_pixels
        return partial(self._ended, "encode_image", [begin_each(begin, encode, pixels)])

    def begin_captions(self, texts: list[str], tokens: list[Any] | None) -> Callable[[], list[Outcome]]:
        """Begin what `encode_captions` does, and return a function that waits for the result; never raises."""
        if self._overlapping is None or tokens is None:
            return partial(self.encode_captions, texts, tokens)
        begin, encode, size = self._overlapping.begin_tokens, self._overlapping.encode_tokens, self._batch_size
        parts = [tokens[start : start + size] for start in range(0, len(tokens), size)]
        return partial(self._ended, "encode_text", [begin_each(begin, encode, part) for part in parts])

    def _ended(self, stage: str, begun: list[Callable[[], list[Outcome]]]) -> list[Outcome]:
        with self._stats.timed(stage):
            return [outcome for wait in begun for outcome in wait()]

    def score(self, found: Sequence[Sequence[Vector] | RowError | ScoreResult], kind: RowScore) -> list[ScoreResult]:
        """Return the score of each row's vectors, or the failure of a row that lacks one.

        Args:
            found: For each row, the vectors of its image, of its caption, and of its references if `kind` needs them;
                or a result that is already known.
            kind: The score kind.
        """
        good = [vectors for vectors in found if isinstance(vectors, (tuple, list))]
        with self._stats.timed("score"):
            scores = self._scored(good, kind) if good else []
        if len(scores) == len(found):
            return scores
        rest = iter(scores)
        return [
            (
                row
                if isinstance(row, ScoreResult)
                else ScoreResult.failed(row) if isinstance(row, RowError) else next(rest)
            )
            for row in found
        ]

    def _scored(self, rows: Sequence[Sequence[Vector]], kind: RowScore) -> list[ScoreResult]:
        parts = (rows[start : start + _AT_ONCE] for start in range(0, len(rows), _AT_ONCE))
        columns = zip(*(self._columns(part, kind) for part in parts), strict=True)
        whole, *each = (as_floats(np.concatenate(column)) for column in columns)
        if self._several is None:
            return list(map(ScoreResult, whole))
        by_row = zip(whole, zip(*each, strict=True), strict=True)
        return [ScoreResult(one, by_model=row) for one, row in by_row]

    def _columns(self, rows: Sequence[Sequence[Vector]], kind: RowScore) -> list[Scores]:
        """Return the scores of rows, shape (n,); if there are several models, then also those of each model."""
        images, texts = (
            np.concatenate([row[side] for row in rows]).reshape(len(rows), -1) for side in (0, 1)
        )  # (n, d)
        if self._several is None:
            return [_scores(rows, (images, texts), kind)]
        parts = self._several.slices
        cosines = [cosine(images[:, part], texts[:, part]) for part in parts]
        each = [_scores(rows, (images, texts), kind, part) for part in parts]
        return [self._several.combined(cosines, each), *each]

    def own(self, outcome: Outcome) -> Outcome:
        """Return a copy of an outcome, with a vector of length 1, that callers may change freely."""
        if isinstance(outcome, RowError):
            return outcome
        return outcome.copy() if self._several is None else self._several.unit(outcome)

    def _encode_texts(self, texts: list[str]) -> Embeddings:
        return self._encoder.encode_tokens(list(self._encoder.tokenize(texts)))


def _ready_shape(encoder: Encoder, limits: Limits) -> tuple[int, int, int] | None:
    """Return the shape (h, w, 3) of the arrays that an encoder takes as they are, or None."""
    preprocess = getattr(encoder, "preprocess", None)
    size = preprocess.unchanged if isinstance(preprocess, Preprocess) else None
    fits = size and max(size) <= limits.max_side and size[0] * size[1] <= limits.max_pixels
    return (*size, 3) if size and fits else None


def _scores(
    rows: Sequence[Sequence[Vector]], sides: tuple[Embeddings, Embeddings], kind: RowScore, part: slice = slice(None)
) -> Scores:
    """Return the scores of rows, shape (n,), computed from some columns of their vectors."""
    cosines = cosine(*(side[:, part] for side in sides))
    if kind != "ref_clipscore":
        return score(cosines, kind)
    nearest = [cosine(np.stack(row[2:])[:, part], row[1][None, part]).max() for row in rows]
    return ref_clipscore(cosines, np.array(nearest, np.float32))


def cut_among(encoder: Encoder, texts: Sequence[str]) -> set[str]:
    """Return those captions that are longer than a model can read."""
    most = getattr(encoder, "context_length", 0)
    long = [
        text for text in texts if len(text.encode("utf-8", "surrogatepass")) + 2 > most
    ]  # a token has a byte or more
    try:
        return cut_of(long, as_preparing(encoder).tokenize(long) if long else [])
    except Exception:  # the error is reported caption by caption when captions are encoded
        return set()


def cut_of(texts: Sequence[str], tokens: Sequence[Any] | None) -> set[str]:
    """Return the captions that were cut when they were tokenized."""
    return {text for text, row in zip(texts, tokens or [], strict=False) if isinstance(row, CutIds)}


def vectors_of(*outcomes: Outcome) -> list[Vector] | RowError:
    """Return a row's vectors, or its first error."""
    vectors: list[Vector] = []
    for outcome in outcomes:
        if isinstance(outcome, RowError):
            return outcome
        vectors.append(outcome)
    return vectors


def open_cache(
    config: Config,
    encoder: Encoder,
    *,
    max_entries: int | None = None,
    watch: Callable[[Event], None] = lambda event: None,
) -> SavedEmbeddings | None:
    """Open the embedding cache that `config` names, if it names one.

    Args:
        max_entries: Maximum number of embeddings in a file; Redis has its own limits.
        watch: Observer of the calls to Redis.

    Raises:
        ConfigError: The cache cannot be used, or not with this encoder.
        MissingExtraError: The cache is in Redis, and redis-py is not installed.
    """
    if config.embedding_cache is None:
        return None
    if not encoder.info.fingerprint:
        raise ConfigError(
            "embedding_cache needs an encoder whose `info` has a `fingerprint` of everything that its embeddings depend on"
        )
    if is_redis(config.embedding_cache):
        trusted = None if config.ca_file is None else str(config.ca_file)
        return SharedEmbeddings(str(config.embedding_cache), encoder.embed_dim, ca_file=trusted, watch=watch)
    return EmbeddingCache(config.embedding_cache, encoder.embed_dim, max_entries=max_entries)
