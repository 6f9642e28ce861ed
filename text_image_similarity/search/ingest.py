"""Add products to a catalogue: images pass through the pipeline, and the results are stored in the ledger.

The pipeline fetches and decodes ahead across products. An image whose content the live generation already has is
fetched but not encoded again. An image that fails is stored with its error, and its product can still be found by its
words and fields.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from math import inf
from os import PathLike
from pathlib import Path

from ..errors import ErrorCode, InputTypeError, UsageError
from ..fetch import resolve_reference
from ..pipeline import Outcome
from ..pipeline.rows import DeferredErrors
from ..records import Progress
from .fields import ERROR, Value
from .filters import Exists
from .ledger import Found, Generation
from .product_images import encode_images, known_outcomes, outcome_of
from .products import (
    Entry,
    ImageOutcome,
    Product,
    code_of,
    fields_as_json,
    first_error,
    stored_values,
    with_error,
    with_images,
)
from .session import Session

_BATCH = 1000  # products per transaction
_LONGEST_S = 0.8  # longest time until a product is written, so that other processes see it within a second
_TOLD = 20  # maximum number of refusals, and of blocked references, in a report

Check = Callable[[Sequence[Product]], object]


@dataclass(slots=True)
class AddReport:
    """The result of adding products.

    Args:
        added: Number of new products.
        updated: Number of products that replaced an earlier one.
        unchanged: Number of products that already had the same words, fields and images, or were followed by another
            one with the same id in the same batch.
        encoded: Number of images with new content, which were encoded.
        failures: Number of images that could not be read or encoded, by error code; their products are kept.
        blocked: The first 20 references to images at blocked addresses.
        refused: Number of products that could not be added, for example because of an undeclared field or a value of
            another kind.
        refusals: Reasons for the first 20 refusals.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    encoded: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    blocked: list[str] = field(default_factory=list)
    refused: int = 0
    refusals: list[str] = field(default_factory=list)

    @property
    def products(self) -> int:
        """Total number of products passed in."""
        return self.added + self.updated + self.unchanged + self.refused

    def refuse(self, reason: str) -> None:
        """Count a product that cannot be added, and record the reason."""
        self.refused += 1
        if len(self.refusals) < _TOLD:
            self.refusals.append(reason)


