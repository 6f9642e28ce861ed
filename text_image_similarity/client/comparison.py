"""Comparison of single requests with batch requests: how much faster a service is with many pairs per request.

The first rows of a table that go to the service are assigned alternately: one to a single request, the next one to a
batch. No row is therefore sent twice, and the service's cache helps neither mode. Blocks of both modes alternate, and
so does their order, so that a service that warms up or becomes busy affects both modes alike. Requests are sent one at
a time, and this client measures their duration, including the reading of files and HTTP.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from itertools import islice
from os import PathLike
from pathlib import Path

from ..config import Config, Dialect
from ..errors import UsageError
from ..files import write_whole
from ..formats import check_columns, choose_columns, open_table, with_base_dir
from ..records import Record
from .engine import ServiceEngine

MOST = 256  # rows for each mode
_LOOKED_AT = 4 * MOST  # rows of the table that are searched for rows to send to the service


@dataclass(frozen=True, slots=True)
class Comparison:
    """The measurements of one mode.

    Args:
        mode: `single` or `batch`.
        requests: Number of requests.
        images: Number of rows in the requests.
        seconds: Time of all requests together.
        images_per_second: Rows per second.
        speed_up: Rate as a multiple of the rate of single requests.
    """

    mode: str
    requests: int
    images: int
    seconds: float
    images_per_second: float
    speed_up: float


def compare_table(
    source: str, columns: tuple[str | None, str | None], config: Config, engine: ServiceEngine
) -> list[Comparison]:
    """Compare the speed of single requests and batch requests on the first rows of a table.

    Args:
        source: The table, as for `score_csv`.
        columns: Columns of images and of captions; None finds them as `score_csv` does.
        config: The settings of the run.
        engine: Engine of the service; this function starts it.

    Returns:
        Measurements of `single` and `batch`, with the same number of rows each, at most 256.

    Raises:
        UsageError: Fewer than three rows would go to the service, or a column is missing.
        TableError: The service does not respond.
    """
    config = with_base_dir(config, source)
    engine.start(config)
    rows = list(islice(filter(engine.sends, _first_rows(source, columns, config.dialect)), 2 * MOST + 1))
    if len(rows) < 3:
        raise UsageError(
            f"{source} has fewer than three rows that can be sent to the service, which is too few to compare"
        )
    engine.score_some(rows[:1])  # the first request is slower than the others
    half = (len(rows) - 1) // 2
    return _compared(engine, rows[1::2][:half], rows[2::2][:half])


def _first_rows(source: str, columns: tuple[str | None, str | None], dialect: Dialect) -> Iterator[Record]:
    table = open_table(source, dialect=dialect)
    chosen = choose_columns(table, *columns)
    if table.columns:
        check_columns(table.columns, [name for name in chosen if name != table.images], source)
    parts = ([rows.column(name) for name in chosen] for rows in table.read(0, _LOOKED_AT))
    return islice((Record.of(*row) for part in parts for row in zip(*part, strict=True)), _LOOKED_AT)


def _compared(engine: ServiceEngine, singles: Sequence[Record], batch: Sequence[Record]) -> list[Comparison]:
    size = engine.max_pairs
    seconds, requests = {"single": 0.0, "batch": 0.0}, {"single": 0, "batch": 0}
    for number, at in enumerate(range(0, len(singles), size)):
        blocks: dict[str, list[Sequence[Record]]] = {
            "single": [[row] for row in singles[at : at + size]],
            "batch": [batch[at : at + size]],
        }
        for mode in sorted(blocks, reverse=number % 2 == 0):
            before, began = engine.requests, time.perf_counter()
            for rows in blocks[mode]:
                engine.score_some(rows)
            seconds[mode] += time.perf_counter() - began
            requests[mode] += engine.requests - before
    rates = {mode: len(singles) / max(seconds[mode], 1e-9) for mode in seconds}
    return [
        Comparison(
            mode,
            requests[mode],
            len(singles),
            round(seconds[mode], 3),
            round(rates[mode], 2),
            round(rates[mode] / rates["single"], 2),
        )
        for mode in seconds
    ]


def write_comparison(comparison: Sequence[Comparison], path: str | PathLike[str]) -> None:
    """Write the result of `compare_table` as CSV.

    Raises:
        TableError: The file cannot be written.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(field.name for field in fields(Comparison))
    writer.writerows(astuple(row) for row in comparison)
    write_whole(Path(path), file.getvalue())
