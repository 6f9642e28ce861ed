"""Check the columns of a table before anything expensive starts."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from ..bounded_json import MOST_DEPTH
from ..errors import TableError, UsageError
from ..records import OUT_COLUMNS
from ..system import closest
from .arrow_types import holds_bytes, may_hold_images

_DELIMITERS = {";": ("semicolons", "';'"), "\t": ("tabs", "tab"), "|": ("pipes", "'|'"), ",": ("commas", "','")}

_MOST_COLUMNS = 10_000  # columns of a table


def check_count(count: int, place: str) -> None:
    """Make sure that a table does not have too many columns.

    Args:
        count: Number of columns.
        place: Name of the table in messages.

    Raises:
        TableError: The table has too many columns.
    """
    if count > _MOST_COLUMNS:
        raise TableError(f"{place} has more than {_MOST_COLUMNS:,} columns; leave out those that scoring does not need")


def check_depth(schema: pa.Schema, place: str) -> None:
    """Make sure that no column is nested more deeply than JSON may be, because each level takes up stack space.

    Raises:
        TableError: A column is nested more deeply than that.
    """
    level = [(column.name, column.type) for column in schema]
    for _ in range(MOST_DEPTH + 1):
        level = [(name, kind.field(at).type) for name, kind in level for at in range(kind.num_fields)]
    if level:
        raise TableError(
            f"column {level[0][0]!r} of {place} is nested more than {MOST_DEPTH} levels deep; write the file without the column"
        )


def check_columns(
    columns: Sequence[str],
    names: Sequence[str],
    place: str,
    *,
    options: str = "--url-col or --caption-col (col_url, col_text)",
) -> None:
    """Make sure that a table has exactly one column of each name.

    Args:
        columns: The table's columns.
        names: Columns that are needed.
        place: Name of the table in messages.
        options: Names of the options for the columns, for messages.

    Raises:
        UsageError: Columns are missing (the message names all of them), or two have the same name.
    """
    if not columns:
        raise UsageError(f"{place} is empty: it has neither rows nor columns")
    if missing := [name for name in dict.fromkeys(names) if name not in columns]:
        said = f"column {missing[0]!r} is" if len(missing) == 1 else f"columns {', '.join(map(repr, missing))} are"
        asked = (
            OUT_COLUMNS[:1] if OUT_COLUMNS[0] in missing else missing
        )  # a table that has not been scored has none of the others
        near = [each for name in asked if (each := _same(columns, name) or closest(name, columns))]
        if len(asked) > 1 and len(set(near)) == len(asked):
            hints = [f"; if you mean {' and '.join(map(repr, near))}, name them with {options}"]
        else:
            hints = list(dict.fromkeys(_hint(columns, name, options) for name in asked))
        raise UsageError(f"{said} missing from {place}; it has the columns: {list_columns(columns)}{''.join(hints)}")
    for name in names:
        if (count := columns.count(name)) > 1:
            raise UsageError(f"{place} has {'two' if count == 2 else count} columns named {name!r}; rename or drop one")


def check_types(schema: pa.Schema, columns: tuple[str | None, str | None], place: str) -> None:
    """Make sure that one column holds images or references to them, and another one text or numbers.

    Args:
        schema: The table's columns.
        columns: Column of images and column of texts; None if there is none.
        place: Name of the table in messages.

    Raises:
        UsageError: A column holds values that cannot be scored; the message says its type and what to do.
    """
    for name, holds_images in zip(columns, (True, False), strict=True):
        if name is None or (holds_images and may_hold_images(schema.field(name).type)):
            continue
        kind = schema.field(name).type
        if reason := _why_not_text(kind, holds_images=holds_images):
            raise UsageError(f"column {name!r} of {place} {reason} ({kind})")


def _why_not_text(kind: pa.DataType, *, holds_images: bool) -> str:
    """Return why values of a type are not text or numbers; empty if they are."""
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return _why_not_text(kind.storage_type, holds_images=holds_images)
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _why_not_text(kind.value_type, holds_images=holds_images)
    if holds_bytes(kind) and not holds_images:
        return (
            "contains bytes, not text; if they are text, cast them to strings (in pandas, with .str.decode('utf-8')); "
            "if they are images, name the column with --url-col (col_url)"
        )
    if types.is_nested(kind):
        return "has several values per row; write one row for each"
    texts = (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    numbers = (types.is_integer, types.is_floating, types.is_decimal)
    return (
        ""
        if any(test(kind) for test in (*texts, *numbers))
        else "contains neither text nor numbers; cast it to strings"
    )


def check_no_columns(
    columns: Sequence[str], names: Sequence[str], place: str, hint: str, *, ignore_case: bool = False
) -> None:
    """Make sure that a table has none of the columns that would be added to it.

    Args:
        columns: The table's columns.
        names: Columns to add.
        place: Name of the table in messages.
        hint: Advice for the message, such as "rename or drop it".
        ignore_case: Whether names that differ only in case are the same, as in Spark.

    Raises:
        UsageError: A column already exists; the message ends with the hint.
    """
    for column in columns:
        if (column.lower() if ignore_case else column) in names:
            raise UsageError(f"{place} already has a column {column!r}; {hint}")


def list_columns(columns: Sequence[str]) -> str:
    """Return the names of columns for a message, quoted if part of a name would be invisible."""
    return ", ".join(name if name and name == name.strip() and name.isprintable() else repr(name) for name in columns)


def delimiter_hint(line: str) -> str:
    """Return a hint if the fields of a header seem to be separated by another delimiter."""
    for delimiter, (spoken, option) in _DELIMITERS.items():
        if f'"{delimiter}' in line or f'{delimiter}"' in line:
            return _add_delimiter(spoken, option)
    return ""


def _add_delimiter(spoken: str, option: str) -> str:
    return f"; if it is separated by {spoken}, add --delimiter {option} (Config(dialect=Dialect(delimiter=...)))"


def _same(columns: Sequence[str], name: str) -> str | None:
    """Return the column whose name equals a given name except for case and outer spaces; None if there is none."""
    return next((column for column in columns if column.strip().casefold() == name.strip().casefold()), None)


def _hint(columns: Sequence[str], name: str, options: str) -> str:
    if any("\0" in column for column in columns):
        order = "be" if columns[0].startswith("\0") else "le"
        return (
            f"; if it is UTF-16 without a byte-order mark, add --encoding utf-16-{order} "
            "(Config(dialect=Dialect(encoding=...)))"
        )
    if columns[0].lower().startswith("sep="):
        return "; delete the first line, sep=..., which only Excel understands"
    if columns[0].lstrip().startswith(("{", "[")):
        return "; if it is JSON with one object per line, give it the extension .jsonl"
    if found := _same(columns, name):
        return f"; if you mean {found!r}, name it with {options}"
    for delimiter, (spoken, option) in _DELIMITERS.items():
        pieces = {piece.strip().strip('"') for column in columns for piece in column.split(delimiter)}
        if any(delimiter in column for column in columns) and (name in pieces or len(columns) == 1):
            return _add_delimiter(spoken, option)
    near = closest(name, columns)
    if name == OUT_COLUMNS[0] and not near:
        return f"; score the table first{f', or name another column with {options}' if options else ''}"
    return f"; did you mean {near!r}?" if near else f"; name another one with {options}"
