"""A small text language for filters, for people and command lines.

    category = "Footwear" and (price <= 90 or not in_stock = true) and color in ("red", "blue") and note exists

    filter     = all ("or" all)*
    all        = one ("and" one)*
    one        = "not" one | "(" filter ")" | name condition
    condition  = sign value | ["not"] "in" "(" [value ("," value)*] ")" | ["not"] "exists"
    sign       = "=" | "==" | "!=" | "<>" | "<" | "<=" | ">" | ">="
    value      = text in quotes | number | "true" | "false"
    name       = letters, digits and _, or anything in backquotes, where a doubled one is a backquote

Keywords may be in any case. Text in quotes may contain the escapes of JSON, and `\\'`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

from ...errors import UsageError
from ..fields import Field, number_text
from .leaves import LeafMaker, check_level, joined
from .tree import And, Filter, Not, Or

_SIGNS = {"=": "eq", "==": "eq", "!=": "ne", "<>": "ne", "<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
_KEYWORDS = ("and", "or", "not", "in", "exists", "true", "false")
_WANTED = {
    "text": 'text in quotes, such as "red",',
    "texts": 'text in quotes, such as "red",',
    "number": "a number",
    "bool": "true or false",
    "date": 'a date in quotes, such as "2026-01-31",',
}
_CODE = re.compile("[-+]?0[0-9]")
_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<text>"[^"\\]*(?:\\.[^"\\]*)*" | '[^'\\]*(?:\\.[^'\\]*)*')
      | (?P<quoted>`[^`]*(?:``[^`]*)*`)(?!`)
      | (?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)(?![\w.+-])
      | (?P<word>[^\W\d]\w*)
      | (?P<sign><=|>=|<>|!=|==|[=<>(),])
      | (?P<other>[\w.+-]+|.)""",
    re.VERBOSE | re.DOTALL,
)


class _Token(NamedTuple):  # a filter may have tens of thousands, and a dataclass takes longer to create
    kind: str
    text: str
    start: int
    word: str = ""  # the keyword or sign; empty for a name or a value


def from_text(text: str, maker: LeafMaker) -> Filter:
    """Parse a filter from text.

    Raises:
        UsageError: The text has a syntax error, or a field or value is not valid; the message shows the position.
    """
    return _Parser(text, maker).whole()


def _tokens(text: str) -> Iterator[_Token]:
    """Split a text into tokens, up to the first invalid one, because each search after an unclosed quote is slow."""
    for match in _TOKEN.finditer(text):
        kind, found = str(match.lastgroup), match[0]
        if kind in ("word", "sign"):
            lower = found.lower()
            yield _Token(kind, found, match.start(), lower if kind == "sign" or lower in _KEYWORDS else "")
        elif kind != "space":
            yield _Token(kind, found, match.start())
        if kind == "other":
            return
    yield _Token("end", "", len(text.rstrip()))


class _Parser:
    def __init__(self, text: str, maker: LeafMaker):
        self._text = text
        self._maker = maker
        self._tokens = list(_tokens(text))
        self._next = 0

    def whole(self) -> Filter:
        found = self._any(0)
        if self._token.kind != "end":
            self._refuse("`and`, `or` or the end of the filter")
        return found

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, *words: str) -> str:
        """Consume and return the next token if it is one of these keywords or signs; otherwise return an empty text."""
        word = self._token.word
        if word not in words:
            return ""
        self._next += 1
        return word

    def _need(self, sign: str) -> None:
        if not self._take(sign):
            self._refuse(sign)

    def _any(self, level: int) -> Filter:
        parts = [self._all(level)]
        while self._take("or"):
            parts.append(self._all(level))
        return joined(Or, parts)

    def _all(self, level: int) -> Filter:
        parts = [self._one(level)]
        while self._take("and"):
            parts.append(self._one(level))
        return joined(And, parts)

    def _one(self, level: int) -> Filter:
        check_level(level)
        if self._take("not"):
            return Not(self._one(level + 1))
        if self._take("("):
            found = self._any(level + 1)
            self._need(")")
            return found
        return self._condition()

    def _condition(self) -> Filter:
        start = self._next
        try:
            field = self._maker.field(self._name())
            op, value = self._asked(field)
            return self._maker.make(field.name, op, value)
        except _PlacedError:
            raise
        except UsageError as exc:
            raise UsageError(f"{exc} (at character {self._tokens[start].start + 1} of the filter)") from None

    def _name(self) -> str:
        token = self._token
        if token.kind not in ("word", "quoted") or token.word:
            self._refuse("the name of a field, in backquotes if it is unusual,")
        self._next += 1
        return token.text[1:-1].replace("``", "`") if token.kind == "quoted" else token.text

    def _asked(self, field: Field) -> tuple[str, object]:
        """Parse the condition after a field's name, as an operator and its value."""
        if sign := self._take(*_SIGNS):
            return _SIGNS[sign], self._value(field)
        negated = bool(self._take("not"))
        if self._take("exists"):
            return "exists", not negated
        if not self._take("in"):
            self._refuse("`in` or `exists`" if negated else "=, !=, <, <=, >, >=, `in`, `not in` or `exists`")
        return "not_in" if negated else "in", self._values(field)

    def _values(self, field: Field) -> list[object]:
        self._need("(")
        values: list[object] = []
        while not self._take(")"):
            if values:
                self._need(",")
            values.append(self._value(field))
        return values

    def _value(self, field: Field) -> object:
        token = self._token
        if token.word in ("true", "false"):
            self._next += 1
            return token.word == "true"
        if token.kind not in ("text", "number") or (token.kind == "number" and field.kind == "date"):
            self._refuse(_WANTED[field.kind])
        if token.kind == "number" and field.kind in ("text", "texts") and not _is_spelled_once(token.text):
            self._refuse(f'text in quotes, such as "{token.text}",')
        self._next += 1
        return self._unescape(token) if token.kind == "text" else token.text

    def _unescape(self, token: _Token) -> str:
        inner = token.text[1:-1]
        if "\\" not in inner:
            return inner
        if token.text[0] == "'":  # to JSON's quotes
            inner = re.sub(
                r"\\.|\"", lambda found: {"\\'": "'", '"': '\\"'}.get(found[0], found[0]), inner, flags=re.DOTALL
            )
        else:
            inner = re.sub(r"\\.", lambda found: "'" if found[0] == "\\'" else found[0], inner, flags=re.DOTALL)
        try:
            return str(json.loads(f'"{inner}"', strict=False))
        except json.JSONDecodeError as exc:
            self._next -= 1
            self._refuse(f"one of the escapes \\\" \\' \\\\ \\/ \\b \\f \\n \\r \\t \\u00e9 ({exc.msg})")

    def _refuse(self, wanted: str) -> NoReturn:
        token = self._token
        before = self._text[: token.start]
        shown = f"{'... ' if len(before) > 30 else ''}{before[-30:].lstrip()}{token.text[:40]}"
        if token.kind == "other" and token.text in ("'", '"', "`"):
            raise _PlacedError(
                f"the filter cannot be read: the {token.text} at character {token.start + 1} is never closed"
            )
        place = "at the end" if token.kind == "end" else f"at character {token.start + 1}"
        raise _PlacedError(f"the filter cannot be read: {shown}: expected {wanted} {place}")


def _is_spelled_once(number: str) -> bool:
    """Tell whether a number without quotes has only one spelling: its canonical text, or a code such as 007."""
    if _CODE.match(number) or number.isdecimal():
        return True
    return math.isfinite(float(number)) and number == number_text(float(number))


class _PlacedError(UsageError):
    """An error whose message already contains the position."""
