"""Limits on the number of connections, and on how fast an address opens them and sends what nobody reads any more."""

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
RESTS_A_SECOND = 1 << 26  # bytes per second of requests that have been answered already, from one address
LEAST_READ = 4096  # bytes that a smaller read of such a request counts as
_FILES = 512  # open files besides connections
_MOST_KNOWN = 1000  # addresses that have recently used some of an allowance


class Peers:
    """The addresses that have connections to a server, and the rates of what they do.

    Args:
        clock: Function that returns seconds, for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.connections: Counter[str] = Counter()
        self._whole_at: dict[str, float] = {}  # when each may open `NEW_AT_ONCE` connections again
        self._rests_at: dict[str, float] = {}  # when each may send `RESTS_A_SECOND` bytes at once again

    def refusal(self, peer: str) -> tuple[str, str] | None:
        """Count an address's new connection, or return why it is refused: a reason and a detail for the audit log."""
        free = MOST_CONNECTIONS - self.connections.total()
        if self.connections[peer] >= free:
            return "connections", f"connections of this address: {self.connections[peer]}; free connections: {free}"
        owed_s = self._owed_s(self._whole_at, peer) + 1 / NEW_A_SECOND
        if owed_s > NEW_AT_ONCE / NEW_A_SECOND + 1e-6:
            return "new_connections", f"this address opens more than {NEW_A_SECOND} connections a second"
        self._owe(self._whole_at, peer, owed_s)
        return None

    def rest_delay_s(self, peer: str, size: int) -> float:
        """Count what was read of a request that has been answered already; return the seconds until more may be read."""
        owed_s = self._owed_s(self._rests_at, peer) + max(size, LEAST_READ) / RESTS_A_SECOND
        self._owe(self._rests_at, peer, owed_s)
        return max(0.0, owed_s - 1.0)

    def add(self, peer: str) -> None:
        """Count a connection."""
        self.connections[peer] += 1

    def remove(self, peer: str) -> None:
        """Stop counting a connection."""
        self.connections[peer] -= 1
        if not self.connections[peer]:
            del self.connections[peer]

    def _owed_s(self, whole_at: dict[str, float], peer: str) -> float:
        """Return the seconds until an address's allowance is whole again."""
        return max(0.0, whole_at.get(peer, 0.0) - self._clock())

    def _owe(self, whole_at: dict[str, float], peer: str, owed_s: float) -> None:
        """Record the seconds until an address's allowance is whole again; only recent addresses are known."""
        now = self._clock()
        if len(whole_at) >= _MOST_KNOWN and peer not in whole_at:
            for known in [known for known, at in whole_at.items() if at <= now]:
                del whole_at[known]
            if len(whole_at) >= _MOST_KNOWN:
                whole_at.clear()
        whole_at[peer] = now + owed_s


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
