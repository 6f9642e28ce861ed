"""Pictures with their captions, for training and evaluation.

Four sources: a Parquet file with the columns of the hub set jxie/flickr8k (`image` with its bytes, `caption_0` ...), a
folder of such files named after splits (`train.parquet`, or `train-00000-of-00002.parquet`), a CSV or Parquet table of
references and captions, and a set on the hub. A photo is one item whatever its source: rows with the same bytes or the
same reference are merged with all their captions, so that no photo can land in two splits. Copies that differ in a
single byte, as after saving again, count as two photos.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from os import PathLike
from pathlib import Path

from ..config import Config
from ..errors import RowError, TableError, UsageError
from .images import SCHEME, CaptionedImage, ImageLoader, digest
from .sources import SPLITS, Row, Table, open_tables, split_name

logger = logging.getLogger("text_image_similarity")


def read_dataset(
    source: str | PathLike[str],
    *,
    split: str | None = None,
    col_url: str = "url",
    col_text: str = "caption",
    base_dir: str | PathLike[str] | None = None,
) -> list[CaptionedImage]:
    """Read pictures with their captions.

    Args:
        source: A CSV or Parquet file, a folder of Parquet files named after splits, or the id of a set on the hub.
        split: Which of the source's own splits; None reads all of them as one.
        col_url: The column of references, where the table has no column `image` with the pictures themselves.
        col_text: The column of captions; `caption_0`, `caption_1` ... and a column of lists count too.
        base_dir: Where relative references start from; None is the table's folder.

    Returns:
        One item per photo, in the order of first appearance. A photo that is in a later split too (train, validation,
        test) is left out of the earlier one, with a warning in the log.

    Raises:
        UsageError: There is no such source, split or column, or the extra for hub sets is not installed.
        TableError: The source cannot be read, or holds no picture with a caption.
    """
    columns = (col_url, col_text)
    if split is not None:
        return read_splits(source, [split], columns=columns, base_dir=base_dir)[split]
    rows = (row for table in open_tables(source).values() for row in _pictures(table, columns, base_dir))
    (found,) = _photos([rows])
    if not found:
        raise TableError(f"{source} holds no picture with a caption")
    return found


def read_splits(
    source: str | PathLike[str],
    names: Sequence[str],
    *,
    columns: tuple[str, str] = ("url", "caption"),
    base_dir: str | PathLike[str] | None = None,
) -> dict[str, list[CaptionedImage]]:
    """Read some of a source's own splits, in one pass; no photo is in two of them, as in `read_dataset`.

    Args:
        source: As in `read_dataset`.
        names: The splits.
        columns: Those of references and of captions.
        base_dir: As in `read_dataset`.

    Raises:
        UsageError, TableError: As `read_dataset`.
    """
    tables = open_tables(source)
    for name in names:
        if split_name(name) not in tables:
            has = f"it has {', '.join(tables)}" if "" not in tables else "a single file has no splits; leave it out"
            raise UsageError(f"{source} has no split {name!r}: {has}")
    wanted = {split_name(name): name for name in names}
    read = [name for name in tables if name in wanted]
    if all(name in SPLITS for name in read):
        # Later splits too, because a photo belongs to the last one that has it.
        read = [name for name in SPLITS[min(map(SPLITS.index, read)) :] if name in tables]
    parts = _photos(
        [_pictures(tables[name], columns, base_dir) for name in read], names=read, wanted=wanted, source=str(source)
    )
    found = {wanted[name]: part for name, part in zip(read, parts, strict=True) if name in wanted}
    for name, part in found.items():
        if not part:
            raise TableError(f"{source} holds no picture with a caption in the split {name}")
    return found


def own_splits(source: str | PathLike[str]) -> tuple[str, ...]:
    """Return the names of the splits that a source itself has, or () where it has none.

    Example:
        >>> own_splits("challenge_set.csv")
        ()
    """
    return tuple(name for name in open_tables(source) if name)


def split_dataset(
    images: Sequence[CaptionedImage], fractions: tuple[float, float, float] = (0.6, 0.2, 0.2), seed: int = 0
) -> tuple[list[CaptionedImage], list[CaptionedImage], list[CaptionedImage]]:
    """Split photos into three parts for training, validation and test.

    The shuffle sorts by a digest of seed and photo, so the parts do not depend on the order of the rows or on the
    machine. Photos of the same content fall into the same part.

    Args:
        images: Photos, as `read_dataset` returns them.
        fractions: Shares of train, validation and test; together 1.
        seed: Another seed gives other parts.

    Raises:
        UsageError: The fractions are not three shares of a whole.
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise UsageError(f"fractions={fractions!r} must be three numbers of at least 0 that add up to 1")
    groups: dict[bytes, list[CaptionedImage]] = {}
    for image in images:
        groups.setdefault(image.key, []).append(image)
    shuffled = [groups[key] for key in sorted(groups, key=lambda key: digest(b"%d:%b" % (seed, key)))]
    ends = [round(len(shuffled) * sum(fractions[:i])) for i in range(4)]
    train, validation, test = (
        [image for group in shuffled[start:end] for image in group] for start, end in pairwise(ends)
    )
    return train, validation, test


