"""The results of an evaluation, as values, as JSON and as a readable table."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from ..encoders import ModelInfo
from ..files import without_nan, write_whole
from ..metrics import Agreement, Calibration, PairStatistics, Retrieval

logger = logging.getLogger("text_image_similarity")

_SHOWN = (("5 % are below", 0.05), ("median", 0.5), ("95 % are below", 0.95))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The evaluation of a model on a data set.

    Args:
        source: The data set.
        split: Split that was used; None means all of it.
        info: The model.
        images: Number of images that were measured.
        captions: Number of the captions of these images.
        captions_cut: Number of captions that are longer than the model can read, so that their end is ignored.
        failures: Numbers of images, captions and incomplete rows that were left out, by error code.
        seconds: Seconds spent on images, on captions and on the figures.
        retrieval: Ranks and recall, from captions to images and from images to captions.
        pairs: Cosines of matching and of mismatching pairs.
        calibration: Calibration of this model's cosines on this data; None if there is too little data for one.
    """

    source: str
    split: str | None
    info: ModelInfo
    images: int
    captions: int
    captions_cut: int
    failures: dict[str, int]
    seconds: dict[str, float]
    retrieval: Retrieval
    pairs: PairStatistics
    calibration: Calibration | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; a number that is not finite is None."""
        return _flatten(self)

    def write(self, path: str | PathLike[str]) -> None:
        """Write the report as JSON.

        Raises:
            TableError: The file cannot be written.
        """
        _write(self, path)

    def table(self) -> str:
        """Return the report as readable text."""
        there, back = self.retrieval.text_to_image, self.retrieval.image_to_text
        ways: list[tuple[str, ...]] = [
            ("", "caption to image", "image to caption"),
            *((f"recall@{k}", _percent(there.recall[k]), _percent(back.recall[k])) for k in there.recall),
            ("mean rank", f"{there.mean_rank:,.1f}", f"{back.mean_rank:,.1f}"),
            ("median rank", f"{there.median_rank:,.1f}", f"{back.median_rank:,.1f}"),
            ("MRR", f"{there.mrr:.4f}", f"{back.mrr:.4f}"),
        ]
        match, other = self.pairs.matching, self.pairs.mismatching
        kinds: list[tuple[str, ...]] = [
            ("cosine", "matching pairs", "mismatching pairs"),
            ("pairs", f"{match.count:,}", f"{other.count:,}{' drawn' if self.pairs.sampled else ''}"),
            ("mean", f"{match.mean:.4f}", f"{other.mean:.4f}"),
            ("std", f"{match.std:.4f}", f"{other.std:.4f}"),
            *((name, f"{match.quantiles[q]:.4f}", f"{other.quantiles[q]:.4f}") for name, q in _SHOWN),
            ("AUC", f"{self.pairs.auc:.4f}", ""),
        ]
        cut = [("captions cut", self.captions_cut)] if self.captions_cut else []
        parts = [_list_facts(self, ("images", self.images), ("captions", self.captions), *cut), ways, kinds]
        if self.calibration is not None:
            parts.append(_describe_curve(self.calibration))
        return "\n\n".join(lay_out(part) for part in parts)


@dataclass(frozen=True, slots=True)
class RatingEvaluation:
    """The agreement of a model's scores with people's ratings.

    Args:
        source: The table.
        ratings: Columns of ratings; every rating of a row counts as one pair.
        info: The model.
        rows: Number of rows of the table.
        captions_cut: Number of scored rows whose caption is longer than the model can read, so that its end is ignored.
        failures: Number of rows left out, by error code; a row without any rating counts under `no_rating`.
        agreement: Rank correlations of scores with ratings.
    """

    source: str
    ratings: tuple[str, ...]
    info: ModelInfo
    rows: int
    captions_cut: int
    failures: dict[str, int]
    agreement: Agreement

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; a number that is not finite is None."""
        return _flatten(self)

    def write(self, path: str | PathLike[str]) -> None:
        """Write the report as JSON.

        Raises:
            TableError: The file cannot be written.
        """
        _write(self, path)

    def table(self) -> str:
        """Return the report as readable text."""
        found = self.agreement
        figures = [
            ("Kendall tau-b", f"{found.kendall_tau_b:.4f}"),
            ("Kendall tau-c", f"{found.kendall_tau_c:.4f}"),
            ("Spearman rho", f"{found.spearman:.4f}"),
        ]
        cut = [("captions cut", self.captions_cut)] if self.captions_cut else []
        about = _list_facts(self, ("rows", self.rows), ("rated pairs", found.pairs), *cut)
        return "\n\n".join(lay_out(part) for part in (about, figures))


def _flatten(report: Evaluation | RatingEvaluation) -> dict[str, Any]:
    """Return a report's values, including those of the model."""
    values = asdict(report)
    del values["info"]
    found: dict[str, Any] = without_nan({"source": report.source, **report.info.as_dict(), **values})
    return found


def _write(report: Evaluation | RatingEvaluation, path: str | PathLike[str]) -> None:
    write_whole(Path(path), json.dumps(report.as_dict(), indent=2, allow_nan=False) + "\n")


def count_failure(failures: Counter[str], error: str) -> None:
    """Count a failure by its code, and log the reason for the first failure with each code."""
    code = error.partition(":")[0]
    if code not in failures:
        logger.warning("left out: %s; other failures with this code are only counted", error)
    failures[code] += 1


def sort_failures(failures: Counter[str]) -> dict[str, int]:
    """Return the counts of the error codes that occurred, in alphabetical order."""
    return {code: count for code, count in sorted(failures.items()) if count}


def list_failures(failures: Counter[str]) -> str:
    """Return the error codes that occurred, with their counts, for a message."""
    return ", ".join(f"{count} {code}" for code, count in sort_failures(failures).items()) or "there are no rows"


def _list_facts(report: Evaluation | RatingEvaluation, *counts: tuple[str, int]) -> list[tuple[str, ...]]:
    split = f", {report.split}" if isinstance(report, Evaluation) and report.split else ""
    revision = f" @ {report.info.revision}" if report.info.revision else ""
    fast = ", fast preprocessing" if report.info.preprocess == "fast" else ""
    return [
        ("source", report.source + split),
        ("model", f"{report.info.model}{revision} ({report.info.device}, {report.info.precision}{fast})"),
        *((name, f"{count:,}") for name, count in counts),
        *((f"left out: {code}", f"{count:,}") for code, count in report.failures.items()),
    ]


def _describe_curve(calibration: Calibration) -> list[tuple[str, ...]]:
    return [
        ("if half of all pairs match, a pair matches", "at a cosine of"),
        *((f"in {100 * share:.0f} % of cases", f"{calibration.cosine(share):.4f}") for share in (0.1, 0.5, 0.9)),
        ("calibration error on held-out pairs", f"{calibration.calibration_error:.4f}"),
        ("Brier score on held-out pairs", f"{calibration.brier:.4f}"),
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def lay_out(rows: Sequence[tuple[str, ...]]) -> str:
    """Lay out rows in columns: text aligned left, and figures of a table with a heading aligned right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    align = str.ljust if len(widths) == 2 else str.rjust
    lines = (
        "  ".join([row[0].ljust(widths[0]), *(align(cell, w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
