"""Read images with captions from a table, from the splits of a folder, or from the hub."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from ..config import Config, Dialect
from ..errors import ErrorCode, RowError, TableError, UsageError
from ..fetch import locate
from ..files import path_text
from ..formats import cells_of, check_columns, ending_of, folder_of, is_captions_file, with_folder
from ..records import caption_of, is_whole
from .cells import find_image, list_captions
from .hub_table import HubTable, is_hub
from .images import SCHEME, CaptionedImage
from .layouts import FILE_NAME, file_tables
from .left_out import LeftOut
from .photos import merge_photos
from .sources import SPLITS, URL, SplitTable, split_name

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def read_dataset(
    source: str | PathLike[str],
    *,
    split: str | None = None,
    col_url: str | None = None,
    col_text: str = "caption",
    config: Config | None = None,
    left_out: Counter[str] | None = None,
) -> list[CaptionedImage]:
    """Read images with their captions.

    Args:
        source: A table of any format that `score_csv` reads (a file, a folder or a pattern, as a path or an fsspec
            URL), a folder of tables named after splits, an imagefolder (`metadata.jsonl`, `.csv`,
            `.parquet`), a `captions.txt` or its folder, or the id of a data set on the hub.
        split: Split of the source to read; None reads all splits as one.
        col_url: Column of images or of references to them. None means the column that `score_csv` uses by default or,
            if that is missing, `image` or `file_name`.
        col_text: Column of captions, which may hold lists; columns `caption_0`, `caption_1` ... are used too; if
            `caption` is missing, `text` is used.
        config: Settings, of which `base_dir`, `files_under` (by default both are the table's folder), `dialect`, and
            the `limits` for comparing local files to find copies of an image are used; None means the defaults.
        left_out: Counter that receives the number of unusable rows by error code, such as `empty_caption` or
            `invalid_url`.

    Returns:
        One item per photo, in the order of first appearance. A photo that is also in a later split (in the order train,
        validation, test) is left out of the earlier one. Rows without a caption or an image are left out of every
        split, with a warning in the log.

    Raises:
        UsageError: There is no such source, split or column, or the extra for data sets on the hub is not installed.
        TableError: The source cannot be read, or contains no image with a caption.
    """
    columns, config = (col_url, col_text), config or Config()
    left = LeftOut(left_out)
    if split is not None:
        found = _read_splits(source, [split], columns, config, left)[split]
    else:
        tables = _open_tables(source, config.dialect).values()
        rows = (image for table in tables for image in _read_images(table, columns, config, left))
        (found,) = merge_photos([rows], config.limits)
        if not found:
            raise TableError(f"{source} contains no image with a caption{left.example()}")
    left.warn(source)
    return found


def read_splits(
    source: str | PathLike[str],
    names: Sequence[str],
    *,
    columns: tuple[str | None, str] = (None, "caption"),
    config: Config | None = None,
) -> dict[str, list[CaptionedImage]]:
    """Read several splits of a source in one pass; as in `read_dataset`, no photo is in more than one of them.

    Args:
        source: As in `read_dataset`.
        names: Splits to read.
        columns: Columns of references and of captions.
        config: As in `read_dataset`.

    Raises:
        UsageError, TableError: As from `read_dataset`.
    """
    left = LeftOut()
    found = _read_splits(source, names, columns, config or Config(), left)
    left.warn(source)
    return found


def _read_splits(
    source: str | PathLike[str],
    names: Sequence[str],
    columns: tuple[str | None, str],
    config: Config,
    left: LeftOut,
) -> dict[str, list[CaptionedImage]]:
    tables = _open_tables(source, config.dialect)
    for name in names:
        if split_name(name) not in tables:
            single = "a single table has no splits; leave the split out"
            has = single if "" in tables else f"it has {', '.join(tables)}"
            raise UsageError(f"{source} has no split {name!r}: {has}")
    wanted = {split_name(name): name for name in names}
    read = [name for name in tables if name in wanted]
    if all(name in SPLITS for name in read):
        # Later splits are read too, because a photo belongs to the last split that has it.
        read = [name for name in SPLITS[min(map(SPLITS.index, read)) :] if name in tables]
    unasked = LeftOut()  # for splits that are read only to find their photos
    images = [_read_images(tables[name], columns, config, left if name in wanted else unasked) for name in read]
    parts = merge_photos(images, config.limits, names=read, wanted=wanted, source=str(source))
    found = {wanted[name]: part for name, part in zip(read, parts, strict=True) if name in wanted}
    for name, part in found.items():
        if not part:
            raise TableError(f"{source} contains no image with a caption in the split {name}{left.example()}")
    return found


def own_splits(source: str | PathLike[str], dialect: Dialect | None = None) -> tuple[str, ...]:
    """Return the names of a source's splits, or () if it has none.

    Example:
        >>> own_splits("challenge_set.csv")
        ()
    """
    return tuple(name for name in _open_tables(source, dialect) if name)


def _open_tables(source: str | PathLike[str], dialect: Dialect | None) -> dict[str, SplitTable]:
    """Open a source: one table per split, or a single table named "" if the source has no splits.

    Raises:
        UsageError: The source does not exist.
        TableError: The source cannot be read.
    """
    place = path_text(source, "source")
    if is_hub(place):
        return {"": _hub_table(place)}
    is_file = ending_of(place) or is_captions_file(place)
    if _HUB_ID.fullmatch(place) and not is_file and not Path(place).exists():
        from .hub import hub_tables  # imported here, because it loads the hub's client

        return hub_tables(place)
    return file_tables(place, dialect)


def _hub_table(place: str) -> SplitTable:
    table = HubTable(place)

    def rows(columns: Sequence[str]) -> Iterator[tuple[str, tuple[Any, ...]]]:
        for number, cells in enumerate(cells_of(table, columns), 1):
            yield f"row {number} of {place}", cells

    return SplitTable(place, lambda: table.columns, rows, folder_of(place))


def _read_images(
    table: SplitTable, columns: tuple[str | None, str], config: Config, left: LeftOut
) -> Iterator[CaptionedImage]:
    """Yield the image of each row of a table with its captions, if any; rows without an image are left out."""
    names = table.columns()
    col_image, texts = _choose_columns(names, *columns)
    if columns[0] is None:
        col_image = table.images() or col_image
    check_columns(names, [*texts, col_image], table.name)
    config = with_folder(config, table.folder)
    for where, (value, *spoken) in table.rows([col_image, *texts]):
        given = [caption for one in spoken for caption in list_captions(one)]
        captions = tuple(one for one in given if isinstance(one, str) and is_whole(one))
        image = value if isinstance(value, RowError) else _located(find_image(value), config)
        if refused := [one for one in given if isinstance(one, RowError)]:
            left.add(where, refused[0].code, f"has a caption that cannot be used: {refused[0].detail}")
        elif len(captions) < len(given):
            left.add(where, ErrorCode.ENCODER_ERROR, "has a caption with a lone surrogate, half of a UTF-16 pair")
        elif not captions and not isinstance(value, RowError):  # a damaged shard has no caption to report
            why = next((found for one in spoken if isinstance(found := caption_of(one), RowError)), None)
            left.add(
                where,
                ErrorCode.EMPTY_CAPTION,
                f"has no text in {', '.join(map(repr, texts))}{f': {why.detail}' if why else ''}",
            )
        elif isinstance(image, RowError):
            left.add(where, image.code, f"has no image in {col_image!r}: {image.detail}")
        if isinstance(image, RowError):
            continue
        path, content = image
        if isinstance(content, str) and SCHEME.match(path):
            path = path[:200]
        yield CaptionedImage(path or where, captions, content)


def _located(image: tuple[str, str | bytes] | RowError, config: Config) -> tuple[str, str | bytes] | RowError:
    """Return an image with the location of its file, or the reason why that file may not be read."""
    if isinstance(image, RowError) or isinstance(image[1], bytes):
        return image
    try:
        return image[0], locate(image[1], config)
    except RowError as error:
        return error


def _choose_columns(names: Sequence[str], col_url: str | None, col_text: str) -> tuple[str, list[str]]:
    """Return the column of images or references, and those of captions; imagefolder's names replace missing ones."""
    images = [URL, "image", FILE_NAME] if col_url is None else [col_url]
    texts = [name for name in names if re.fullmatch(rf"{re.escape(col_text)}(s|_\d+)?", name)]
    if not texts:
        texts = ["text" if col_text == "caption" and "text" in names else col_text]
    return next((name for name in images if name in names), images[0]), texts
