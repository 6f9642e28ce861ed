"""The models in memory: loaded when they are needed, and unloaded, least recently used first, beyond a budget."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from ...system import start_daemon
from ..problems import ProblemError
from .model import ServedModel

logger = logging.getLogger("text_image_similarity")

T = TypeVar("T")

RELOAD_S = 30.0  # pause after a model could not be loaded


class LoadedModels:
    """Models by name. Not safe to share between threads.

    Args:
        load: Loads a model by its name; called on threads that may take their time.
    """

    def __init__(self, load: Callable[[str], ServedModel]) -> None:
        self._load = load
        self._loaded: dict[str, ServedModel] = {}
        self._loading: dict[str, asyncio.Task[Exception | None]] = {}
        self._failed: dict[str, tuple[float, Exception]] = {}

    def __len__(self) -> int:
        return len(self._loaded)

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(list(self._loaded.values()))

    def find(self, name: str) -> ServedModel | None:
        """Return a model that is loaded, or None."""
        return self._loaded.get(name)

    def load(self, name: str) -> None:
        """Load a model unless it is loaded, and wait for it; for the time before requests come.

        Raises:
            ConfigError, ModelError: It cannot be loaded.
        """
        if name not in self._loaded:
            self._loaded[name] = self._load(name)

    async def get(self, name: str, end: float | None) -> ServedModel:
        """Return a model, loading it if need be; requests wait for it together, until the loop time `end`.

        Raises:
            ProblemError: `model_unavailable`.
        """
        if (served := self._loaded.get(name)) is not None:
            return served
        if (problem := self._recent_problem(name)) is None:
            if name not in self._loading:
                self._loading[name] = asyncio.create_task(self._load_later(name))
            try:
                async with asyncio.timeout_at(end):
                    problem = await asyncio.shield(self._loading[name])  # also for the others who wait
            except TimeoutError:
                detail = f"{name} is still being loaded"
                raise ProblemError("model_unavailable", detail, retry_after_s=RELOAD_S) from None
        if problem is not None:
            raise ProblemError("model_unavailable", f"{name}: {problem}", retry_after_s=RELOAD_S)
        return self._loaded[name]

    def forget_failure(self, name: str) -> None:
        """Let the next request try again to load a model."""
        self._failed.pop(name, None)

    def clear(self) -> None:
        """Forget all models."""
        self._loaded = {}

    def _recent_problem(self, name: str) -> Exception | None:
        at, problem = self._failed.get(name, (-RELOAD_S, None))
        return problem if time.monotonic() - at < RELOAD_S else None

    async def _load_later(self, name: str) -> Exception | None:
        """Load a model; return why that failed, or None."""
        try:
            self._loaded[name] = await on_daemon(lambda: self._load(name))
        except Exception as exc:  # also a full disk: do not try again at once
            logger.error("%s cannot be loaded: %s", name, exc)
            self._failed[name] = (time.monotonic(), exc)
            return exc
        finally:
            del self._loading[name]
        return None


async def on_daemon(function: Callable[[], T]) -> T:
    """Run a function on a thread that the process does not wait for when it ends."""
    return await asyncio.wrap_future(start_daemon(function, name="service"))
