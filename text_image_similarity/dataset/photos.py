"""Merge the rows of one photo, so that no photo can be in two splits."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from ..config import Config, Limits
from ..errors import RowError
from .images import SCHEME, CaptionedImage, ImageLoader, digest

logger = logging.getLogger("text_image_similarity")


def merge_photos(
    splits: Sequence[Iterable[CaptionedImage]],
    limits: Limits,
    *,
    names: Sequence[str] = (),
    wanted: Collection[str] = (),
    source: str = "",
) -> list[list[CaptionedImage]]:
    """Merge the rows of each photo, in order of first appearance, and assign the photo to the last split that has it.

    A photo keeps only the captions of that split; photos without a caption are left out.

    Args:
        splits: Rows of each split.
        limits: Limits for the local files that are compared.
        names: Names of the splits, for the log.
        wanted: Splits whose left-out photos are logged.
        source: Name of the data set in the log.
    """
    rows = [(number, image) for number, split in enumerate(splits) for image in split]
    content = _find_copies([image for _, image in rows], limits)
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
                "%s: %d of %d photos of the split %s are also in a later split and were left out",
                *(source, left, left + len(photos), names[number]),
            )
        found.append([image for image in photos.values() if image.captions])
    return found


def _find_copies(images: Sequence[CaptionedImage], limits: Limits) -> dict[Hashable, Hashable]:
    """Return a key for the content of each source: local files of equal size are read and compared."""
    by_source = {_source_key(image): image for image in images}
    sizes = {key: _size(image) for key, image in by_source.items()}
    times = Counter(sizes.values())
    content: dict[Hashable, Hashable] = {}
    with ImageLoader(Config(limits=limits)) as loader:
        for key, image in by_source.items():
            content[key] = key
            if isinstance(image.source, str) and sizes[key] is not None and times[sizes[key]] > 1:
                with suppress(RowError):  # the reason is reported when the image is loaded
                    content[key] = digest(loader.read(image))
    return content


def _source_key(image: CaptionedImage) -> Hashable:
    return digest(image.source) if isinstance(image.source, bytes) else image.source


def _merge(keyed: Iterable[tuple[Hashable, CaptionedImage]]) -> dict[Hashable, CaptionedImage]:
    rows: dict[Hashable, list[CaptionedImage]] = {}
    for key, image in keyed:
        rows.setdefault(key, []).append(image)
    return {key: copies[0] if len(copies) == 1 else _merged(copies) for key, copies in rows.items()}


def _merged(copies: Sequence[CaptionedImage]) -> CaptionedImage:
    # The name that sorts first and its source are used, so that the choice does not depend on the order of the rows.
    first = min(copies, key=lambda one: one.name)
    return CaptionedImage(first.name, tuple(caption for one in copies for caption in one.captions), first.source)


def _size(image: CaptionedImage) -> int | None:
    """Return the size in bytes of an image in memory or in a local file, otherwise None."""
    if isinstance(image.source, bytes):
        return len(image.source)
    if SCHEME.match(image.source):
        return None
    try:
        path = Path(image.source)
        return path.stat().st_size if path.is_file() else None
    except (OSError, ValueError):
        return None
