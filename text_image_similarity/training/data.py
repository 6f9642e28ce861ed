"""Training data: the photos, their order, and the random choices for each.

Random choices depend only on the seed, the epoch and the photo's number, so that a run can resume from any step and any
number of threads may load the images.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from ..dataset import CaptionedImage, ImageLoader, own_splits, read_dataset, read_splits, split_dataset
from ..errors import RowError, UsageError
from ..preprocess import Pixels, Preprocess
from .augmentation import augment
from .config import TrainConfig

_NAMES = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Splits:
    """The photos for training, validation and the final test; no photo is in two of them."""

    train: list[CaptionedImage]
    validation: list[CaptionedImage]
    test: list[CaptionedImage]


def load_splits(source: str, config: TrainConfig) -> Splits:
    """Read a data set and split it by photo, or use its own splits.

    Without validation photos, a fifth of the training photos become validation photos; test photos remain separate.

    Args:
        source: As for `read_dataset`.
        config: Settings; the columns, the seed, the kind of splits and the folder of relative references are
            used.

    Raises:
        UsageError: The data set lacks the splits that `config` requires, or too few photos to train or validate.
        TableError: The data set cannot be read.
    """
    col_url, loading = None if config.col_url == "url" else config.col_url, config.loading
    own = [name for name in _NAMES if name in own_splits(source, loading.dialect)]
    if config.splits == "own" and "train" not in own:
        raise UsageError(f"{source} has no split called train; use --splits random")
    if config.splits != "random" and "train" in own:
        found = read_splits(source, own, columns=(col_url, config.col_text), config=loading)
        train, validation, test = (found.get(name, []) for name in _NAMES)
        if not validation:
            train, validation, _ = split_dataset(train, (0.8, 0.2, 0.0), seed=config.seed)
        splits = Splits(train, validation, test)
    else:
        images = read_dataset(source, col_url=col_url, col_text=config.col_text, config=loading)
        splits = Splits(*split_dataset(images, seed=config.seed))
    if len(splits.train) < config.batch_size:
        raise UsageError(
            f"{source} has {len(splits.train)} photos to train on, fewer than one batch of {config.batch_size};"
            " choose a smaller --batch-size"
        )
    if len(splits.validation) < 2:
        raise UsageError(f"{source} has {len(splits.validation)} photos to validate on; at least 2 are needed")
    return splits


def fingerprint(splits: Splits) -> str:
    """Return a digest of all photos and captions, in their order and their splits."""
    digest = blake2b(digest_size=8)
    for part in (splits.train, splits.validation, splits.test):
        for image in part:
            digest.update(image.key + "\n".join(image.captions).encode("utf-8", "surrogatepass"))
        digest.update(b"%d" % len(part))
    return digest.hexdigest()


def seed_of(*parts: int) -> int:
    """Return a seed, 0 to 2^63 - 1, derived from numbers such as seed, epoch and photo."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True, slots=True)
class Batch:
    """Pixels (n, 3, s, s) uint8, a caption for each, and the errors of photos that could not be read."""

    pixels: Tensor
    captions: list[str]
    unreadable: list[str]


def batches(
    images: Sequence[CaptionedImage], config: TrainConfig, side: int, *, epoch: int, first: int
) -> Iterator[Batch]:
    """Yield the batches of an epoch from a step on, loading two batches ahead on threads.

    Args:
        images: Training photos; those beyond the last full batch are skipped in this epoch.
        config: Settings; batch size, seed, workers, augmentation and loading are used.
        side: Side of the images, in pixels.
        epoch: Number of the epoch, from 0.
        first: Step of the epoch to begin with, from 0.
    """
    generator = torch.Generator().manual_seed(seed_of(config.seed, epoch))
    order = torch.randperm(len(images), generator=generator).tolist()
    size = config.batch_size
    waiting = iter(order[first * size : len(images) // size * size])
    loading: deque[Future[tuple[Pixels, str] | RowError]] = deque()
    pool = ThreadPoolExecutor(config.workers)
    try:
        with ImageLoader(config.loading) as loader:

            def draw(number: int) -> tuple[Pixels, str] | RowError:
                return _draw(images[number], random.Random(seed_of(config.seed, epoch, number)), loader, config, side)

            loading.extend(pool.submit(draw, number) for number in islice(waiting, 2 * size))
            while loading:
                drawn = [loading.popleft().result() for _ in range(size)]
                loading.extend(pool.submit(draw, number) for number in islice(waiting, size))
                yield _collate(drawn)
    finally:
        pool.shutdown(cancel_futures=True)


def _draw(
    image: CaptionedImage, rng: random.Random, loader: ImageLoader, config: TrainConfig, side: int
) -> tuple[Pixels, str] | RowError:
    """Return a photo's pixels (s, s, 3), randomly augmented, and a random one of its captions."""
    caption = rng.choice(image.captions)
    try:
        loaded = loader.load(image)
    except RowError as exc:
        return RowError(exc.code, f"{image.name}: {exc.detail}")
    if config.augment:
        return np.array(augment(loaded, side, rng)), caption
    return square(side).pixels(loaded), caption


def square(side: int) -> Preprocess:
    """Return preprocessing that resizes and crops as encoders do, but does not normalise."""
    return Preprocess(size=side, crop=(side, side), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def _collate(drawn: list[tuple[Pixels, str] | RowError]) -> Batch:
    read = [one for one in drawn if not isinstance(one, RowError)]
    pixels = torch.from_numpy(np.stack([one for one, _ in read])).permute(0, 3, 1, 2) if read else torch.empty(0)
    return Batch(pixels, [caption for _, caption in read], [str(one) for one in drawn if isinstance(one, RowError)])
