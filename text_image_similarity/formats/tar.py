"""Read the members of a tar file as a stream, from beginning to end.

Headers are those of POSIX ustar and pax and of GNU tar, parsed by the standard library's `TarInfo.frombuf`. The
library's `TarFile` is not used, because it takes a damaged header for the end of the file, and reads headers of any
size into memory. Nothing is ever written to disk; links, devices and sparse files are skipped.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Iterator

from ..errors import ErrorCode, RowError

_BLOCK = 512
_AT_ONCE = 1 << 20
_MOST_NAME = 4096  # bytes, the longest path on Linux
_MOST_HEADER = 1 << 20
# Headers and pax records of a file, besides a thousand for each sample: few compressed bytes may expand to very many.
_MOST_HEADERS = 100_000
_MOST_BEHIND = 64 << 20  # bytes to read after the end mark
_SPARSE = b"GNU.sparse."
_RECORD = re.compile(rb"(\d{1,7}) ")
_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.XGLTYPE,
)
_WITHOUT_DATA = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)


class TarStream:
    """A tar file that is read once, from beginning to end.

    Args:
        file: The file, open for reading bytes.
        name: Name of the file in messages.
        compressed: Whether the file is compressed with gzip.

    Attributes:
        samples: Samples so far, which the reader counts.
    """

    def __init__(self, file: io.BufferedReader, name: str, *, compressed: bool = False) -> None:
        self._file: io.BufferedReader | gzip.GzipFile = gzip.GzipFile(fileobj=file) if compressed else file
        self._name = name
        self.samples = 0
        self._headers = 0  # so far, with their records
        self._at = 0
        self._left = 0  # unread bytes of the current member's content
        self._padding = 0

    def members(self) -> Iterator[tuple[str, int]]:
        """Yield the name and the size of each file; call `read` before the next one to get its content.

        Raises:
            RowError: The file is `truncated` or `corrupt` from some position on; the message says where.
        """
        told: dict[bytes, bytes] = {}  # from the headers before a member
        while True:
            info, block = self._header()
            if info is None:
                self._check_end()
                return
            self._open(info.size)
            self._count()
            if info.type in _HEADERS:
                told |= self._told(info.type)
                self._check_name(told.get(b"path", b""))
            else:
                self._open_content(info, block, told)
                if info.type in _PLAIN and _SPARSE not in told:
                    yield _text(told[b"path"]) if b"path" in told else info.name, self._left
                told = {}
            self.skip()

    def read(self) -> bytes:
        """Return the whole content of the current member.

        Raises:
            RowError: The member is `truncated` or `corrupt`.
        """
        data = self._exactly(self._left)
        self._left = 0
        return data

    def skip(self) -> None:
        """Skip the rest of the current member.

        Raises:
            RowError: The member is `truncated` or `corrupt`.
        """
        left = self._left + self._padding
        self._left = self._padding = 0
        while left:
            left -= len(self._exactly(min(left, _AT_ONCE)))

    def _header(self) -> tuple[tarfile.TarInfo | None, bytes]:
        at = self._at
        block = self._some(_BLOCK)
        if len(block) < _BLOCK:
            raise self._ends("" if block else " without an end mark")
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # typeshed lacks it
            return None, block
        except (tarfile.HeaderError, ValueError) as exc:
            raise self._damaged(at) from exc
        if info.size < 0:
            raise self._damaged(at)
        return info, block

    def _check_end(self) -> None:
        """Read a compressed file to its end, to verify its checksum."""
        left = _MOST_BEHIND if isinstance(self._file, gzip.GzipFile) else 0
        while left and (piece := self._some(min(left, _AT_ONCE))):
            left -= len(piece)

    def _open(self, size: int) -> None:
        self._left, self._padding = size, -size % _BLOCK

    def _open_content(self, info: tarfile.TarInfo, block: bytes, told: dict[bytes, bytes]) -> None:
        if info.type in _WITHOUT_DATA:
            self._open(0)
        elif b"size" in told:
            self._open(self._number(told[b"size"]))
        if info.type == tarfile.GNUTYPE_SPARSE and block[482]:
            while self._exactly(_BLOCK)[504]:
                self._count()

    def _count(self) -> None:
        """Count a header, a block of one or a record, and refuse a file with far too many."""
        self._headers += 1
        if self._headers > _MOST_HEADERS + 1000 * self.samples:
            raise self._corrupt(f"has far more headers ({self._headers:,}) than samples before byte {self._at}")

    def _told(self, kind: bytes) -> dict[bytes, bytes]:
        """Return the values of a header for the next member: `path`, `size`, and whether it is sparse."""
        if kind == tarfile.GNUTYPE_LONGNAME:
            return {b"path": self._extra().rstrip(b"\0")}
        of_next = kind in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
        return self._records(self._extra()) if of_next else {}

    def _check_name(self, name: bytes) -> None:
        if len(name) > _MOST_NAME:
            reason = (
                f"has a member whose name has {len(name):,} bytes, more than {_MOST_NAME:,}, before byte {self._at}"
            )
            raise self._corrupt(reason)

    def _extra(self) -> bytes:
        """Return the content of a header that is longer than one block."""
        if self._left > _MOST_HEADER:
            raise self._damaged(self._at)
        return self.read()

    def _records(self, data: bytes) -> dict[bytes, bytes]:
        """Return the values of a pax header that are used here; any number of headers may precede a member."""
        found, at = {}, 0
        while at < len(data) and data[at]:
            self._count()
            start = _RECORD.match(data, at)
            end = at + int(start[1]) if start else 0
            if start is None or end <= start.end() or end > len(data):
                raise self._damaged(self._at)
            key, _, value = data[start.end() : end - 1].partition(b"=")
            if key in (b"path", b"size"):
                found[key] = value
            elif key.startswith(_SPARSE):
                found[_SPARSE] = b""
            at = end
        return found

    def _number(self, text: bytes) -> int:
        if not re.fullmatch(rb"\d{1,18}", text):
            raise self._damaged(self._at)
        return int(text)

    def _exactly(self, size: int) -> bytes:
        data = self._some(size)
        if len(data) < size:
            raise self._ends()
        return data

    def _some(self, size: int) -> bytes:
        """Return `size` bytes, or fewer at the end of the file."""
        pieces, left = [], size
        try:
            while left and (piece := self._file.read(min(left, _AT_ONCE))):
                pieces.append(piece)
                left -= len(piece)
        except EOFError as exc:  # gzip's
            raise self._ends() from exc
        except (gzip.BadGzipFile, zlib.error) as exc:
            raise RowError(
                ErrorCode.CORRUPT, f"{self._name} is not valid gzip after byte {self._at} of its content: {exc}"
            ) from exc
        self._at += size - left
        return b"".join(pieces)

    def _ends(self, how: str = "") -> RowError:
        return RowError(ErrorCode.TRUNCATED, f"{self._name} ends at byte {self._at}{how}")

    def _damaged(self, at: int) -> RowError:
        return self._corrupt(f"has a damaged header at byte {at}")

    def _corrupt(self, reason: str) -> RowError:
        return RowError(ErrorCode.CORRUPT, f"{self._name} {reason}, and is not read any further")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
