"""The result of comparing two models, as values, as JSON and as a readable table."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from ..files import without_nan, write_whole
from ..metrics import Interval
from .report import Evaluation, lay_out

_TABLED = 5  # pairs in the table for a terminal


@dataclass(frozen=True, slots=True)
class Correlation:
    """Spearman's rank correlation of two models' cosines, -1 to 1; NaN if either side is constant.

    Args:
        matching: Correlation over each caption with its own image.
        mismatching: Correlation over captions with other images, the same pairs for both models.
    """

    matching: float
    mismatching: float


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A pair of a caption and its image that one model ranks far higher than the other does.

    Args:
        image: Name of the image.
        caption: The caption.
        cosines: Cosine from each model.
        places: Share of all matching pairs below this one, 0..1, for each model: cosines of two models cannot be
            compared, but these shares can.
        source: The encoded image or its reference.
    """

    image: str
    caption: str
    cosines: tuple[float, float]
    places: tuple[float, float]
    source: bytes | str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ModelComparison:
    """The comparison of two models on one data set.

    Args:
        source: The data set.
        split: Split that was used; None means all of it.
        first: Figures of the first model.
        second: Figures of the second model.
        differences: For each figure, the second model's value minus the first's, with a 95 % bootstrap interval.
        correlation: Rank correlation of the two models.
        disagreements: The matching pairs that the models rank most differently, largest difference first.
    """

    source: str
    split: str | None
    first: Evaluation
    second: Evaluation
    differences: dict[str, Interval]
    correlation: Correlation
    disagreements: list[Disagreement]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; numbers that are not finite become None."""
        first, second = self.first.as_dict(), self.second.as_dict()
        found: dict[str, Any] = without_nan(
            {
                **first,  # what `evaluate` alone writes for the first model
                "against": second,
                "differences": {name: asdict(interval) for name, interval in self.differences.items()},
                "correlation": asdict(self.correlation),
                "disagreements": [
                    {name: value for name, value in asdict(each).items() if name != "source"}
                    for each in self.disagreements
                ],
            }
        )
        return found

    def write(self, path: str | PathLike[str]) -> None:
        """Write the report as JSON.

        Raises:
            TableError: The file cannot be written.
        """
        write_whole(Path(path), json.dumps(self.as_dict(), indent=2, allow_nan=False) + "\n")

    def rows(self) -> list[tuple[str, ...]]:
        """Return rows of figures as texts: name, first, second, difference, and its interval."""
        known = _flat(self.first), _flat(self.second)
        return [
            (
                name,
                *(_shown(name, values[name]) for values in known),
                _shown(name, interval.difference, sign="+"),
                f"{_shown(name, interval.low, sign='+')} to {_shown(name, interval.high, sign='+')}",
            )
            for name, interval in self.differences.items()
        ]

    def facts(self) -> dict[str, str]:
        """Return facts about the comparison and the rank correlations, as texts."""
        return {
            "source": self.source + (f", {self.split}" if self.split else ""),
            "images": f"{self.first.images:,}",
            "captions": f"{self.first.captions:,}",
            **{f"left out: {code}": f"{count:,}" for code, count in self.first.failures.items()},
            "rank correlation of matching pairs": f"{self.correlation.matching:.4f}",
            "rank correlation of mismatching pairs": f"{self.correlation.mismatching:.4f}",
        }

    def table(self) -> str:
        """Return the report as readable text."""
        figures = [("", self.first.info.model, self.second.info.model, "difference", "95 % interval"), *self.rows()]
        pairs: list[tuple[str, ...]] = [
            ("share of matching pairs below", self.first.info.model, self.second.info.model)
        ]
        pairs += [
            (f"{each.image[-40:]}: {each.caption[:40]}", *(f"{100 * place:.1f} %" for place in each.places))
            for each in self.disagreements[:_TABLED]
        ]
        return "\n\n".join(lay_out(part) for part in (list(self.facts().items()), figures, pairs))


def _flat(report: Evaluation) -> dict[str, float]:
    """Return an evaluation's figures under the names used for differences."""
    found: dict[str, float] = {}
    ways = (
        ("caption to image", report.retrieval.text_to_image),
        ("image to caption", report.retrieval.image_to_text),
    )
    for way, direction in ways:
        found |= {f"recall@{k}, {way}": share for k, share in direction.recall.items()}
        found |= {f"mean rank, {way}": direction.mean_rank, f"MRR, {way}": direction.mrr}
    return found | {"AUC": report.pairs.auc}


def _shown(name: str, value: float, *, sign: str = "") -> str:
    if name.startswith("recall"):
        return f"{100 * value:{sign}.1f} %"
    return f"{value:{sign},.1f}" if name.startswith("mean rank") else f"{value:{sign}.4f}"