@dataclass(slots=True)
class _Pending:
    """A product whose images are being processed.

    Args:
        number: Index of the product among those that were passed in.
        product: The product, with resolved references.
        values: Stored values of the product, without errors.
        fields: Fields of the product as JSON.
        outcomes: Outcomes of the product's images so far, each with the key of its content.
    """

    number: int
    product: Product
    values: tuple[Value | None, ...]
    fields: str
    outcomes: list[tuple[bytes | None, Outcome]] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether all images of the product have outcomes."""
        return len(self.outcomes) == len(self.product.images)


class Ingest:
    """Adds products to a catalogue, for one call of `add`.

    Args:
        session: Session of the catalogue.
        progress: Called with (products done, failed or refused among these, products in total or 0).
        total: Total number of products, if known.
        base: Folder that relative references start from, unless `Config.base_dir` is set.
        check: Called with the products of each transaction before they are written; raises an error if they must not be
            written. No other caller with a check writes in between.
    """

    def __init__(
        self,
        session: Session,
        *,
        progress: Progress | None = None,
        total: int = 0,
        base: str | PathLike[str] = ".",
        check: Check | None = None,
    ) -> None:
        self._session, self._ledger, self._check = session, session.ledger, check
        self._progress, self._total = progress, total
        self._base = Path(session.config.base_dir or base).absolute()  # once, and not for each image
        self.report = AddReport()
        self.failed = 0
        self._waiting: deque[_Pending] = deque()
        self._refused: deque[tuple[int, str]] = deque()  # not yet in the report
        self._outstanding = 0  # images that are being processed
        self._ended = False

    def add(self, products: Iterable[Product]) -> Generator[int]:
        """Add products, and yield after each transaction how many are done, including refused ones."""
        live = self._session.generations.live()
        # Before writing, so that a ledger restored from a backup is still behind its stores.
        self._session.follow_all()
        given = enumerate(products)
        while not self._ended:
            yield from self._add_some(live, given)

    def _add_some(self, live: Generation, given: Iterator[tuple[int, Product]]) -> Generator[int]:
        """Add products until none are left, enough products without images are waiting, or products arrive slowly.

        Yield the number of products processed so far after each batch.
        """
        batch: list[_Pending] = []
        began = time.monotonic()
        with closing(self._session.scorer(live).embed_tagged(self._images(given))) as outcomes:
            source = DeferredErrors(outcomes)
            while (found := source.next()) is not None:
                (_, key), outcome = found
                self._outstanding -= 1
                while self._waiting[0].complete:  # products without images
                    batch.append(self._waiting.popleft())
                self._waiting[0].outcomes.append((key, outcome))
                if self._waiting[0].complete:
                    batch.append(self._waiting.popleft())
                if len(batch) >= _BATCH or (batch and time.monotonic() - began > _LONGEST_S):
                    self._refuse_until(batch[-1].number)
                    yield self._write(live, batch)
                    batch, began = [], time.monotonic()
        rest = [pending for pending in self._waiting if pending.complete]
        self._waiting.clear()
        self._refuse_until(inf)
        yield self._write(live, [*batch, *rest])
        if source.problem is not None:
            raise source.problem

    def _images(self, given: Iterator[tuple[int, Product]]) -> Iterator[tuple[None, str]]:
        """Check products, and yield their images as the pipeline requests them."""
        began, waited = time.monotonic(), 0.0
        while True:
            asked = time.monotonic()
            if (found := next(given, None)) is None:
                break
            number, product = found
            waited += time.monotonic() - asked
            if not isinstance(product, Product):
                raise InputTypeError.of(f"products[{number}]", "a Product", product)
            try:
                values = stored_values(product, self._ledger.fields)
                fields = fields_as_json(product)
            except UsageError as problem:
                self._refused.append((number, str(problem)))
                continue
            images = [resolve_reference(image, self._base) for image in product.images]
            self._waiting.append(_Pending(number, with_images(product, images), values, fields))
            self._outstanding += len(images)
            yield from ((None, image) for image in images)
            full = len(self._waiting) >= _BATCH or time.monotonic() - began > _LONGEST_S
            # If products arrive slowly, the pipeline's look-ahead would delay its results for a long time.
            if (full and not self._outstanding) or waited > _LONGEST_S:
                return
        self._ended = True

    def _refuse_until(self, number: float) -> None:
        """Count the refused products that came before the one with a number, the last one of the next transaction."""
        while self._refused and self._refused[0][0] < number:
            self.report.refuse(self._refused.popleft()[1])

    def _write(self, live: Generation, batch: Sequence[_Pending]) -> int:
        """Write products in one transaction, and count the results."""
        latest = {pending.product.id: pending for pending in batch}
        before = self._ledger.get(list(latest))
        earlier = self._ledger.image_outcomes(live.number, [found.number for found in before.values()])
        image_outcomes: dict[str, list[ImageOutcome]] = {}
        for id, pending in latest.items():
            old = before.get(id)
            known = {} if old is None else dict(zip(old.product.images, earlier.get(old.number, []), strict=False))
            image_outcomes[id] = [
                outcome_of(key, outcome, known.get(image))
                for image, (key, outcome) in zip(pending.product.images, pending.outcomes, strict=True)
            ]
        self._count(live, {id: pending.product.images for id, pending in latest.items()}, image_outcomes)
        changed = {
            id: pending
            for id, pending in latest.items()
            if (old := before.get(id)) is None
            or not _same(old.product, pending)
            or _seen(earlier.get(old.number, [])) != _seen(image_outcomes[id])
        }
        fresh = sum(id not in before for id in changed)
        others: dict[int, dict[str, list[ImageOutcome]]] = {live.number: image_outcomes}
        while changed:
            self._encode_for_others(changed, before, others)
            entries = [
                Entry(
                    pending.product,
                    with_error(pending.values, first_error(image_outcomes[id])),
                    {number: found[id] for number, found in others.items()},
                )
                for id, pending in changed.items()
            ]
            if self._put(entries):
                break
        self.report.added += fresh
        self.report.updated += len(changed) - fresh
        self.report.unchanged += len(batch) - len(changed)
        self._session.follow_all()
        if self._progress is not None:
            self._progress(self.report.products, self.failed + self.report.refused, self._total)
        return self.report.products

    def _put(self, entries: Sequence[Entry]) -> bool:
        """Write entries as `Ledger.add` does; a lock covers the check and the transaction, but no downloads."""
        with nullcontext() if self._check is None else self._ledger.database.exclusive("check", wait=True):
            if self._check is not None:
                self._check([entry.product for entry in entries])
            return self._ledger.add(entries)

    def _count(
        self, live: Generation, images: Mapping[str, Sequence[str]], found: Mapping[str, Sequence[ImageOutcome]]
    ) -> None:
        every = [each for group in found.values() for each in group]
        contents = {each.content for each in every if each.content is not None and each.error is None}
        self.report.encoded += len(contents) - len(self._ledger.known_contents(live.number, contents))
        tried = ((image, each.error) for id in found for image, each in zip(images[id], found[id], strict=True))
        failed = [(image, code_of(error)) for image, error in tried if error is not None]
        self.report.failures.update(code for _, code in failed)
        blocked = [image for image, code in failed if code == ErrorCode.BLOCKED_ADDRESS.value]
        self.report.blocked += blocked[: _TOLD - len(self.report.blocked)]
        self.failed += sum(any(each.error for each in group) for group in found.values())

    def _encode_for_others(
        self,
        changed: Mapping[str, _Pending],
        before: Mapping[str, Found],
        found: dict[int, dict[str, list[ImageOutcome]]],
    ) -> None:
        """Encode the images of changed products for generations that have no outcomes for them yet.

        A generation that is being built is left out: `reindex` encodes the images for it before it is ready.
        """
        images = {id: pending.product.images for id, pending in changed.items()}
        for generation in self._session.generations.all():
            if generation.number not in found and generation.state != "building":
                earlier = known_outcomes(self._session, generation, before)
                found[generation.number] = encode_images(self._session, generation, images, earlier)


def retry_failures(session: Session, *, progress: Progress | None = None) -> AddReport:
    """Retry the images of products with a failed image, except products changed or deleted in the meantime."""
    report, after = AddReport(), None
    total = session.ledger.count(Exists(ERROR))
    while chunk := session.ledger.browse(Exists(ERROR), None, after, _BATCH):
        after = (None, chunk[-1][0].product.id)
        there = {found.number: found for found, _ in chunk}
        for generation in session.generations.all():
            if generation.state == "building":
                continue
            images = {number: found.product.images for number, found in there.items()}
            image_outcomes = encode_images(session, generation, images, known_outcomes(session, generation, there))
            session.ledger.put_image_outcomes(
                generation.number, {number: (images[number], image_outcomes[number]) for number in there}
            )
            if generation.state == "live":
                healed = sum(first_error(each) is None for each in image_outcomes.values())
                report.updated += healed
                report.unchanged += len(there) - healed
                report.failures.update(
                    code_of(each.error) for group in image_outcomes.values() for each in group if each.error
                )
        session.follow_all()
        if progress is not None:
            progress(report.products, report.unchanged, total)
    return report


def _same(old: Product, pending: _Pending) -> bool:
    new = pending.product
    words = (new.name, new.description, new.images, new.group or None, pending.fields)
    return (old.name, old.description, old.images, old.group, fields_as_json(old)) == words


def _seen(image_outcomes: Sequence[ImageOutcome]) -> list[tuple[bytes | None, str | None, bool]]:
    return [(image.content, image.error, image.vector is None) for image in image_outcomes]
