"""Pools of models: the seam between HTTP and the models, which run in this process or in others."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any, Protocol

from ..config import Config, ScoreKind
from ..encoders import Encoder, resolve_model
from ..pipeline import Outcome
from ..records import ScoreResult
from .jobs import Answer, ImageInput, Pair
from .problems import ProblemError, count_of
from .settings import Settings


class ModelPool(Protocol):
    """The protocol of pools of models, which process requests.

    `score`, `embed_images` and `embed_texts` take a served model's name, or None for the default, and raise a
    `ProblemError` with the code `unknown_model`, `queue_full` or `model_unavailable`. Cancelling one of these calls
    abandons the request.
    """

    async def start(self) -> None:
        """Load the models that are needed at the start. This may be called again after a failure.

        Raises:
            ConfigError, ModelError: A model cannot be loaded.
        """

    async def close(self) -> None:
        """Stop the pool. Requests in progress are lost."""

    async def score(self, model: str | None, pairs: Sequence[Pair], kind: ScoreKind) -> Answer[ScoreResult]:
        """Score pairs with a model."""

    async def embed_images(self, model: str | None, images: Sequence[ImageInput]) -> Answer[Outcome]:
        """Embed images with a model."""

    async def embed_texts(self, model: str | None, captions: Sequence[str]) -> Answer[Outcome]:
        """Embed captions with a model."""

    async def serve_model(self, config: Config) -> str:
        """Load another model and serve it from now on. The other models stay in use meanwhile.

        A served model with the same `model` and `revision` is shared instead, regardless of its other settings.

        Args:
            config: Settings that name the model. Local files are never read as images.

        Returns:
            The name that requests use for the model.

        Raises:
            ProblemError: `model_unavailable`, if the model cannot be loaded, or if this pool cannot add models at run
                time.
        """

    def encoder(self, model: str) -> Encoder | None:
        """Return a model's encoder, for work outside requests; None if the model is not loaded in this process."""

    def refusal(self) -> ProblemError | None:
        """Return the problem with which to refuse a request before its body is read; None if there is room."""

    def unready(self) -> ProblemError | None:
        """Return why load balancers should send no requests here; None if the pool is ready."""

    def dead(self) -> ProblemError | None:
        """Return why this process should be replaced; None if the pool works or may recover."""

    def models(self) -> Mapping[str, Mapping[str, Any] | None]:
        """Return the facts of each model by name, the default first; None for one that is not loaded."""


def choose_model(settings: Settings, name: str | None) -> str:
    """Return the name of the model for a name in a request; for a split, one of its models, chosen by weight.

    Raises:
        ProblemError: `unknown_model`.
    """
    name = settings.default if name is None else name
    if (weights := settings.splits.get(name)) is not None:
        return random.choices(list(weights), list(weights.values()))[0]
    if name not in settings.names:
        raise ProblemError(
            "unknown_model", f"{name[:100]!r} is not served here; served models: {', '.join(settings.names)}"
        )
    return name


def find_model(
    models: Mapping[str, Config], facts: Mapping[str, Mapping[str, Any] | None], config: Config
) -> str | None:
    """Return the name under which the model of `config` is served, or None.

    Args:
        models: The served models, by name.
        facts: The facts of each model, as `ModelPool.models` returns them.
        config: Settings that name the model.
    """
    wanted = resolve_model(config.model, config.revision)
    for name, served in models.items():
        found = facts.get(name)
        if wanted == resolve_model(served.model, served.revision) or (
            found is not None and wanted == resolve_model(found["model"], found["revision"])
        ):
            return name
    return None


class InFlight:
    """Counts the pairs in progress, of which one client may have at most half. Safe to share between threads.

    Args:
        most: Number of pairs in progress from which requests are refused.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._pairs: Counter[str | None] = Counter()  # by client
        self._lock = Lock()

    def total(self) -> int:
        """Return the number of all clients' pairs in progress."""
        return self._pairs.total()

    def problem(self, client: str | None) -> ProblemError | None:
        """Return why a client may not start more pairs, or None. Only the total limits the client None."""
        pairs, total = self._pairs[client], self._pairs.total()
        if total < self._most and (client is None or pairs < max(1, self._most // 2)):
            return None
        return inflight_problem(total if total >= self._most else pairs)

    def enter(self, client: str | None, pairs: int) -> None:
        """Reserve room for a whole request.

        Raises:
            ProblemError: Too many pairs are in progress.
        """
        with self._lock:
            if (problem := self.problem(client)) is not None:
                raise problem
            self._pairs[client] += pairs

    def leave(self, client: str | None, pairs: int) -> None:
        """Free the room of some pairs."""
        with self._lock:
            self._pairs[client] -= pairs
            if not self._pairs[client]:
                del self._pairs[client]


def inflight_problem(pairs: int) -> ProblemError:
    """Return the problem for a request that arrives while too many pairs are in progress."""
    detail = f"{count_of(pairs, 'pair is', 'pairs are')} in progress"
    return ProblemError("queue_full", detail, retry_after_s=1, reason="inflight")
