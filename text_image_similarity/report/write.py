"""Write the report: a finished table is read once, counted, and written as one page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import httpx

from ..bounded_json import parse_json
from ..config import Config
from ..errors import ErrorCode, RowError, TableError
from ..files import write_whole
from ..records import EncodedImage, image_of
from .page import page
from .tally import IN_TABLE, LOCAL, ReportRow, Tally, host_of
from .thumbnails import thumbnails

# Failures of rows whose images could be read.
_IMAGE_IS_FINE = frozenset({ErrorCode.EMPTY_CAPTION.value, ErrorCode.ENCODER_ERROR.value, ErrorCode.NON_FINITE.value})


def make_report(
    rows: Iterable[ReportRow],
    summary: Mapping[str, Any],
    config: Config,
    path: str | PathLike[str],
    *,
    transport: httpx.BaseTransport | None = None,
) -> int:
    """Read a finished table once and write its report.

    Args:
        rows: Every row of the table, in order. Memory does not grow with the number of rows.
        summary: Contents of the run's summary file; `score` is required, and `write_report` lists the rest.
        config: The run's settings, with the `base_dir` that its relative references started from.
        path: The page to write.
        transport: Transport for HTTP requests, for tests; None is the network.

    Returns:
        The number of local images that the page should show but that could not be read.

    Raises:
        TableError: The page cannot be written.
        ConfigError: `score` in the summary is not a score kind.
    """
    tally = Tally(summary["score"])
    for row in rows:
        tally.add(row)
    wanted = wanted_images(tally)
    images = thumbnails(wanted, config, transport=transport)
    write_report(path, tally, summary, images)
    references = {source for source in wanted if isinstance(source, str)} - images.keys() - {IN_TABLE}
    return sum(host_of(reference) == LOCAL for reference in references)


def report_rows(rows: Iterable[Sequence[Any]]) -> Iterator[ReportRow]:
    """Yield report rows from a scored table's cells, one for each caption.

    Args:
        rows: For each row, the image or its reference, its captions, and their scores and errors, of any type that a
            table can hold. A caption may be a list, and its score and its error are then lists.

    Raises:
        TableError: A score is not a number, or a list does not fit its captions; the message names the row.
    """
    for number, (cell, texts, found) in enumerate(rows, 1):
        reference, image = _shown(cell)
        for place, text in enumerate(texts):
            score, error = found[2 * place : 2 * place + 2]
            try:
                pairs = [
                    (str(caption or ""), None if value in (None, "") else float(value), code or None)
                    for caption, value, code in _each(text, score, error)
                ]
            except (TypeError, ValueError, RecursionError) as exc:
                raise TableError(
                    f"row {number:,} has the score {score!r:.40} and the error {error!r:.40}, which `score` never writes; "
                    "make the report from the unchanged scored table"
                ) from exc
            for caption, similarity, code in pairs:
                yield ReportRow(number, reference, caption, similarity, code, image)


def _each(text: Any, score: Any, error: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Yield the captions of a cell with their scores and errors."""
    scores, errors = (
        parse_json(cell) if isinstance(cell, str) and cell.startswith("[") else cell for cell in (score, error)
    )
    if not isinstance(scores, list):
        return iter([(text, score, error)])
    texts = text if isinstance(text, list) and text else [text]
    return zip(texts, scores, errors, strict=True)


def _shown(cell: object) -> tuple[str, bytes | None]:
    """Return a text for a cell's image, and the image itself if it is in the cell."""
    if isinstance(cell, RowError):  # the reason why a shard has no image
        return IN_TABLE, None
    found = image_of(cell)
    path = cell.get("path") if isinstance(cell, Mapping) else None
    if isinstance(found, bytes):
        return (path if isinstance(path, str) and path else IN_TABLE), found
    if isinstance(cell, Mapping | EncodedImage):
        return (found if isinstance(found, str) else IN_TABLE), None
    return str(cell or ""), None


def wanted_images(tally: Tally) -> list[str | bytes]:
    """Return the images that the page shows: references, or files if they are in the table."""
    failed = (row for row in tally.failed() if row.code in _IMAGE_IS_FINE)
    return [row.source for row in (*tally.lowest(), *tally.highest(), *failed)]


def write_report(
    path: str | PathLike[str], tally: Tally, summary: Mapping[str, Any], images: Mapping[Any, bytes]
) -> None:
    """Write the page, completely or not at all.

    Args:
        path: The page to write.
        tally: Counts of the rows.
        summary: Contents of the run's summary file: `input`, `output`, `model`, `revision`, `device`, `precision`,
            `backend`, `preprocess`, `seconds`, `pairs_per_second`, `versions`, `warnings`. `throughput`, a list of
            [seconds since the start, rows done], is drawn if present. All entries are optional.
        images: Small JPEGs by `ReportRow.source`, as from `thumbnails`; a missing one is shown as a placeholder.

    Raises:
        TableError: The file cannot be written.
    """
    write_whole(Path(path), page(tally, summary, images))
