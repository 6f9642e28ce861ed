"""Parse references: unambiguous http(s) URLs, `data:` URLs and paths.

The raw text is checked before a URL library normalises it, because a check is useless if it reads a URL differently
from the code that connects. User names, backslashes and control characters are refused, and so are addresses in
spellings that only some resolvers understand (2130706433, 0x7f.1, 127.1, full-width digits), by the WHATWG's rule for
hosts that end in a number.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from base64 import b64decode
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import httpx

from ..errors import ErrorCode, RowError
from ..records import is_invisible
from .hints import base64_error, explain_reference, is_base64_image, join_hint

# A scheme has at least two letters: one letter is a drive, and a name such as 2024-01-01T12:30.jpg is a path.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_ABSOLUTE = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*:)?//([^/?#]*)")
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::([0-9]{0,5}))?")
_NEVER = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")
_NOT_IN_A_HOST = re.compile(r"""[\s%"'<>^`{|}]""")
_NUMBER = re.compile(r"\d+|0[xX][0-9A-Fa-f]*")  # digits of any script
_PIECE = 1 << 16  # characters of a data: URL that are decoded at a time
_LONGEST_END = 1000  # characters at the end of a data: URL's media type that are searched for ;base64
_NO_ESCAPE = re.compile(rb"%(?![0-9a-fA-F]{2}).{0,2}", re.DOTALL)
_BLANKS = b" \t\n\r\v\f"
_ENDS_WITH_BASE64 = re.compile(r";\s*base64\s*$", re.IGNORECASE)
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]")
MOST_URL = 8192  # characters, a common limit of servers
MOST_PATH = 4096  # characters, Linux's limit; resolving a path takes quadratic time
_MOST_AUTHORITY = 255  # longest name in DNS (RFC 1035), with its port
_MOST_STRIPPED = 1000  # characters, from each end
_DOTS = re.compile("[\u3002\uff0e\uff61]")  # dots in international names (RFC 3490)


def strip_invisible(text: str) -> str:
    """Return a reference without invisible characters around it: white space, byte-order marks, zero-width characters.

    At most 1,000 are removed from each end: a megabyte of them is not a reference, and would block a service.

    Example:
        >>> strip_invisible("\\ufeff https://example.org/a.jpg\\u200b")
        'https://example.org/a.jpg'
    """
    start, end = 0, len(text)
    while start < min(end, _MOST_STRIPPED) and is_invisible(text[start]):
        start += 1
    least = max(start, end - _MOST_STRIPPED)
    while end > least and is_invisible(text[end - 1]):
        end -= 1
    return text[start:end]


def scheme_of(reference: str) -> str:
    """Return a reference's scheme in lower case; empty for a path."""
    match = _SCHEME.match(reference)
    return match.group(1).lower() if match else ""


def http_url(text: str, base: httpx.URL | None = None) -> httpx.URL:
    """Parse a URL, relative to a base if it comes from a redirect.

    Raises:
        ValueError: The text is not a URL, or is one that programs read differently.
    """
    text = text.strip(" ")
    if len(text) > MOST_URL:
        raise ValueError(f"it has {len(text):,} characters, more than {MOST_URL:,}")
    if found := _NEVER.search(text):
        raise ValueError(f"it contains {found.group()!r}")
    absolute = _ABSOLUTE.match(text)
    if absolute:
        _check_authority(absolute.group(1))
    elif base is None or scheme_of(text):
        raise ValueError("it has no host")
    try:
        url = httpx.URL(text) if base is None else base.join(text)
        host = url.host  # raises for a host that is not a valid international name
    except (httpx.InvalidURL, UnicodeError, ValueError) as exc:
        raise ValueError(str(exc)) from exc
    if url.scheme not in ("http", "https"):
        raise ValueError(f"{url.scheme}: is not http or https")
    if ":" not in host:
        _check_name(url.raw_host.decode("ascii"))
    return url


def _check_authority(authority: str) -> None:
    if len(authority) > _MOST_AUTHORITY:  # before anything that takes quadratic time, such as Unicode normalisation
        raise ValueError(f"its host has {len(authority):,} characters, more than {_MOST_AUTHORITY}")
    if "@" in authority:
        raise ValueError("it contains a user name")
    parts = _AUTHORITY.fullmatch(authority)
    if not parts or _NOT_IN_A_HOST.search(parts.group(1)):
        raise ValueError("it has no valid host")
    if parts.group(2) and not 0 < int(parts.group(2)) < 65536:
        raise ValueError(f"{parts.group(2)} is not a port")
    _check_spelling(parts.group(1))


def _check_name(host: str) -> None:
    labels = host.removesuffix(".").split(".")
    if not all(0 < len(label) < 64 for label in labels) or len(host) > 254:
        raise ValueError("it has no valid host")
    _check_spelling(host)


