"""What a response says: its status, how long to wait, whether it opts out, and its bytes."""

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

_EXPANDING = Lock()  # threads that download are many: those that get bombs would take every core from those that decode
_COMPRESSIONS = frozenset({"gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd"})
_SMALL = 512  # bytes; of pieces below it, others get a turn after each few
_STEP = 1024 * 1024  # bytes that a compressed chunk is expanded by at a time
_OPT_OUTS = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
_FOR_AGENT = re.compile(r"\s*([\w*./-]+)\s*:(.*)", re.DOTALL)
_WITH_A_VALUE = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})


class RefusedError(RowError):
    """A status that asks for patience, with the seconds it names."""

    def __init__(self, code: ErrorCode, detail: str, retry_after: float | None):
        super().__init__(code, detail)
        self.retry_after = retry_after


def user_agent() -> str:
    """Return what this package calls itself in requests."""
    return f"{_AGENT}/{package_version()}"


def check_status(response: httpx.Response) -> None:
    """Raise the error that a status means, if it means one."""
    if response.is_success:
        return
    said = f"{response.status_code} {response.reason_phrase}".strip()
    if response.status_code == 429 or response.is_server_error:
        code = ErrorCode.HTTP_429 if response.status_code == 429 else ErrorCode.HTTP_5XX
        raise RefusedError(code, said, retry_after_s(response.headers.get("retry-after")))
    if response.is_client_error:
        raise RowError(ErrorCode.HTTP_4XX, said + _wanted_login(said))
    if response.is_redirect:
        raise RowError(ErrorCode.REDIRECT_ERROR, f"{said} without a usable address")
    raise RowError(ErrorCode.BAD_RESPONSE, said)


def explain_proxy(said: str) -> str:
    """Return what a proxy said as a sentence, with what to do if it does not know who asks."""
    return f"the proxy says {said}{_wanted_login(said)}"


def _wanted_login(said: str) -> str:
    return "; give proxy=http://USER:PASSWORD@host:port" if said.startswith("407 ") else ""


def retry_after_s(retry_after: str | None) -> float | None:
    """Read a Retry-After header: seconds, or a date (RFC 9110, section 10.2.3)."""
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def check_opt_out(response: httpx.Response) -> None:
    """Raise unless the origin lets programs use the image, as far as its X-Robots-Tag headers speak to all or to us."""
    for line in response.headers.get_list("x-robots-tag"):
        ours = True
        for part in line.lower().split(","):
            named = _FOR_AGENT.fullmatch(part)
            if named and named.group(1) not in _WITH_A_VALUE:  # a name holds for the rest of its line
                ours, part = named.group(1) in ("*", _AGENT), named.group(2)
            if ours and part.strip() in _OPT_OUTS:
                raise RowError(ErrorCode.DISALLOWED_BY_ORIGIN, f"X-Robots-Tag: {line[:200]}")


def expanded(chunks: Iterable[bytes], encoding: str, most: int) -> Iterator[bytes]:
    """Yield the content of a body as it arrives, its content encoding undone; of a bomb a little more than `most` bytes.

    Identity was asked for. A server that compresses anyway is understood if it uses gzip once; words that name no
    compression, as mislabelled files in object stores carry, change nothing.

    Raises:
        RowError: Too many bytes, received or expanded; very many pieces of a few bytes, each of which takes the time of a
            large one; another compression; a gzip stream that breaks off.
    """
    names = [name for name in encoding.lower().replace(" ", "").split(",") if name in _COMPRESSIONS]
    if names not in ([], ["gzip"], ["x-gzip"]):
        raise RowError(ErrorCode.BAD_RESPONSE, f"compressed as {encoding[:40]}, though identity was asked for")
    unzip = zlib.decompressobj(zlib.MAX_WBITS | 16) if names else None
    received = given = 0
    for pieces, chunk in enumerate(chunks, 1):
        received += len(chunk)
        if are_too_small(pieces, received):
            said = f"the content came in {pieces:,} pieces of {received / pieces:.0f} bytes on average, which are too small"
            raise RowError(ErrorCode.BAD_RESPONSE, said)
        if len(chunk) < _SMALL and not pieces % 8:
            time.sleep(0.0001)  # without it a thread keeps the interpreter for 5 ms, and many of them nearly all of it
        for piece in (chunk,) if unzip is None else _unzipped(unzip, chunk):
            given += len(piece)
            check_bytes(given, most)
            yield piece
        check_bytes(received, most)
    if unzip is not None and received and not unzip.eof:
        raise RowError(ErrorCode.BAD_RESPONSE, "the compressed content breaks off")


def body_of(response: httpx.Response, most: int) -> Iterator[bytes]:
    """Yield the body of a response that was asked for as a stream; see `expanded`, of which a little may stand for a lot.

    Raises:
        RowError: As by `expanded`.
    """
    if not response.is_stream_consumed:
        yield from expanded(response.iter_raw(), response.headers.get("content-encoding", ""), most)
        return
    check_bytes(len(response.content), most)  # an injected transport gave all of it, and httpx has it decoded
    yield response.content


def read_response(response: httpx.Response, most: int) -> httpx.Response:
    """Return a response that was asked for as a stream with its body, of at most `most` bytes; see `body_of`.

    Raises:
        RowError: As by `body_of`.
    """
    body = b"".join(body_of(response, most))
    headers = [(name, value) for name, value in response.headers.multi_items() if name != "content-encoding"]
    reason = {name: value for name, value in response.extensions.items() if name == "reason_phrase"}
    return httpx.Response(response.status_code, headers=headers, content=body, extensions=reason)


def _unzipped(unzip: zlib._Decompress, chunk: bytes) -> Iterator[bytes]:
    """Yield what a chunk expands to, in steps; what follows the stream's end is left out."""
    piece = b"" if unzip.eof else _expand(unzip, chunk)
    yield piece  # even if it is empty, so that the reader looks at its clock
    while piece and not unzip.eof:
        piece = _expand(unzip, unzip.unconsumed_tail)
        yield piece


def _expand(unzip: zlib._Decompress, chunk: bytes) -> bytes:
    with _EXPANDING:
        return unzip.decompress(chunk, _STEP)


def check_bytes(count: int, most: int) -> None:
    """Raise if an image has more bytes than it may."""
    if count > most:
        raise RowError(ErrorCode.TOO_MANY_BYTES, f"more than {most:,} bytes")
