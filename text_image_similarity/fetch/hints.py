"""Hints for references that cannot be read: what the author probably meant, in addition to the system's reason.

These are only hints: no file is read except the one that a row names.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Literal
from urllib.parse import unquote

from ..errors import ErrorCode, RowError

_READ = 2000  # longest reference to explain: matching patterns against long ones takes time
_MOST_CHARACTERS = 150  # longest path in an error, so that its reason and a hint still fit
_INSIDE = re.compile(r"https?:/+[^/]", re.IGNORECASE)
_HOST = re.compile(
    r"(?:[\w-]+\.)+([a-z]{2,24})(?::\d+)?/.|www\.[\w-]+\.|(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?/.", re.IGNORECASE
)
_HOST_AND_PORT = re.compile(r"(?:localhost|[\w-]+(?:\.[\w-]+)+):\d+(?:/|$)", re.IGNORECASE)
_ARCHIVES = frozenset({"zip", "tar", "tgz", "gz", "bz2", "xz", "zst", "rar", "parquet", "lance", "lmdb"})
_NO_COLON = re.compile(r"https?/+[^/]", re.IGNORECASE)
_DRIVE = re.compile(r"[A-Za-z]:(?:[\\/]|$)")
_VARIABLE = re.compile(r"\$\{?[A-Za-z_]\w*|%[A-Za-z_]\w*%")
_QUOTED = re.compile(r"""(["'`<“‘«\[(]).*(["'`>”’»\])])""", re.DOTALL)
# Base64 of the first bytes of JPEG, PNG, GIF, WebP, BMP, TIFF and AVIF or HEIF files.
_IMAGE_IN_BASE64 = re.compile(r"/9j/|iVBORw0KGgo|R0lGOD|UklGR|Qk[0-3]|SUkqA|TU0AK|AAAA.GZ0eX")
_BASE64 = re.compile(r"[A-Za-z0-9+/_\s-]+")
_BACKSLASHES = "backslashes do not separate folders on this system; write /"
_FORMS: tuple[Literal["NFC", "NFD", "NFKC", "NFKD"], ...] = ("NFC", "NFD", "NFKC", "NFKD")
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")


def is_base64_image(text: str) -> bool:
    """Tell whether a text is an encoded file in base64 rather than a reference, by its start and its characters."""
    if "base64," in text[:100]:
        return True
    if len(text) < 24 or not _BASE64.fullmatch(text[:10_000].rstrip().rstrip("=")):
        return False
    if _IMAGE_IN_BASE64.match(text):
        return True
    start = text[:200]  # base64 mixes both cases with digits; names that are hashes have no capital letters
    return len(text) >= 100 and start.lower() != start != start.upper() and any(c.isdigit() for c in start)


def base64_error(text: str) -> RowError:
    """Return the error for a cell that holds a file instead of a reference to one."""
    missing = "data:" if "base64," in text[:100] else "data:;base64,"
    said = f"the reference is base64, not a URL or a path; write {missing} before it"
    return RowError(ErrorCode.INVALID_URL, said)


def missing_error(
    reference: Path, path: Path, problem: OSError | ValueError, may_name: Callable[[Path], bool]
) -> RowError:
    """Return the error for a path that cannot be read.

    Args:
        reference: The path as given; `path` is the same path with its base folder.
        problem: The system's error.
        may_name: Function that tells whether the error may mention another path, and so reveal that it exists.
    """
    if is_base64_image(str(reference)):
        return base64_error(str(reference))
    reason = getattr(problem, "strerror", None) or str(problem)
    hint = "" if isinstance(problem, PermissionError) else explain_missing(path, may_name)
    return RowError(ErrorCode.FILE_NOT_FOUND, join_hint(f"{shorten_path(path)}: {reason}", hint))


def join_hint(said: str, hint: str) -> str:
    """Return a reason, followed by a hint if there is one."""
    return f"{said}; {hint}" if hint else said


def explain_reference(reference: str) -> str:
    """Return what a reference without a valid scheme seems to be instead of a URL, as a clause; "" if unknown."""
    if len(reference) > _READ:
        reference = reference[: _READ - 1] + reference[-1]  # the last character may close a quotation
    if found := _INSIDE.search(reference):
        return f"a URL begins inside it, at {reference[found.start() :][:60]!r}; the cell must contain only the URL"
    if len(reference) > 2 and _QUOTED.fullmatch(reference):
        return f"it is enclosed in {reference[0]} and {reference[-1]}; remove them"
    if reference[:2] in ("b'", 'b"'):
        return "it is Python's notation for bytes; use the bytes themselves, or base64 in a data: URL"
    if _NO_COLON.match(reference):
        return "it looks like a web address without a colon; write http:// or https://"
    host = _HOST.match(reference.lstrip("/"))
    if _HOST_AND_PORT.match(reference) or (host and (host[1] or "").lower() not in _ARCHIVES):
        return "a web address must begin with http:// or https://"
    return ""


def _explain_path(path: str) -> str:
    if path.startswith("~"):
        return "~ does not stand for the home folder here; write the full path"
    if _VARIABLE.match(path):
        return "variables are not expanded here; write the full path"
    if _DRIVE.match(path) and os.name != "nt":
        return "it begins with a Windows drive letter, but this system has no drives"
    return _BACKSLASHES if "\\" in path and os.sep != "\\" else ""


def explain_missing(path: Path, may_name: Callable[[Path], bool]) -> str:
    """Return why a path does not exist, if its names or the existing folders show it; otherwise "".

    Args:
        path: The path.
        may_name: As for `missing_error`.
    """
    try:
        folder, missing = _split_at_missing(path)
        if folder is None:
            return ""
        if (link := folder / missing[0]).is_symlink():
            return f"{link.name} is a symbolic link to {link.readlink()}, which does not exist"
        tail = "/".join(missing)
        for reason, other in _other_names(folder, tail, may_name):
            return f"{reason}: {_shown(other)} exists"
    except (OSError, ValueError):
        return ""
    return explain_reference(tail) or _explain_path(tail)


def shorten_path(path: PurePath) -> str:
    """Return a path for an error, shortened to its beginning and end if it is long."""
    text = str(path)
    half = _MOST_CHARACTERS // 2
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:half]}...{text[-half:]}"