def _check_spelling(host: str) -> None:
    """Refuse an IPv4 address in any spelling other than four decimal numbers."""
    tidy = _DOTS.sub(".", unicodedata.normalize("NFKC", host))  # normalised like international names
    if _NUMBER.fullmatch(tidy.removesuffix(".").rpartition(".")[2]):
        try:
            ipaddress.IPv4Address(host)
        except ValueError as exc:
            raise ValueError(f"{host} may be an address in an unusual spelling") from exc


def file_url_path(url: str) -> Path:
    """Return the local path of a `file:` URL."""
    authority = _ABSOLUTE.match(url)
    if len(url) > MOST_URL or (authority and len(authority.group(1)) > _MOST_AUTHORITY):
        raise RowError(
            ErrorCode.INVALID_URL, f"the file: URL is too long ({len(url):,} characters), or its host is too long"
        )
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        raise RowError(ErrorCode.INVALID_URL, f"{url[:200]!r}: {exc}") from exc
    if parts.netloc not in ("", "localhost"):
        raise RowError(ErrorCode.INVALID_URL, f"a file: URL must name this machine, not {parts.netloc}")
    return path_of(url2pathname(parts.path))


def path_of(text: str) -> Path:
    """Return a local path, which is refused before any work on it if it is too long."""
    if len(text) <= MOST_PATH:
        return Path(text)
    if is_base64_image(text):
        raise base64_error(text)
    said = f"the path has {len(text):,} characters, more than {MOST_PATH:,}"
    raise RowError(ErrorCode.FILE_NOT_FOUND, join_hint(said, explain_reference(text)))


def data_url_bytes(url: str, most: int) -> bytes:
    """Return the content of a `data:` URL; if it must exceed `most` bytes, it is refused without decoding.

    Base64 is decoded as in browsers (WHATWG's forgiving-base64 decode), where white space and missing padding are
    ignored.
    """
    comma = url.find(",")
    if comma < 0:
        raise RowError(
            ErrorCode.INVALID_URL, "a data: URL needs a comma before its content, as in data:;base64,iVBORw0..."
        )
    base64 = _ENDS_WITH_BASE64.search(url, max(5, comma - _LONGEST_END), comma)
    if not base64 and is_base64_image(url[comma + 1 : comma + 20_000]):
        raise RowError(ErrorCode.INVALID_URL, "the data: URL holds base64; write ;base64 before its comma")
    if base64 and (len(url) - comma - 1) * 3 // 4 > most:
        raise RowError(ErrorCode.TOO_MANY_BYTES, f"more than {most:,} bytes")
    sent = url.encode("utf-8", "replace")  # one byte per character, where a wide text would take four
    sent = sent[sent.index(b",") + 1 :]
    if len(sent) - 2 * sent.count(b"%") > (2 * most if base64 else most):
        raise RowError(ErrorCode.TOO_MANY_BYTES, f"more than {most:,} bytes")
    if base64 and len(sent) % 4 == 0 and not sent.endswith(b"==="):
        with suppress(ValueError):  # several times as fast, if there is nothing to correct
            return b64decode(sent, validate=True)
    try:
        raw = _unescaped(sent)
        return _forgiving_base64(raw.translate(None, _BLANKS)) if base64 else raw
    except ValueError as exc:
        raise RowError(ErrorCode.INVALID_URL, f"the data: URL is not valid ({exc})") from exc


def _forgiving_base64(text: bytes) -> bytes:
    padding = len(text) - len(text.rstrip(b"="))
    if b"://" in text[:20]:
        raise ValueError("it has a URL in place of base64")
    if found := _NOT_BASE64.search(text, 0, len(text) - padding):
        if found[0] in b"-_":
            raise ValueError("it is in URL-safe base64; write + for - and / for _")
        raise ValueError(
            f"character {found.start() + 1:,} of its base64 is {ascii(found[0])[1:]}, which is not allowed there"
        )
    if padding and (padding > 2 or len(text) % 4):
        raise ValueError(f"its base64 ends with {padding} =, which is too many or too few")
    if (len(text) - padding) % 4 == 1:
        raise ValueError("its base64 is damaged: it is one character too long or too short")
    return b64decode(text + b"=" * (-len(text) % 4))


def _unescaped(text: bytes) -> bytes:
    """Undo percent-encoding in linear time and memory, unlike urllib, which creates an object for each byte."""
    if b"%" not in text:
        return text
    found, start = bytearray(), 0
    while start < len(text):  # piece by piece, because one operation on the whole text would keep other threads waiting
        end = start + _PIECE
        if end < len(text) and (escape := text.rfind(b"%", end - 2, end)) >= 0:
            end = escape
        found += _unescaped_piece(text[start:end])
        start = end
    return bytes(found)


def _unescaped_piece(text: bytes) -> bytes:
    if found := _NO_ESCAPE.search(text):
        raise ValueError(f"{found.group()!r} is not a valid escape")
    return text.replace(b"\\", b"%5c").replace(b"%", b"\\x").decode("unicode_escape").encode("latin-1")
