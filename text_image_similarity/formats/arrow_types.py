"""Convert Arrow types: to dense ones to cut rows, to dictionaries to store them, to plain values for text and JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import TableError

_AT_ONCE = 64  # values
_OUT_OF_RANGE = "<value out of range"  # Arrow's text for a date that it cannot format


def dense(kind: pa.DataType) -> pa.DataType:
    """Return a type without dictionaries, at any depth."""
    return _with_leaves(kind, lambda leaf: leaf)


def stored(kind: pa.DataType) -> pa.DataType:
    """Return the type that holds the rows of any number of files.

    Files may together have more categories than an 8-bit index can distinguish, so indices become 32 bits wide.
    Dictionaries inside other types are replaced by their values, because Arrow's reader refuses them in several row
    groups.
    """
    if pa.types.is_dictionary(kind):
        return pa.dictionary(pa.int32(), dense(kind.value_type), kind.ordered)
    return dense(kind)


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return a type that holds the values of both without loss, or None.

    A null type, at any depth, is replaced by the other type. Text, bytes, integers, floats, decimals of one scale, and
    times in one zone may differ in width or unit.
    """
    types = pa.types
    if one == other or types.is_null(other):
        return one
    if types.is_null(one):
        return other
    if types.is_dictionary(one) or types.is_dictionary(other):
        return common_type(dense(one), dense(other))
    if all(_is_list(kind) for kind in (one, other)):
        item = _common_field(one.value_field, other.value_field.with_name(one.value_field.name))
        large = types.is_large_list(one) or types.is_large_list(other)
        sizes = {kind.list_size if types.is_fixed_size_list(kind) else -1 for kind in (one, other)}
        size = sizes.pop() if len(sizes) == 1 else -1
        return None if item is None else pa.large_list(item) if large else pa.list_(item, size)
    if types.is_map(one) and types.is_map(other):
        key, value = common_type(one.key_type, other.key_type), common_type(one.item_type, other.item_type)
        return None if key is None or value is None else pa.map_(key, value)
    if types.is_struct(one) and types.is_struct(other) and _names(one) == _names(other):
        fields = [_common_field(field, other.field(field.name)) for field in one]
        return None if any(field is None for field in fields) else pa.struct(fields)
    if types.is_timestamp(one) and types.is_timestamp(other):
        same_zone = one.tz == other.tz or {one.tz, other.tz} <= _UTC
        return pa.timestamp(_finer(one, other).unit, one.tz) if same_zone else None
    for family, widest in _FAMILIES:
        if all(any(test(kind) for test in family) for kind in (one, other)):
            return widest(one, other)
    return None


