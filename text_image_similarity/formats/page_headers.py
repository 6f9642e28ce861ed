"""Headers of the pages of a Parquet file, which say how large a page becomes when it is decompressed.

The headers are structures of Thrift's compact protocol, as parquet.thrift in the format's specification describes them.
This reader is stricter than Arrow's, which must never read a different number: a field that occurs twice, has another
type or does not fit its type is an error. Statistics and unknown fields are skipped, not read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

LONGEST_HEADER = 16 * 1024 * 1024  # also Arrow's limit, in bytes
_MOST_FIELDS = 256  # fields of a header, including those of its structures and the elements of its lists
_MOST_DEPTH = 8
_MOST_NUMBER = (1 << 31) - 1
# Types of fields. There is one type for true and one for false, without a value.
_STOP, _TRUE, _FALSE, _BYTE, _INT16, _INT32, _INT64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT, _UUID = range(14)
_FIXED = {_BYTE: 1, _DOUBLE: 8, _UUID: 16}
_BITS = {_INT16: 16, _INT32: 32, _INT64: 64}
# Numbers of fields of a header. Its structures contain the number of values, in field 1, and the encoding.
_TYPE, _UNCOMPRESSED, _COMPRESSED = 1, 2, 3
_DATA, _INDEX, _DICTIONARY, _DATA_2 = 5, 6, 7, 8
_DICTIONARY_PAGE = 2
_STRUCTURES = {0: _DATA, _DICTIONARY_PAGE: _DICTIONARY, 3: _DATA_2}  # for each type of page
_ENCODING = {0: 2, 2: 2, 3: 4}
_WITH_VALUES = {0, 3}
_DICTIONARIES, _DIFFERENCES = {2, 8}, {6, 7}  # encodings that store each text once, or differences


class IncompleteHeaderError(Exception):
    """The bytes end within the header."""


@dataclass(frozen=True, slots=True)
class PageHeader:
    """Header of a page.

    Attributes:
        length: Bytes of the header.
        compressed: Bytes of the page in the file, without its header.
        uncompressed: Bytes of the page in memory.
        values: Number of values in the page; 0 for a dictionary.
        has_dictionary: Whether the page is a dictionary, or its values are places in one.
        has_differences: Whether texts or their lengths are stored as differences.
    """

    length: int
    compressed: int
    uncompressed: int
    values: int
    has_dictionary: bool = False
    has_differences: bool = False


def read_header(data: memoryview) -> PageHeader:
    """Read the header that begins at the first byte.

    Raises:
        IncompleteHeaderError: More bytes are needed.
        ValueError: The bytes are not a header of a page.
    """
    parser = _Parser(data)
    numbers = parser.structure(0)
    kind, uncompressed, compressed = (numbers.get(key) for key in (_TYPE, _UNCOMPRESSED, _COMPRESSED))
    if not isinstance(kind, int) or not isinstance(uncompressed, int) or not isinstance(compressed, int):
        raise ValueError("a required number is missing")
    values, encoding = 0, None
    if kind in _STRUCTURES:
        own = numbers.get(_STRUCTURES[kind])
        found, encoding = (own.get(1), own.get(_ENCODING[kind])) if isinstance(own, dict) else (None, None)
        if not isinstance(found, int) or not isinstance(encoding, int):
            raise ValueError("the number of values or the encoding is missing")
        values = found if kind in _WITH_VALUES else 0
    if not all(0 <= number <= _MOST_NUMBER for number in (uncompressed, compressed, values)):
        raise ValueError("a number is negative")
    has_dictionary = kind == _DICTIONARY_PAGE or encoding in _DICTIONARIES
    return PageHeader(parser.at, compressed, uncompressed, values, has_dictionary, encoding in _DIFFERENCES)


_Value: TypeAlias = "int | dict[int, _Value] | None"


@dataclass(slots=True)
class _Parser:
    data: memoryview
    at: int = 0
    _fields: int = field(init=False, default=0)

    def structure(self, depth: int) -> dict[int, _Value]:
        """Return the fields of a structure: 32-bit numbers, structures, and None for all others."""
        if depth > _MOST_DEPTH:
            raise ValueError("it is nested too deeply")
        found: dict[int, _Value] = {}
        number = 0
        while head := self._byte():
            self._count()
            kind, step = head & 15, head >> 4
            number = number + step if step else self._number(16)
            if not 0 < number < 1 << 15 or number in found:
                raise ValueError("a field occurs twice or has an invalid number")
            found[number] = self._value(kind, depth)
        return found

    def _value(self, kind: int, depth: int) -> _Value:
        if kind == _INT32:
            return self._number(32)
        if kind == _STRUCT:
            return self.structure(depth + 1)
        if kind in (_TRUE, _FALSE):
            return None
        self._skip(kind, depth)
        return None

    def _skip(self, kind: int, depth: int) -> None:
        if kind in _BITS:
            self._number(_BITS[kind])
        elif kind in _FIXED:
            self._advance(_FIXED[kind])
        elif kind == _BINARY:
            self._advance(self._unsigned(32))
        elif kind in (_LIST, _SET):
            head = self._byte()
            self._skip_elements(head >> 4 if head >> 4 < 15 else self._unsigned(32), [head & 15], depth)
        elif kind == _MAP:
            if count := self._unsigned(32):
                head = self._byte()
                self._skip_elements(count, [head >> 4, head & 15], depth)
        else:
            raise ValueError("a field has an unknown type")

    def _skip_elements(self, count: int, kinds: list[int], depth: int) -> None:
        if depth > _MOST_DEPTH:
            raise ValueError("it is nested too deeply")
        for _ in range(count):
            self._count()
            for kind in kinds:
                if kind == _STRUCT:
                    self.structure(depth + 1)
                else:  # in a list, a truth value is a byte of its own
                    self._skip(_BYTE if kind in (_TRUE, _FALSE) else kind, depth + 1)

    def _count(self) -> None:
        self._fields += 1
        if self._fields > _MOST_FIELDS:
            raise ValueError("it has too many fields")

    def _byte(self) -> int:
        if self.at >= len(self.data):
            raise IncompleteHeaderError
        self.at += 1
        return self.data[self.at - 1]

    def _advance(self, count: int) -> None:
        self.at += count
        if self.at > LONGEST_HEADER:
            raise ValueError("it is too long")
        if self.at > len(self.data):
            raise IncompleteHeaderError

    def _unsigned(self, bits: int) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if value >> bits or shift > 70:
                raise ValueError("a number does not fit its type")
            if byte < 128:
                return value

    def _number(self, bits: int) -> int:
        value = self._unsigned(bits)
        return value >> 1 ^ -(value & 1)
