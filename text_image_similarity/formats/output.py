"""Write tables with added columns, in parts that are joined at the end.

A part is the output for consecutive rows, without header or footer, so a run that was stopped can keep its parts.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import IO, Any, Protocol

import pyarrow as pa

from ..config import Dialect
from ..errors import TableError, UsageError
from ..records import ScoreResult, is_whole
from .arrow_types import holds_bytes
from .delimited import DELIMITERS, dialect_of
from .json_text import extended
from .names import Codec, TableKind, ending_of, format_of
from .parquet_output import ParquetOutput, arrays_of
from .rows import Rows, dump
from .table import Table, open_table

SCORE_FIELDS = (pa.field("similarity", pa.float64()), pa.field("error", pa.string()))  # in Arrow


class Output(Protocol):
    """A format to write."""

    def part(self, rows: Rows, added: Sequence[Sequence[Any]]) -> bytes | memoryview:
        """Encode rows with added columns of floats, texts or None.

        Raises:
            TableError: The format cannot represent a value.
        """

    def join(self, parts: Iterable[bytes | memoryview], file: IO[bytes]) -> None:
        """Join parts into a complete table."""


def score_cells(result: ScoreResult) -> tuple[float | None, str | None]:
    """Return a result as the values of `SCORE_FIELDS`."""
    return (None if result.error is not None else result.similarity), result.error


def score_arrays(results: Sequence[ScoreResult]) -> list[pa.Array]:
    """Return results as Arrow columns of `SCORE_FIELDS`; a failed row's similarity is null."""
    columns = zip(*map(score_cells, results), strict=True) if results else ((), ())
    return arrays_of(list(columns), SCORE_FIELDS)


def output_for(
    place: str,
    table: Table,
    dialect: Dialect,
    added: Sequence[pa.Field] = SCORE_FIELDS,
    dropped: frozenset[str] | None = None,
) -> Output:
    """Return the output for the format of a name's suffix.

    Args:
        place: Place of the table to write.
        table: The input, which has been scanned.
        dialect: Dialect of the input; an output in the same format uses it too, but is always in UTF-8.
        added: Columns that each part adds, of floats or text.
        dropped: Columns of the input that have been left out; None if the caller cannot leave any out.

    Raises:
        UsageError: The format cannot represent a column; the message names it.
    """
    names, whole = table.columns, table.schema  # only once, because some tables build them each time
    kept = [at for at, name in enumerate(names) if name not in (dropped or ())]
    schema = pa.schema([whole.field(at) for at in kept], whole.metadata)
    columns = [names[at] for at in kept]
    if dropped is not None:
        _check_bytes(place, schema, "with --drop-col {0} (TableOptions(drop_columns=({0!r},)))")
    return writer_for(place, schema, _output_dialect(place, table, dialect), added, columns=columns)


def writer_for(
    place: str,
    schema: pa.Schema,
    dialect: Dialect | None = None,
    added: Sequence[pa.Field] = (),
    *,
    columns: Sequence[str] | None = None,
) -> Output:
    """Return the output for rows with a schema, in the format of a name's suffix.

    Args:
        place: Place of the table to write.
        schema: Schema of the rows.
        dialect: Dialect of CSV and TSV files; None is the default.
        added: Columns that each part adds to the rows.
        columns: Names of the columns, if the schema spells them differently.

    Raises:
        UsageError: The format cannot represent a column; the message names it.
    """
    found = format_of(place)
    if found.kind == "tar":
        raise UsageError(
            f"{place}: tar files can be read but not written; name a table, such as {place.removesuffix(ending_of(place))}.parquet"
        )
    columns = schema.names if columns is None else columns
    _check_bytes(place, schema)
    _check(found.kind, columns)
    if found.kind in DELIMITERS:
        names = [*columns, *(field.name for field in added)]
        return DelimitedOutput(names, dialect_of(place, dialect or Dialect()), found.codec)
    if found.kind == "jsonl":
        return JsonOutput([field.name for field in added], found.codec)
    return ParquetOutput(schema, added)


def _check_bytes(place: str, schema: pa.Schema, way: str = "first") -> None:
    if format_of(place).kind == "parquet":
        return
    for column in schema:
        if holds_bytes(column.type):
            raise UsageError(
                f"column {column.name!r} ({column.type}) contains bytes, which only Parquet can store; name an output that ends in "
                f".parquet, or leave the column out {way.format(column.name)}"
            )


def _check(kind: TableKind, columns: Sequence[str]) -> None:
    for name in columns:
        if kind == "jsonl" and columns.count(name) > 1:
            raise UsageError(f"JSON cannot have two columns named {name!r}; rename one")
        if kind != "jsonl" and not is_whole(name):
            raise UsageError(
                f"column {name!r} has a lone surrogate in its name, which only JSON can represent; rename it"
            )


