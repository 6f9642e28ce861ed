"""Threads of one catalogue or log: a database that does not answer holds up nothing else, and nobody for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from ..problems import ProblemError

T = TypeVar("T")


class Threads:
    """Some threads that wait for a database.

    Args:
        name: Whose they are, as messages call it.
        most: How many there are.
        timeout_s: How long to wait for what they do, the time before it begins included.
    """

    def __init__(self, name: str, most: int, timeout_s: float) -> None:
        self._name, self._timeout_s = name, timeout_s
        self._executor = ThreadPoolExecutor(most, f"wait-{name}")

    async def run(self, work: Callable[..., T], *given: Any) -> T:
        """Do something on a thread. What takes too long goes on there, unless it has not begun.

        Raises:
            ProblemError: `catalog_unavailable`: it takes too long.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.get_running_loop().run_in_executor(self._executor, work, *given)
        except TimeoutError as exc:
            detail = f"{self._name}: not answered within the service's {self._timeout_s:g} s"
            raise ProblemError("catalog_unavailable", detail, retry_after_s=1) from exc

    def close(self) -> None:
        """End the threads when they have done what they do."""
        self._executor.shutdown(wait=False, cancel_futures=True)
