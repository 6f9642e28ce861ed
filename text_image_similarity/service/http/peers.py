"""Limits on the number of connections, and on the rate at which an address opens them."""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import uvicorn

MOST_CONNECTIONS = 2048  # connections in total; one address, such as a proxy's, may have at most as many as are free
NEW_A_SECOND = 500  # connections that one address may open per second in the long run
NEW_AT_ONCE = 1024  # connections that one address may open at once after a pause
_FILES = 512  # open files besides connections
_MOST_KNOWN = 1000  # addresses that have recently opened connections


class Peers:
    """The addresses that have connections to a server, and the rates at which they open them.

    Args:
        clock: Function that returns seconds, for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.connections: Counter[str] = Counter()
        self._whole_at: dict[str, float] = {}  # when each may open `NEW_AT_ONCE` connections again

    def refusal(self, peer: str) -> tuple[str, str] | None:
        """Count an address's new connection, or return why it is refused: a reason and a detail for the audit log."""
        free = MOST_CONNECTIONS - self.connections.total()
        if self.connections[peer] >= free:
            return "connections", f"connections of this address: {self.connections[peer]}; free connections: {free}"
        now = self._clock()
        whole_at = max(now, self._whole_at.get(peer, 0.0)) + 1 / NEW_A_SECOND
        if whole_at - now > NEW_AT_ONCE / NEW_A_SECOND + 1e-6:
            return "new_connections", f"this address opens more than {NEW_A_SECOND} connections a second"
        if len(self._whole_at) >= _MOST_KNOWN:
            self._whole_at = {known: at for known, at in self._whole_at.items() if at > now}
            if len(self._whole_at) >= _MOST_KNOWN:
                self._whole_at.clear()
        self._whole_at[peer] = whole_at
        return None

    def add(self, peer: str) -> None:
        """Count a connection."""
        self.connections[peer] += 1

    def remove(self, peer: str) -> None:
        """Stop counting a connection."""
        self.connections[peer] -= 1
        if not self.connections[peer]:
            del self.connections[peer]


def peers_of(state: uvicorn.server.ServerState) -> Peers:
    """Return the addresses that have connections to a server."""
    kept: Any = state
    if not hasattr(kept, "peers"):
        kept.peers = Peers()
    found: Peers = kept.peers
    return found


def allow_open_files() -> None:
    """Raise this process's limit on open files to allow one per connection, as far as the system permits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + _FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
