"""Samples: files that share a name up to its first dot, such as `0001.jpg`, `0001.txt` and `0001.json`.

WebDataset's tar shards, img2dataset's layout `files`, and plain folders of images and caption files use this
convention. A sample's image is the first member with an image suffix. A sample's caption is its `.txt`, otherwise its
`.caption`, otherwise `caption` in its `.json`, otherwise `text` in its `.json`.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ..bounded_json import parse_json
from ..errors import ErrorCode, RowError
from ..files import is_below, open_at_once, real_path
from ..records import is_whole
from .names import IMAGE_ENDINGS, TEXT_ENDINGS
from .rows import dump, size_of_json
from .tar import TarStream

_CAPTIONS = ("caption", "text")  # members of .json, in this order
_MOST_TEXT = 1 << 20  # bytes
_MEMBER = re.compile(r"((?:.*/|)[^/.]+)\.([^/]*)", re.DOTALL)
_PASSED_OVER = re.compile(r"(?:.*/)?__[^/]*__(?:/.*)?", re.DOTALL)  # keys reserved by WebDataset
_STATS = re.compile(r"\d+_stats\.json")  # files that img2dataset writes next to its folders


@dataclass(slots=True)
class Sample:
    """One image with its caption.

    Args:
        key: Name that the sample's files share; None for the sample that represents the rest of a damaged shard.
        image: Encoded file or reference, or the reason why there is neither.
        caption: Caption; None if there is none.
        fields: Members of the sample's `.json`.
    """

    key: str | None
    image: bytes | str | RowError | None = None
    caption: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)  # by suffix, until the sample is complete
    fields_size: int = 0  # as from `size_of_json`

    @property
    def size(self) -> int:
        """Approximate size in memory, in bytes."""
        image = len(self.image) if isinstance(self.image, bytes | str) else 0
        return image + len(self.key or "") + len(self.caption or "") + self.fields_size + 100


def read_tar(
    file: io.BufferedReader, place: str, *, first: int = 0, max_bytes: int, compressed: bool
) -> Iterator[Sample]:
    """Yield the samples of a shard; damage becomes the error of the affected sample, or of an additional one.

    Args:
        file: The shard, open for reading bytes.
        place: Place of the shard.
        first: Index of the first sample (from 0) whose image is needed; earlier samples come without images.
        max_bytes: Largest image to read, in bytes.
        compressed: Whether the file is compressed with gzip.
    """
    stream = TarStream(file, Path(place).name, compressed=compressed)
    sample: Sample | None = None
    inside = False
    try:
        for name, size in stream.members():
            found = split_name(name)
            if found is None:
                continue
            if sample is None or sample.key != found[0]:
                if sample is not None:
                    yield _complete(sample)
                sample = Sample(found[0])
                stream.samples += 1
            inside = True
            _add_member(sample, found[1], size, stream, max_bytes=max_bytes if stream.samples > first else None)
            stream.skip()
            inside = False
    except RowError as damage:
        if inside and sample is not None:
            sample.image = damage
        else:
            if sample is not None:
                yield _complete(sample)
            sample = Sample(None, damage)
    if sample is not None:
        yield _complete(sample)


def split_name(name: str) -> tuple[str, str] | None:
    """Return the key and the suffix of a member's name, split as in WebDataset; None for members that it skips.

    Example:
        >>> split_name("./train/0001.seg.PNG"), split_name("README")
        (('train/0001', 'seg.png'), None)
    """
    name = name.removeprefix("./")
    found = _MEMBER.fullmatch(name)
    return None if found is None or _PASSED_OVER.fullmatch(name) else (found[1], found[2].lower())


def _add_member(sample: Sample, ending: str, size: int, stream: TarStream, *, max_bytes: int | None) -> None:
    """Read a member if scoring needs it; `max_bytes` is None if images are not needed."""
    name = f"{sample.key}.{ending}"
    if ending in IMAGE_ENDINGS:
        if sample.image is not None or max_bytes is None:
            return
        sample.image = stream.read() if size <= max_bytes else _too_large(name, size, max_bytes)
    elif ending in TEXT_ENDINGS and ending not in sample.texts:
        if size > _MOST_TEXT:
            sample.image = _too_large(name, size, _MOST_TEXT)
        else:
            _add_text(sample, ending, stream.read())


def _too_large(name: str, size: int, most: int) -> RowError:
    return RowError(ErrorCode.TOO_MANY_BYTES, f"{name} has {size:,} bytes, more than {most:,}")


def _add_text(sample: Sample, ending: str, data: bytes) -> None:
    try:
        sample.texts[ending] = data.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as exc:
        sample.image = RowError(ErrorCode.CORRUPT, f"{sample.key}.{ending} is not UTF-8: {exc.reason}")


def _complete(sample: Sample) -> Sample:
    """Set the caption and the fields of a sample whose members are complete."""
    text = sample.texts.pop("json", None)
    broken = ""
    if text is not None:
        found = _object(text)
        sample.fields_size = size_of_json(text)
        broken = f"; {sample.key}.json is not a JSON object" if found is None else ""
        sample.fields = found or {}
    members = [sample.fields[name] for name in _CAPTIONS if sample.fields.get(name) is not None]
    spoken = [*map(sample.texts.get, TEXT_ENDINGS), *map(_spoken, members)]
    sample.caption = next((one for one in spoken if one and one.strip()), None)
    if sample.caption is None and (others := [one for one in members if _spoken(one) is None]):
        broken = f": the one in {sample.key}.json is of type {type(others[0]).__name__}, not text"
    if broken and sample.caption is None and not isinstance(sample.image, RowError):
        sample.image = RowError(ErrorCode.EMPTY_CAPTION, f"the sample has no caption{broken}")
    if sample.image is None:
        sample.image = RowError(
            ErrorCode.INVALID_URL, f"the sample {sample.key} has no image ({', '.join(IMAGE_ENDINGS)})"
        )
    return sample


def _spoken(value: object) -> str | None:
    """Return a JSON value as a caption: text, or a finite number as text, as in any table; otherwise None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if isinstance(value, str) else str(value) if is_number else None


