"""Counts of the rows of a finished table, in constant memory.

Scores are counted in fine bins over the whole range of their kind, so that one pass is enough and the page can merge
bins to fit the data. Hosts are counted exactly up to `MOST_HOSTS`; beyond that, the hosts with the fewest failures,
then the fewest rows, are merged into "other hosts", and if such a host occurs again, its counts are lower bounds.
"""

from __future__ import annotations

import heapq
import math
import random
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import get_args

from ..checks import one_of
from ..config import RowScore
from ..errors import ErrorCode
from ..fetch import strip_invisible
from ..metrics import Histogram

EXTREMES = 40  # number of lowest rows to keep, and of highest rows
FAILED_PER_CODE = 25
FAILED_SHOWN = 100
MOST_HOSTS = 10_000
MOST_TEXT = 2000  # characters of a caption or an error that the page can show
MOST_IMAGE = 4 * 1024 * 1024  # largest image in the table that is kept for its thumbnail, in bytes
MOST_URL = 256 * 1024  # longest reference that is kept whole, to fetch its image

OTHER = "other"
LOCAL, DATA, NO_HOST, IN_TABLE = "(local files)", "(data: URLs)", "(no host)", "(in the table)"
_CODES = frozenset(code.value for code in ErrorCode)
_HOST = re.compile(r"https?:/*(?:[^/?#@]*@)?(\[[^\]/?#]*\]|[^/?#:]*)", re.IGNORECASE)
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ReportRow:
    """One row of a scored table.

    Args:
        number: Number of the row in the table, from 1.
        url: The image reference, or a placeholder if the table holds the image itself.
        text: The caption.
        similarity: The score, or None.
        error: `code: detail`, or None.
        image: The encoded image, if the table holds it.
    """

    number: int
    url: str
    text: str
    similarity: float | None
    error: str | None
    image: bytes | None = None

    @property
    def source(self) -> str | bytes:
        """Source of the image for the page: its file or its reference."""
        return self.url if self.image is None else self.image

    @property
    def code(self) -> str:
        """The error's code; `other` if this package does not know it."""
        code = (self.error or "")[:40].partition(":")[0].strip()
        return code if code in _CODES else OTHER


@dataclass(slots=True)
class HostCount:
    """Number of rows of one host, and its failures by code."""

    rows: int = 0
    failures: Counter[str] | None = None

    @property
    def failed(self) -> int:
        """Number of the host's rows without a score."""
        return 0 if self.failures is None else self.failures.total()


