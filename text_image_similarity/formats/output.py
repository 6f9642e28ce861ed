"""Scored tables on their way out: in parts, which are put together at the end.

A part is what one stretch of rows becomes, without header or footer, so that a run which was stopped keeps its parts.
"""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import TableError, UsageError
from ..records import OUT_COLUMNS, ScoreResult
from .arrow_types import holds_bytes
from .delimited import DELIMITERS
from .json_lines import extended
from .names import Codec, TableKind, format_of
from .rows import Rows, dump, is_whole

SCORE_FIELDS = (pa.field("similarity", pa.float64()), pa.field("error", pa.string()))  # in Arrow
_GROUP_ROWS = 1 << 16
_GROUP_BYTES = 128 * 1024 * 1024


class Output(Protocol):
    """One format to write."""

    def part(self, rows: Rows, results: Sequence[ScoreResult]) -> bytes:
        """Return rows with their results.

        Raises:
            TableError: The format cannot hold them.
        """

    def join(self, parts: Iterable[Path], file: IO[bytes]) -> None:
        """Put parts together to a whole table."""


def score_arrays(results: Sequence[ScoreResult]) -> list[pa.Array]:
    """Return results as Arrow columns of `SCORE_FIELDS`; a failed row's similarity is null."""
    scores = [None if result.error is not None else result.similarity for result in results]
    columns = (scores, [result.error for result in results])
    return [pa.array(column, field.type) for column, field in zip(columns, SCORE_FIELDS, strict=True)]


def output_for(place: str, columns: Sequence[str], schema: pa.Schema) -> Output:
    """Return what writes the format that a name says.

    Args:
        place: Where the table will be.
        columns: The input's columns.
        schema: Their types in Arrow.

    Raises:
        UsageError: The format cannot hold a column; the message names it.
    """
    found = format_of(place)
    _check(found.kind, columns, schema)
    if found.kind in DELIMITERS:
        return DelimitedOutput([*columns, *OUT_COLUMNS], DELIMITERS[found.kind], found.codec)
    if found.kind == "jsonl":
        return JsonOutput(found.codec)
    return ParquetOutput(pa.schema([*schema, *SCORE_FIELDS], schema.metadata))


def _check(kind: TableKind, columns: Sequence[str], schema: pa.Schema) -> None:
    if kind != "parquet":
        for column in schema:
            if holds_bytes(column.type):
                raise UsageError(
                    f"column {column.name!r} ({column.type}) holds bytes, which only Parquet can; name an output that "
                    "ends in .parquet, or leave the column out"
                )
    for name in columns:
        if kind == "jsonl" and columns.count(name) > 1:
            raise UsageError(f"JSON cannot hold two columns named {name!r}; rename one")
        if kind != "jsonl" and not is_whole(name):
            raise UsageError(f"column {name!r} has a lone surrogate in its name, which only JSON can hold; rename it")


@dataclass(frozen=True, slots=True)
class DelimitedOutput:
    """Writes CSV or TSV, in UTF-8, with line feeds."""

    columns: Sequence[str]
    delimiter: str
    codec: Codec | None

    def part(self, rows: Rows, results: Sequence[ScoreResult]) -> bytes:
        return self._encoded([*row, *_cells(result)] for row, result in zip(rows.fields(), results, strict=True))

    def join(self, parts: Iterable[Path], file: IO[bytes]) -> None:
        with _compressed(file, self.codec) as out:
            out.write(self._encoded([self.columns]))
            _copy(parts, out)

    def _encoded(self, rows: Iterable[Sequence[str]]) -> bytes:
        text = io.StringIO(newline="")
        plain = csv.writer(text, delimiter=self.delimiter, lineterminator="\n")
        quoted = csv.writer(text, delimiter=self.delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
        for row in rows:
            # Before Python 3.13 the csv module leaves a lone carriage return unquoted and reads it back as a row's end.
            (quoted if any("\r" in value for value in row) else plain).writerow(row)
        return text.getvalue().encode("utf-8")


@dataclass(frozen=True, slots=True)
class JsonOutput:
    """Writes JSON Lines."""

    codec: Codec | None

    def part(self, rows: Rows, results: Sequence[ScoreResult]) -> bytes:
        lines = []
        for text, result in zip(rows.objects(), results, strict=True):
            score = "null" if result.error is not None else repr(result.similarity)
            members = f'"similarity": {score}, "error": {dump(result.error)}'
            lines.append(extended(text, members) + "\n")
        return "".join(lines).encode("utf-8")

    def join(self, parts: Iterable[Path], file: IO[bytes]) -> None:
        with _compressed(file, self.codec) as out:
            _copy(parts, out)


@dataclass(frozen=True, slots=True)
class ParquetOutput:
    """Writes Parquet."""

    schema: pa.Schema

    def part(self, rows: Rows, results: Sequence[ScoreResult]) -> bytes:
        try:
            columns = [*rows.arrow().columns, *score_arrays(results)]
            sink = pa.BufferOutputStream()
            pq.write_table(pa.Table.from_arrays(columns, schema=self.schema), sink)
        except pa.ArrowException as exc:
            raise TableError(f"rows cannot be written as Parquet: {exc}") from exc
        data: bytes = sink.getvalue().to_pybytes()
        return data

    def join(self, parts: Iterable[Path], file: IO[bytes]) -> None:
        with pq.ParquetWriter(file, self.schema) as writer:
            for group in _groups(parts):
                writer.write_table(group, row_group_size=max(1, group.num_rows))


def _groups(parts: Iterable[Path]) -> Iterator[pa.Table]:
    """Yield the content of parts in row groups of a useful size."""
    waiting: list[pa.Table] = []
    for part in parts:
        with pq.ParquetFile(part) as file:  # `read_table` refuses columns of one name
            waiting.append(file.read())
        if (
            sum(table.num_rows for table in waiting) >= _GROUP_ROWS
            or sum(table.nbytes for table in waiting) >= _GROUP_BYTES
        ):
            yield pa.concat_tables(waiting).unify_dictionaries()
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting).unify_dictionaries()


def _cells(result: ScoreResult) -> tuple[str, str]:
    return ("", result.error) if result.error is not None else (repr(result.similarity), "")


def _copy(parts: Iterable[Path], out: IO[bytes]) -> None:
    for part in parts:
        with part.open("rb") as file:
            shutil.copyfileobj(file, out, 1 << 20)


def _compressed(file: IO[bytes], codec: Codec | None) -> AbstractContextManager[IO[bytes]]:
    if codec is None:
        return nullcontext(file)
    return _compressor(file, codec)


@contextmanager
def _compressor(file: IO[bytes], codec: Codec) -> Iterator[IO[bytes]]:
    # One stream, not one for each part: some readers stop after the first.
    with pa.CompressedOutputStream(pa.PythonFile(file, "w"), codec) as out:
        yield out
