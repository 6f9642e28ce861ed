"""Targets of requests: http(s) URLs in parts. The part before the path is parsed once for many URLs."""

from __future__ import annotations

import re
from typing import NamedTuple

import httpx

from .references import MOST_URL, http_url

# Paths and queries that httpx.URL leaves unchanged; it may remove a segment that begins with a dot.
_SIMPLE = re.compile(
    r"(https?://[^/?#]+)"
    r"(/(?:[A-Za-z0-9_~!$&'()*+,;=:@/-]++|(?<!/)\.|%[0-9A-Fa-f]{2})*+(?:\?[A-Za-z0-9_~!$&'()*+,;=:@/.?%-]*+)?)"
)
_REMEMBERED = 4096  # hosts


class Origin(NamedTuple):
    """A server, as named in URLs.

    Attributes:
        scheme: `http` or `https`.
        host: Host name or address, for display.
        ascii_host: The same in ASCII, for look-ups and for comparison with certificates.
        port: Port; None means the scheme's default.
    """

    scheme: str
    host: str
    ascii_host: str
    port: int | None


class Target(NamedTuple):
    """A URL to request.

    Attributes:
        origin: The server.
        path: Path and query, as they are sent.
        text: The URL.
    """

    origin: Origin
    path: bytes
    text: str

    @property
    def url(self) -> httpx.URL:
        return httpx.URL(self.text)

    def redirected(self, location: str) -> Target:
        """Return the target that a redirect from this one leads to.

        Raises:
            ValueError: As from `http_url`.
        """
        return _target(http_url(location, self.url))


class Targets:
    """Parses URLs into targets, as `http_url` does, and remembers their hosts."""

    def __init__(self) -> None:
        self._known: dict[str, Origin] = {}  # by everything before the path

    def known(self, text: str) -> Target | None:
        """Return the target of a simple URL if `find` has seen its host; otherwise None."""
        found = _SIMPLE.fullmatch(text)
        if not found or len(text) > MOST_URL or (origin := self._known.get(found[1])) is None:
            return None
        return Target(origin, found[2].encode("ascii"), text)

    def find(self, text: str) -> Target:
        """Return the target of a URL.

        Raises:
            ValueError: As from `http_url`.
        """
        if target := self.known(text):
            return target
        target = _target(http_url(text))
        if found := _SIMPLE.fullmatch(text):
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[found[1]] = target.origin
        return target


def _target(url: httpx.URL) -> Target:
    return Target(Origin(url.scheme, url.host, url.raw_host.decode("ascii"), url.port), url.raw_path, str(url))
