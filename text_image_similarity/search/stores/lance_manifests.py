"""Make sure that a Lance table in a local folder does not lead to other places, before the library opens it.

A Lance manifest may name other places for its files (`base_paths`), even in an object store, and the library would
connect to them with the user's credentials. The metadata in a manifest may also name models, which LanceDB would load.
The provider of a catalogue must not be able to choose either. All manifests are read here, because old ones are opened
for cleaning up. The numbers of fields are from `table.proto` and `file.proto` of Lance 13.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ...errors import DatabaseError

_MOST_BYTES = 16 << 20  # of a manifest; that of a table with 10,000 data files has 1 MB
_TAIL = 16  # position, version and magic at the end of a manifest
_PLAIN = re.compile(rb"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_INDEX_SECTION, _FLAGS, _BASES, _BRANCH = 6, (9, 10), 18, 20  # fields of a manifest
_BASES_IN_USE = 1 << 4  # feature flag
_INDEXES = (b"BTreeIndexDetails", b"BitmapIndexDetails", b"LabelListIndexDetails", b"VectorIndexDetails")

_Parts = Iterator[tuple[int, int | bytes]]


class LanceManifests:
    """The manifests of the tables in a local folder, each of which is checked once.

    Args:
        folder: Folder of a store, which need not exist.
        table: Name of the store's table.
    """

    def __init__(self, folder: Path, table: str) -> None:
        self._folder, self._versions = folder, folder / f"{table}.lance" / "_versions"
        self._checked: dict[Path, set[str]] = {}

    def check_all(self) -> None:
        """Check all files of a store that is to be opened.

        Raises:
            DatabaseError: A file leads to another place.
            ValueError: A manifest is damaged.
        """
        if self._folder.is_symlink():
            raise self._leads_elsewhere(f"{self._folder.name} is a symbolic link")
        self._checked = {self._versions: set()}
        for place, folders, files in os.walk(self._folder):
            for name in (*folders, *files):
                if (Path(place) / name).is_symlink():
                    raise self._leads_elsewhere(f"{name} is a symbolic link")
                if name.startswith("__"):  # LanceDB's own catalogue, whose tables may be anywhere
                    raise self._leads_elsewhere(f"{name} may name tables in other places")
            if any(map(_is_manifest, files)):
                self._checked[Path(place)] = set()
        self.check_new()

    def check_new(self) -> None:
        """Check the manifests that were added since the last call.

        Raises:
            DatabaseError: A manifest leads to another place.
            ValueError: A manifest is damaged.
        """
        for place, checked in self._checked.items():
            try:
                names = {path.name for path in place.iterdir() if _is_manifest(path.name)}
            except FileNotFoundError:
                names = set()
            for name in sorted(names - checked):
                self._check(place / name)
            self._checked[place] = names

    def _check(self, path: Path) -> None:
        if path.is_symlink():
            raise self._leads_elsewhere(f"{path.name} is a symbolic link")
        if path.exists() and not path.is_file():
            raise ValueError(f"{path.name} is not a file")
        try:
            with path.open("rb") as file:
                data = file.read(_MOST_BYTES + 1)
        except FileNotFoundError:  # another process cleaned up
            return
        if len(data) > _MOST_BYTES:
            raise ValueError(f"{path.name} has more than {_MOST_BYTES >> 20} MiB")
        if reason := next(_reasons(data), None):
            raise self._leads_elsewhere(f"{path.name} {reason}")

    def _leads_elsewhere(self, reason: str) -> DatabaseError:
        return DatabaseError(
            f"the vectors in {self._folder} are not opened, because they lead to another place ({reason}), perhaps "
            "one chosen by whoever made the catalogue; to restore them, remove that folder and open the catalogue again"
        )


def _is_manifest(name: str) -> bool:
    return name.casefold().endswith(".manifest")


def _reasons(data: bytes) -> Iterator[str]:
    """Yield the reasons why a manifest leads to another place."""
    if len(data) < _TAIL + 4 or not data.endswith(b"LANC"):
        raise ValueError("a manifest is cut off")
    start = int.from_bytes(data[-_TAIL : -_TAIL + 8], "little")
    body = _message(data, start)
    if start + 4 + len(body) + _TAIL != len(data):
        raise ValueError("a manifest has a wrong length")
    for number, value in sorted(_parts(body), key=lambda part: part[0] != _BASES):  # the clearest reason first
        if number == _INDEX_SECTION:
            yield from _reasons_of_indexes(_message(data, _number(value)))
        elif number in _FLAGS and _number(value) & _BASES_IN_USE:
            yield "states that its data is in several places"
        elif number == _BRANCH:
            yield "belongs to a branch"
        elif number in _READERS:
            yield from _READERS[number](_bytes(value))


def _reasons_of_base(base: bytes) -> Iterator[str]:
    path = b" ".join(_bytes(text) for number, text in _parts(base) if number == 4)
    yield f"names {path.decode('utf-8', 'replace')!r:.200}"


def _reasons_of_metadata(entry: bytes) -> Iterator[str]:
    if any(b"embedding_functions" in _bytes(text) for _, text in _parts(entry)):
        yield "names a model to load"


def _reasons_of_field(field: bytes) -> Iterator[str]:
    """Yield a reason if a column may contain addresses of files, because blobs may be external."""
    for number, value in _parts(field):
        if number != 2 and isinstance(value, bytes) and b"blob" in value.lower():  # 2 is the name of the field
            yield "has a column of files"


def _reasons_of_fragment(fragment: bytes) -> Iterator[str]:
    for number, value in _parts(fragment):
        if number == 2:
            yield from _reasons_of_file(_bytes(value))
        elif number == 3:
            if any(at == 7 for at, _ in _parts(_bytes(value))):
                yield "has a list of deleted rows in another place"
        elif number in (6, 8, 10):
            yield "has lists of rows in other files"
        elif number == 11:
            for at, inner in _parts(_bytes(value)):
                if at == 1:
                    yield from _reasons_of_file(_bytes(inner))


def _reasons_of_file(file: bytes) -> Iterator[str]:
    for number, value in _parts(file):
        if number == 7:
            yield "has data in another place"
        elif number == 1 and not _PLAIN.fullmatch(_bytes(value)):
            yield f"names the file {_bytes(value).decode('utf-8', 'replace')!r:.200}"


def _reasons_of_indexes(section: bytes) -> Iterator[str]:
    for _, index in _parts(section):
        for number, value in _parts(_bytes(index)):
            if number == 9:
                yield "has an index in another place"
            elif number == 6:
                kinds = [_bytes(text) for at, text in _parts(_bytes(value)) if at == 1]
                if not all(kind.rpartition(b".")[2] in _INDEXES for kind in kinds):
                    yield f"has an index of an unexpected kind, {kinds[-1].decode('utf-8', 'replace')!r:.100}"
            elif number == 10:
                names = [_bytes(text) for at, text in _parts(_bytes(value)) if at == 1]
                if not all(map(_PLAIN.fullmatch, names)):
                    yield "has an index with files in other folders"


_READERS = {1: _reasons_of_field, 2: _reasons_of_fragment, 5: _reasons_of_metadata, _BASES: _reasons_of_base}


def _message(data: bytes, start: int) -> bytes:
    """Return the message at a position, which begins with the length of the message."""
    length = int.from_bytes(data[start : start + 4], "little")
    found = data[start + 4 : start + 4 + length]
    if start + 4 > len(data) or len(found) != length:
        raise ValueError("a part of a manifest is outside the file")
    return found


def _parts(message: bytes) -> _Parts:
    """Yield the number and value of each field of a protobuf message.

    Raises:
        ValueError: The message is damaged, or has groups, which Lance does not write.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError("a manifest is damaged")
        if at + size > len(message):
            raise ValueError("a manifest is damaged")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Return the whole number at a position, and the position after it."""
    value = 0
    for count, byte in enumerate(message[at : at + 10]):
        value |= (byte & 127) << (7 * count)
        if byte < 128:
            return value, at + count + 1
    raise ValueError("a manifest is damaged")


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a manifest is damaged")
    return value


def _number(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise ValueError("a manifest is damaged")
    return value
