"""Engine for a Ray cluster: a pool of actors, each with an encoder, scores the parts of a table."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from inspect import Parameter, signature
from tempfile import TemporaryDirectory
from threading import Condition, current_thread, main_thread
from types import TracebackType
from typing import Any

from ..config import Config
from ..encoders import ModelInfo
from ..errors import TableError, TextImageSimilarityError, UsageError
from ..pipeline import RunStats, ScoredPart, Scorer, Tag, TaggedRows, portable, score_concurrently
from ..records import Record, ScoreResult
from ..system import require

logger = logging.getLogger("text_image_similarity")


CALLS = 2  # parts in progress in one actor
_RETRIES = 10  # retries of a part whose worker died, before the part is blamed
_RESTARTS = 100  # restarts of one worker, before the machine is blamed
_LEAVE_S = 30.0  # wait for parts in progress when the engine is closed


class RayEngine:
    """Engine that scores the parts of a table on a Ray cluster, for the command line; a context manager.

    Without an address, it starts Ray on this machine, listening only on loopback, and stops it at the end; a Ray
    instance that this process has already started or joined is used as it is.

    Args:
        conf: `concurrency` (number of actors, by default as many as fit on the cluster), `actor.num_cpus` (CPUs
            and threads of each actor, by default 1), `actor.num_gpus` (GPUs of each actor, by default 0), and arguments
            of `ray.init`, such as `address`, or `num_cpus` for a Ray instance that is started. Values are JSON, or text
            if they are not valid JSON.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: A key or a value is wrong.
    """

    def __init__(self, conf: Mapping[str, str]) -> None:
        require("scoring on Ray", "ray", extra="ray")
        settings = {name: _value(value) for name, value in conf.items()}
        self._concurrency = _number(settings, "concurrency", None, (int,), least=1)
        self._cpus = _number(settings, "actor.num_cpus", 1, (int, float), least=0)
        self._gpus = _number(settings, "actor.num_gpus", 0, (int, float), least=0)
        self._joins = (settings.get("address") or os.environ.get("RAY_ADDRESS") or "local") != "local"
        self._settings = settings
        self._started = False
        self._actors = 0
        self._pending: dict[Any, Any] = {}  # an actor's first response -> the actor
        self._busy: Counter[Any] = Counter()  # a running actor -> its parts in progress
        self._change = Condition()

    def __enter__(self) -> RayEngine:
        # These variables are read when Ray is imported or started: Ray then sends no usage reports and, if this engine
        # starts it, listens only on loopback and copies no working folder for workers under `uv run`.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if not self._joins:
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
            os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        import ray

        known = [name for name, p in signature(ray.init).parameters.items() if p.kind is not Parameter.VAR_KEYWORD]
        for name in self._settings:
            if name not in known:
                own = "concurrency, actor.num_cpus, actor.num_gpus"
                raise UsageError(
                    f"{name!r} is not a Ray setting; use one of {own}, or of the arguments of ray.init: {', '.join(known)}"
                )
        if not ray.is_initialized():
            try:
                with _same_sigterm(), TemporaryDirectory() as empty:
                    ray.init(**self._arguments(empty))
            except Exception as exc:  # ray.init also asserts
                raise UsageError(f"Ray cannot be started or joined with these settings: {exc}") from exc
            self._started = True
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        import ray

        self._end_actors()
        with self._change:  # threads waiting for a part get an error, and must leave Ray before it stops
            self._change.wait_for(lambda: not self._busy.total(), _LEAVE_S)
        if self._started:
            ray.shutdown()

    def _arguments(self, empty: str) -> dict[str, Any]:
        """Return the arguments of `ray.init`; `empty` is an empty folder."""
        given = {"log_to_driver": False, "logging_level": "ERROR", **self._settings}
        if self._joins:
            return given
        # Otherwise, Ray would join the instance that a file in /tmp names, and its workers would look for modules in
        # this working folder first.
        environment = {"working_dir": empty, **(self._settings.get("runtime_env") or {})}
        return {"include_dashboard": False, **given, "address": "local", "runtime_env": environment}

    @property
    def at_once(self) -> int:
        """Number of parts that keeps all actors busy."""
        return CALLS * self._actors

    def start(self, config: Config) -> ModelInfo:
        """Start actors, replacing those of an earlier table, and wait until the first one has loaded the model.

        Returns:
            Description of the model.

        Raises:
            UsageError: An actor does not fit on the cluster.
            ConfigError, ModelError: From the actor.
            TableError: No actor could start.
        """
        import ray

        self._end_actors()
        self._busy.clear()
        room = self._room()
        self._actors = self._concurrency or room
        if not room:
            self._no_room()
        options = {"max_restarts": _RESTARTS, "max_task_retries": _RETRIES, "max_concurrency": CALLS}
        worker: Any = ray.remote(_Worker)
        worker = worker.options(num_cpus=self._cpus, num_gpus=self._gpus, **options)
        config = portable(config)
        actors = [worker.remote(config) for _ in range(self._actors)]
        self._pending = {actor.info.remote(): actor for actor in actors}
        (first, *_), _ = ray.wait(list(self._pending))
        try:
            info: ModelInfo = _answer(first, "no worker could start")
        except Exception:
            self._end_actors()  # actors occupy CPUs, and the caller may try another model
            raise
        return info

    def score_parts(self, parts: Iterable[TaggedRows[Tag]], stats: RunStats) -> Generator[tuple[Tag, ScoreResult]]:
        """Score enough parts concurrently to keep all actors busy; see `Engine`."""
        return score_concurrently(self._scored, parts, stats, at_once=self.at_once)

    def score(self, records: Sequence[Record]) -> list[ScoreResult]:
        """Score one part on the least busy actor; may be called from several threads.

        Raises:
            TableError: The part could not be scored, even on other workers.
        """
        return self._scored(records)[0]

    def _scored(self, records: Sequence[Record]) -> ScoredPart:
        actor = self._taken()
        try:
            sent = [replace(row, url=bytes(row.url)) if isinstance(row.url, memoryview) else row for row in records]
            found: ScoredPart = _answer(actor.score.remote(sent), "a part of the table was not scored")
            return found
        finally:
            with self._change:
                self._busy[actor] -= 1
                self._change.notify_all()

    def _taken(self) -> Any:
        """Return the least busy running actor, and count one more part for it."""
        import ray

        with self._change:
            up, _ = (
                ray.wait(list(self._pending), num_returns=len(self._pending), timeout=0) if self._pending else ([], [])
            )
            self._busy.update({self._pending.pop(said): 0 for said in up})
            actor = min(self._busy, key=self._busy.__getitem__)
            self._busy[actor] += 1
            return actor

    def _end_actors(self) -> None:
        import ray

        for actor in [*self._pending.values(), *self._busy]:
            ray.kill(actor)
        self._pending.clear()

    def _room(self) -> int:
        """Return the number of actors that fit on the cluster."""
        there, needs = _cluster(), {"CPU": self._cpus, "GPU": self._gpus}
        return min((int(there[name] / need) for name, need in needs.items() if need), default=int(there["CPU"]))

    def _no_room(self) -> None:
        """Raise an error because no actor fits, or log a warning if the cluster may grow.

        Raises:
            UsageError: An actor does not fit on the cluster.
        """
        there = " and ".join(f"{count:g} {name}s" for name, count in _cluster().items())
        told = f"Ray has {there}, which is not enough for a worker with {self._cpus:g} CPUs and {self._gpus:g} GPUs"
        if not (self._joins and self._concurrency):
            raise UsageError(f"{told}; change actor.num_cpus or actor.num_gpus")
        logger.warning("%s; waiting for the cluster to grow", told)


def _cluster() -> dict[str, float]:
    import ray

    found: dict[str, float] = ray.cluster_resources()
    return {name: found.get(name, 0.0) for name in ("CPU", "GPU")}


class _Worker:
    """The actor of `RayEngine`; if it cannot load its model, its methods raise the error."""

    def __init__(self, config: Config) -> None:
        self._problem: TextImageSimilarityError | None = None
        try:
            self._scorer = Scorer(config)
        except TextImageSimilarityError as exc:
            self._problem = exc

    def info(self) -> ModelInfo:
        if self._problem is not None:
            raise self._problem
        return self._scorer.encoder.info

    def score(self, records: list[Record]) -> ScoredPart:
        if self._problem is not None:
            raise self._problem
        stats = RunStats()
        return list(self._scorer.score_pairs(records, stats=stats)), stats.captions_cut


def _answer(reference: Any, failure: str) -> Any:
    """Wait for the result of an actor's method.

    Raises:
        TextImageSimilarityError: From the method.
        TableError: Ray could not get a result.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as exc:
        if isinstance(exc.cause, TextImageSimilarityError):
            raise exc.cause from exc
        raise TableError(f"{failure}: {exc.cause}") from exc
    except RayError as exc:
        reason = " ".join(str(exc).split())
        raise TableError(
            f"{failure}: Ray gave up after {_RETRIES} retries ({reason[:500]}); if images crash the workers, use --isolate-decoder"
        ) from exc


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _number(settings: dict[str, Any], name: str, default: int | None, kinds: tuple[type, ...], *, least: int) -> Any:
    """Remove a number from the settings and return it."""
    value = settings.pop(name, default)
    if value is not None and not (type(value) in kinds and least <= value < math.inf):
        whole = "a whole number" if float not in kinds else "a number"
        raise UsageError(f"{name}={value!r} must be {whole} of at least {least}")
    return value


@contextmanager
def _same_sigterm() -> Iterator[None]:
    """Keep the process's SIGTERM handler, which `ray.init` replaces."""
    earlier = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if current_thread() is main_thread():
            signal.signal(signal.SIGTERM, earlier)
