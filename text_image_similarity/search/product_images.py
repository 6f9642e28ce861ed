"""Encode products' images, and check which image files may be read again.

A table may name only files in one folder. The catalogue stores that folder in its settings, because by the time a file
is read again (for another model, for a thumbnail, or after a failure), it may have been replaced by a link to another
place.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from hashlib import blake2b
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from ..config import NOWHERE, Config
from ..errors import RowError
from ..fetch import check_no_share, check_under, is_under, local_path
from ..pipeline import Outcome
from .ledger import Database, Found, Generation, intact
from .products import ImageOutcome
from .session import Session

Key = TypeVar("Key")


def keep_root(database: Database, root: str | PathLike[str]) -> None:
    """Store the folder that the files of a table must be in."""
    value = json.dumps(str(root))
    name = f"root {blake2b(value.encode(), digest_size=16).hexdigest()}"
    if str(root) != NOWHERE and not database.read("SELECT 1 FROM setting WHERE name = ?", (name,)):
        with database.write() as transaction:
            transaction.run(
                "INSERT INTO setting (name, value) VALUES (?, ?) ON CONFLICT (name) DO NOTHING", (name, value)
            )


def kept_roots(database: Database) -> list[Path]:
    """Return the stored folders; a folder comes before the folders that contain it."""
    rows = database.read("SELECT value FROM setting WHERE name LIKE ?", ("root %",))
    with intact(database):
        roots = [Path(json.loads(value)) for (value,) in rows]
    return sorted(roots, key=lambda root: len(root.parts), reverse=True)


def steady_reference(reference: str, root: str | PathLike[str] | None) -> str:
    """Return a reference whose path still shows later which folder the file must be in.

    Args:
        reference: Reference to a file that may be read, independent of a base folder.
        root: Folder that contains the file, perhaps through a link or `..`; None means any folder.
    """
    path = local_path(reference)
    return reference if path is None or root is None or path.is_relative_to(root) else str(path.resolve())


def check_again(reference: str, config: Config, roots: Sequence[Path]) -> None:
    """Make sure that a product's file is still in a folder that its table was allowed to name.

    Args:
        reference: Reference to the product's image.
        config: Settings; `files_under`, if set, replaces the stored folders.
        roots: Stored folders from `kept_roots`. If the path is in any of them, the file must really be in one of
            these; a path outside all of them was not named by a table.

    Raises:
        RowError: The file is elsewhere, or on a Windows network share that `files_under` does not name.
    """
    if (path := local_path(reference)) is not None:
        if not config.files_under:
            check_no_share(path)
        own = [config.files_under] if config.files_under else [root for root in roots if path.is_relative_to(root)]
        if not any(is_under(path, root) for root in own):
            check_under(path, next(iter(own), None))


def known_outcomes(
    session: Session, generation: Generation, before: Mapping[Key, Found]
) -> dict[Key, dict[str, ImageOutcome]]:
    """Return a generation's stored outcomes for products' images, by product and reference."""
    image_outcomes = session.ledger.image_outcomes(generation.number, [found.number for found in before.values()])
    return {
        key: dict(zip(found.product.images, image_outcomes.get(found.number, []), strict=False))
        for key, found in before.items()
    }


def encode_images(
    session: Session,
    generation: Generation,
    images: Mapping[Key, Sequence[str]],
    earlier: Mapping[Key, Mapping[str, ImageOutcome]] = MappingProxyType({}),
) -> dict[Key, list[ImageOutcome]]:
    """Read images again, encode them with a generation's model, and return the outcomes, by the keys of `images`.

    Args:
        session: Session of the catalogue.
        generation: Generation whose model encodes the images.
        images: References to the images.
        earlier: Known outcomes, by the same keys and by reference; an image that fails now keeps its known vector.
    """
    refused = _refusals(session, {image for group in images.values() for image in group})
    found: dict[tuple[Key, int], ImageOutcome] = {}

    def keep(key: Key, slot: int, content: bytes | None, outcome: Outcome) -> None:
        found[key, slot] = outcome_of(content, outcome, earlier.get(key, {}).get(images[key][slot]))

    tagged: list[tuple[tuple[Key, int], str]] = []
    for key, group in images.items():
        for slot, image in enumerate(group):
            if (problem := refused.get(image)) is None:
                tagged.append(((key, slot), image))
            else:
                keep(key, slot, None, problem)
    if tagged:  # otherwise the model is not needed
        with closing(session.scorer(generation).embed_tagged(tagged)) as outcomes:
            for ((key, slot), content), outcome in outcomes:
                keep(key, slot, content, outcome)
    return {key: [found[key, slot] for slot in range(len(group))] for key, group in images.items()}


def outcome_of(content: bytes | None, outcome: Outcome, before: ImageOutcome | None) -> ImageOutcome:
    """Return the outcome to store for an image; one that fails now keeps its earlier vector.

    Errors are stored without addresses, because everyone who may read the catalogue sees them.
    """
    if not isinstance(outcome, RowError):
        return ImageOutcome(content, outcome)
    error = str(outcome.without_address()).encode("utf-8", "backslashreplace").decode("utf-8")
    return ImageOutcome(error=error) if before is None or before.vector is None else replace(before, error=error)


def _refusals(session: Session, references: Collection[str]) -> dict[str, RowError]:
    """Return the references that must not be read again, each with the reason."""
    found: dict[str, RowError] = {}
    roots = kept_roots(session.ledger.database)
    for reference in references:
        try:
            check_again(reference, session.config, roots)
        except RowError as problem:
            found[reference] = problem
    return found
