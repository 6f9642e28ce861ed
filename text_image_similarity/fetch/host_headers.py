"""Headers for particular hosts, from a file: Authorization, Cookie, Referer, User-Agent and the like.

    {"images.example.com": {"Authorization": "Bearer ..."}, "*.example.org": {"Referer": "https://example.org/"}}

The headers are sent only to the hosts that the file names, so the URL of each request decides which ones are sent, even
after a redirect. The values of headers are secrets and never appear in messages.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import httpx

from ..errors import ConfigError
from .references import http_url

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_VALUE = re.compile(r"[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?")
_KEY = re.compile(r"(?:(https?)://)?(\*\.)?([^/:@?#*]+|\[[0-9A-Fa-f:.]+\])(?::(\d{1,5}))?/?", re.IGNORECASE)
# Headers about the connection, and those that request anything other than a complete, unmodified image.
_OURS = frozenset(
    [
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "range",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ]
)


class HostHeaders:
    """The headers for each host.

    Args:
        path: A JSON file of headers and their values, by host. A host is a name, or `*.name` for all names below it,
            optionally with a scheme before it or a port after it, which must then match. None if there is no file.

    Raises:
        ConfigError: The file cannot be read or is not valid.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self._rules = [] if path is None else [_Rule(key, _checked(key, value)) for key, value in _read(path)]

    def headers_for(self, url: httpx.URL, *, first: httpx.URL) -> httpx.Headers:
        """Return the headers for a request.

        Args:
            url: URL of the request.
            first: First URL of the row; after a redirect from https to http, no headers are sent.
        """
        found = httpx.Headers()
        if first.scheme == "https" != url.scheme:
            return found
        # If several rules set a header, the one with the longest name wins.
        for rule in sorted((rule for rule in self._rules if rule.matches(url)), key=lambda rule: rule.weight):
            found.update(rule.headers)
        return found


class _Rule:
    def __init__(self, key: str, headers: dict[str, str]) -> None:
        parts = _KEY.fullmatch(key.strip())
        try:
            if parts is None:
                raise ValueError("it is not a host")
            self._scheme, below, host, port = parts.groups()
            url = http_url(f"{(self._scheme or 'https').lower()}://{host}{':' * bool(port)}{port or ''}/")
        except ValueError as exc:
            raise ConfigError(f"headers_file: {key[:100]!r} must be a host, such as images.example.com: {exc}") from exc
        self._scheme = self._scheme and self._scheme.lower()
        self._below, self._host, self._port = bool(below), _host(url), port and int(port)
        self.headers = headers
        self.weight = (not self._below, len(self._host), self._port is not None, self._scheme is not None)

    def matches(self, url: httpx.URL) -> bool:
        host, port = _host(url), url.port or (443 if url.scheme == "https" else 80)
        named = host.endswith(f".{self._host}") if self._below else host == self._host
        return named and self._scheme in (None, url.scheme) and self._port in (None, port)


def _host(url: httpx.URL) -> str:
    """Return a URL's host in canonical spelling."""
    name = url.raw_host.decode("ascii").lower().removesuffix(".")
    return str(ipaddress.ip_address(name)) if ":" in name else name


def _read(path: str | os.PathLike[str]) -> list[tuple[str, object]]:
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as exc:
        raise ConfigError(f"headers_file={os.fspath(path)} cannot be read: {exc.strerror or exc}") from exc
    except (ValueError, RecursionError):
        # This error is raised without its cause, which quotes the file.
        raise ConfigError(f"headers_file={os.fspath(path)} is not JSON in UTF-8") from None
    if not isinstance(found, Mapping):
        raise ConfigError(f'headers_file={os.fspath(path)} must hold an object: {{"host": {{"header": "value"}}}}')
    return list(found.items())


def _checked(host: str, headers: object) -> dict[str, str]:
    if not isinstance(headers, Mapping):
        raise ConfigError(
            f"headers_file: the value of {host[:100]!r} must be an object that maps header names to values"
        )
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or name.lower() in _OURS:
            raise ConfigError(f"headers_file: {name[:50]!r} of {host[:100]!r} is not a header that can be set")
        if not isinstance(value, str) or not _VALUE.fullmatch(value):
            raise ConfigError(
                f"headers_file: the value of {name} for {host[:100]!r} must be a single line of ASCII text"
            )
    return dict(headers)
