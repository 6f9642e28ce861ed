"""Read responses: status, `Retry-After`, opt-out, and body."""

from __future__ import annotations

import email.utils
import re
import time
import zlib
from collections.abc import Iterable, Iterator
from threading import Lock

import httpx

from ..errors import ErrorCode, RowError
from ..system import package_version
from .pieces import are_too_small

_AGENT = "text-image-similarity"

_EXPANDING = Lock()  # otherwise, threads that receive bombs would take all cores from those that decode
_COMPRESSIONS = frozenset({"gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd"})
_SMALL = 512  # bytes; after every few smaller pieces, other threads get a turn
_STEP = 1024 * 1024  # bytes decompressed from a chunk at a time
_OPT_OUTS = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
_FOR_AGENT = re.compile(r"\s*([\w*./-]+)\s*:(.*)", re.DOTALL)
_WITH_A_VALUE = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})


class RefusedError(RowError):
    """A status after which a retry may succeed (429 or 5xx), with the seconds from `Retry-After`, if given."""

    def __init__(self, code: ErrorCode, detail: str, retry_after: float | None):
        super().__init__(code, detail)
        self.retry_after = retry_after


def user_agent() -> str:
    """Return the User-Agent of this package."""
    return f"{_AGENT}/{package_version()}"


def check_status(response: httpx.Response) -> None:
    """Raise the error that a status stands for, unless it means success."""
    if response.is_success:
        return
    said = f"{response.status_code} {response.reason_phrase}".strip()
    if response.status_code == 429 or response.is_server_error:
        code = ErrorCode.HTTP_429 if response.status_code == 429 else ErrorCode.HTTP_5XX
        raise RefusedError(code, said, retry_after_s(response.headers.get("retry-after")))
    if response.is_client_error:
        raise RowError(ErrorCode.HTTP_4XX, said + _wanted_login(said))
    if response.is_redirect:
        raise RowError(ErrorCode.REDIRECT_ERROR, f"{said} without a usable Location header")
    raise RowError(ErrorCode.BAD_RESPONSE, said)


def explain_proxy(said: str) -> str:
    """Return a proxy's response as a sentence, with advice if it requires a login."""
    return f"the proxy did not connect: {said}{_wanted_login(said)}"


def _wanted_login(said: str) -> str:
    return "; set proxy=http://USER:PASSWORD@host:port" if said.startswith("407 ") else ""


def retry_after_s(retry_after: str | None) -> float | None:
    """Return how long a Retry-After header (RFC 9110, section 10.2.3) asks to wait, in seconds; None if not valid."""
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def check_opt_out(response: httpx.Response) -> None:
    """Raise an error if X-Robots-Tag headers, addressed to everyone or to us, opt the image out."""
    for line in response.headers.get_list("x-robots-tag"):
        ours = True
        for part in line.lower().split(","):
            named = _FOR_AGENT.fullmatch(part)
            if named and named.group(1) not in _WITH_A_VALUE:  # a name applies to the rest of its line
                ours, part = named.group(1) in ("*", _AGENT), named.group(2)
            if ours and part.strip() in _OPT_OUTS:
                raise RowError(ErrorCode.DISALLOWED_BY_ORIGIN, f"X-Robots-Tag: {line[:200]}")


def expanded(chunks: Iterable[bytes], encoding: str, most: int) -> Iterator[bytes]:
    """Yield the decoded content of a body as it arrives; for a bomb, only a little more than `most` bytes.

    Requests ask for uncompressed content. If a server compresses anyway, a single gzip layer is supported; values that
    do not name a compression, as on mislabelled files in object stores, are ignored.

    Raises:
        RowError: There are too many bytes, received or decompressed, or very many tiny chunks, which take as long as
            large ones; or the content has another compression, or ends within its gzip stream.
    """
    names = [name for name in encoding.lower().replace(" ", "").split(",") if name in _COMPRESSIONS]
    if names not in ([], ["gzip"], ["x-gzip"]):
        raise RowError(
            ErrorCode.BAD_RESPONSE, f"compressed as {encoding[:40]}, although uncompressed content was requested"
        )
    unzip = zlib.decompressobj(zlib.MAX_WBITS | 16) if names else None
    received = given = 0
    for pieces, chunk in enumerate(chunks, 1):
        received += len(chunk)
        if are_too_small(pieces, received):
            said = f"the content came in {pieces:,} pieces of {received / pieces:.0f} bytes on average, which are too small"
            raise RowError(ErrorCode.BAD_RESPONSE, said)
        if len(chunk) < _SMALL and not pieces % 8:
            time.sleep(0.0001)  # without this, each of many threads would hold the interpreter for 5 ms
        for piece in (chunk,) if unzip is None else _unzipped(unzip, chunk):
            given += len(piece)
            check_bytes(given, most)
            yield piece
        check_bytes(received, most)
    if unzip is not None and received and not unzip.eof:
        raise RowError(ErrorCode.BAD_RESPONSE, "the compressed content is truncated")


def body_of(response: httpx.Response, most: int) -> Iterator[bytes]:
    """Yield the body of a streamed response, decompressed within limits; see `expanded`.

    Raises:
        RowError: As from `expanded`.
    """
    if not response.is_stream_consumed:
        yield from expanded(response.iter_raw(), response.headers.get("content-encoding", ""), most)
        return
    check_bytes(len(response.content), most)  # an injected transport returned the whole body, which httpx has decoded
    yield response.content


def read_response(response: httpx.Response, most: int) -> httpx.Response:
    """Read a streamed response and return it with its body of at most `most` bytes; see `body_of`.

    Raises:
        RowError: As from `body_of`.
    """
    body = b"".join(body_of(response, most))
    headers = [(name, value) for name, value in response.headers.multi_items() if name != "content-encoding"]
    reason = {name: value for name, value in response.extensions.items() if name == "reason_phrase"}
    return httpx.Response(response.status_code, headers=headers, content=body, extensions=reason)


def _unzipped(unzip: zlib._Decompress, chunk: bytes) -> Iterator[bytes]:
    """Yield the decompressed content of a chunk in steps, ignoring anything after the end of the stream."""
    piece = b"" if unzip.eof else _expand(unzip, chunk)
    yield piece  # even if it is empty, so that the reader checks its clock
    while piece and not unzip.eof:
        piece = _expand(unzip, unzip.unconsumed_tail)
        yield piece


def _expand(unzip: zlib._Decompress, chunk: bytes) -> bytes:
    with _EXPANDING:
        return unzip.decompress(chunk, _STEP)


def check_bytes(count: int, most: int) -> None:
    """Raise an error if content has more bytes than allowed."""
    if count > most:
        raise RowError(ErrorCode.TOO_MANY_BYTES, f"more than {most:,} bytes")
