"""Change the model without downtime: build a generation while the live one is in use, check it, and switch to it.

Finished vectors are kept, so the same call resumes after a crash. The live generation stays in use, and products that
are added in the meantime get vectors of both models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from ..encoders import Encoder, load_encoder
from ..errors import DatabaseError, StoppedError
from ..records import Progress
from .database import ModelIdentity
from .ledger import Generation
from .product_images import encode_images
from .products import code_of
from .recall import RecallReport, measure_recall
from .session import Session

_BATCH = 512  # products per transaction
LEAST_RECALL = 0.99  # lowest recall of an approximate store with which a generation becomes ready


@dataclass(slots=True)
class ReindexReport:
    """The result of building a generation.

    Args:
        generation: Number of the generation.
        products: Number of products whose images were encoded in this call.
        images: Number of images with a vector in the generation, including those of earlier calls.
        failures: Number of images that failed in this call, by error code.
        lost: Number of images with a vector in the live generation but not in this one.
        recall: Recall of the generation's store; None if the store compares everything.
    """

    generation: int
    products: int = 0
    images: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    recall: RecallReport | None = None


def reindex(
    session: Session,
    model: str,
    *,
    encoder: Encoder | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
    allow_lost: int = 0,
) -> ReindexReport:
    """Build the generation of a model, or resume building it, until it is ready for `switch`.

    Before a new generation is begun, the one kept for `rollback` is dropped.

    Args:
        session: Session of the catalogue.
        model: A hub id, a folder or an alias.
        encoder: A loaded encoder of the model; None loads the model.
        progress: Called after each batch with (products of this call, their images that failed, products in total).
        stop: Called after each batch; True stops the call.
        allow_lost: Number of images with a vector in the live generation that may lack one in the new generation.

    Raises:
        ModelError: The model cannot be loaded.
        DatabaseError: Another generation is being built, the recall of this generation's store is too low, or more
            images are lost than `allow_lost` permits.
        StoppedError: `stop` returned True; finished vectors are kept.
    """
    generation = _begin(session, model, encoder)
    report, total = ReindexReport(generation.number), session.ledger.count_pending(generation.number)
    for _ in complete(session, generation, report):
        if progress is not None:
            progress(report.products, report.failures.total(), total)
        if stop():
            raise StoppedError(
                f"stopped on request with {report.products:,} of {total:,} products encoded; the same command resumes"
            )
    report.images, report.lost = session.ledger.compare(session.generations.live().number, generation.number)
    if report.lost > allow_lost:
        raise DatabaseError(
            f"generation {generation.number} lacks vectors for {report.lost:,} images that the live generation "
            f"has ({', '.join(f'{code} {count:,}' for code, count in report.failures.most_common(3))}); run the same command to retry them, or add --allow-lost {report.lost} (allow_lost={report.lost}) to continue without them"
        )
    store = session.store(generation)
    if store.approximates:
        session.optimize()
        report.recall = measure_recall(session, generation)
        if report.recall.mean < LEAST_RECALL:
            raise DatabaseError(
                f"the recall of the store of generation {generation.number} is {report.recall.mean:.3f}, but at least "
                f"{LEAST_RECALL} is required; the live generation stays in use"
            )
    session.generations.set_ready(generation.number)
    return report


def complete(session: Session, generation: Generation, report: ReindexReport) -> Iterator[int]:
    """Encode the missing images of a generation, and yield the number of products in each transaction."""
    after = 0
    while True:
        found = session.ledger.pending(generation.number, after, _BATCH)
        if not found and after == 0:
            return
        after = found[-1].number if found else 0  # start over, because products may have been added
        images = {each.number: each.product.images for each in found}
        image_outcomes = encode_images(session, generation, images)
        session.ledger.put_image_outcomes(
            generation.number, {number: (images[number], image_outcomes[number]) for number in images}
        )
        report.products += len(found)
        report.failures.update(
            code_of(image.error) for group in image_outcomes.values() for image in group if image.error
        )
        yield len(found)


def _begin(session: Session, model: str, encoder: Encoder | None) -> Generation:
    """Return the generation that is being built with a model, or a new one."""
    encoder = encoder or load_encoder(replace(session.config, model=model, revision=None))
    identity = ModelIdentity.of(encoder)
    for generation in session.generations.all():
        if generation.state == "live" and generation.identity.same_as(identity):
            raise DatabaseError(f"the catalogue already uses {identity}")
        if generation.state in ("building", "ready") and generation.identity.same_as(identity):
            session.lend(generation, encoder, identity)
            session.generations.forget_failures(generation.number)
            return generation
    for generation in session.generations.all():
        if generation.state == "kept":
            session.drop(generation)
    begun = session.generations.add(identity, "building")
    session.lend(begun, encoder, identity)
    return begun


def switch_to(session: Session, state: str, otherwise: str) -> Generation:
    """Switch to the generation that has a given state, and return it.

    Raises:
        DatabaseError: No generation has this state; the message is `otherwise`.
    """
    generation = next((found for found in session.generations.all() if found.state == state), None)
    if generation is None:
        raise DatabaseError(otherwise)
    session.store(generation)  # opened now, so that the first query does not wait for the store
    while not session.generations.switch(generation.number):
        for _ in complete(session, generation, ReindexReport(generation.number)):
            pass
    return session.generations.live()
