"""The meaning of a similarity: the probability that a product matches."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..encoders import calibrated_folder
from .ledger import Generation
from .query import Query

if TYPE_CHECKING:
    from ..metrics.calibration import Calibration


class Meaning:
    """Converts similarities into probabilities, if there is a calibration.

    A catalogue's own calibration (`catalog calibrate`) takes precedence; without one, a query of one text uses the
    calibration in the model's folder.

    Args:
        generation: Generation whose vectors are compared.
    """

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._known: dict[str, Callable[[float], float] | None] = {}

    def probability(self, query: Query, similarity: float | None) -> float | None:
        """Return the probability that a product with this similarity matches a query, 0..1; None if unknown."""
        if similarity is None or (kind := kind_of(query)) is None:
            return None
        if kind not in self._known:
            self._known[kind] = self._load(kind)
        probability = self._known[kind]
        return None if probability is None else probability(similarity)

    def _load(self, kind: str) -> Callable[[float], float] | None:
        measured = json.loads(self._generation.calibration or "{}").get(kind)
        prior = None
        if measured is not None:
            from ..metrics.calibration import Calibration  # which most searches do not need

            curve: Calibration | None = Calibration.of(measured["curve"])
            prior = measured["prevalence"]
        else:
            curve = load_calibration(self._generation.identity.model) if kind == "text" else None
        return None if curve is None else lambda similarity: float(curve.probability([similarity], prior=prior)[0])


def kind_of(query: Query) -> str | None:
    """Return the kind of calibration for a query of one term, `text` or `image`; None for any other query."""
    if len(query.parts) != 1:
        return None
    return "text" if query.parts[0].kind == "text" else "image"


def load_calibration(model: str) -> Calibration | None:
    """Load the calibration of a model that is a folder, if it has one.

    Raises:
        ModelError: The calibration is damaged.
    """
    if (folder := calibrated_folder(model)) is None:
        return None
    from ..metrics.calibration import Calibration

    return Calibration.load(folder)