@dataclass(frozen=True, slots=True)
class DelimitedOutput:
    """Writes CSV or TSV, in UTF-8, with line feeds."""

    columns: Sequence[str]
    dialect: Dialect
    codec: Codec | None

    def part(self, rows: Rows, added: Sequence[Sequence[Any]]) -> bytes:
        fields = rows.fields()
        if not added:
            return self._encoded(fields)
        cells = zip(*map(_texts, added), strict=True)
        return self._encoded([[*row, *more] for row, more in zip(fields, cells, strict=True)])

    def join(self, parts: Iterable[bytes | memoryview], file: IO[bytes]) -> None:
        with _compressed(file, self.codec) as out:
            out.write(self._encoded([self.columns]))
            out.writelines(parts)

    def _encoded(self, rows: Sequence[Sequence[str]]) -> bytes:
        assert self.dialect.delimiter is not None
        if self.dialect.quoting == "none" or (self.dialect.quoting == "auto" and self.dialect.delimiter == "\t"):
            return "".join(f"{self.dialect.delimiter.join(map(self._field, row))}\n" for row in rows).encode("utf-8")
        text = io.StringIO(newline="")
        plain = csv.writer(text, delimiter=self.dialect.delimiter, lineterminator="\n")
        plain.writerows(rows)
        if "\r" in text.getvalue():
            # Before Python 3.13 the csv module leaves a lone carriage return unquoted and reads it back as a row's end.
            text.seek(0)
            text.truncate()
            quoted = csv.writer(text, delimiter=self.dialect.delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
            for row in rows:
                (quoted if any("\r" in value for value in row) else plain).writerow(row)
        return text.getvalue().encode("utf-8")

    def _field(self, value: str) -> str:
        """Return a field, quoted only if it could not be read back otherwise."""
        delimiter = self.dialect.delimiter or ""
        if not any(character in value for character in (delimiter, "\n", "\r")):
            return value if self.dialect.quoting == "none" or value[:1] != '"' else _quoted(value)
        if self.dialect.quoting == "none":
            raise TableError(
                f"a field contains a delimiter or a line end, which cannot be written without quoting: {value[:80]!r}; name an "
                "output that ends in .jsonl or .parquet, or leave out --quoting none"
            )
        return _quoted(value)


@dataclass(frozen=True, slots=True)
class JsonOutput:
    """Writes JSON Lines."""

    added: Sequence[str]
    codec: Codec | None

    def part(self, rows: Rows, added: Sequence[Sequence[Any]]) -> bytes:
        lines, objects = [], rows.objects()
        for text, cells in zip(objects, zip(*added, strict=True) if added else [()] * len(objects), strict=True):
            members = ", ".join(f"{dump(name)}: {dump(cell)}" for name, cell in zip(self.added, cells, strict=True))
            lines.append((extended(text, members) if members else text) + "\n")
        return "".join(lines).encode("utf-8")

    def join(self, parts: Iterable[bytes | memoryview], file: IO[bytes]) -> None:
        with _compressed(file, self.codec) as out:
            out.writelines(parts)


def _output_dialect(place: str, table: Table, dialect: Dialect) -> Dialect:
    given = table.files[0] if table.files else ""  # a hub data set has no files, a folder of images no suffix
    if not ending_of(given) or format_of(place).kind != format_of(given).kind:
        return Dialect()
    return replace(dialect, encoding=None, quoting="minimal" if dialect.quoting == "backslash" else dialect.quoting)


def open_output(place: str, table: Table, dialect: Dialect) -> Table:
    """Open a table that `output_for` wrote.

    Args:
        place: Place of the table.
        table: The input of the run that wrote it.
        dialect: Dialect of the input.

    Raises:
        UsageError, TableError: As from `open_table`.
    """
    if format_of(place).kind not in DELIMITERS:
        return open_table(place)
    found = _output_dialect(place, table, dialect)
    return open_table(place, dialect=replace(found, quoting="none" if found.quoting == "none" else "minimal"))


def _quoted(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'


def _texts(values: Sequence[Any]) -> list[str]:
    return [repr(value) if type(value) is float else "" if value is None else _cell(value) for value in values]


def _cell(value: object) -> str:
    if isinstance(value, list):
        return dump(value)
    return value if isinstance(value, str) else repr(value)


def _compressed(file: IO[bytes], codec: Codec | None) -> AbstractContextManager[IO[bytes]]:
    if codec is None:
        return nullcontext(file)
    return _compressor(file, codec)


@contextmanager
def _compressor(file: IO[bytes], codec: Codec) -> Iterator[IO[bytes]]:
    # One stream, not one for each part: some readers stop after the first.
    with pa.CompressedOutputStream(pa.PythonFile(file, "w"), codec) as out:
        yield out
