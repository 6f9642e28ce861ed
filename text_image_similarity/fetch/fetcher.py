"""The fetcher: one call for every kind of reference, with retries, limits and one deadline per row."""

from __future__ import annotations

import ssl
import sys
import time
import zlib
from collections.abc import Hashable, Iterable
from functools import partial
from pathlib import Path
from threading import Event

import httpx

from ..config import Config
from ..errors import ErrorCode, RowError
from ..system import backoff_s
from .backend import Resolver
from .direct import DirectAnswer, Times, header_lines
from .hints import base64_error, explain_reference, is_base64_image, join_hint, missing_error
from .host_headers import HostHeaders
from .local import read_file
from .pacing import FREE_RETRIES, LONGEST_RETRY_AFTER_S, Clock, Hosts
from .references import data_url_bytes, file_url_path, path_of, scheme_of, strip_invisible
from .responses import (
    RefusedError,
    body_of,
    check_bytes,
    check_opt_out,
    check_status,
    expanded,
    explain_proxy,
    user_agent,
)
from .roots import check_under, is_under
from .stream import row_deadline
from .targets import Origin, Target, Targets
from .transport import GuardedTransport
from .trust import create_ssl_context

_MOST_REDIRECTS = 5  # redirects of one image
_REMEMBERED = 4096  # hosts whose headers are kept
# The exceptions that transports raise, including injected ones.
_PROBLEMS = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, UnicodeError, RuntimeError, zlib.error)
_HEADERS = {"Connection": "keep-alive", "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"}


