"""The models in memory, which are loaded on demand. Beyond a budget, the least recently used models are unloaded.

No model is unloaded while a request in progress needs it, so the budget is exceeded if requests need more models than
fit. Only weights are counted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from itertools import count
from threading import Lock
from typing import TypeVar

from ...system import return_free_memory, start_daemon
from ..problems import ProblemError
from ..telemetry.metrics import Metrics
from .model import ServedModel

logger = logging.getLogger("text_image_similarity")

T = TypeVar("T")

RELOAD_S = 30.0  # pause after a model failed to load


class LoadedModels:
    """Loaded models by name.

    Call all methods except `release` on one thread: once an event loop is running, on the thread of that loop.

    Args:
        load: Function that loads a model by its name; called on threads that may block.
        metrics: Metrics to record to.
        default: Name of the model that is never unloaded.
        budget: Maximum number of bytes of weights; None means no limit.
    """

    def __init__(
        self, load: Callable[[str], ServedModel], metrics: Metrics, default: str, budget: int | None = None
    ) -> None:
        self._load, self._metrics, self._default, self._budget = load, metrics, default, budget
        self._loaded: dict[str, ServedModel] = {}
        self._loading: dict[str, asyncio.Task[Exception | None]] = {}
        self._failed: dict[str, tuple[float, Exception]] = {}
        self._closing: list[Future[None]] = []
        self._bytes: dict[str, int] = {}  # bytes of weights; remembered when a model is unloaded
        self._needed: Counter[str] = Counter()  # number of items that need each model
        self._used: dict[str, int] = {}  # a larger number means used more recently
        self._uses = count()
        self._lock = Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        return len(self._loaded)

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(list(self._loaded.values()))

    def find(self, name: str) -> ServedModel | None:
        """Return a model that is loaded, or None."""
        return self._loaded.get(name)

    def load(self, name: str) -> None:
        """Load a model, unless it is already loaded, and block meanwhile; used before requests arrive.

        Raises:
            ConfigError, ModelError: The model cannot be loaded.
        """
        if name not in self._loaded:
            self._add(name, self._load(name))

    def need(self, name: str, items: int) -> None:
        """Keep a model in memory, once it is loaded, until this number of items has been released."""
        self._loop = asyncio.get_running_loop()
        self._used[name] = next(self._uses)
        with self._lock:
            self._needed[name] += items

    def release(self, name: str, items: int) -> None:
        """Release items that no longer need a model. This may be called on any thread."""
        with self._lock:
            self._needed[name] -= items
            idle = self._needed[name] == 0
        if idle and self._budget is not None and self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed, and so is the service
                self._loop.call_soon_threadsafe(self._make_room)

    async def get(self, name: str, end: float | None) -> ServedModel:
        """Return a model for which `need` was called, loading it first if necessary.

        Args:
            name: Name of the model.
            end: Time of the event loop by which the model must be loaded; None means no limit.

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
                    problem = await asyncio.shield(self._loading[name])  # other requests may be waiting for it too
            except TimeoutError:
                detail = f"{name} is still being loaded"
                raise ProblemError("model_unavailable", detail, retry_after_s=RELOAD_S) from None
        if problem is not None:
            raise ProblemError("model_unavailable", f"{name}: {problem}", retry_after_s=RELOAD_S)
        return self._loaded[name]

    def forget_failure(self, name: str) -> None:
        """Forget that loading a model failed, so that the next request tries again at once."""
        self._failed.pop(name, None)

    def clear(self) -> None:
        """Forget all models, without closing them."""
        self._loaded = {}

    def _recent_problem(self, name: str) -> Exception | None:
        at, problem = self._failed.get(name, (-RELOAD_S, None))
        return problem if time.monotonic() - at < RELOAD_S else None

    async def _load_later(self, name: str) -> Exception | None:
        """Load a model, and return the error if that fails, or else None."""
        self._make_room()  # room for the model, if its size is known
        closing, self._closing = self._closing, []
        try:
            await asyncio.gather(*map(asyncio.wrap_future, closing), return_exceptions=True)
            self._add(name, await on_daemon(lambda: self._load(name)))
        except Exception as exc:  # for example, a full disk; the next attempt must wait
            logger.error("%s cannot be loaded: %s", name, exc)
            self._failed[name] = (time.monotonic(), exc)
            return exc
        finally:
            del self._loading[name]
        return None

    def _add(self, name: str, served: ServedModel) -> None:
        self._loaded[name] = served
        self._used.setdefault(name, next(self._uses))
        self._metrics.count_load(name, served.weight_bytes)
        if name not in self._bytes:
            self._bytes[name] = served.weight_bytes
            self._warn_of(name)
        self._make_room()

    def _warn_of(self, name: str) -> None:
        """Warn if the weights of a model that is loaded for the first time do not fit in the budget."""
        together = sum(self._bytes.get(each, 0) for each in {name, self._default})
        if self._budget is None or together <= self._budget:
            return
        beside = f" next to {self._default}, which always stays loaded" if name != self._default else ""
        logger.warning(
            "the weights of %s (%.0f MB) do not fit in --model-memory%s; the model is served anyway%s",
            name,
            self._bytes[name] / 1e6,
            beside,
            ", and unloaded whenever no request needs it" if beside else "",
        )

    def _make_room(self) -> None:
        """Unload unused models, least recently used first, until the rest is within the budget."""
        if self._budget is None:
            return
        idle = sorted(
            (name for name in self._loaded if name != self._default and not self._needed[name]),
            key=self._used.__getitem__,
        )
        for name in idle:
            if sum(self._bytes.get(each, 0) for each in {*self._loaded, *self._loading}) <= self._budget:
                return
            self._metrics.count_unload(name)
            logger.info("unloaded %s to free %.0f MB of weights", name, self._bytes[name] / 1e6)
            self._closing = [each for each in self._closing if not each.done()]
            self._closing.append(start_daemon(partial(_close, [self._loaded.pop(name)]), name="service"))


def _close(doomed: list[ServedModel]) -> None:
    """Close a model that is not referred to elsewhere, and free its memory."""
    doomed.pop().close()
    return_free_memory()


async def on_daemon(function: Callable[[], T]) -> T:
    """Run a function on a daemon thread."""
    return await asyncio.wrap_future(start_daemon(function, name="service"))
