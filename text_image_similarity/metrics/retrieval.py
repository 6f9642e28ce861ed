"""Retrieval: how well captions find their image among all images, and images find their captions among all captions.

A query's rank is 1 plus the number of wrong candidates that score at least as high as the right one: ties count against
the model. An image with several captions is found by the best of them, and its other captions are not competitors, as
in Karpathy and Fei-Fei 2015, "Deep Visual-Semantic Alignments for Generating Image Descriptions", section 4.2. Recall@k
is the share of queries with a rank of at most k, and MRR is the mean of 1 / rank (Voorhees 1999, "The TREC-8 Question
Answering Track Report"). A caption that is also the caption of another image still counts only for its own image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.floating]

# Cosines of float32 unit vectors are accurate to about this much; closer values count as equal.
TIE = 1e-6


@dataclass(frozen=True, slots=True)
class Direction:
    """Retrieval in one direction.

    Args:
        queries: Number of queries.
        candidates: Number of candidates for each query.
        recall: For each k, the share of queries, 0..1, whose rank is at most k.
        mean_rank: Mean rank; 1 is the best.
        median_rank: Median rank.
        mrr: Mean of 1 / rank, 0..1.
    """

    queries: int
    candidates: int
    recall: dict[int, float]
    mean_rank: float
    median_rank: float
    mrr: float


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Retrieval in both directions.

    Args:
        text_to_image: Search for the image of each caption.
        image_to_text: Search for any caption of each image; images without a caption are not queries.
    """

    text_to_image: Direction
    image_to_text: Direction


def retrieval(
    image: Vectors, text: Vectors, owner: NDArray[np.integer], *, ks: Sequence[int] = (1, 5, 10), block: int = 1024
) -> Retrieval:
    """Return recall@k, ranks and MRR of captions and images.

    Cosines are computed in tiles of `block` captions by `block` images, never as an n x m matrix. In addition to the
    embeddings, memory holds a few tiles and a few numbers per caption and image.

    Args:
        image: Unit vectors, shape (n, d).
        text: Unit vectors, shape (m, d).
        owner: Which image each caption belongs to, shape (m,), 0 to n - 1.
        ks: Values of k for recall@k.
        block: Side of a tile.

    Raises:
        ValueError: The shapes do not fit together, there is nothing to measure, or a vector is not finite.

    Example:
        >>> found = retrieval(np.eye(2), np.eye(2), np.array([0, 0]))
        >>> found.text_to_image.recall[1], found.image_to_text.recall[1]
        (0.5, 1.0)
    """
    if not ks or min(ks) < 1:
        raise ValueError("every k must be at least 1")
    text_ranks, image_ranks = ranks(image, text, owner, block=block)
    return Retrieval(
        text_to_image=_direction(text_ranks, len(image), ks),
        image_to_text=_direction(image_ranks[image_ranks > 0], len(text), ks),
    )


def ranks(
    image: Vectors, text: Vectors, owner: NDArray[np.integer], *, block: int = 1024
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rank of each caption's image and of each image's best caption, from 1; see `retrieval`.

    Returns:
        Ranks, shapes (m,) and (n,); 0 for an image without a caption.

    Raises:
        ValueError: As from `retrieval`.
    """
    check_embeddings(image, text, owner)
    if block < 1:
        raise ValueError("block must be at least 1")
    own = own_cosines(image, text, owner)  # (m,)
    best = np.full(len(image), -np.inf, own.dtype)  # (n,): best cosine of each image's own captions
    np.maximum.at(best, owner, own)
    text_ranks = np.ones(len(text), np.int64)
    image_ranks = np.ones(len(image), np.int64)
    for start in range(0, len(text), block):
        captions = slice(start, start + block)
        for first in range(0, len(image), block):
            pictures = slice(first, first + block)
            tile = text[captions] @ image[pictures].T  # (captions, images)
            inside = np.flatnonzero((owner[captions] >= first) & (owner[captions] < first + block))
            tile[inside, owner[captions][inside] - first] = -np.inf  # matching pairs are not competitors
            text_ranks[captions] += np.count_nonzero(tile >= own[captions, None] - TIE, axis=1)
            image_ranks[pictures] += np.count_nonzero(tile >= best[None, pictures] - TIE, axis=0)
    return text_ranks, np.where(np.isfinite(best), image_ranks, 0)


def own_cosines(image: Vectors, text: Vectors, owner: NDArray[np.integer], block: int = 1024) -> Vectors:
    """Return the cosine of each caption with its own image, shape (m,)."""
    own = np.empty(len(text), np.result_type(image, text))
    for start in range(0, len(text), block):
        rows = slice(start, start + block)
        own[rows] = (text[rows] * image[owner[rows]]).sum(axis=1)
    return own


def check_embeddings(image: Vectors, text: Vectors, owner: NDArray[np.integer]) -> None:
    """Make sure that embeddings and owners fit together.

    Raises:
        ValueError: The embeddings and owners do not fit together, there are none, or a vector is not finite.
    """
    if image.ndim != 2 or text.ndim != 2 or image.shape[1] != text.shape[1] or owner.shape != (len(text),):
        raise ValueError(f"shapes (n, d), (m, d) and (m,) are needed, not {image.shape}, {text.shape}, {owner.shape}")
    if not len(text):
        raise ValueError("there is no caption to measure")
    if owner.min() < 0 or owner.max() >= len(image):
        raise ValueError(f"owner must contain indices of images, from 0 to {len(image) - 1}")
    for name, vectors in (("image", image), ("caption", text)):
        with np.errstate(invalid="ignore"):  # infinities of opposite signs add up to NaN
            sums = vectors.sum(axis=1, dtype=np.float64)  # not finite if any number is not; n numbers instead of n x d
        bad = np.flatnonzero(~np.isfinite(sums))
        if len(bad):
            raise ValueError(f"{len(bad)} {name} vectors are not finite (row {bad[0]} is the first); leave them out")


def _direction(ranks: NDArray[np.int64], candidates: int, ks: Sequence[int]) -> Direction:
    return Direction(
        queries=len(ranks),
        candidates=candidates,
        recall={int(k): float((ranks <= k).mean()) for k in ks},
        mean_rank=float(ranks.mean()),
        median_rank=float(np.median(ranks)),
        mrr=float((1 / ranks).mean()),
    )
