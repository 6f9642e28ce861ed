"""Reference -> bytes. The only door to the network and to image files.

A reference is an http(s) URL, a path, a `file:` URL or a `data:` URL. Every limit of `Limits` holds while bytes arrive.
Tests and dry runs inject a transport: `Fetcher(config, transport=httpx.MockTransport(handler))` never opens a socket.
"""

from __future__ import annotations

import email.utils
import random
import re
import ssl
import stat
import time
import zlib
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from threading import Event
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import url2pathname

import httpx

from ..config import Config
from ..errors import ErrorCode, RowError
from .pacing import Clock, Hosts
from .transport import GuardedTransport, Resolver, row_deadline

__all__ = ["Fetcher"]

_NOT_IN_A_HOST = frozenset(" %\"'<>\\^`{|}")
_COMPRESSIONS = frozenset({"gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd"})
# A scheme of two letters or more: one letter is a drive, and a name like 2024-01-01T12:30.jpg is a path.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
USER_AGENT = "text-image-similarity/0.1"


class Fetcher:
    """Fetches pictures for one run; safe to call from many threads, each of which keeps its connections.

    Args:
        config: `timeout_s`, `retries`, `io_workers`, `base_dir` and `limits` are used.
        transport: Where http requests go; None is the network.
        resolve: How the network's host names become addresses; None asks the system.
    """

    def __init__(
        self, config: Config, *, transport: httpx.BaseTransport | None = None, resolve: Resolver | None = None
    ) -> None:
        self._config = config
        self._limits = config.limits
        self._closing = Event()
        self._transport = transport or GuardedTransport(config.limits, resolve=resolve)
        self._client = httpx.Client(
            transport=self._transport,
            timeout=httpx.Timeout(config.timeout_s, connect=min(config.limits.connect_s, config.timeout_s), pool=None),
            headers={"User-Agent": USER_AGENT, "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"},
            cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
            trust_env=False,
        )
        self._hosts = Hosts(config.limits.per_host, self._closing)

    def fetch(self, url: str) -> bytes:
        """Return the bytes a reference points to.

        Raises:
            RowError: With the code of what stopped it.
        """
        url = url.strip()
        if not url:
            raise RowError(ErrorCode.INVALID_URL, "the image reference is empty")
        scheme = match.group(1).lower() if (match := _SCHEME.match(url)) else ""
        match scheme:
            case "http" | "https":
                return self._fetch_http(url)
            case "data":
                return self._fetch_data(url)
            case "file":
                return self._fetch_file(_file_url_path(url))
            case "":
                return self._fetch_file(Path(url))
            case _:
                raise RowError(ErrorCode.UNSUPPORTED_SCHEME, f"{scheme}: is not http, https, file or data")

    def close(self) -> None:
        """Stop: running fetches fail within moments, waiting ones do not start.

        A connection that is being opened takes until its time limit, a few seconds at most.
        """
        self._closing.set()
        if isinstance(self._transport, GuardedTransport):
            self._transport.abort()
        self._client.close()

    def _fetch_file(self, path: Path) -> bytes:
        if not self._limits.allow_local_files:
            raise RowError(ErrorCode.UNSUPPORTED_SCHEME, "local files are not allowed here")
        path = Path(self._config.base_dir or ".") / path
        try:
            found = path.stat()
            if not stat.S_ISREG(found.st_mode):
                raise RowError(ErrorCode.FILE_NOT_FOUND, f"{path} is not a regular file")
            self._check_bytes(found.st_size)
            with path.open("rb") as file:
                data = file.read(self._limits.max_bytes + 1)
        except (OSError, ValueError) as exc:
            reason = getattr(exc, "strerror", None) or str(exc)
            raise RowError(ErrorCode.FILE_NOT_FOUND, f"{path}: {reason}") from exc
        self._check_bytes(len(data))
        return _not_empty(data)

    def _fetch_data(self, url: str) -> bytes:
        header, comma, body = url[5:].partition(",")
        if not comma:
            raise RowError(ErrorCode.INVALID_URL, "a data: URL needs a comma before its content")
        base64 = header.lower().endswith(";base64")
        self._check_bytes(len(body) * 3 // 4 if base64 else 0)
        try:
            raw = unquote_to_bytes(body)
            data = b64decode(b"".join(raw.split()), validate=True) if base64 else raw
        except ValueError as exc:
            raise RowError(ErrorCode.INVALID_URL, f"the data: URL is not valid base64 ({exc})") from exc
        self._check_bytes(len(data))
        return _not_empty(data)

    def _fetch_http(self, url: str) -> bytes:
        try:
            request = self._client.build_request("GET", url)
        except (httpx.InvalidURL, UnicodeError, ValueError) as exc:
            raise RowError(ErrorCode.INVALID_URL, f"{url[:200]!r}: {exc}") from exc
        if not _has_host(request.url):
            raise RowError(ErrorCode.INVALID_URL, f"{url[:200]!r} has no valid host")
        clock = Clock(self._limits.total_s)
        for left in range(self._config.retries, -1, -1):
            clock.start_try(self._config.timeout_s)
            try:
                return self._try_once(request, clock)
            except RowError as error:
                if not (left and error.code.retryable and self._wait(error, self._config.retries - left, clock)):
                    raise
        raise AssertionError("the last try returns or raises")

    def _wait(self, error: RowError, tries: int, clock: Clock) -> bool:
        """Wait before the next try; say no if there is no time for one or the run is closing."""
        pause = min(8.0, 0.25 * 2**tries) * random.random()
        if isinstance(error, _RefusedError) and error.retry_after is not None:
            if error.retry_after > self._limits.retry_after_s:
                return False
            pause = max(pause, error.retry_after)
        return time.monotonic() + pause < clock.row_end and not self._closing.wait(pause)

    def _try_once(self, request: httpx.Request, clock: Clock) -> bytes:
        """Send a request, follow its redirects, read the body."""
        for _ in range(self._limits.max_redirects + 1):
            with self._hosts.slot(request.url.host, clock), _as_row_error(clock), row_deadline(clock.end):
                response = self._client.send(request, stream=True)
                try:
                    if response.next_request is None:
                        return self._read(response, clock)
                    request = response.next_request
                finally:
                    response.close()
                if request.url.scheme not in ("http", "https") or not _has_host(request.url):
                    raise RowError(ErrorCode.REDIRECT_ERROR, f"redirected to {str(request.url)[:200]!r}")
        raise RowError(ErrorCode.REDIRECT_ERROR, f"more than {self._limits.max_redirects} redirects")

    def _read(self, response: httpx.Response, clock: Clock) -> bytes:
        _check_status(response)
        declared = response.headers.get("content-length", "")
        self._check_bytes(int(declared) if declared.isdecimal() else 0)
        if response.is_stream_consumed:  # an injected transport gave the whole content, and httpx has it decoded
            self._check_bytes(len(response.content))
            return _not_empty(response.content)
        expand = _expander(response.headers.get("content-encoding", ""), self._limits.max_bytes + 1)
        data, received = bytearray(), 0
        for chunk in response.iter_raw():
            received += len(chunk)
            data += expand(chunk)
            self._check_bytes(max(received, len(data)))
            if time.monotonic() > clock.end:
                raise RowError(ErrorCode.TIMEOUT, f"only {len(data):,} bytes within {clock.spent():.1f} s")
            if self._closing.is_set():
                raise RowError(ErrorCode.CONNECT_ERROR, "the run was closed")
        return _not_empty(bytes(data))

    def _check_bytes(self, count: int) -> None:
        if count > self._limits.max_bytes:
            raise RowError(ErrorCode.TOO_MANY_BYTES, f"more than {self._limits.max_bytes:,} bytes")


class _RefusedError(RowError):
    """A status that asks for patience, with the seconds it names."""

    def __init__(self, code: ErrorCode, detail: str, retry_after: float | None):
        super().__init__(code, detail)
        self.retry_after = retry_after


def _check_status(response: httpx.Response) -> None:
    if response.is_success:
        return
    said = f"{response.status_code} {response.reason_phrase}".strip()
    if response.status_code == 429 or response.is_server_error:
        code = ErrorCode.HTTP_429 if response.status_code == 429 else ErrorCode.HTTP_5XX
        raise _RefusedError(code, said, _seconds(response.headers.get("retry-after")))
    if response.is_client_error:
        raise RowError(ErrorCode.HTTP_4XX, said)
    if response.is_redirect:
        raise RowError(ErrorCode.REDIRECT_ERROR, f"{said} without a usable address")
    raise RowError(ErrorCode.BAD_RESPONSE, said)


def _seconds(retry_after: str | None) -> float | None:
    """Read a Retry-After header: seconds, or a date (RFC 9110, section 10.2.3)."""
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _expander(encoding: str, most: int) -> Callable[[bytes], bytes]:
    """Return a function that undoes a content encoding chunk by chunk, never to more than `most` bytes in all.

    Identity was asked for. A server that compresses all the same is understood if it uses gzip once; words that name no
    compression, as mislabelled files in object stores carry, change nothing.
    """
    names = [name for name in encoding.lower().replace(" ", "").split(",") if name in _COMPRESSIONS]
    if not names:
        return bytes
    if names not in (["gzip"], ["x-gzip"]):
        raise RowError(ErrorCode.BAD_RESPONSE, f"compressed as {encoding[:40]}, though identity was asked for")
    unzip = zlib.decompressobj(zlib.MAX_WBITS | 16)
    left = most

    def expand(chunk: bytes) -> bytes:
        nonlocal left
        data = unzip.decompress(chunk, left) if left and not unzip.eof else b""
        left -= len(data)
        return data

    return expand


@contextmanager
def _as_row_error(clock: Clock) -> Iterator[None]:
    """Map what httpx raises to a row's code, once, here."""
    try:
        yield
    except httpx.TimeoutException as exc:
        raise RowError(ErrorCode.TIMEOUT, f"no answer within {clock.spent():.1f} s ({type(exc).__name__})") from exc
    except httpx.ConnectError as exc:
        tls = isinstance(exc.__cause__, ssl.SSLError) or isinstance(exc.__context__, ssl.SSLError)
        raise RowError(ErrorCode.TLS_ERROR if tls else ErrorCode.CONNECT_ERROR, str(exc)) from exc
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError) as exc:
        raise RowError(ErrorCode.REDIRECT_ERROR, str(exc)) from exc
    except httpx.RemoteProtocolError as exc:
        code = ErrorCode.REDIRECT_ERROR if "location header" in str(exc) else ErrorCode.BAD_RESPONSE
        raise RowError(code, str(exc)) from exc
    except (httpx.HTTPError, httpx.StreamError, RuntimeError, zlib.error) as exc:
        raise RowError(ErrorCode.BAD_RESPONSE, str(exc) or type(exc).__name__) from exc


def _has_host(url: httpx.URL) -> bool:
    try:
        return bool(url.host) and not set(url.host) & _NOT_IN_A_HOST
    except ValueError:  # a host that is no valid international name
        return False


def _file_url_path(url: str) -> Path:
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        raise RowError(ErrorCode.INVALID_URL, f"{url[:200]!r}: {exc}") from exc
    if parts.netloc not in ("", "localhost"):
        raise RowError(ErrorCode.INVALID_URL, f"a file: URL names this machine, not {parts.netloc}")
    return Path(url2pathname(parts.path))


def _not_empty(data: bytes) -> bytes:
    if not data:
        raise RowError(ErrorCode.EMPTY_BODY, "0 bytes")
    return data
