"""Answer tables of queries: an engine finds the best product for each row.

The result of a row without a matching product has neither a product nor an error. Products may be added in the
meantime; each row gets the best of the products that exist when it is answered.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import islice
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from ..config import Config
from ..encoders import ModelInfo
from ..errors import ErrorCode, RowError
from ..fetch import locate
from ..pipeline import RunStats, TaggedRows
from ..records import Record, ScoreResult, caption_of, image_of, is_missing, is_whole
from .cursor import digest_of
from .ledger import Generation
from .query import Matches, Query, Term, options_of

MATCH_FIELDS = (
    pa.field("product_id", pa.string()),
    pa.field("product_name", pa.string()),
    pa.field("similarity", pa.float64()),
    pa.field("probability", pa.float64()),
    pa.field("error", pa.string()),
)
_AT_ONCE = 64  # queries to encode and search together
_MOST_TEXT = 10_000  # characters of a query; a model reads the first few hundred

Tag = TypeVar("Tag")


@dataclass(frozen=True, slots=True)
class BestMatch:
    """The result of a row: the best product, nothing if none matches, or an error.

    Args:
        product_id: Id of the product.
        product_name: Name of the product.
        similarity: Cosine of the row and the product's best image, -1..1.
        probability: Probability of a match in this catalogue, 0..1; None if there is no calibration.
        error: `"<code>: <detail>"` if the row failed.
    """

    product_id: str | None = None
    product_name: str | None = None
    similarity: float | None = None
    probability: float | None = None
    error: str | None = None

    @property
    def code(self) -> ErrorCode | None:
        """The error code of the failure, or None."""
        return None if self.error is None else ErrorCode(self.error.partition(":")[0])

    def cells(self) -> tuple[Any, ...]:
        """Return the values of `MATCH_FIELDS`."""
        return self.product_id, self.product_name, self.similarity, self.probability, self.error


class Answering(Protocol):
    """The part of a catalogue that the engine needs."""

    @property
    def generations(self) -> list[Generation]:
        """The models whose vectors the catalogue has."""

    def match_many(self, queries: Iterable[str | Query]) -> list[Matches | RowError]:
        """Answer queries."""


class MatchEngine:
    """Engine that finds the best product for each row of a table.

    Args:
        catalog: The catalogue, which the caller must close.
        query: Query with the filter and the fusion for all rows.
        away: Terms with negative weights, added to those of each row.
        min_similarity: Lowest similarity of a match, -1..1.
    """

    def __init__(
        self,
        catalog: Answering,
        query: Query | None = None,
        *,
        away: Sequence[Term] = (),
        min_similarity: float | None = None,
    ) -> None:
        self._catalog = catalog
        self._query = replace(Query() if query is None else query, top_k=1)
        self._away, self._least = tuple(away), min_similarity
        self._config = Config()

    def start(self, config: Config) -> ModelInfo:
        """Set the folder of relative references, and return the description of the model in use."""
        self._config = config
        found = self._live().identity
        probes = blake2b(found.probes.tobytes(), digest_size=16).hexdigest()
        return ModelInfo(found.model, found.revision, fingerprint=probes)

    def identity(self, place: str) -> dict[str, Any]:
        """Return everything that results depend on: the catalogue, its model, and the options of the queries."""
        options = {name: str(value) for name, value in options_of(self._query).items()}
        away = digest_of(Query(("a row", *self._away)))  # a query needs a term with a positive weight
        asked = {**options, "min_similarity": self._least, "away": away}
        return {"catalog": place, "generation": self._live().number, "query": asked}

    def score_parts(self, parts: Iterable[TaggedRows[Tag]], stats: RunStats) -> Generator[tuple[Tag, BestMatch]]:
        """Yield each row's tag with its best product, in order."""
        stats.captions_cut = None
        for part in parts:
            rows = iter(part)
            while chunk := list(islice(rows, _AT_ONCE)):
                with stats.timed("match"):
                    found = self._answers([record for _, record in chunk if isinstance(record, Record)])
                yield from ((tag, result) for (tag, _), result in zip(chunk, found, strict=True))

    def _answers(self, records: Sequence[Record]) -> list[BestMatch]:
        queries = [self._ask(record) for record in records]
        answers = iter(self._catalog.match_many([query for query in queries if isinstance(query, Query)]))
        return [_best(next(answers) if isinstance(query, Query) else query) for query in queries]

    def _ask(self, record: Record) -> Query | RowError:
        """Return the query of a row, or the reason why it has none."""
        terms: list[Term] = []
        if not _is_empty(record.text):
            text = caption_of(record.text[:_MOST_TEXT] if isinstance(record.text, str) else record.text)
            if isinstance(text, RowError):
                return text
            if not is_whole(text):
                return RowError(
                    ErrorCode.ENCODER_ERROR, "the text contains a lone surrogate (half of a UTF-16 pair); fix the row"
                )
            terms.append(Term(text))
        if not _is_empty(record.url):
            image = image_of(record.url)
            if isinstance(image, RowError):
                return image
            try:
                terms.append(Term(image=image if isinstance(image, bytes) else locate(image, self._config)))
            except RowError as error:
                return error
        if not terms:
            return RowError(ErrorCode.EMPTY_CAPTION, "the row has neither a text nor an image")
        return replace(self._query, terms=(*terms, *self._away), min_similarity=self._least)

    def _live(self) -> Generation:
        return next(found for found in self._catalog.generations if found.state == "live")


def _is_empty(value: object) -> bool:
    return is_missing(value) or (isinstance(value, str) and not value.strip())


def _best(found: Matches | RowError) -> BestMatch:
    if isinstance(found, RowError):
        return BestMatch(error=ScoreResult.failed(found).error)
    if not found:
        return BestMatch()
    match = found[0]
    return BestMatch(match.product.id, match.product.name, match.similarity, match.probability)
