"""Split a data set into parts for training, validation and test."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ..errors import UsageError
from .images import CaptionedImage, digest


def split_dataset(
    images: Sequence[CaptionedImage], fractions: tuple[float, float, float] = (0.6, 0.2, 0.2), seed: int = 0
) -> tuple[list[CaptionedImage], list[CaptionedImage], list[CaptionedImage]]:
    """Split photos into three parts for training, validation and test.

    The shuffle sorts by a digest of seed and photo, so the parts do not depend on the order of the rows or on the
    machine. Photos with the same content go to the same part.

    Args:
        images: Photos, as returned by `read_dataset`.
        fractions: Shares of train, validation and test, which add up to 1.
        seed: Seed of the shuffle.

    Raises:
        UsageError: The fractions are not three numbers of at least 0 that add up to 1.
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise UsageError(f"fractions={fractions!r} must be three numbers of at least 0 that add up to 1")
    groups: dict[bytes, list[CaptionedImage]] = {}
    for image in images:
        groups.setdefault(image.key, []).append(image)
    shuffled = [groups[key] for key in sorted(groups, key=lambda key: digest(b"%d:%b" % (seed, key)))]
    ends = [round(len(shuffled) * sum(fractions[:i])) for i in range(4)]
    train, validation, test = (
        [image for group in shuffled[start:end] for image in group] for start, end in pairwise(ends)
    )
    return train, validation, test
