"""Filters as SQL expressions, for any database with a writer for column names and values.

Field names are never passed to the database, and values only through the writer, as parameters or quoted. A row for
which the expression is NULL does not pass. Except for lists of text, leaves get a condition that keeps them from being
NULL only under a NOT, because this condition makes a query take twice as long.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Protocol

from ..fields import BUILT_IN, Field, Scalar
from .tree import And, Compare, Exists, Filter, Not, OneOf, Or

_SIGNS = {"eq": "=", "ne": "<>", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
_ESCAPED = re.compile("\1([\1\2])")


class Columns:
    """The columns `f0`, `f1` ... of a table, each NULL where its field is missing.

    Args:
        fields: The declared fields; `column_names` numbers their columns.
        table: Qualifier for each column, such as `product`; empty for none.
    """

    def __init__(self, fields: Iterable[Field], table: str = "") -> None:
        declared = tuple(fields)
        self._names = {
            name: f"{table}.{column}" if table else column for name, column in column_names(declared).items()
        }
        self._texts = {field.name for field in declared if field.kind == "texts"}

    def of(self, field: str) -> str:
        """Return the expression for a field's column."""
        return self._names[field]

    def is_texts(self, field: str) -> bool:
        """Tell whether a field's column holds lists of text."""
        return field in self._texts


class SqlWriter(Protocol):
    """The dialect of one database's SQL."""

    @property
    def columns(self) -> Columns:
        """The columns for filters."""

    def value(self, value: Scalar) -> str:
        """Return the SQL for a value, a placeholder or a literal; called in the order of the values in the SQL."""

    def contains(self, column: str, values: Sequence[str]) -> str:
        """Return an expression that is true where a column's list, which is not NULL, has one or more of the values."""


def compile_sql(where: Filter | None, writer: SqlWriter) -> str:
    """Return a filter as an expression that is true for the rows that pass it, for use after WHERE or AND, but not NOT.

    Args:
        where: A checked filter; None lets every row pass.
        writer: Writer for column names and values.
    """
    return "TRUE" if where is None else _expression(where, writer, known=False)


def column_names(fields: Iterable[Field]) -> dict[str, str]:
    """Return the column's name for each field, including the built-in ones: `f0`, `f1` and so on.

    Args:
        fields: The declared fields, in their order.
    """
    return {field.name: f"f{number}" for number, field in enumerate((*BUILT_IN, *fields))}


def without_nul(text: str) -> str:
    """Return a text with U+0000 escaped, which many databases cannot store; `with_nul` reverses it."""
    return text.replace("\1", "\1\2").replace("\0", "\1\1") if "\0" in text or "\1" in text else text


def with_nul(text: str) -> str:
    """Return the original of a text from `without_nul`."""
    return _ESCAPED.sub(lambda found: "\0" if found[1] == "\1" else "\1", text) if "\1" in text else text


def _expression(where: Filter, writer: SqlWriter, *, known: bool) -> str:
    """Return a condition that is true for rows that pass a filter; with `known`, it is false, not NULL, for others."""
    match where:
        case Compare(field, op, value):
            return _comparison(field, op, value, writer, known=known)
        case OneOf(field, values, negated):
            return _membership(field, values, negated, writer, known=known)
        case Exists(field, wanted):
            return f"({writer.columns.of(field)} IS {'NOT ' if wanted else ''}NULL)"
        case And(parts):
            return f"({' AND '.join(_expression(part, writer, known=known) for part in parts)})"
        case Or(parts):
            return f"({' OR '.join(_expression(part, writer, known=known) for part in parts)})"
        case Not(part):
            return f"(NOT {_expression(part, writer, known=True)})"


def _comparison(field: str, op: str, value: Scalar, writer: SqlWriter, *, known: bool) -> str:
    if writer.columns.is_texts(field):
        return _membership(field, (value,), op == "ne", writer, known=known)
    column = writer.columns.of(field)
    return f"({_there(column, known)}{column} {_SIGNS[op]} {writer.value(value)})"


def _membership(field: str, values: Sequence[Scalar], negated: bool, writer: SqlWriter, *, known: bool) -> str:
    column = writer.columns.of(field)
    if not values:
        return f"({column} IS NOT NULL)" if negated else "FALSE"
    if writer.columns.is_texts(field):
        among = writer.contains(column, [str(value) for value in values])
        return f"({_there(column, True)}{'NOT ' if negated else ''}{among})"
    listed = ", ".join(writer.value(value) for value in values)
    return f"({_there(column, known)}{column} {'NOT ' if negated else ''}IN ({listed}))"


def _there(column: str, known: bool) -> str:
    """Return the condition to put before a comparison so that it is never NULL; empty unless `known` is set."""
    return f"{column} IS NOT NULL AND " if known else ""
