"""Sessions of calls: one that the caller keeps open, one that is opened and closed for a call, or one after the other."""

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
    """Return the results of a session.

    Args:
        given: An open session, or the settings of one that ends with its results.
        results: Starts the call in a session.
        encoder: As for `Scorer`, and so is `transport`; for a session that is opened here.

    Raises:
        ConfigError, ModelError: At once: no session can be opened.
    """
    if isinstance(given, Scorer):
        return results(given)
    scorer = Scorer(given, encoder=encoder, transport=transport)
    return closing_after(scorer, results(scorer))


class Sessions:
    """Sessions one after the other, with the same settings and model.

    Args:
        first: The first one.
        transport: As for `Scorer`; of those after it.
    """

    def __init__(self, first: Scorer, *, transport: httpx.BaseTransport | None = None) -> None:
        self.latest = first
        self._transport = transport
        self._used = False

    def next(self) -> Scorer:
        """Return a session that nobody has used; the caller closes it."""
        if self._used:
            self.latest = Scorer(self.latest.config, encoder=self.latest.encoder, transport=self._transport)
        self._used = True
        return self.latest
