"""Convert rows to products: the roles of columns, and the meaning of cells for each kind of field.

In formats with lists, such as JSON Lines and Parquet, a list is stored as such. In other formats it is a JSON list, as
written by `catalog export`, or texts separated by `|`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from types import NoneType
from typing import Any

from ..bounded_json import parse_json
from ..errors import UsageError
from ..formats import check_columns, list_columns
from ..records import MOST_LISTED, EncodedImage, is_missing
from .arguments import check_type, texts_of
from .fields import Field, named, number_text
from .products import Product, fields_as_json

# In a text field, these are ordinary texts: NA is Namibia, and None may be a name.
_BLANK = {"", "-", "--", "?", "n/a", "#n/a", "na", "<na>", "nan", "null", "none"}
_IMAGES = ("images", "image", "image_url", "url")
_NAMES = ("name", "title")
_WHOLE = 1e15  # a smaller float without a fraction is stored as an integer, which all formats write the same way


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductColumns:
    """The columns of a table that hold the parts of a product. An empty name means that there is no such column.

    Args:
        id: Column of the product's id.
        name: Column of the product's name; None means `name`, or else `title`.
        images: Column or columns of the product's images or references to them; () means the first existing one of
            `images`, `image`, `image_url` and `url`.
        description: Column of the product's description; None means `description`, if it exists.
        group: Column of an id that a product's variants share; None means `group`, if it exists.
        fields: Columns of the declared fields whose column has a different name from the field.

    Raises:
        InputTypeError: A value is not the name of a column.
    """

    id: str = "id"
    name: str | None = None
    images: Sequence[str] = ()
    description: str | None = None
    group: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_type("ProductColumns.id", self.id, str, "the name of a column")
        for name in ("name", "description", "group"):
            check_type(f"ProductColumns.{name}", getattr(self, name), (str, NoneType), "the name of a column, or None")
        images = texts_of("ProductColumns.images", self.images, "the name of a column, or several")
        object.__setattr__(self, "images", images)
        check_type("ProductColumns.fields", self.fields, Mapping, "a mapping from fields to columns")
        texts_of("ProductColumns.fields", list(self.fields.values()), "names of columns")


@dataclass(frozen=True, slots=True)
class RowReader:
    """Converts rows to products.

    Args:
        columns: Columns to read, without duplicates.
        roles: Columns of `id`, `name`, `description` and `group`, if there are any.
        images: Columns of images.
        fields: Declared fields that have a column, and these columns.
    """

    columns: tuple[str, ...]
    roles: Mapping[str, str]
    images: tuple[str, ...]
    fields: tuple[tuple[Field, str], ...]

    def product(self, row: Mapping[str, Any]) -> Product:
        """Return the product of a row.

        Raises:
            UsageError: The row has no id, or a value that is not valid; the message names the column or field.
        """
        texts = {role: cell_text(row.get(column), column) for role, column in self.roles.items()}
        if not texts["id"].strip():
            raise UsageError(f"it has no id in the column {self.roles['id']!r}")
        images = [image for column in self.images for image in _references(row.get(column), column)]
        values = {}
        for declared, column in self.fields:
            value = _given(declared, row.get(column), column)
            if declared.stored(value) is not None:
                values[declared.name] = value
        product = Product(
            texts["id"],
            texts.get("name", ""),
            tuple(images),
            texts.get("description", ""),
            values,
            texts.get("group") or None,
        )
        fields_as_json(product)  # checked now, because it would be too late once other products are being written
        return product


def read_columns(
    chosen: ProductColumns, declared: Sequence[Field], there: Sequence[str] | None, place: str
) -> RowReader:
    """Find the columns of products in a table.

    Args:
        chosen: Columns that were named.
        declared: Declared fields, each in the column of the same name unless another one was named.
        there: Columns of the table; None for a source without columns, in which missing values are empty.
        place: Name of the table in messages.

    Raises:
        UsageError: A column is missing or occurs twice; the message says how to name another one.
    """
    for name in chosen.fields:
        named(declared, name)
    if not chosen.id:
        raise UsageError("the column of ids cannot be left out; without an id a product cannot be replaced or deleted")
    _check_needed(chosen, there, place)
    roles = {"id": chosen.id}
    for role, given, known in (
        ("name", chosen.name, _NAMES),
        ("description", chosen.description, ("description",)),
        ("group", chosen.group, ("group",)),
    ):
        column = given if given is not None else _first(known, there)
        if column:
            roles[role] = column
        elif given is None and role == "name":
            raise UsageError(
                f"{place} has no column 'name' or 'title'; name another one with --name-col, or leave names out with --name-col ''"
            )
    images = tuple(name for name in chosen.images if name)
    if not chosen.images:
        if (column := _first(_IMAGES, there)) is None:
            raise UsageError(
                f"{place} has none of the columns {', '.join(map(repr, _IMAGES))}; name the column of images with --image-col, or add "
                "products without images with --image-col ''"
            )
        images = (column,)
    pairs = [(each, chosen.fields.get(each.name, each.name)) for each in declared]
    fields = tuple((each, column) for each, column in pairs if column)
    _check_fields(fields, there, place)
    columns = tuple(dict.fromkeys([*roles.values(), *images, *(column for _, column in fields)]))
    if there is not None:
        for role, column in roles.items():
            such = f", such as --id-col {_like_ids(there)}" if role == "id" and _like_ids(there) else ""
            check_columns(there, [column], place, options=f"--{role}-col (ProductColumns({role}=...)){such}")
        check_columns(there, images, place, options="--image-col (ProductColumns(images=...))")
        check_columns(there, columns, place, options="--field-col (ProductColumns(fields=...))")
    return RowReader(columns, roles, images, fields)


def _check_needed(chosen: ProductColumns, there: Sequence[str] | None, place: str) -> None:
    """Report all missing columns at once, with the options that name others."""
    needed = (
        (repr(chosen.id), f"--id-col {_like_ids(there or ())}".rstrip(), (chosen.id,)),
        ("'name' or 'title'", "--name-col", _NAMES if chosen.name is None else ()),
        ("'image'", "--image-col", () if chosen.images else _IMAGES),
    )
    missing = [(spoken, option) for spoken, option, known in needed if known and _first(known, there) is None]
    if there and len(missing) > 1:
        raise UsageError(
            f"{place} has no columns {', '.join(spoken for spoken, _ in missing)}; it has the columns: {list_columns(there)}; name "
            f"the right ones with {', '.join(option for _, option in missing)}"
        )


def _like_ids(there: Sequence[str]) -> str:
    """Return the column that probably holds ids, by its name; empty if there is none."""
    return next(
        (name for name in there if re.fullmatch(r"(?i)sku|asin|gtin|ean|handle|uid|key|(\w*[_-])?id", name)), ""
    )


def _check_fields(fields: Iterable[tuple[Field, str]], there: Sequence[str] | None, place: str) -> None:
    missing = [(each.name, column) for each, column in fields if there is not None and column not in there]
    if there and missing:
        names = " or ".join(repr(column) for _, column in missing)
        raise UsageError(
            f"{place} has no column {names}, which the catalogue's fields need; it has {', '.join(there)}. Name another "
            f"column with --field-col {missing[0][0]}=COLUMN, or leave the field out with --field-col {missing[0][0]}="
        )


def _first(known: Iterable[str], there: Sequence[str] | None) -> str | None:
    return next((name for name in known if there is None or name in there), None)


def cell_texts(value: object, column: str) -> list[Any]:
    """Return the items of a cell that holds a list, in any form that a table supports.

    Raises:
        UsageError: The cell has too many items; the message names the column.

    Example:
        >>> cell_texts("a.jpg|b.jpg", "c"), cell_texts('["a|b.jpg"]', "c"), cell_texts(["a", "b"], "c")
        (['a.jpg', 'b.jpg'], ['a|b.jpg'], ['a', 'b'])
    """
    if isinstance(value, str):
        listed = json_list(value)
        count = value.count("|") + 1 if listed is None else len(listed)
        _check_count(count, column)  # before a split, because each part takes memory
        return [part.strip() for part in value.split("|") if part.strip()] if listed is None else listed
    if isinstance(value, (list, tuple)):
        _check_count(len(value), column)
        return [each for each in value if not is_missing(each) and each != ""]
    return [] if is_missing(value) else [value]


def _check_count(count: int, column: str) -> None:
    if count > MOST_LISTED:
        raise UsageError(f"{column!r} has {count:,} items, but at most {MOST_LISTED:,} are accepted")


def is_blank(text: str) -> bool:
    """Tell whether a cell's text means that a number, boolean or date is missing.

    Example:
        >>> is_blank("n/a"), is_blank("NULL"), is_blank("0")
        (True, True, False)
    """
    return text.strip().casefold() in _BLANK


def json_list(text: str) -> list[str] | None:
    """Return the texts of a JSON list, or None if it is not one."""
    if not text.lstrip().startswith("["):
        return None
    try:
        found = parse_json(text)
    except ValueError:
        return None
    return found if isinstance(found, list) and all(isinstance(each, str) for each in found) else None


def _references(value: object, column: str) -> list[Any]:
    """Return the images in a cell; structs without bytes and path are left out."""
    found = [value] if isinstance(value, str) and value.startswith("data:") else cell_texts(value, column)
    for each in found:
        if not isinstance(each, str | EncodedImage | Mapping):
            raise UsageError(f"{column!r} must contain images, paths or URLs, not {each!r:.100}")
    return [each for each in found if not isinstance(each, Mapping) or each.get("bytes") or each.get("path")]


def cell_text(value: object, column: str) -> str:
    """Return a cell as text; equal finite numbers become the same text, so 7.0 becomes 7."""
    if is_missing(value):
        return ""
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):  # infinite, or with more digits than Python converts
            value = number_text(value)
    if not isinstance(value, str):
        raise UsageError(f"{column!r} must be text, not {value!r:.100}")
    return value


def _given(declared: Field, value: Any, column: str) -> Any:
    """Return a cell's value for a product in a form for JSON, converted from text to the field's kind if needed."""
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal) and not is_missing(value):
        value = declared.stored(value) if declared.kind == "text" else float(value)
    match declared.kind:
        case "texts":
            return cell_texts(value, column)
        case "number" | "bool" | "date" if isinstance(value, str) and is_blank(value):
            return None
        case "number":
            number = declared.stored(value)
            return int(number) if isinstance(number, float) and abs(number) < _WHOLE and number.is_integer() else number
        case "bool":
            return declared.stored(value)
    return value