def reference(url: str, base_dir: str | PathLike[str] | None) -> str:
    """Return a reference that needs no base folder any more: URLs stay, a relative path starts from `base_dir`."""
    url = url.strip()
    return url if base_dir is None or SCHEME.match(url) else str(Path(base_dir).absolute() / url)


def _pictures(table: Table, columns: tuple[str, str], base_dir: str | PathLike[str] | None) -> Iterator[CaptionedImage]:
    """Yield what each row of a table holds; captions may be none."""
    col_url, col_text = columns
    col_image = "image" if "image" in table.columns and col_url not in table.columns else col_url
    texts = [name for name in table.columns if re.fullmatch(rf"{re.escape(col_text)}(s|_\d+)?", name)]
    if not texts:
        table.require(col_text)
    table.require(col_image)
    folder = table.folder if base_dir is None else Path(base_dir)
    for number, row in enumerate(table.rows(), 1):
        captions = tuple(caption for name in texts for caption in _captions(row[name]))
        if (picture := _picture(row, col_image)) is None:
            raise TableError(f"row {number} of {table.name} holds neither bytes nor a reference in {col_image!r}")
        path, source = picture
        if isinstance(source, str):
            yield CaptionedImage(path[:200] if SCHEME.match(path) else path, captions, reference(source, folder))
        else:
            yield CaptionedImage(path or f"row {number} of {table.name}", captions, source)


def _picture(row: Row, column: str) -> tuple[str, bytes | str] | None:
    """Return a row's picture as (path, bytes) or (reference, reference)."""
    value = row[column]
    path: object = ""
    if isinstance(value, dict):  # the struct of the hub's sets
        path = value.get("path")
        value = value.get("bytes") or path
    if isinstance(value, bytes) and value:
        return (path if isinstance(path, str) else ""), value
    return (value.strip(), value) if isinstance(value, str) and value.strip() else None


def _captions(value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [text.strip() for text in values if isinstance(text, str) and text.strip()]


def _photos(
    splits: Sequence[Iterable[CaptionedImage]],
    *,
    names: Sequence[str] = (),
    wanted: Collection[str] = (),
    source: str = "",
) -> list[list[CaptionedImage]]:
    """Merge the rows of one photo, in the order of first appearance, and leave it to the last split that has it.

    A photo keeps the captions of that split alone; photos without a caption fall away.
    """
    rows = [(number, image) for number, split in enumerate(splits) for image in split]
    by_source = {_source_key(image): image for _, image in rows}
    sizes = {key: _size(image) for key, image in by_source.items()}
    times = Counter(sizes.values())
    content: dict[Hashable, Hashable] = {}
    with ImageLoader(Config()) as files:
        for key, image in by_source.items():
            content[key] = key
            if isinstance(image.source, str) and sizes[key] is not None and times[sizes[key]] > 1:
                with suppress(RowError):  # whoever loads it will hear why
                    content[key] = digest(files.read(image))  # only files of equal size can be equal
    last: dict[Hashable, int] = {}
    for number, image in rows:
        key = content[_source_key(image)]
        last[key] = max(number, last.get(key, 0))
    found = []
    for number in range(len(splits)):
        keyed = [(content[_source_key(image)], image) for at, image in rows if at == number]
        photos = _merge((key, image) for key, image in keyed if last[key] == number)
        left = len({key for key, _ in keyed}) - len(photos)
        if left and names[number] in wanted:
            logger.warning(
                "%s: %d of %d photos of the split %s are in a later split too and were left out",
                *(source, left, left + len(photos), names[number]),
            )
        found.append([image for image in photos.values() if image.captions])
    return found


def _source_key(image: CaptionedImage) -> Hashable:
    return digest(image.source) if isinstance(image.source, bytes) else image.source


def _merge(keyed: Iterable[tuple[Hashable, CaptionedImage]]) -> dict[Hashable, CaptionedImage]:
    found: dict[Hashable, CaptionedImage] = {}
    for key, image in keyed:
        if key in found:
            # The smaller name, and its source: the same photo whatever the order of the rows.
            first = min(found[key], image, key=lambda one: one.name)
            image = CaptionedImage(first.name, found[key].captions + image.captions, first.source)
        found[key] = image
    return found


def _size(image: CaptionedImage) -> int | None:
    """Return the size in bytes of a picture that is here, as bytes or as a local file, else None."""
    if isinstance(image.source, bytes):
        return len(image.source)
    if SCHEME.match(image.source):
        return None
    try:
        path = Path(image.source)
        return path.stat().st_size if path.is_file() else None
    except (OSError, ValueError):
        return None
