"""Calibrate similarities in a catalogue with queries whose products have been judged."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ..checks import true_or_false
from ..errors import RowError, UsageError
from ..metrics.calibration import Calibration, fit_calibration
from ..similarity import cosine
from .arguments import check_type, several
from .ledger import Generation
from .products import checked_id
from .query import Query, Term
from .session import Session
from .vectors import encode

_BATCH = 256


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """A judgement of a query and a product.

    Args:
        term: The query, one text or one image.
        product: Id of the product.
        match: Whether the product matches the query.

    Raises:
        InputTypeError, UsageError: A value is not valid.
    """

    term: Term
    product: str
    match: bool

    def __post_init__(self) -> None:
        check_type("Judgement.term", self.term, Term, "a Term of one text or one image")
        if self.term.kind not in ("text", "image"):
            raise UsageError(f"Judgement.term is a {self.term.kind}; judge a text or an image")
        object.__setattr__(self, "product", checked_id(self.product, "Judgement.product"))
        object.__setattr__(self, "match", bool(self.match) if isinstance(self.match, np.bool_) else self.match)
        true_or_false("Judgement.match", self.match)


@dataclass(frozen=True, slots=True)
class CatalogCalibration:
    """The calibration of one kind of query in a catalogue.

    Args:
        curve: Curve from cosine to probability for data in which half of all pairs match.
        prevalence: Share of matching pairs among those judged, 0..1, which shifts the curve.
        left_out: Number of judgements, of either kind, whose query, product or image could not be used.
    """

    curve: Calibration
    prevalence: float
    left_out: int

    def probability(self, similarity: float) -> float:
        """Return the probability that a product with this similarity matches."""
        return float(self.curve.probability([similarity], prior=self.prevalence)[0])


def calibrate(session: Session, judgements: Iterable[Judgement]) -> dict[str, CatalogCalibration]:
    """Fit a calibration to judged pairs, and save it with the live generation.

    The share of matching pairs among the judgements is assumed to hold for future queries, so judge the products that
    searches find, not only good matches.

    Returns:
        The calibration of each kind of query that occurs, `text` and `image`.

    Raises:
        UsageError: There are too few judgements of a kind, or all have the same score.
    """
    generation = session.generations.live()
    scores: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    left_out = 0
    given = list(several("judgements", judgements, "a list of Judgement"))
    if not given:
        raise UsageError("there are no judgements; give some for each kind of query that you want to calibrate")
    for number, judgement in enumerate(given):
        check_type(f"judgements[{number}]", judgement, Judgement, "a Judgement")
    for start in range(0, len(given), _BATCH):
        part = given[start : start + _BATCH]
        for judged, similarity in zip(part, _similarities(session, generation, part), strict=True):
            if similarity is None:
                left_out += 1
            else:
                scores[judged.term.kind][judged.match].append(similarity)
    found = {}
    for kind, (mismatching, matching) in scores.items():
        try:
            curve = fit_calibration(np.array(matching), np.array(mismatching), model=generation.identity.model)
        except ValueError as exc:
            raise UsageError(f"the {kind} queries cannot be calibrated: {exc}") from exc
        found[kind] = CatalogCalibration(curve, len(matching) / (len(matching) + len(mismatching)), left_out)
    if not found:
        raise UsageError(f"none of the {len(given):,} judgements can be used: their queries or products have no vector")
    kept = {kind: {"curve": asdict(each.curve), "prevalence": each.prevalence} for kind, each in found.items()}
    session.generations.calibrate(generation.number, json.dumps(kept))
    return found


def _similarities(session: Session, generation: Generation, part: Sequence[Judgement]) -> list[float | None]:
    """Return the similarity of each query with its product's best image; None if either has no vector."""
    queries = [Query(judged.term) for judged in part]
    encoded = encode(queries, session.scorer(generation), session.ledger, generation)
    products = session.ledger.get([judged.product for judged in part])
    image_outcomes = session.ledger.image_outcomes(generation.number, [found.number for found in products.values()])
    similarities: list[float | None] = []
    for judged, query in zip(part, encoded, strict=True):
        product = products.get(judged.product)
        vectors = [each.vector for each in image_outcomes.get(product.number, [])] if product is not None else []
        there = [vector for vector in vectors if vector is not None]
        if isinstance(query, RowError) or not there:
            similarities.append(None)
        else:
            similarities.append(float(cosine(query.fused[None, :], np.stack(there)).max()))
    return similarities