def _object(text: str) -> dict[str, Any] | None:
    """Parse a JSON object, replacing lone surrogates, which UTF-8 cannot encode; None if the text is not an object."""
    try:
        found = parse_json(text)
        if not is_whole(whole := dump(found)):
            found = json.loads(whole.encode("utf-8", "replace"))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def read_folder(folder: Path, digest: blake2b | None = None) -> Iterator[Sample]:
    """Yield the samples of a folder and its subfolders, in the order of their names; images are paths.

    Args:
        folder: Local folder.
        digest: Hash to update with the paths within the folder, the sizes of images, and the texts.

    Raises:
        OSError: The folder cannot be read.
    """
    root = folder.resolve()
    for path, names in _walk(folder):
        sample: Sample | None = None
        for name in sorted(names):
            file = path / name
            place = file.relative_to(folder).as_posix()
            found = split_name(place)
            if found is None or found[1] not in (*IMAGE_ENDINGS, *TEXT_ENDINGS) or _STATS.fullmatch(name):
                continue
            if sample is None or sample.key != found[0]:
                if sample is not None:
                    yield _complete(sample)
                sample = Sample(_whole(found[0]))
            _add_file(sample, found[1], file, place, root, digest)
        if sample is not None:
            yield _complete(sample)


def _walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield folders with the names of their files, without hidden ones."""

    def fail(error: OSError) -> None:
        raise error

    for path, folders, names in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        yield Path(path), [name for name in names if not name.startswith((".", "_"))]


def _add_file(sample: Sample, ending: str, file: Path, place: str, root: Path, digest: blake2b | None) -> None:
    name, size, data = os.fsencode(place), 0, b""
    with suppress(OSError):  # a link to a file that is missing, for example; reading it fails the row
        size = file.stat().st_size
    if ending in IMAGE_ENDINGS:
        sample.image = str(file.absolute()) if sample.image is None else sample.image
    else:
        try:
            data = _text_in(file, root)
        except RowError as problem:
            sample.image = problem
        else:
            _add_text(sample, ending, data)
    if digest is not None:
        digest.update(b"%d %b %d %b" % (len(name), name, size, data))


def _text_in(file: Path, root: Path) -> bytes:
    """Return the content of a text file, which is opened first, so that no link is changed after it was checked.

    Raises:
        RowError: The file is not under `root`, is too large, or cannot be read.
    """
    try:
        if sys.platform != "linux":
            _check_under(file, root)
        try:
            is_regular = stat.S_ISREG(file.stat().st_mode)
            opened = open(file, "rb", opener=open_at_once) if is_regular else None  # noqa: SIM115 - closed below
        except OSError:
            _check_under(file, root)
            raise
        if opened is None:  # a pipe, for example: reading it might never end
            _check_under(file, root)
            raise RowError(ErrorCode.FILE_NOT_FOUND, f"{file.name} cannot be read: it is not a regular file")
        with opened:
            _check_under(file, root, opened.fileno())
            size = os.fstat(opened.fileno()).st_size
            data = b"" if size > _MOST_TEXT else opened.read(_MOST_TEXT + 1)
    except OSError as exc:
        raise RowError(ErrorCode.FILE_NOT_FOUND, f"{file.name} cannot be read: {exc.strerror}") from exc
    if max(size, len(data)) > _MOST_TEXT:
        raise _too_large(file.name, max(size, len(data)), _MOST_TEXT)
    return data


def _check_under(file: Path, root: Path, opened: int | None = None) -> None:
    """Check that a file is under a folder; for an open file, the kernel tells where it is, on Linux."""
    real = None if opened is None else real_path(opened)
    if real is None or not real.is_absolute():
        real = Path(os.path.realpath(file))
    if not is_below(real, root):
        said = f"{file.name} is a link that leads out of the folder, so its text is not read; put the text itself there"
        raise RowError(ErrorCode.FILE_NOT_FOUND, said)


def _whole(key: str) -> str:
    return key.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