def _is_list(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def holds_texts(kind: pa.DataType) -> bool:
    """Tell whether values of a type are lists of texts."""
    if isinstance(kind, pa.BaseExtensionType):
        return holds_texts(kind.storage_type)
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return _is_list(kind) and any(test(kind.value_type) for test in texts)


def _names(struct: pa.DataType) -> list[str]:
    return sorted(field.name for field in struct)


def _wider(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    return max(one, other, key=lambda kind: kind.bit_width)


def _wider_integer(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return the narrowest integer type for both, signed if either is; None if 64 bits are not enough."""
    if pa.types.is_signed_integer(one) == pa.types.is_signed_integer(other):
        return _wider(one, other)
    signed, unsigned = (one, other) if pa.types.is_signed_integer(one) else (other, one)
    wide = max(signed.bit_width, 2 * unsigned.bit_width)
    return {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}.get(wide)


def _wider_decimal(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    return max(one, other, key=lambda kind: kind.precision) if one.scale == other.scale else None


def _finer(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    return max(one, other, key=lambda kind: _UNITS.index(kind.unit))


_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
_UNITS = ("s", "ms", "us", "ns")
_UTC = {"UTC", "+00:00", "Z", "Etc/UTC"}
_FAMILIES: tuple[tuple[tuple[Callable[[pa.DataType], bool], ...], Callable[[Any, Any], pa.DataType | None]], ...] = (
    ((pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view), lambda *_: pa.large_string()),
    ((pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view), lambda *_: pa.large_binary()),
    ((pa.types.is_integer,), _wider_integer),
    ((pa.types.is_floating,), _wider),
    ((pa.types.is_decimal,), _wider_decimal),
    ((pa.types.is_date,), lambda *_: pa.date64()),
    ((pa.types.is_time,), _finer),
    ((pa.types.is_duration,), _finer),
)


def _common_field(one: pa.Field, other: pa.Field) -> pa.Field | None:
    kind = common_type(one.type, other.type)
    if kind is None or one.name != other.name:
        return None
    return one.with_type(kind).with_nullable(one.nullable or other.nullable)


def holds_bytes(kind: pa.DataType) -> bool:
    """Tell whether a type holds bytes, at any depth."""
    return _holds(kind, lambda leaf: any(test(leaf) for test in _BYTES))


def may_hold_images(kind: pa.DataType) -> bool:
    """Tell whether values of a type may be images: bytes, or Hugging Face's structs of `bytes` and `path`."""
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return may_hold_images(kind.storage_type)
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return may_hold_images(kind.value_type)
    if types.is_struct(kind):
        wanted = [field for field in kind if field.name in ("bytes", "path")]
        return bool(wanted) and not any(types.is_nested(field.type) for field in wanted)
    return any(test(kind) for test in _BYTES)


def dense_size(column: pa.Array) -> int:
    """Return the approximate size in bytes of a column without dictionaries, without building it."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return dense_size(column.storage)
    if pa.types.is_dictionary(kind):
        if not any(test(kind.value_type) for test in (*_BYTES[:2], pa.types.is_string, pa.types.is_large_string)):
            return int(column.nbytes)
        lengths = pc.binary_length(column.dictionary).take(column.indices)
        return int(pc.sum(lengths).as_py() or 0)
    if pa.types.is_struct(kind):
        return sum(map(dense_size, column.flatten()))
    if pa.types.is_fixed_size_list(kind):
        return dense_size(column.flatten())
    if any(test(kind) for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_map)):
        first, last = (column.offsets[place].as_py() for place in (0, -1))
        return dense_size(column.values.slice(first, last - first))
    return int(column.nbytes)


def longest_value(column: pa.Array) -> int:
    """Return the size in bytes of the longest value in a column's dictionary, or in the dictionaries of its fields."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return longest_value(column.storage)
    if pa.types.is_struct(kind):
        return sum(map(longest_value, column.flatten()))
    if not pa.types.is_dictionary(kind):
        return 0
    return int(pc.max(pc.binary_length(column.dictionary)).as_py() or 0)


def each_value(column: pa.Array | pa.ChunkedArray) -> Iterator[Any]:
    """Yield a column's values as `cell_values` returns them, with only a few at a time in memory."""
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        for start in range(0, len(chunk), _AT_ONCE):
            yield from cell_values(chunk.slice(start, _AT_ONCE))


def cell_values(column: pa.Array) -> list[Any]:
    """Return a column as Python values; images are bytes or mappings, even if an extension type would convert them."""
    while isinstance(column, pa.ExtensionArray) and may_hold_images(column.type):
        column = column.storage
    if pa.types.is_dictionary(column.type):  # a long text in many cells is created only once
        places = column.indices.to_pylist()
        known = {place: column.dictionary[place].as_py() for place in {*places} - {None}}
        return [known.get(place) for place in places]
    values: list[Any] = column.to_pylist()
    return values


def plain_values(column: pa.Array, name: str) -> list[Any]:
    """Return a column as Python values that text and JSON can represent without loss.

    Dates and times become Arrow's text for them, in UTC if they have a zone; durations become whole numbers, in the
    column's unit; 32-bit floats become the shortest equal decimal.

    Raises:
        TableError: A value cannot be represented; the message names the column.
    """
    whole = column.type
    try:
        for change in (_in_utc, _spelled, _number_again):
            if (wanted := _with_leaves(whole, change)) != column.type:
                column = column.cast(wanted)
        values: list[Any] = column.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError) as exc:
        raise _unspeakable(name, whole, str(exc)) from exc
    if _holds(whole, pa.types.is_temporal) and _OUT_OF_RANGE in str(values):
        raise _unspeakable(name, whole, "it contains a time that is out of range")
    return values


def _in_utc(leaf: pa.DataType) -> pa.DataType:
    return pa.timestamp(leaf.unit, "UTC") if pa.types.is_timestamp(leaf) and leaf.tz else leaf


def _spelled(leaf: pa.DataType) -> pa.DataType:
    if pa.types.is_duration(leaf):
        return pa.int64()
    return pa.string() if pa.types.is_temporal(leaf) or pa.types.is_float32(leaf) else leaf


def _number_again(leaf: pa.DataType) -> pa.DataType:
    return pa.float64() if pa.types.is_float32(leaf) else _spelled(leaf)


def _unspeakable(name: str, kind: pa.DataType, reason: str) -> TableError:
    return TableError(
        f"column {name!r} ({kind}) cannot be written as text: {reason}; name an output that ends in .parquet"
    )


def _holds(kind: pa.DataType, test: Callable[[pa.DataType], bool]) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return kind.extension_name != "arrow.uuid" and _holds(kind.storage_type, test)  # a UUID has a text form
    if pa.types.is_dictionary(kind):
        return _holds(kind.value_type, test)
    if pa.types.is_nested(kind):
        return any(_holds(kind.field(i).type, test) for i in range(kind.num_fields))
    return test(kind)


def _with_leaves(kind: pa.DataType, change: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """Return a type with its leaves changed, and values instead of dictionaries."""

    def changed(field: pa.Field) -> pa.Field:
        return field.with_type(_with_leaves(field.type, change))

    if pa.types.is_dictionary(kind):
        return _with_leaves(kind.value_type, change)
    if pa.types.is_struct(kind):
        return pa.struct([changed(kind.field(i)) for i in range(kind.num_fields)])
    if pa.types.is_list(kind):
        return pa.list_(changed(kind.value_field))
    if pa.types.is_large_list(kind):
        return pa.large_list(changed(kind.value_field))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(changed(kind.value_field), kind.list_size)
    if pa.types.is_map(kind):
        return pa.map_(changed(kind.key_field), changed(kind.item_field), kind.keys_sorted)
    return change(kind)
