"""Compare the vectors and scores of an export with those of its source, and check the differences against bounds."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ..files import without_nan
from ..metrics import rank_correlation, retrieval
from ..similarity import Embeddings

_NEAREST = 10  # the k of recall@k


@dataclass(frozen=True, slots=True)
class Bounds:
    """The largest differences that an export may have from its source.

    Args:
        cosine: Smallest cosine of a vector with the source's.
        score: Largest difference of a score.
        ranks: Smallest rank correlation of the pairs' scores.
        recall: Largest loss of recall@10, 0..1.
        alone: Largest difference between the values of a vector that is encoded alone and in a batch.
    """

    cosine: float
    score: float
    ranks: float
    recall: float
    alone: float


BOUNDS = {
    "fp32": Bounds(cosine=0.99999, score=5e-6, ranks=0.9999, recall=0.005, alone=1e-6),
    "fp16": Bounds(cosine=0.9999, score=2e-3, ranks=0.9995, recall=0.005, alone=1e-3),
    "int8": Bounds(cosine=0.98, score=0.05, ranks=0.99, recall=0.01, alone=1e-6),
}


@dataclass(frozen=True, slots=True)
class EncodedPairs:
    """The pairs as one model encodes them.

    Args:
        image: The images' vectors, shape (n, d).
        text: The captions' vectors, shape (n, d).
        image_alone, text_alone: Vectors of the first few images and captions, each encoded alone.
        image_ms, text_ms: Milliseconds per image and per caption.
    """

    image: Embeddings
    text: Embeddings
    image_alone: Embeddings
    text_alone: Embeddings
    image_ms: float
    text_ms: float


@dataclass(frozen=True, slots=True)
class TowerParity:
    """The comparison of one tower of an export with the source's.

    Args:
        cosine_min, cosine_mean: Smallest and mean cosine of a vector with the source's.
        difference_max: Largest difference between a value of the export's vectors and the same value of the source's.
        alone_max: Largest difference between the values of a vector that the export encodes alone and in a batch.
        not_finite: Number of vectors that are not finite.
        ms: Milliseconds per item, on this machine.
    """

    cosine_min: float
    cosine_mean: float
    difference_max: float
    alone_max: float
    not_finite: int
    ms: float


@dataclass(frozen=True, slots=True)
class Parity:
    """The comparison of an export with its source on the same pairs.

    Args:
        data: Where the pairs come from.
        pairs: Number of pairs.
        image, text: The towers.
        score_max, score_mean: Largest and mean difference of the pairs' cosines.
        rank_correlation: Spearman's rho of the pairs' scores; None if they do not vary.
        recall_source, recall_export: Share of captions whose image is among the ten best of all images, for each model.
        recall_counts: Whether the source's recall exceeds chance by three standard deviations. If the source's recall
            does not exceed chance like this, as with random weights, a loss of recall is also due to chance, and only
            cosines, scores and ranks are checked.
        failures: The bounds that are exceeded, in words.
    """

    data: str
    pairs: int
    image: TowerParity
    text: TowerParity
    score_max: float
    score_mean: float
    rank_correlation: float | None
    recall_source: float | None
    recall_export: float | None
    recall_counts: bool
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the export is within all bounds."""
        return not self.failures

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as it is stored in `parity.json`."""
        found: dict[str, Any] = without_nan({"passed": self.passed, **asdict(self)})
        return found


def compare(data: str, source: EncodedPairs, export: EncodedPairs, bounds: Bounds) -> Parity:
    """Compare the vectors of two models for the same pairs.

    Args:
        data: Where the pairs come from.
        source: Vectors of the model itself.
        export: Vectors of the export.
        bounds: Bounds for the export.
    """
    image = _tower(source.image, export.image, export.image_alone, export.image_ms)
    text = _tower(source.text, export.text, export.text_alone, export.text_ms)
    before, after = _scores(source), _scores(export)
    difference = np.abs(before - after)
    ranks = rank_correlation(before, after)
    recalls = [None if image.not_finite + text.not_finite else _recall(one) for one in (source, export)]
    found = Parity(
        data=data,
        pairs=len(before),
        image=image,
        text=text,
        score_max=float(difference.max()),
        score_mean=float(difference.mean()),
        rank_correlation=None if math.isnan(ranks) else ranks,
        recall_source=recalls[0],
        recall_export=recalls[1],
        recall_counts=recalls[0] is not None and recalls[0] > _chance(len(before)),
        failures=(),
    )
    return replace(found, failures=tuple(_failures(found, bounds)))


def _tower(source: Embeddings, export: Embeddings, alone: Embeddings, ms: float) -> TowerParity:
    cosines = (source * export).sum(axis=1)
    return TowerParity(
        cosine_min=float(cosines.min()),
        cosine_mean=float(cosines.mean()),
        difference_max=float(np.abs(source - export).max()),
        alone_max=float(np.abs(alone - export[: len(alone)]).max()),
        not_finite=int((~np.isfinite(export).all(axis=1)).sum()),
        ms=round(ms, 3),
    )


def _scores(encoded: EncodedPairs) -> Embeddings:
    scores: Embeddings = (encoded.image * encoded.text).sum(axis=1)
    return scores


def _recall(encoded: EncodedPairs) -> float:
    found = retrieval(encoded.image, encoded.text, np.arange(len(encoded.text)), ks=(_NEAREST,))
    return found.text_to_image.recall[_NEAREST]


def _chance(count: int) -> float:
    """Return a recall that a guessing model rarely exceeds."""
    share = min(1.0, _NEAREST / count)
    return share + 3 * math.sqrt(share * (1 - share) / count)


def _failures(parity: Parity, bounds: Bounds) -> list[str]:
    """Describe the bounds that are exceeded."""
    said = []
    for name, tower in (("image", parity.image), ("text", parity.text)):
        if tower.not_finite:
            said.append(f"{tower.not_finite:,} {name} vectors are not finite")
        elif tower.cosine_min < bounds.cosine:
            said.append(
                f"the smallest cosine of {name} vectors with the source's is {tower.cosine_min:.6f}, below {bounds.cosine}"
            )
        if not tower.alone_max <= bounds.alone and not tower.not_finite:
            said.append(
                f"{name} vectors change by {tower.alone_max:.1e} when they are encoded in a batch, more than {bounds.alone:.0e}"
            )
    if said and (parity.image.not_finite or parity.text.not_finite):
        return said
    if parity.score_max > bounds.score:
        said.append(f"a score differs by {parity.score_max:.1e}, more than {bounds.score:.0e}")
    if parity.rank_correlation is not None and parity.rank_correlation < bounds.ranks:
        said.append(f"the rank correlation of scores is {parity.rank_correlation:.5f}, below {bounds.ranks}")
    if parity.recall_counts and parity.recall_source is not None and parity.recall_export is not None:
        lost = parity.recall_source - parity.recall_export
        if lost > bounds.recall + 1e-9:
            said.append(f"recall@{_NEAREST} falls by {lost:.3f}, more than {bounds.recall}")
    return said
