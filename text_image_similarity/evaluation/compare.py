"""Compare two models on one data set: the figures of both, how certain the differences are, and disagreements."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import Config, ConfigLike, as_config
from ..dataset import read_dataset
from ..encoders import Encoder, SeveralEncoders, as_preparing, load_encoder, resolve_model
from ..errors import UsageError
from ..metrics import (
    Interval,
    matching_scores,
    mismatching_scores,
    paired_intervals,
    placements,
    rank_correlation,
    ranks,
)
from ..pipeline import Scorer
from ..records import Progress
from .comparison import Correlation, Disagreement, ModelComparison
from .encode import EncodedDataset, encode_dataset
from .evaluate import figures

_SHOWN = 40  # pairs that the models disagree on
_PAIRS = 200_000  # mismatching pairs whose ranks are compared
_KS = (1, 5, 10)
_DECIMALS = 6  # digits of a cosine that are more than rounding errors

_Numbers = NDArray[np.floating]


def compare_models(  # noqa: PLR0913 - the source, its columns and what a caller may inject; settings are in Config
    source: str | PathLike[str],
    config: ConfigLike,
    against: ConfigLike,
    *,
    split: str | None = None,
    col_url: str | None = None,
    col_text: str = "caption",
    encoders: tuple[Encoder, Encoder] | None = None,
    progress: Progress | None = None,
) -> ModelComparison:
    """Measure two models on the same images and captions, each fetched and decoded once.

    Args:
        source, split, col_url, col_text, progress: As for `evaluate`.
        config: Settings of the run and of the first model, or the name of that model.
        against: Settings of the second model, or its name; images are fetched with the settings of the first.
        encoders: Two loaded encoders to use; None loads the models of `config` and `against`.

    Returns:
        The comparison. Images and captions that either model cannot encode are left out for both.

    Raises:
        UsageError, TableError, ConfigError, ModelError: As from `evaluate`.

    Example:
        compare_models("pairs.csv", Config(model="mini"), Config(model="fast")).differences["AUC"]
    """
    config, against = as_config(config), as_config(against)
    if encoders is None and _same_model(config, against):
        raise UsageError(f"{config.model} cannot be compared with itself; name another model with --against (against)")
    left_out: Counter[str] = Counter()
    images = read_dataset(source, split=split, col_url=col_url, col_text=col_text, config=config, left_out=left_out)
    pair = encoders or (load_encoder(config), load_encoder(against))
    both = SeveralEncoders((as_preparing(pair[0]), as_preparing(pair[1])))
    with Scorer(config, encoder=both) as scorer:
        encoded = encode_dataset(str(source), images, scorer, left_out, progress)
    if len(encoded.image) < 2:
        raise UsageError(
            f"{source} has {len(encoded.image)} usable image{'s' * (not len(encoded.image))} with captions, but a comparison of "
            "models needs at least two"
        )
    one, other = (encoded.of_member(both, place) for place in (0, 1))
    where = (str(source), split)
    first, second = (_Measured(each) for each in (one, other))
    return ModelComparison(
        source=where[0],
        split=split,
        first=figures(where, one, pair[0]),
        second=figures(where, other, pair[1]),
        differences=_differences(first, second),
        correlation=Correlation(
            matching=rank_correlation(first.matching.round(_DECIMALS), second.matching.round(_DECIMALS)),
            mismatching=rank_correlation(first.mismatching.round(_DECIMALS), second.mismatching.round(_DECIMALS)),
        ),
        disagreements=_disagreements(encoded, first.matching, second.matching),
    )


def _same_model(one: Config, other: Config) -> bool:
    named = [(resolve_model(each.model, each.revision), each.precision, each.backend) for each in (one, other)]
    return named[0] == named[1]


class _Measured:
    """The values of a model for every query; both models have the same queries."""

    def __init__(self, encoded: EncodedDataset) -> None:
        vectors = (encoded.image, encoded.text, encoded.owner)
        self.owner, self.count = encoded.owner, len(encoded.image)
        self.text_ranks, image_ranks = ranks(*vectors)
        self.asking = np.flatnonzero(image_ranks)  # images with a caption
        self.image_ranks = image_ranks[self.asking]
        self.matching = matching_scores(*vectors)
        self.mismatching = mismatching_scores(*vectors, most=_PAIRS)  # seeded: the same pairs for both models
        whole = mismatching_scores(*vectors)
        self.placements = placements(self.matching, whole) if len(whole) else None


def _differences(first: _Measured, second: _Measured) -> dict[str, Interval]:
    """Return the second model's figures minus the first model's, with intervals from bootstrap samples of images."""
    found: dict[str, tuple[_Numbers, NDArray[np.integer]]] = {}
    ways: list[tuple[str, Callable[[_Measured], Any], NDArray[np.integer]]] = [
        ("caption to image", lambda each: each.text_ranks, first.owner),
        ("image to caption", lambda each: each.image_ranks, first.asking),
    ]
    for way, ranks_of, groups in ways:
        one, other = ranks_of(first), ranks_of(second)
        for k in _KS:
            found[f"recall@{k}, {way}"] = ((other <= k) - (one <= k).astype(np.float64), groups)
        found[f"mean rank, {way}"] = (other - one.astype(np.float64), groups)
        found[f"MRR, {way}"] = (1 / other - 1 / one, groups)
    if first.placements is not None and second.placements is not None:
        found["AUC"] = (second.placements - first.placements, first.owner)
    intervals = paired_intervals([d for d, _ in found.values()], [g for _, g in found.values()], first.count)
    return dict(zip(found, intervals, strict=True))


def _disagreements(encoded: EncodedDataset, first: _Numbers, second: _Numbers) -> list[Disagreement]:
    """Return the matching pairs whose rank among all pairs differs most between the models."""
    places = [_places(scores.round(_DECIMALS)) for scores in (first, second)]
    worst = np.argsort(-np.abs(places[1] - places[0]), kind="stable")[:_SHOWN]
    return [
        Disagreement(
            image=encoded.images[encoded.owner[row]].name,
            caption=encoded.captions[row],
            cosines=(float(first[row]), float(second[row])),
            places=(float(places[0][row]), float(places[1][row])),
            source=encoded.images[encoded.owner[row]].source,
        )
        for row in worst
        if places[0][row] != places[1][row]
    ]


def _places(scores: _Numbers) -> _Numbers:
    """Return the share of all scores below each score, 0 to 1, counting ties as half."""
    ordered = np.sort(scores)
    below, not_above = (np.searchsorted(ordered, scores, side) for side in ("left", "right"))
    found: _Numbers = (below + not_above) / 2 / len(scores)
    return found