class Fetcher:
    """Fetches images for one run; safe to use from many threads, each of which keeps its connections.

    Args:
        config: Settings, of which `timeout_s`, `retries`, `io_workers`, `base_dir`, `files_under`, `proxy`, `ca_file`,
            `headers_file` and `limits` are used.
        transport: Transport for HTTP requests; None is the network.
        resolve: Function that resolves host names for the network; None uses the system's resolver.
        share: This fetcher's share of a run's downloads, 0..1, if several processes fetch; it gets the same share of
            the retries for a host.

    Raises:
        ConfigError: `ca_file` or `headers_file` cannot be used.
    """

    def __init__(
        self,
        config: Config,
        *,
        transport: httpx.BaseTransport | None = None,
        resolve: Resolver | None = None,
        share: float = 1.0,
    ) -> None:
        self._config = config
        self._limits = config.limits
        self._closing = Event()
        self._transport = transport or GuardedTransport(
            config.limits, proxy=config.proxy, ca_file=config.ca_file, resolve=resolve
        )
        self._headers = HostHeaders(config.headers_file)
        # No httpx.Client: its additions (cookies, redirects, authentication) are not needed here, and take a quarter of
        # the time.
        timeout = httpx.Timeout(config.timeout_s, connect=min(config.limits.connect_s, config.timeout_s), pool=None)
        self._timeout = timeout.as_dict()
        self._times = Times(handshake=min(config.limits.connect_s, config.timeout_s), each=config.timeout_s)
        self._targets = Targets()
        self._sent_headers: dict[tuple[Origin, str], bytes] = {}  # by host, and the scheme of a row's first URL
        self._hosts = Hosts(config.limits.per_host, self._closing, max(1.0, FREE_RETRIES * share))

    def fetch(self, url: str | bytes, client: Hashable = None) -> bytes:
        """Return the bytes that a reference points to; the bytes of an encoded file are checked and returned.

        Args:
            url: The reference or an encoded file.
            client: Owner of the request; only rows of the same client wait for a host's `Retry-After`.

        Raises:
            RowError: The bytes cannot be fetched; its code is the reason.
        """
        if isinstance(url, bytes):
            return self._checked(url)
        if target := self._targets.known(url):
            return self._fetch_http(target, client)
        url = strip_invisible(url)
        if not url:
            raise RowError(ErrorCode.INVALID_URL, "the image is empty or missing")
        match scheme := scheme_of(url):
            case "http" | "https":
                return self._fetch_http(self._target(url), client)
            case "data":
                return self._checked(data_url_bytes(url, self._limits.max_bytes))
            case "file":
                self._check_local("")
                return self._fetch_file(file_url_path(url))
            case "":
                self._check_local(url)
                return self._fetch_file(path_of(url))
            case _:
                said = f"{scheme[:50]}: is not http, https, file or data"
                raise RowError(ErrorCode.UNSUPPORTED_SCHEME, join_hint(said, explain_reference(url)))

    def close(self) -> None:
        """Close the fetcher: fetches in progress fail within moments, and waiting ones do not start."""
        if sys.is_finalizing():  # the threads are dead, and the locks that they held stay locked
            return
        self._closing.set()
        if isinstance(self._transport, GuardedTransport):
            self._transport.abort()
        self._transport.close()

    def _check_local(self, reference: str) -> None:
        """Refuse a reference to a local file if local files are not allowed, and say what it seems to be instead."""
        if not self._limits.allow_local_files:
            if is_base64_image(reference):
                raise base64_error(reference)
            said = join_hint("local files are not allowed here", explain_reference(reference))
            raise RowError(ErrorCode.UNSUPPORTED_SCHEME, said)

    def _fetch_file(self, path: Path) -> bytes:
        reference, path = path, Path(self._config.base_dir or ".") / path
        under = self._config.files_under
        if under is not None and ".." in path.parts:  # otherwise, errors would reveal which folders exist outside
            check_under(path, under)
            path = path.resolve()
        try:
            data = read_file(path, under, self._limits.max_bytes)
        except (OSError, ValueError) as exc:
            raise missing_error(reference, path, exc, partial(is_under, root=under)) from exc
        return self._checked(data)

    def _checked(self, data: bytes) -> bytes:
        check_bytes(len(data), self._limits.max_bytes)
        if not data:
            raise RowError(ErrorCode.EMPTY_BODY, "0 bytes")
        return data

    def _target(self, url: str) -> Target:
        if isinstance(self._transport, GuardedTransport):
            self._transport.prepare()  # before the host is known, because rows of a known host no longer get here
        try:
            return self._targets.find(url)
        except ValueError as exc:
            raise RowError(ErrorCode.INVALID_URL, f"{url[:200]!r}: {exc}") from exc

    def _fetch_http(self, first: Target, client: Hashable) -> bytes:
        clock = Clock(self._limits, client)
        for left in range(self._config.retries, -1, -1):
            clock.start_try(self._config.timeout_s)
            try:
                return self._try_once(first, clock)
            except RowError as error:
                if not (left and error.code.retryable and self._wait(error, self._config.retries - left, clock)):
                    raise
        raise AssertionError("the last try returns or raises")

    def _wait(self, error: RowError, tries: int, clock: Clock) -> bool:
        """Wait before the next attempt; return False if no time or retry is left, or the run is closing."""
        pause = backoff_s(tries)
        if isinstance(error, RefusedError) and error.retry_after is not None:
            if error.retry_after > LONGEST_RETRY_AFTER_S:
                return False
            pause = max(pause, error.retry_after)
        in_time = time.monotonic() + pause < clock.row_end
        return in_time and self._hosts.may_retry(clock.host) and not self._closing.wait(pause)

    def _try_once(self, target: Target, clock: Clock) -> bytes:
        """Send a request, follow its redirects, and return the body."""
        first = target
        for _ in range(_MOST_REDIRECTS + 1):
            origin = target.origin
            if isinstance(self._transport, GuardedTransport):
                self._transport.check(origin.host, origin.port)
            with self._hosts.slot(origin.host.removesuffix("."), clock), row_deadline(clock.end):
                try:
                    found = self._ask(target, first, clock)
                except _PROBLEMS as exc:
                    raise self._row_error(exc, clock) from exc
            if isinstance(found, bytes):
                return found
            target = found
        raise RowError(ErrorCode.REDIRECT_ERROR, f"more than {_MOST_REDIRECTS} redirects")

    def _ask(self, target: Target, first: Target, clock: Clock) -> bytes | Target:
        """Send a request and return the body, or the target of a redirect."""
        answer = self._send(target, first)
        try:
            if isinstance(answer, DirectAnswer):
                return self._read_plain(answer, clock)
            if answer.has_redirect_location:
                return _redirected(target, answer.headers.get_list("location"))
            return self._read(answer, clock)
        finally:
            answer.close()

    def _send(self, target: Target, first: Target) -> httpx.Response | DirectAnswer:
        """Send a request and return the response, as a `DirectAnswer` if only its body remains to be read."""
        if not (isinstance(self._transport, GuardedTransport) and self._transport.is_direct):
            request = self._request(target, first)
            response = self._transport.handle_request(request)
            response.request = request
            return response
        key = (target.origin, first.origin.scheme)
        headers = self._sent_headers.get(key)
        if headers is None:
            if len(self._sent_headers) >= _REMEMBERED:
                self._sent_headers.clear()
            headers = self._sent_headers[key] = header_lines(self._request(target, first).headers)
        answer = self._transport.get(target, headers, self._times)
        return answer.as_response() if answer.length is None or self._limits.respect_opt_out else answer

    def _request(self, target: Target, first: Target) -> httpx.Request:
        url = target.url
        headers = httpx.Headers(_HEADERS | {"User-Agent": user_agent()})
        headers.update(self._headers.headers_for(url, first=first.url))
        return httpx.Request("GET", url, headers=headers, extensions={"timeout": self._timeout})

    def _row_error(self, exc: Exception, clock: Clock) -> RowError:
        """Map an exception of httpx to a row's error code, here and nowhere else."""
        match exc:
            case httpx.TimeoutException():
                return RowError(ErrorCode.TIMEOUT, f"no answer within {clock.spent():.1f} s ({type(exc).__name__})")
            case httpx.ConnectError():
                tls = isinstance(exc.__cause__, ssl.SSLError) or isinstance(exc.__context__, ssl.SSLError)
                return RowError(ErrorCode.TLS_ERROR if tls else ErrorCode.CONNECT_ERROR, str(exc))
            case httpx.ProxyError():
                return RowError(ErrorCode.CONNECT_ERROR, explain_proxy(str(exc)))
            case httpx.UnsupportedProtocol() | httpx.InvalidURL() | UnicodeError():
                return RowError(ErrorCode.REDIRECT_ERROR, str(exc))
            case httpx.RemoteProtocolError():
                return RowError(ErrorCode.BAD_RESPONSE, str(exc))
        if self._closing.is_set():  # closing ends connections in use
            return RowError(ErrorCode.CONNECT_ERROR, "the run was closed")
        return RowError(ErrorCode.BAD_RESPONSE, str(exc) or type(exc).__name__)

    def _read(self, response: httpx.Response, clock: Clock) -> bytes:
        try:
            check_status(response)
        except RefusedError as error:
            if error.retry_after is not None and error.retry_after <= LONGEST_RETRY_AFTER_S:
                self._hosts.be_patient(clock.host, error.retry_after, clock.client)
            raise
        if self._limits.respect_opt_out:
            check_opt_out(response)
        most = self._limits.max_bytes
        declared = response.headers.get("content-length", "")
        check_bytes(int(declared) if declared.isdecimal() and len(declared) < 20 else 0, most)
        return self._collect(body_of(response, most), clock)

    def _read_plain(self, answer: DirectAnswer, clock: Clock) -> bytes:
        most = self._limits.max_bytes
        check_bytes(answer.length or 0, most)
        return self._collect(expanded(answer, "", most) if answer.whole is None else (answer.whole,), clock)

    def _collect(self, pieces: Iterable[bytes], clock: Clock) -> bytes:
        """Read a body within the row's time, and return it."""
        found = []
        for piece in pieces:
            found.append(piece)
            if time.monotonic() > clock.end:
                count = sum(map(len, found))
                raise RowError(ErrorCode.TIMEOUT, f"only {count:,} bytes arrived within {clock.spent():.1f} s")
            if self._closing.is_set():
                raise RowError(ErrorCode.CONNECT_ERROR, "the run was closed")
        return self._checked(b"".join(found))


def check_files(config: Config) -> None:
    """Read the files that fetching needs, to check them before a run.

    Raises:
        ConfigError: `ca_file` or `headers_file` cannot be used.
    """
    HostHeaders(config.headers_file)
    if config.ca_file is not None:
        create_ssl_context(config.ca_file, {})


def _redirected(target: Target, locations: list[str]) -> Target:
    try:
        if len(locations) > 1:
            raise ValueError("there are several Location headers")
        return target.redirected(locations[0])
    except ValueError as exc:
        raise RowError(ErrorCode.REDIRECT_ERROR, f"redirected to {', '.join(locations)[:200]!r}: {exc}") from exc