def _shown(path: Path) -> str:
    """Return a path, with characters escaped if it looks like another one."""
    text = str(path)
    return shorten_path(path) if unicodedata.is_normalized("NFC", text) else ascii(text)[:_MOST_CHARACTERS]


def _split_at_missing(path: Path) -> tuple[Path | None, tuple[str, ...]]:
    """Return the last existing folder of a path and the names after it; None if the whole path exists."""
    folder = Path(path.anchor or ".")
    parts = path.parts[1:] if path.anchor else path.parts
    for number, name in enumerate(parts):
        if not os.path.exists(folder / name):  # noqa: PTH110 - a Path's own raises for a name too long, before 3.14
            return folder, parts[number:]
        folder /= name
    return None, ()


def _other_names(folder: Path, tail: str, may_name: Callable[[Path], bool]) -> Iterator[tuple[str, Path]]:
    """Yield existing files of almost the same name, with the difference, as far as `may_name` allows."""
    found, reasons = folder, []
    for name in tail.split("/") if os.sep == "\\" else re.split(r"[/\\]", tail):
        for reason, other in _spellings(name):
            if os.path.exists(found / other) and may_name(found / other):  # noqa: PTH110 - as above
                found /= other
                reasons += [reason] if reason and reason not in reasons else []
                break
        else:
            return
    if "\\" in tail and os.sep != "\\":
        reasons.insert(0, _BACKSLASHES)
    if reasons and found != folder / tail:
        yield "; ".join(reasons), found


def _spellings(name: str) -> Iterator[tuple[str, str]]:
    """Yield other possible spellings of a name, with the mistake that each would imply."""
    yield "", name
    for form in _FORMS:
        yield f"the file's name is in another Unicode form ({form})", unicodedata.normalize(form, name)
    visible = "".join(c for c in name if unicodedata.category(c) not in ("Cc", "Cf"))
    yield "there are invisible characters in the name", visible
    yield "there are spaces around a name", name.strip()
    yield "percent-encoding is not decoded in a path", unquote(name)
    yield "a path cannot have a query", name.partition("?")[0] or name
    path = PurePath(name.strip() or "_")
    for other in (path.stem + path.suffix.lower(), path.stem + path.suffix.upper(), name.lower(), name.upper()):
        yield "upper and lower case differ", other
    for ending in _ENDINGS:
        yield f"the extension is {'different' if path.suffix else 'missing'}", path.stem + ending
