"""Encode a data set: every image and every caption once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..dataset import CaptionedImage
from ..encoders import SeveralEncoders
from ..errors import RowError, TableError
from ..pipeline import Outcome, Scorer
from ..records import Progress
from ..similarity import Embeddings
from .report import count_failure, list_failures


@dataclass(frozen=True, slots=True)
class EncodedDataset:
    """The images and captions of a data set that could be encoded.

    Args:
        images: The n images.
        captions: The m captions.
        image: Vectors of the images, shape (n, d).
        text: Vectors of the captions, shape (m, d).
        owner: Index of each caption's image, shape (m,).
        failures: Number of items left out, by error code.
        seconds: Seconds spent on images and on captions.
    """

    images: Sequence[CaptionedImage]
    captions: Sequence[str]
    image: Embeddings
    text: Embeddings
    owner: NDArray[np.intp]
    failures: Counter[str]
    seconds: Mapping[str, float]

    def of_member(self, encoders: SeveralEncoders, place: int) -> EncodedDataset:
        """Return a copy with the vectors of one model among several."""
        image, text = (encoders.member_vectors(vectors, place) for vectors in (self.image, self.text))
        return replace(self, image=image, text=text)


def encode_dataset(
    source: str,
    images: Sequence[CaptionedImage],
    scorer: Scorer,
    left_out: Counter[str],
    progress: Progress | None,
) -> EncodedDataset:
    """Encode all images and captions of a data set; those that cannot be encoded are counted and left out.

    Args:
        source: Name of the data set in messages.
        images: Images of the data set.
        scorer: Session that encodes the images and captions.
        left_out: Counts of items that have already been left out.
        progress: As for `evaluate`.

    Raises:
        TableError: Nothing could be encoded.
    """
    began = time.perf_counter()
    numbers, image, failures = _collect(scorer.embed_images(i.source for i in images), len(images), progress)  # (n, d)
    seen = time.perf_counter()
    owned = [(place, text) for place, number in enumerate(numbers) for text in images[number].captions]
    distinct = list(dict.fromkeys(text for _, text in owned))
    read, vectors, unread = _collect(scorer.embed_texts(distinct), len(distinct), None)
    failures += unread + left_out
    row_of = {distinct[number]: row for row, number in enumerate(read)}
    kept = [(place, text) for place, text in owned if text in row_of]
    if not kept:
        raise TableError(
            f"nothing in {source} could be encoded: {list_failures(failures)}; its first image is {images[0].name}"
        )
    return EncodedDataset(
        images=[images[number] for number in numbers],
        captions=[text for _, text in kept],
        image=image,
        text=vectors[[row_of[text] for _, text in kept]],
        owner=np.array([place for place, _ in kept], np.intp),
        failures=failures,
        seconds={"images": round(seen - began, 3), "captions": round(time.perf_counter() - seen, 3)},
    )


def _collect(
    outcomes: Iterable[Outcome], total: int, progress: Progress | None
) -> tuple[NDArray[np.intp], Embeddings, Counter[str]]:
    """Return the indices of vectors among outcomes (k,), the vectors (k, d), and the others counted by error code."""
    numbers: list[int] = []
    vectors = np.empty((0, 1), np.float32)
    failures: Counter[str] = Counter()
    if progress is not None:
        progress(0, 0, total)
    for number, outcome in enumerate(outcomes):
        if isinstance(outcome, RowError):
            count_failure(failures, str(outcome))
        else:
            if not numbers:
                vectors = np.empty((total, len(outcome)), np.float32)
            vectors[len(numbers)] = outcome
            numbers.append(number)
        if progress is not None:
            progress(number + 1, failures.total(), total)
    return np.array(numbers, np.intp), vectors[: len(numbers)], failures
