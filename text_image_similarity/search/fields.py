"""Declared fields of a catalogue's products, in addition to name and images; each field has a kind.

Filters, facets and sorting use *stored values*, which are the same in every store:

    text    str, in Unicode's normal form C
    number  float; whole numbers beyond 2^53 compare as the nearest float
    bool    bool
    date    float, seconds since 1970-01-01T00:00Z; a date means its midnight, and a time without a zone is in UTC
    texts   tuple of str without duplicates, in the order given

A product keeps its values as given; only values for comparison are stored in this form. Equal numbers become the same
text: in a text field, 7.0 is "7". A date cannot be given as a number, because seconds could not be distinguished from
20260131.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from numbers import Real
from typing import Literal, get_args

from ..checks import excerpt, one_of
from ..errors import InputTypeError, UsageError
from ..normal_forms import normal_form
from ..records import is_missing, is_whole
from ..system import closest

FieldKind = Literal["text", "number", "bool", "date", "texts"]
Scalar = str | float | bool
Value = Scalar | tuple[str, ...]

# Fields of every product, whose names no declared field can have.
ID, GROUP, ERROR = "_id", "_group", "_error"

# Stricter than Python's parsers, which accept `1_000` and other scripts' digits, and `20260131` as a date.
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_CURRENCY = r"(?:[$¢£¥฿₠-⃀]|[A-Z]{3})?"
_AMOUNT = re.compile(
    rf"[-+]?{_CURRENCY}\s?[-+]?(?:0|[1-9]\d*|[1-9]\d{{0,2}}(?:[.,'’\s]\d{{3}})+)(?:[.,]\d{{1,2}})?\s?{_CURRENCY}"
)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ].*)?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Dates are limited to the years 1 to 9999 in UTC, which Python can write: for a product without a date, many systems
# use the first or the last date of their calendar, in local time.
_FIRST = (datetime(1, 1, 1, tzinfo=UTC) - _EPOCH).total_seconds()
_DAY = 86400.0
_LAST = (datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC) - _EPOCH).total_seconds()

LONGEST_NAME = 200  # characters of a field's name
_MOST_CHARACTERS = 10_000
_MOST_DIGITS = 400  # digits of a number as text, and characters of a date
_MOST_FIELDS = 64


@dataclass(frozen=True, slots=True)
class Field:
    """A declared field of a catalogue's products.

    Args:
        name: Any text of 1 to 200 characters that does not begin with `_`.
        kind: `text`, `number`, `bool`, `date`, or `texts` for lists of text.

    Raises:
        ConfigError, UsageError: The name or the kind is not valid.

    Example:
        >>> Field("price", "number").stored("79.5")
        79.5
        >>> Field("sold", "date").stored("1970-01-02")
        86400.0
    """

    name: str
    kind: FieldKind = "text"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not 0 < len(self.name) <= LONGEST_NAME or not is_whole(self.name):
            raise UsageError(f"a field's name must be text of 1 to 200 characters, not {excerpt(self.name, 60)}")
        if self.name.startswith("_") and self.name not in (ID, GROUP, ERROR):
            raise UsageError(
                f"the field {self.name!r} begins with _, which is reserved for fields that every product has"
            )
        one_of("kind", self.kind, get_args(FieldKind))

    def stored(self, value: object) -> Value | None:
        """Return a value in stored form; None if it is missing (None, NaN, an empty text, an empty list).

        Raises:
            UsageError: The value is not of this field's kind; the message names the field.
        """
        if is_missing(value) or (isinstance(value, (str, list, tuple)) and not len(value)):
            return None
        match self.kind:
            case "text":
                return self._text(value)
            case "number":
                return self._number(value)
            case "bool":
                return self._bool(value)
            case "date":
                return self._date(value)
            case "texts":
                return self._texts(value)

    def _text(self, value: object) -> str:
        if isinstance(value, (Real, Decimal)) and not isinstance(value, bool):  # a size, or an article number
            try:
                value = number_text(value)
            except (ValueError, OverflowError):  # infinite, or with more digits than Python converts
                raise self._wrong("text", value) from None
        if not isinstance(value, str):
            raise self._wrong("text", value)
        if len(value) > _MOST_CHARACTERS:
            raise UsageError(
                f"{self.name!r} is {len(value):,} characters long, but at most {_MOST_CHARACTERS:,} can be stored"
            )
        if not is_whole(value):
            raise UsageError(f"{self.name!r} contains a lone surrogate (half of a UTF-16 pair); remove it")
        return normal_form("NFC", value)

    def _number(self, value: object) -> float:
        try:
            if isinstance(value, bool) or not isinstance(value, (Real, Decimal, str)):
                raise ValueError
            if isinstance(value, str) and not _follows(_NUMBER, value):
                raise ValueError
            number = float(value)
        except (ValueError, OverflowError):
            amount = isinstance(value, str) and is_amount(value)
            wanted = "a number such as 1299.00, without a currency or thousands separators" if amount else "a number"
            raise self._wrong(wanted, value) from None
        if not math.isfinite(number):
            raise self._wrong("a finite number", value)
        return number + 0.0  # -0.0 is 0.0

    def _bool(self, value: object) -> bool:
        if isinstance(value, str) and value.strip().lower() in ("true", "false"):  # as in a CSV file
            return value.strip().lower() == "true"
        if type(value).__name__ not in ("bool", "bool_"):
            raise self._wrong("true or false", value)
        return bool(value)

    def _date(self, value: object) -> float:
        try:
            if isinstance(value, str):
                if not _follows(_DATE, value):
                    raise ValueError
                value = datetime.fromisoformat(value.strip())
            if isinstance(value, date) and not isinstance(value, datetime):
                value = datetime(value.year, value.month, value.day)
            if not isinstance(value, datetime):
                raise ValueError
            whole = value if value.tzinfo else value.replace(tzinfo=UTC)
            return min(max((whole - _EPOCH).total_seconds(), _FIRST), _LAST)
        except ValueError:
            raise self._wrong("a date such as 2026-11-28 or 2026-11-28T09:30:00+01:00", value) from None

    def _texts(self, value: object) -> tuple[str, ...]:
        if isinstance(value, str) or not isinstance(value, Iterable) or isinstance(value, Mapping):
            value = [value]
        return tuple(dict.fromkeys(self._text(each) for each in value))

    def _wrong(self, wanted: str, value: object) -> UsageError:
        return UsageError(f"{self.name!r} must be {wanted}, not {excerpt(value)}")

    def written(self, stored: Value) -> Value:
        """Return a stored value as written in filters: dates as text, other values unchanged.

        Example:
            >>> Field("sold", "date").written(86400.0), Field("sold", "date").written(90000.5)
            ('1970-01-02', '1970-01-02T01:00:00.500000+00:00')
        """
        if self.kind != "date" or isinstance(stored, (str, tuple)):
            return stored
        kept = min(max(stored, _FIRST), _LAST)
        if not abs(stored - kept) <= _DAY:  # so that stored dates of earlier versions can be written
            raise self._wrong("a date in the years 1 to 9999, in seconds since 1970", stored)
        moment = _EPOCH + timedelta(seconds=kept)
        return moment.isoformat().removesuffix("T00:00:00+00:00")


def is_amount(text: str) -> bool:
    """Tell whether a text is an amount with a currency, thousands separators or a decimal comma.

    Example:
        >>> is_amount("$1,299.00"), is_amount("1.299,00 €"), is_amount("1299.00"), is_amount("soon")
        (True, True, False, False)
    """
    return _follows(_AMOUNT, text) and not _follows(_NUMBER, text)


def _follows(pattern: re.Pattern[str], text: str) -> bool:
    return len(text) <= _MOST_DIGITS and pattern.fullmatch(text.strip()) is not None


# Can be used in filters like any other field: `_error exists` finds the products with a failed image.
BUILT_IN = (Field(ID), Field(GROUP), Field(ERROR))


def checked_fields(fields: object) -> tuple[Field, ...]:
    """Return the declared fields, whose names must be unique.

    Raises:
        InputTypeError: An item is not a field.
        UsageError: A name is declared twice or begins with `_`, or there are too many fields.
    """
    if isinstance(fields, (str, Field)) or not isinstance(fields, Iterable):
        raise InputTypeError.of("fields", "a list of Field", fields)
    found = tuple(fields)
    for number, field in enumerate(found):
        if not isinstance(field, Field):
            raise InputTypeError.of(f"fields[{number}]", "a Field, such as Field('price', 'number')", field)
        if field.name.startswith("_"):
            raise UsageError(f"every product already has a field {field.name!r}; choose another name")
    names = [field.name for field in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"the field {twice!r} is declared twice")
    if len(found) > _MOST_FIELDS:
        raise UsageError(f"{len(found)} fields are declared, but at most {_MOST_FIELDS} are allowed")
    return found


def number_text(number: Real | Decimal | float) -> str:
    """Return a number as text, the same text for equal numbers.

    Raises:
        ValueError, OverflowError: The number is infinite, NaN, or has too many digits.

    Example:
        >>> number_text(7.0), number_text(Decimal("7.10"))
        ('7', '7.1')
    """
    if isinstance(number, Decimal) and number.is_finite() and number.adjusted() > 400:
        raise OverflowError  # floats have at most 309 digits, and longer numbers are slow to convert
    if number == (whole := int(number)):  # type: ignore[arg-type]  # all kinds have it
        return str(whole)
    return str(float(number) if isinstance(number, Decimal) else number)


def single(value: Value | None) -> tuple[Scalar, ...]:
    """Return a stored value as a tuple: the texts of a list, or the value alone; empty if the value is missing."""
    return value if isinstance(value, tuple) else () if value is None else (value,)


def check_name(name: object) -> None:
    """Make sure that a name is not too long for a field, before it is hashed, compared or shown.

    Raises:
        UsageError: The name is too long.
    """
    if isinstance(name, str) and len(name) > LONGEST_NAME:
        raise UsageError(f"{excerpt(name, 60)} has {len(name):,} characters; a field's name has at most {LONGEST_NAME}")


def named(fields: Iterable[Field], name: str) -> Field:
    """Return a field by its name.

    Raises:
        UsageError: There is no such field; the message lists those that exist.
    """
    check_name(name)
    known = {field.name: field for field in fields}
    if name not in known:
        near = closest(str(name), known)
        hint = f"; did you mean {near!r}?" if near else ""
        names = sorted(known, key=lambda each: each.startswith("_"))  # the declared ones first
        raise UsageError(f"the field {excerpt(name)} does not exist; the fields are {', '.join(names)}{hint}")
    return known[name]
