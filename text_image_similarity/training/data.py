"""Training data: which photos, in which order, and what is drawn from each by chance.

Everything that is drawn follows from the seed, the epoch and the photo's number alone, never from what came before, so
that a run can go on from any step and any number of processes may load the pictures.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2  # type: ignore[import-untyped]

from ..config import Config
from ..dataset import CaptionedImage, PictureLoader, own_splits, read_dataset, split_dataset
from ..errors import RowError, UsageError
from .config import TrainConfig

logger = logging.getLogger("text_image_similarity")


@dataclass(frozen=True, slots=True)
class Splits:
    """The photos to learn from, to choose by, and to measure on at the end; no photo is in two of them."""

    train: list[CaptionedImage]
    validation: list[CaptionedImage]
    test: list[CaptionedImage]


def read_splits(source: str, config: TrainConfig) -> Splits:
    """Read a data set and split it by photo, or take its own splits.

    Raises:
        UsageError: It has no splits of its own and they were asked for, or a split is too small for a batch.
        TableError: It cannot be read.
    """
    columns = {"col_url": config.col_url, "col_text": config.col_text}
    own = own_splits(source)
    if config.splits == "own" or (config.splits == "auto" and {"train", "validation"} <= set(own)):
        if not {"train", "validation"} <= set(own):
            raise UsageError(f"{source} has no splits train and validation; use --splits random")
        parts = [read_dataset(source, split=name, **columns) if name in own else [] for name in _NAMES]
        splits = Splits(*parts)
    else:
        splits = Splits(*split_dataset(read_dataset(source, **columns), seed=config.seed))
    if len(splits.train) < config.batch_size:
        raise UsageError(
            f"{source} has {len(splits.train)} photos to train on, fewer than one batch of {config.batch_size};"
            " choose a smaller --batch-size"
        )
    if len(splits.validation) < 2:
        raise UsageError(f"{source} has {len(splits.validation)} photos to validate on; at least 2 are needed")
    return splits


_NAMES = ("train", "validation", "test")


def fingerprint(splits: Splits) -> str:
    """Return a digest of all photos and captions, in their order and their splits."""
    digest = blake2b(digest_size=8)
    for part in (splits.train, splits.validation, splits.test):
        for image in part:
            digest.update(image.key + "\n".join(image.captions).encode("utf-8", "surrogatepass"))
        digest.update(b"%d" % len(part))
    return digest.hexdigest()


def seed_of(*parts: int) -> int:
    """Return a seed, 0 to 2^63 - 1, that follows from numbers such as seed, epoch and photo."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True, slots=True)
class Batch:
    """Pixels (n, 3, s, s) uint8 and a caption each; photos that cannot be read are left out and named."""

    pixels: Tensor
    captions: list[str]
    unreadable: list[str]


class Photos(Dataset[tuple[Tensor | None, str]]):
    """Training photos by (epoch, number): pixels and a caption, both drawn by chance."""

    def __init__(self, images: Sequence[CaptionedImage], config: TrainConfig, image_size: int):
        self._images = images
        self._seed = config.seed
        self._loader: PictureLoader | None = None  # opened by the process that loads
        size = [image_size, image_size]
        change = [
            v2.RandomResizedCrop(size, scale=(0.5, 1.0), interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3),
        ]
        keep = [v2.Resize(size, interpolation=v2.InterpolationMode.BICUBIC, antialias=True)]
        self._transform = v2.Compose([*(change if config.augment else keep), v2.PILToTensor()])

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor | None, str]:
        epoch, number = key
        image = self._images[number]
        self._loader = self._loader or PictureLoader(Config())
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed_of(self._seed, epoch, number))
            caption = image.captions[int(torch.randint(len(image.captions), ()))]
            try:
                picture = self._loader.load(image)
            except RowError as exc:
                return None, f"{image.name}: {exc}"
            pixels: Tensor = self._transform(picture)  # (3, s, s)
            return pixels, caption


def batches(photos: Photos, count: int, config: TrainConfig, *, epoch: int, first: int) -> Iterator[Batch]:
    """Yield an epoch's batches from a step on.

    Args:
        photos: Where they come from.
        count: How many photos there are; what is left over beyond whole batches waits for another epoch.
        config: Batch size, seed and workers are used.
        epoch: From 0.
        first: The step of the epoch to begin with.
    """
    generator = torch.Generator().manual_seed(seed_of(config.seed, epoch))
    order = torch.randperm(count, generator=generator).tolist()
    size = config.batch_size
    keys = [[(epoch, number) for number in order[i * size : (i + 1) * size]] for i in range(first, count // size)]
    yield from DataLoader(photos, batch_sampler=keys, num_workers=config.workers, collate_fn=_collate)


def _collate(items: list[tuple[Tensor | None, str]]) -> Batch:
    read = [(pixels, caption) for pixels, caption in items if pixels is not None]
    unreadable = [message for pixels, message in items if pixels is None]
    pixels = torch.stack([pixels for pixels, _ in read]) if read else torch.empty(0)
    return Batch(pixels, [caption for _, caption in read], unreadable)
