"""Tar shards and folders of images as a table: one row per sample, with its key, caption and JSON fields.

The images are a separate column that is never written. A shard is read as a stream, with one part of rows in memory.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from ..errors import UsageError
from .columns import check_count
from .folders import has_captions, holds_images, image_in
from .hashing import Hashed, one_digest
from .names import format_of
from .rows import JsonRows, ValueKind, dump, json_schema, kind_of, wider
from .samples import Sample, read_folder, read_tar
from .storage import is_url, local_path, open_bytes, reading
from .text import in_parts

KEY, CAPTION, IMAGE = "__key__", "caption", "__image__"
_BUFFER = 1 << 20


@dataclass(frozen=True, slots=True)
class SampleRows(JsonRows):
    """Rows of samples: their images, and fields that become JSON."""

    images: Sequence[Any] = ()

    @property
    def nbytes(self) -> int:
        return super(SampleRows, self).nbytes + sum(len(image) for image in self.images if isinstance(image, bytes))

    def column(self, name: str) -> list[Any]:
        return list(self.images) if name == IMAGE else JsonRows.column(self, name)


@dataclass(slots=True)
class SampleTable:
    """A table of samples, in one or several shards or in a folder. The columns are known after `scan`.

    Args:
        files: Tar files, or one folder.
        dropped: Fields to skip.
        max_bytes: Largest image to read from a shard, in bytes.
    """

    files: list[str]
    dropped: frozenset[str]
    max_bytes: int
    kinds: dict[str, ValueKind] = field(init=False, default_factory=dict)
    row_count: int = field(init=False, default=0)
    digest: str = field(init=False, default="")
    _counts: list[int] = field(init=False, default_factory=list)
    _names_key: bool = field(init=False, default=False)  # whether a sample's JSON gives it another key

    images: ClassVar[str | None] = IMAGE
    captions: ClassVar[str | None] = CAPTION

    @property
    def columns(self) -> list[str]:
        return list(self.kinds)

    @property
    def schema(self) -> pa.Schema:
        return json_schema(self.kinds)

    def scan(self) -> None:
        """Read everything once: count the samples, collect their JSON fields, hash the files."""
        self.kinds = {KEY: "string", CAPTION: "string"}
        self._counts, digests = [], []
        for place in self.files:
            count = 0
            if _is_folder(place):
                hashed = blake2b(digest_size=16)
                with reading(place):
                    for sample in read_folder(local_path(place), hashed):
                        count += self._learn(sample, place)
                digests.append(hashed.hexdigest())
            else:
                with reading(place), Hashed(open_bytes(place)) as raw:
                    file = io.BufferedReader(raw, _BUFFER)
                    for sample in self._shard(place, file, first=-1):
                        count += self._learn(sample, place)
                    file.detach()  # the raw file would otherwise be closed too
                    digests.append(raw.finish())
            self._counts.append(count)
        self.row_count, self.digest = sum(self._counts), one_digest(digests)

    def leave_out(self, names: Iterable[str]) -> list[str]:
        """Skip JSON fields from now on, and return those that exist or share the key's name; call after `scan`."""
        taken = [name for name in names if name in self.kinds and name not in (KEY, CAPTION)]
        self.dropped |= frozenset(taken)
        self.kinds = {name: kind for name, kind in self.kinds.items() if name not in taken}
        return [*([KEY] if self._names_key else []), *taken]

    def _learn(self, sample: Sample, place: str) -> int:
        self._names_key |= sample.fields.get(KEY, sample.key) != sample.key
        for name, value in self._values(sample).items():
            self.kinds[name] = wider(self.kinds.get(name, "null"), kind_of(value))
        check_count(len(self.kinds), place)
        return 1

    def read(self, start: int, most: int) -> Iterator[SampleRows]:
        """Yield rows from index `start` on, counted from 0, `most` at a time, or fewer if they are very large."""
        first = start + 1
        for part in in_parts(self._from(start), 0, most, lambda sample: sample.size):
            values = [self._values(sample) for sample in part]
            numbers = range(first, first + len(part))
            yield SampleRows(numbers, self.kinds, list(map(dump, values)), values, [one.image for one in part])
            first += len(part)

    def _values(self, sample: Sample) -> dict[str, Any]:
        own = {KEY: sample.key, CAPTION: sample.caption}
        return {name: value for name, value in (own | sample.fields | own).items() if name not in self.dropped}

    def _from(self, start: int) -> Iterator[Sample]:
        for number, place in enumerate(self.files):
            if self._counts and start >= self._counts[number]:
                start -= self._counts[number]
                continue
            for at, sample in enumerate(self._samples(place, start)):
                if at >= start:
                    yield sample
            start = 0

    def _samples(self, place: str, first: int) -> Iterator[Sample]:
        if _is_folder(place):
            with reading(place):
                yield from read_folder(local_path(place))
        else:
            with reading(place), open_bytes(place) as raw:
                yield from self._shard(place, raw, first)

    def _shard(self, place: str, file: Any, first: int) -> Iterator[Sample]:
        """Yield the samples of a shard; those before index `first` come without images, or all if it is -1."""
        compressed = format_of(place).codec == "gzip"
        wanted = 1 << 62 if first < 0 else first
        return read_tar(file, place, first=wanted, max_bytes=self.max_bytes, compressed=compressed)


def is_image_folder(place: str) -> bool:
    """Tell whether a place is a folder of images, with or without caption files of the same names."""
    return _is_folder(place) and holds_images(local_path(place))


def check_captions(table: object, place: str) -> None:
    """Raise a `UsageError` if a table is a folder of images without captions."""
    if not isinstance(table, SampleTable) or not _is_folder(table.files[0]):
        return
    with reading(place):
        folder = local_path(table.files[0])
        if has_captions(folder):
            return
        image = Path(image_in(folder))
    raise UsageError(
        f"{place} holds images without captions; put each caption next to its image, as in {image.name} and {image.stem}.txt, "
        "or write a table with the columns url and caption"
    )


def _is_folder(place: str) -> bool:
    return not is_url(place) and local_path(place).is_dir()
