"""A finished table, read once and counted, written as one page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from os import PathLike
from pathlib import Path
from typing import Any

import httpx

from ..config import Config
from ..errors import ErrorCode
from ..files import write_whole
from .page import page
from .tally import ReportRow, Tally
from .thumbnails import thumbnails

# Failures of rows whose pictures could be read all the same.
_IMAGE_IS_FINE = frozenset({ErrorCode.EMPTY_CAPTION.value, ErrorCode.ENCODER_ERROR.value, ErrorCode.NON_FINITE.value})


def make_report(
    rows: Iterable[ReportRow],
    summary: Mapping[str, Any],
    config: Config,
    path: str | PathLike[str],
    *,
    transport: httpx.BaseTransport | None = None,
) -> None:
    """Read a finished table once and write its report.

    Args:
        rows: Every row of the table, in order. Memory does not grow with their number.
        summary: What the run's summary file holds; see `write_report`.
        config: The run's settings, with the `base_dir` that its relative references started from.
        path: The page to write.
        transport: Where http requests for pictures go, for tests; None is the network.

    Raises:
        TableError: The page cannot be written.
        ConfigError: The summary's `score` is no score kind.
    """
    tally = Tally(summary["score"])
    for row in rows:
        tally.add(row)
    write_report(path, tally, summary, thumbnails(wanted_images(tally), config, transport=transport))


def report_rows(parts: Iterable[Sequence[Sequence[Any]]]) -> Iterator[ReportRow]:
    """Turn columns of a scored table into rows.

    Args:
        parts: Stretches of the table, each as its columns of references, captions, scores and errors, in any type that a
            table may give them.
    """
    numbers = count(1)
    for columns in parts:
        for url, text, score, error in zip(*columns, strict=True):
            similarity = None if score in (None, "") else float(score)
            yield ReportRow(next(numbers), str(url or ""), str(text or ""), similarity, error or None)


def wanted_images(tally: Tally) -> list[str]:
    """Return the references whose pictures the page shows."""
    failed = (row for row in tally.failed() if row.code in _IMAGE_IS_FINE)
    return [row.url for row in (*tally.lowest(), *tally.highest(), *failed)]


def write_report(
    path: str | PathLike[str], tally: Tally, summary: Mapping[str, Any], pictures: Mapping[str, bytes]
) -> None:
    """Write the page, complete or not at all.

    Args:
        path: The page to write.
        tally: The rows, counted.
        summary: What the run's summary file holds: `input`, `output`, `model`, `revision`, `device`, `precision`,
            `backend`, `preprocess`, `seconds`, `pairs_per_second`, `versions`, `warnings`. `throughput`, a list of
            [seconds since the start, rows done], is drawn where there is one. What is missing is left out.
        pictures: Small JPEGs by reference, as from `thumbnails`; a missing one is shown as a gap.

    Raises:
        TableError: It cannot be written.
    """
    write_whole(Path(path), page(tally, summary, pictures))
