"""HTTP connection to one service; it repeats requests while the service is busy, restarting or unreachable."""

from __future__ import annotations

import time
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from itertools import count
from os import PathLike
from threading import Event
from typing import Any

import httpx

from ..bounded_json import parse_json
from ..config import Limits
from ..errors import ConfigError, ErrorCode, RowError, TableError, UsageError, printable
from ..fetch import GuardedTransport, explain_proxy, http_url, read_response, retry_after_s, row_deadline, user_agent
from ..system import backoff_s

MOST_ANSWER = 16 * 1024 * 1024  # bytes of a decoded response; the result of a pair takes a few hundred
_MOST_PARTS = 100_000  # commas and opening brackets of a response; the result of a pair has about ten
ANSWER_S = 120.0  # wait for one response, unless the service states a longer limit
_LIMITS = Limits(connect_s=10.0)
_UNREACHABLE = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError, RowError)  # RowError: DNS and TLS
_LATER = frozenset({429, 500, 502, 503, 504})  # the same request may succeed later


@dataclass(frozen=True, slots=True)
class ServiceReply:
    """The response of a service.

    Args:
        status: HTTP status code.
        body: The JSON object, which is a problem document in case of an error; None if there was no JSON object.
        reason: The status in words, for a response without a problem document.
    """

    status: int
    body: dict[str, Any] | None
    reason: str

    def __str__(self) -> str:
        said = self.body or {}
        code, detail = str(said.get("code", ""))[:100], str(said.get("detail") or self.reason)[:500]
        line = " ".join(f"{self.status} {code}: {detail}".replace(" :", ":").split())
        return printable(line)[:500]


class Connection:
    """Sends requests to one service, from several threads at once, over persistent connections.

    Args:
        url: URL of the service, such as `http://host:8000`; it may have a path.
        api_key: API key to send with every request; None if the service requires none.
        patience_s: Seconds for which a request that may succeed later is repeated.
        transport: Transport for requests; None is the network, with the proxy and certificates given to `connect`.

    Attributes:
        answer_s: Seconds to wait for one response.
        patience_s: The argument of the same name.

    Raises:
        ConfigError: The URL or the key is not valid.
    """

    def __init__(
        self, url: str, *, api_key: str | None, patience_s: float, transport: httpx.BaseTransport | None
    ) -> None:
        self.url = _checked(url)
        self.answer_s = ANSWER_S
        self.patience_s = patience_s
        self._closing = Event()
        self._transport = transport or GuardedTransport(_LIMITS, trusted=True)
        self._headers = {
            "User-Agent": user_agent(),
            "Accept": "application/json",
            "Accept-Encoding": "gzip",
            **_authorization(api_key),
        }
        self._client = self._new_client()
        self._has_key = api_key is not None

    def connect(self, proxy: str | None, ca_file: str | PathLike[str] | None) -> None:
        """Use a proxy and trust additional certificates from now on.

        Raises:
            ConfigError: `ca_file` contains no certificates.
        """
        if isinstance(self._transport, GuardedTransport) and (proxy, ca_file) != (None, None):
            self._client.close()
            self._transport = GuardedTransport(_LIMITS, proxy=proxy, ca_file=ca_file, trusted=True)
            self._client = self._new_client()

    def _new_client(self) -> httpx.Client:
        return httpx.Client(
            transport=self._transport,
            headers=self._headers,
            # Cookies of a load balancer would tie us to one replica.
            cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
            trust_env=False,
            event_hooks={"response": [_check_redirect]},
        )

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closing.is_set()

    def ask(self, method: str, path: str, content: bytes | None = None, *, insist: bool = True) -> ServiceReply:
        """Send a request, and repeat it with pauses for up to `patience_s` seconds until there is a response.

        Args:
            method: `GET` or `POST`.
            path: Path below the service's URL.
            content: Body of the request, in JSON.
            insist: Whether to retry even if the service cannot be reached or cannot load its model.

        Returns:
            The response, unless it is a temporary failure, a problem with the key, or a redirect.

        Raises:
            TableError: No response came in time, the response is too large, or this connection was closed.
            UsageError: The service requires a key, refuses the given key, or redirects elsewhere.
        """
        end = time.monotonic() + self.patience_s
        for tries in count():
            wait = 0.0
            try:
                response = self._send(method, path, content)
                if response.status_code not in _LATER:
                    return self._understood(response)
                answer = _answer(response)
                if not insist and (answer.body or {}).get("code") == "model_unavailable":
                    return answer
                failure = str(answer)
                wait = retry_after_s(response.headers.get("retry-after")) or 0.0
            except (httpx.HTTPError, RowError) as exc:
                failure = _said(exc)
                if not insist and isinstance(exc, _UNREACHABLE) and not self.closed:
                    raise TableError(f"the service at {self.url} cannot be reached: {failure}; is it running?") from exc
            except RuntimeError as exc:  # raised by httpx for a closed client
                if not self.closed:
                    raise
                failure = str(exc)
            wait += backoff_s(tries)
            if self.closed or time.monotonic() + wait > end or self._closing.wait(wait):
                break
        if self.closed:
            raise TableError(f"the connection to {self.url} was closed")
        raise TableError(
            f"the service at {self.url} did not answer {method} {path} within {self.patience_s:g} s; the last of "
            f"{tries + 1} attempts failed with: {failure}; finished parts are kept; rerun the same command to resume"
        )

    def close(self) -> None:
        """Close the connection; requests in progress fail shortly afterwards."""
        self._closing.set()
        if isinstance(self._transport, GuardedTransport):
            self._transport.abort()
        self._client.close()

    def _send(self, method: str, path: str, content: bytes | None) -> httpx.Response:
        headers = {} if content is None else {"Content-Type": "application/json"}
        with row_deadline(time.monotonic() + self.answer_s):
            request = self._client.build_request(
                method, self.url + path, content=content, headers=headers, timeout=self.answer_s
            )
            response = self._client.send(request, stream=True)
            try:
                return self._whole(response)
            finally:
                response.close()

    def _whole(self, response: httpx.Response) -> httpx.Response:
        """Read a response and return it with its body."""
        try:
            return read_response(response, MOST_ANSWER)
        except RowError as exc:
            if exc.code is not ErrorCode.TOO_MANY_BYTES:
                raise
            raise TableError(
                f"the service at {self.url} sent a response of more than {MOST_ANSWER:,} bytes; is another program listening there?"
            ) from exc

    def _understood(self, response: httpx.Response) -> ServiceReply:
        """Return a response, or raise an error if it is about the key or the URL rather than the request."""
        if response.status_code in (401, 403):
            said = "does not accept this API key" if self._has_key else "requires an API key"
            raise UsageError(
                f"the service at {self.url} {said} ({_answer(response)}); put the right key into a file for "
                "--service-key-file, or into the environment variable TEXT_IMAGE_SIMILARITY_API_KEY (api_key=...)"
            )
        if response.is_redirect:
            raise UsageError(
                f"the service at {self.url} sent a redirect, {path_to(response)}; give the URL that it redirects to"
            )
        return _answer(response)


