"""Sessions for calls: the caller's open one, one that is opened for a single call, or several in succession."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

import httpx

from ..config import ConfigLike
from ..encoders import Encoder
from .loaders import closing_after
from .scorer import Scorer

Result = TypeVar("Result")


def through(
    given: ConfigLike | Scorer,
    results: Callable[[Scorer], Generator[Result]],
    *,
    encoder: Encoder | None,
    transport: httpx.BaseTransport | None,
) -> Generator[Result]:
    """Return the results of a call, in the caller's session or in one that is opened for the call.

    Args:
        given: An open session, or the settings for a session that is opened here and closed after the results.
        results: Function that starts the call in a session.
        encoder, transport: As for `Scorer`, if a session is opened here.

    Raises:
        ConfigError, ModelError: Immediately, if no session can be opened.
    """
    if isinstance(given, Scorer):
        return results(given)
    scorer = Scorer(given, encoder=encoder, transport=transport)
    return closing_after(scorer, results(scorer))


class Sessions:
    """Consecutive sessions with the same settings and model.

    Args:
        first: The first session.
        transport: As for `Scorer`; used by later sessions.
    """

    def __init__(self, first: Scorer, *, transport: httpx.BaseTransport | None = None) -> None:
        self.latest = first
        self._transport = transport
        self._used = False

    def next(self) -> Scorer:
        """Return an unused session, which the caller must close."""
        if self._used:
            self.latest = Scorer(self.latest.config, encoder=self.latest.encoder, transport=self._transport)
        self._used = True
        return self.latest
