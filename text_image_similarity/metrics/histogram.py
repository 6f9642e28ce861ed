"""Histogram of scores: mean, extremes and quantiles in one pass and constant memory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

# kind -> (lowest score, highest score, width of a fine bin); a width is a power of ten, so that merged bins are round
BINS = {
    "cosine": (-1.0, 1.0, 0.0001),
    "unit": (0.0, 1.0, 0.0001),
    "clip_score": (0.0, 100.0, 0.01),
    "clipscore": (0.0, 2.5, 0.0001),
    "ref_clipscore": (0.0, 1.4286, 0.0001),
}
_COARSE = 20  # fine bins in a stored bin
_FAR = 1e9  # beyond every range; the place of a larger score might not be a finite number
_SHOWN = {"p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95}


class Histogram:
    """A histogram of scores of one kind.

    Args:
        kind: The kind of score, a key of `BINS`, which gives its range.

    Example:
        >>> scores = Histogram("cosine")
        >>> scores.add_all([0.1, 0.3, 0.2])
        >>> scores.count, scores.quantile(0.5)
        (3, 0.2)
    """

    def __init__(self, kind: str) -> None:
        self.low, high, self.width = BINS[kind]
        self._last = round((high - self.low) / self.width) - 1
        self.bins: Counter[int] = Counter()  # number of scores in each bin that has any
        self.count = 0
        self.total = 0.0
        self.smallest, self.largest = math.inf, -math.inf

    def add(self, score: float) -> None:
        """Count one more finite score."""
        self.add_all([score])

    def add_all(self, scores: Collection[float]) -> None:
        """Count more finite scores."""
        self.count += len(scores)
        for score in scores:  # one after another, so that the mean does not depend on the parts of a table
            self.total += score
        self.smallest, self.largest = min([self.smallest, *scores]), max([self.largest, *scores])
        low, width = self.low, self.width
        if self.smallest < -_FAR or self.largest > _FAR:  # in a table that `score` did not write
            scores = [min(max(score, -_FAR), _FAR) for score in scores]
        # A score on an edge belongs to the bin above, even if its last bit was rounded down.
        places = Counter([int((score - low) / width + 1e-6) for score in scores])
        for place, count in places.items():
            self._add(place, count)

    def mean(self) -> float | None:
        """Return the mean score; None without scores."""
        return self.total / self.count if self.count else None

    def quantile(self, share: float) -> float | None:
        """Return the score that a share of the scores does not exceed, to within a bin's width; None without scores."""
        if not self.count:
            return None
        wanted, seen = max(1, math.ceil(share * self.count)), 0
        for place, count in sorted(self.bins.items()):
            seen += count
            if seen >= wanted:
                return min(max(round(self.low + place * self.width, 6), self.smallest), self.largest)
        raise AssertionError("every score is in a bin")

    def merged(self, most: int) -> Iterator[tuple[float, float, int]]:
        """Yield (from, to, count) for at most `most` equal bins with round edges over the range of the scores."""
        filled = sorted(self.bins)
        if not filled:
            return
        steps = (digit * 10**power for power in range(6) for digit in (1, 2, 5))
        step = next(step for step in steps if filled[-1] // step - filled[0] // step < most)
        for first in range(filled[0] // step * step, filled[-1] + 1, step):
            start, end = (round(self.low + place * self.width, 6) for place in (first, first + step))
            yield start, end, sum(self.bins[place] for place in range(first, first + step))

    def coarse(self) -> Iterator[tuple[float, int]]:
        """Yield the middle and the count of each bin that is not empty, after merging every twenty bins into one."""
        for place, count in self._coarse():
            yield self.low + (place + _COARSE / 2) * self.width, count

    def _coarse(self) -> Iterator[tuple[int, int]]:
        coarse: Counter[int] = Counter()
        for place, count in self.bins.items():
            coarse[place - place % _COARSE] += count
        yield from sorted(coarse.items())

    def kept(self) -> dict[str, Any]:
        """Return a compact form for `take`, a few hundred characters of JSON, with every twenty bins made into one."""
        return {
            "bins": " ".join(f"{place}:{count}" for place, count in self._coarse()),
            "total": self.total,
            "extremes": [self.smallest, self.largest] if self.count else None,
        }

    def take(self, kept: Mapping[str, Any]) -> None:
        """Add the scores of another histogram.

        Raises:
            AttributeError, LookupError, TypeError, ValueError: `kept` is not the result of the method `kept` for the
            same kind.
        """
        for each in kept["bins"].split():
            place, count = map(int, each.split(":"))
            self._add(place, count)
            self.count += count
        self.total += float(kept["total"])
        if kept["extremes"] is not None:
            smallest, largest = map(float, kept["extremes"])
            self.smallest, self.largest = min(self.smallest, smallest), max(self.largest, largest)

    def _add(self, place: int, count: int) -> None:
        self.bins[min(max(place, 0), self._last)] += count

    def summary(self) -> dict[str, float] | None:
        """Return the mean, the extremes and some quantiles, rounded to six decimals; None without scores."""
        mean = self.mean()
        if mean is None:
            return None
        quantiles = {name: self.quantile(share) or 0.0 for name, share in _SHOWN.items()}
        found = {"mean": mean, "min": self.smallest, **quantiles, "max": self.largest}
        return {name: round(value, 6) for name, value in found.items()}