@dataclass(slots=True)
class Tally:
    """The counts of a table for its report.

    Args:
        kind: The score kind, which determines the range of scores.

    Raises:
        ConfigError: `kind` is not a score kind.

    Example:
        >>> tally = Tally("cosine")
        >>> for number, score in enumerate([0.1, 0.3, 0.2], 1):
        ...     tally.add(ReportRow(number, "dog.jpg", "a dog", score, None))
        >>> [row.number for row in tally.lowest()], tally.scores.quantile(0.5)
        ([1, 3], 0.2)
    """

    kind: str
    rows: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    scores: Histogram = field(init=False)
    hosts: dict[str, HostCount] = field(default_factory=dict)
    other_hosts: HostCount = field(default_factory=HostCount)
    _low: list[tuple[float, int, ReportRow]] = field(default_factory=list)
    _high: list[tuple[float, int, ReportRow]] = field(default_factory=list)
    _failed: dict[str, list[ReportRow]] = field(default_factory=dict)
    _random: random.Random = field(default_factory=lambda: random.Random(0))

    def __post_init__(self) -> None:
        one_of("score", self.kind, get_args(RowScore))
        self.scores = Histogram(self.kind)

    @property
    def scored(self) -> int:
        """Number of rows with a score."""
        return self.scores.count

    def add(self, row: ReportRow) -> None:
        """Count a row."""
        self.rows += 1
        score = row.similarity
        failed = bool(row.error) or score is None or not math.isfinite(score)
        if failed or score is None:
            self._add_failure(row)
        else:
            self._add_score(row, score)
        self._add_host(row, failed)

    def lowest(self) -> list[ReportRow]:
        """Return the rows with the lowest scores, lowest first; among equal scores, those that come first in the table.

        In a small table, no row is both among the lowest and among the highest.
        """
        return [row for *_, row in sorted(self._low, reverse=True)[: (self.scored + 1) // 2]]

    def highest(self) -> list[ReportRow]:
        """Return the rows with the highest scores, highest first."""
        return [row for *_, row in sorted(self._high, reverse=True)[: self.scored // 2]]

    def failed(self) -> list[ReportRow]:
        """Return a sample of the failed rows, with examples of every code, in the order of the table."""
        share = max(4, FAILED_SHOWN // max(1, len(self._failed)))
        chosen = [row for rows in self._failed.values() for row in rows[:share]]
        return sorted(chosen, key=lambda row: row.number)

    def worst_hosts(self, count: int) -> list[tuple[str, HostCount]]:
        """Return the hosts with the most failures, most first."""
        failing = ((name, host) for name, host in self.hosts.items() if host.failures is not None)
        return heapq.nlargest(count, failing, key=lambda pair: (pair[1].failed, pair[0]))

    def _add_score(self, row: ReportRow, score: float) -> None:
        self.scores.add(score)
        for heap, key in ((self._low, -score), (self._high, score)):
            if len(heap) < EXTREMES:
                heapq.heappush(heap, (key, -self.rows, _kept(row)))
            elif key > heap[0][0]:
                heapq.heapreplace(heap, (key, -self.rows, _kept(row)))

    def _add_failure(self, row: ReportRow) -> None:
        code = row.code
        self.failures[code] += 1
        rows = self._failed.setdefault(code, [])
        if len(rows) < FAILED_PER_CODE:
            rows.append(_kept(row))
        elif (place := self._random.randrange(self.failures[code])) < FAILED_PER_CODE:  # Vitter's algorithm R
            rows[place] = _kept(row)

    def _add_host(self, row: ReportRow, failed: bool) -> None:
        name = host_of(row.url) if row.image is None else IN_TABLE
        host = self.hosts.get(name)
        if host is None:
            if len(self.hosts) >= MOST_HOSTS:
                self._drop_hosts()
            host = self.hosts[name] = HostCount()
        host.rows += 1
        if failed:
            host.failures = host.failures or Counter()
            host.failures[row.code] += 1

    def _drop_hosts(self) -> None:
        """Move the less important half of the hosts into `other_hosts`."""
        by_weight = sorted(self.hosts, key=lambda name: (self.hosts[name].failed, self.hosts[name].rows))
        other = self.other_hosts
        for name in by_weight[: max(1, len(by_weight) // 2)]:
            host = self.hosts.pop(name)
            other.rows += host.rows
            if host.failures is not None:
                other.failures = (other.failures or Counter()) + host.failures


def host_of(url: str) -> str:
    """Return the host of a reference in lower case, or words in brackets if it has none.

    Example:
        >>> host_of("https://me@Img.Example:8080/a.png"), host_of("a/b.png")
        ('img.example', '(local files)')
    """
    start = strip_invisible(url[:2000])
    if match := _HOST.match(start):
        return match.group(1).lower()[:253] or NO_HOST
    scheme = match.group(1).lower() if (match := _SCHEME.match(start)) else "file"
    return {"file": LOCAL, "data": DATA}.get(scheme, NO_HOST) if start else NO_HOST


def _kept(row: ReportRow) -> ReportRow:
    """Return a row with long texts cut to one character more than the page shows, which marks them as cut."""
    if row.image is not None and len(row.image) > MOST_IMAGE:
        row = replace(row, image=b"")
    if len(row.url) <= MOST_URL and len(row.text) <= MOST_TEXT and len(row.error or "") <= MOST_TEXT:
        return row
    error = None if row.error is None else row.error[: MOST_TEXT + 1]
    return replace(row, url=row.url[: MOST_URL + 1], text=row.text[: MOST_TEXT + 1], error=error)