def _said(problem: Exception) -> str:
    said = printable(str(problem) or type(problem).__name__)
    return explain_proxy(said) if isinstance(problem, httpx.ProxyError) else said


def _check_redirect(response: httpx.Response) -> None:
    """Check the target of a redirect before httpx parses it, because httpx does so even without following redirects."""
    if response.has_redirect_location:
        try:
            http_url(response.headers["location"], response.request.url)
        except ValueError as exc:
            raise UsageError(
                f"the service at {response.request.url} redirects to a URL that cannot be used: {exc}"
            ) from exc


def path_to(response: httpx.Response) -> str:
    """Return a redirect's status and target."""
    return f"{response.status_code} to {response.headers.get('location', 'nowhere')[:200]!r}"


def _answer(response: httpx.Response) -> ServiceReply:
    try:
        body = parse_json(response.content.decode("utf-8-sig"), most_parts=_MOST_PARTS)
    except ValueError:
        body = None
    reason = response.reason_phrase or "no reason given"
    return ServiceReply(response.status_code, body if isinstance(body, dict) else None, reason)


def _checked(url: str) -> str:
    try:
        found = http_url(url)
        if found.query or found.fragment:
            raise ValueError("it has a query or a fragment")
    except ValueError as exc:  # the URL is not shown: the part before an @ may contain a password
        raise ConfigError(f"the service's URL must look like http://host:8000: {exc}") from exc
    return url.strip(" ").rstrip("/")


def _authorization(api_key: str | None) -> dict[str, str]:
    if api_key is None:
        return {}
    if not (api_key.isascii() and api_key.isprintable() and api_key.strip() == api_key != ""):
        raise ConfigError(
            "the API key is empty, has spaces around it, or has characters that an HTTP header cannot contain"
        )
    return {"Authorization": f"Bearer {api_key}"}
