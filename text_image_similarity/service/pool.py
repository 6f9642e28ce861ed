"""Where requests are answered: the seam between HTTP and the models, which may be in this process or elsewhere."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ..config import ScoreKind
from .jobs import Answer, Ask
from .problems import ProblemError
from .settings import Settings


class Backend(Protocol):
    """Models that answer requests."""

    async def start(self) -> None:
        """Load the models that are to be there from the start; to be called once more if need be.

        Raises:
            ConfigError, ModelError: One of them cannot be loaded.
        """

    async def close(self) -> None:
        """Stop; requests in work are lost."""

    async def run(self, model: str | None, asks: Sequence[Ask], kind: ScoreKind) -> Answer:
        """Answer a request. Who cancels this does not want the answer any more.

        Args:
            model: A served model's name; None is the default.
            asks: What the request wants to know.
            kind: The score that pairs get.

        Raises:
            ProblemError: `unknown_model`, `queue_full` or `model_unavailable`.
        """

    def refusal(self) -> ProblemError | None:
        """Return what any request would be refused with now, before its body is read; None if there is room."""

    def unready(self) -> ProblemError | None:
        """Return why no requests should be sent here, or None."""

    def dead(self) -> ProblemError | None:
        """Return why this process should be replaced, or None."""

    def models(self) -> Mapping[str, Mapping[str, Any] | None]:
        """Return what is known of each model by name, the default first; None for one that is not loaded."""


def choose(settings: Settings, name: str | None) -> str:
    """Return the model that a request's name stands for; of a split, one of its models by weight.

    Raises:
        ProblemError: `unknown_model`.
    """
    name = settings.default if name is None else name
    if (weights := settings.splits.get(name)) is not None:
        return random.choices(list(weights), list(weights.values()))[0]
    if name not in settings.models:
        names = ", ".join((*settings.models, *settings.splits))
        raise ProblemError("unknown_model", f"{name[:100]!r} is not served here; there are {names}")
    return name


def crowded(pairs: int) -> ProblemError:
    """Return what a request is refused with while so many pairs are in work."""
    return ProblemError("queue_full", f"{pairs} pairs are in work", retry_after_s=1, reason="inflight")
