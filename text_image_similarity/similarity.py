"""Compute scores from embeddings: cosine similarity, and the score kinds based on it.

`clipscore` is CLIPScore with w = 2.5 (Hessel et al. 2021, "CLIPScore: A Reference-free Evaluation Metric for Image
Captioning", section 3), without the prompt prefix. `ref_clipscore` is RefCLIPScore, section 3.1 of the same paper.
`clip_score` is torchmetrics' scale, clamped per pair.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .config import ScoreKind
from .errors import ConfigError

Embeddings = NDArray[np.float32]
Scores = NDArray[np.floating]

# Powers of ten for 5 to 10 decimal places. A float32 below 128 whose shortest decimal has fewer places gets the same
# decimal with 5 places, and its product with these powers fits in a float64.
_SCALES = 10.0 ** np.arange(5, 11)[:, None]
_SCALED = 128
_MANY = 16  # number of values from which these powers take less time than formatting each value


def cosine(image: Embeddings, text: Embeddings) -> Embeddings:
    """Return the cosine of each image with the text in the same row.

    Args:
        image: Unit vectors, shape (n, embed_dim).
        text: Unit vectors, shape (n, embed_dim).

    Returns:
        Shape (n,), float32, in -1..1; NaN where an input is not finite.

    Example:
        >>> cosine(np.array([[1.0, 0.0]]), np.array([[0.6, 0.8]]))
        array([0.6])
    """
    # Row by row, not a matrix product: a row's sum must not depend on the number of rows.
    products: Embeddings = (image * text).sum(axis=1)  # (n, d) -> (n,)
    return products.clip(-1.0, 1.0)


def score_all(images: Sequence[Embeddings], texts: Sequence[Embeddings], kind: ScoreKind) -> Embeddings:
    """Return the score of each image with each text, shape (images, texts), float32; each equals that of a single pair.

    Example:
        >>> score_all([np.float32([1, 0])], [np.float32([0, 1]), np.float32([1, 0])], "cosine")
        array([[0., 1.]], dtype=float32)
    """
    found = np.full((len(images), len(texts)), np.nan, np.float32)
    if texts:
        columns = np.stack(texts)  # (m, d)
        for number, image in enumerate(images):
            found[number] = score(cosine(image[None, :], columns), kind)  # (1, d) with (m, d) -> (m,)
    return found


def as_floats(scores: Scores) -> list[float]:
    """Return the shortest decimal of each float32, so that a table, a notebook and a search show the same number.

    Example:
        >>> as_floats(np.array([0.1], np.float32))
        [0.1]
    """
    if scores.dtype != np.float32:  # Python shows such floats as NumPy does
        floats: list[float] = scores.tolist()
        return floats
    if len(scores) < _MANY:
        return [float(str(value)) for value in scores]
    shortened = np.rint(scores * _SCALES) / _SCALES  # (6, n); each is the float64 nearest to a decimal
    fits = shortened.astype(np.float32) == scores
    found: list[float] = shortened[fits.argmax(axis=0), np.arange(len(scores))].tolist()
    others = (np.abs(scores) >= _SCALED) | ~fits.any(axis=0)  # large, tiny or not finite
    for place in others.nonzero()[0].tolist() if others.any() else ():
        found[place] = float(str(scores[place]))
    return found


def score_range(kind: ScoreKind) -> tuple[float, float]:
    """Return the lowest and the highest score of a kind.

    Example:
        >>> score_range("clipscore")
        (0.0, 2.5)
    """
    low, high = score(np.array([-1.0, 1.0]), kind).tolist()
    return low, high


def score(cosines: Scores, kind: ScoreKind) -> Scores:
    """Convert cosines to a kind of score; every pair is clamped separately.

    Args:
        cosines: Shape (n,), in -1..1.
        kind: `cosine`, `unit`, `clip_score` or `clipscore`.

    Returns:
        Shape (n,): `cosine` -1..1, `unit` 0..1 with four decimals, `clip_score` 0..100, `clipscore` 0..2.5.

    Example:
        >>> score(np.array([0.25, -0.1]), "clipscore")
        array([0.625, 0.   ])
    """
    match kind:
        case "cosine":
            return cosines
        case "unit":
            return np.round((cosines.astype(np.float64) + 1) / 2, 4)
        case "clip_score":
            return 100 * np.maximum(cosines, 0)
        case "clipscore":
            return 2.5 * np.maximum(cosines, 0)
        case _:
            raise ConfigError(f"score={kind!r} is not one of cosine, unit, clip_score, clipscore")


def ref_clipscore(cosines: Scores, nearest: Scores) -> Scores:
    """Return RefCLIPScore: the harmonic mean of CLIPScore and the similarity to the nearest reference caption.

    Args:
        cosines: Cosine of each image with its caption, shape (n,).
        nearest: Highest cosine of each caption with any of its references, shape (n,).

    Returns:
        Shape (n,), 0 to 10/7; 0 where either cosine is not positive.

    Example:
        >>> ref_clipscore(np.array([0.4, 0.4]), np.array([0.5, -0.2])).round(4)
        array([0.6667, 0.    ])
    """
    clipscore, reference = score(cosines, "clipscore"), np.maximum(nearest, 0)
    total = clipscore + reference
    return 2 * clipscore * reference / np.where(total == 0, 1, total)
