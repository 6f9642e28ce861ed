"""What a model makes of products' images, and which of their files may be read again.

A table names only files under one folder. That folder is kept in the catalogue's settings, because a file may have become a link
to another place when it is read again: for another model, for a small image, or because it failed.
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
from ..fetch import check_under, is_under, local_path
from ..pipeline import Outcome
from .ledger import Database, Found, Generation, intact
from .products import Picture
from .session import Session

Key = TypeVar("Key")


def keep_root(database: Database, root: str | PathLike[str]) -> None:
    """Keep the folder that the files of a table must be in."""
    value = json.dumps(str(root))
    name = f"root {blake2b(value.encode(), digest_size=16).hexdigest()}"
    if str(root) != NOWHERE and not database.read("SELECT 1 FROM setting WHERE name = ?", (name,)):
        with database.write() as transaction:
            transaction.run(
                "INSERT INTO setting (name, value) VALUES (?, ?) ON CONFLICT (name) DO NOTHING", (name, value)
            )


def kept_roots(database: Database) -> list[Path]:
    """Return the folders that were kept, those within others first."""
    rows = database.read("SELECT value FROM setting WHERE name LIKE ?", ("root %",))
    with intact(database):
        roots = [Path(json.loads(value)) for (value,) in rows]
    return sorted(roots, key=lambda root: len(root.parts), reverse=True)


def steady_reference(reference: str, root: str | PathLike[str] | None) -> str:
    """Return the reference of a file that may be read so that it shows which folder it must be in.

    Args:
        reference: As it needs no base folder any longer.
        root: The folder that it leads to a place in, perhaps through a link or `..`; None is any.
    """
    path = local_path(reference)
    return reference if path is None or root is None or path.is_relative_to(root) else str(path.resolve())


def check_again(reference: str, config: Config, roots: Sequence[Path]) -> None:
    """Make sure that the file of a product is still where its table could name it.

    Args:
        reference: The product's.
        config: `files_under` holds in place of what was kept.
        roots: As from `kept_roots`; one that the path is in must admit it, unless it is in none: no table named it then.

    Raises:
        RowError: It leads elsewhere.
    """
    if (path := local_path(reference)) is not None:
        own = [config.files_under] if config.files_under else [root for root in roots if path.is_relative_to(root)]
        if not any(is_under(path, root) for root in own):
            check_under(path, next(iter(own), None))


def known_pictures(
    session: Session, generation: Generation, before: Mapping[Key, Found]
) -> dict[Key, dict[str, Picture]]:
    """Return what a generation knows of products' images, by their references."""
    pictures = session.ledger.pictures(generation.number, [found.number for found in before.values()])
    return {
        key: dict(zip(found.product.images, pictures.get(found.number, []), strict=False))
        for key, found in before.items()
    }


def encode_pictures(
    session: Session,
    generation: Generation,
    images: Mapping[Key, Sequence[str]],
    earlier: Mapping[Key, Mapping[str, Picture]] = MappingProxyType({}),
) -> dict[Key, list[Picture]]:
    """Return what a generation's model makes of images that are read again, by the same keys as their references.

    Args:
        session: The catalogue.
        generation: The generation.
        images: The references.
        earlier: What is known of them, by the same keys and by reference: an image that fails now keeps its vector.
    """
    refused = _refusals(session, {image for group in images.values() for image in group})
    found: dict[tuple[Key, int], Picture] = {}

    def keep(key: Key, slot: int, content: bytes | None, outcome: Outcome) -> None:
        found[key, slot] = picture_of(content, outcome, earlier.get(key, {}).get(images[key][slot]))

    tagged: list[tuple[tuple[Key, int], str]] = []
    for key, group in images.items():
        for slot, image in enumerate(group):
            if (problem := refused.get(image)) is None:
                tagged.append(((key, slot), image))
            else:
                keep(key, slot, None, problem)
    if tagged:  # or the model is not needed
        with closing(session.scorer(generation).embed_tagged(tagged)) as outcomes:
            for ((key, slot), content), outcome in outcomes:
                keep(key, slot, content, outcome)
    return {key: [found[key, slot] for slot in range(len(group))] for key, group in images.items()}


def picture_of(content: bytes | None, outcome: Outcome, before: Picture | None) -> Picture:
    """Return what is kept of an image; one that fails now keeps the vector that it had."""
    if not isinstance(outcome, RowError):
        return Picture(content, outcome)
    error = str(outcome).encode("utf-8", "backslashreplace").decode("utf-8")
    return Picture(error=error) if before is None or before.vector is None else replace(before, error=error)


def _refusals(session: Session, references: Collection[str]) -> dict[str, RowError]:
    """Return the references that may not be read again, with the reason."""
    found: dict[str, RowError] = {}
    roots = kept_roots(session.ledger.database)
    for reference in references:
        try:
            check_again(reference, session.config, roots)
        except RowError as problem:
            found[reference] = problem
    return found
