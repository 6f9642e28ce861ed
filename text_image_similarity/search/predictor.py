"""Search for images by words and for captions by an image, directly or in a database."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..config import Config, ConfigLike, as_config, pair_score
from ..encoders import Encoder
from ..errors import DatabaseError, InputTypeError, RowError, UsageError
from ..pipeline import ImageSource, Outcome, Scorer
from ..pipeline.inputs import as_image, check_reference, check_text, checked
from ..records import reference_of
from ..similarity import Embeddings, as_floats, score
from .database import CaptionDatabase, ImageDatabase, ModelIdentity
from .meaning import load_calibration
from .nearest import nearest

if TYPE_CHECKING:
    pass


logger = logging.getLogger("text_image_similarity")

# Suffixes of the images that are read from a folder; other files in it are ignored.
_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)

Database = TypeVar("Database", ImageDatabase, CaptionDatabase)
References = str | PathLike[str] | Iterable[str | PathLike[str]]


@dataclass(frozen=True, slots=True)
class ItemMatch:
    """An image or a caption that was found.

    Args:
        item: Reference to the image, or the caption.
        similarity: Similarity in the score kind of the predictor's `Config.score`, by default a cosine, -1..1.
        probability: Probability that a pair with this cosine matches, if half of all pairs do, 0..1; None if the
            model's folder has no calibration.
    """

    item: str
    similarity: float
    probability: float | None = None


def create_predictor(
    model: str | PathLike[str] | None = None, *, config: ConfigLike = None, encoder: Encoder | None = None
) -> Predictor:
    """Load a model to search with.

    Args:
        model: A hub id, a folder or an alias, which replaces `Config.model`; None means the model of `config`, or
            `mini` without a `config`.
        config: Other settings: device, batch size, limits, score kind.
        encoder: A loaded encoder to use and share; no model is then loaded.

    Returns:
        A predictor, which is safe to share between threads.

    Raises:
        ConfigError, ModelError: The model cannot be used, or its calibration is damaged.

    Example:
        >>> from text_image_similarity.encoders.testing import ColourEncoder
        >>> predictor = create_predictor(encoder=ColourEncoder())
        >>> _ = predictor.build_caption_database(["a red dot", "a blue dot", "a magenta dot"])
        >>> red = np.zeros((8, 8, 3), np.uint8) + np.uint8([255, 0, 0])
        >>> [(match.item, round(match.similarity, 4)) for match in predictor.search_captions(red, top_k=2)]
        [('a red dot', 1.0), ('a magenta dot', 0.7071)]
    """
    config = as_config("mini" if config is None else config)
    pair_score(config, "a predictor")
    if model is not None:
        config = replace(config, model=model)
    return Predictor(Scorer(config, encoder=encoder))


class Predictor:
    """Finds images by words and captions by images; created by `create_predictor`.

    Threads and connections stay open between searches; `close` or a `with` block ends them.

    Args:
        scorer: Session that encodes images and texts, which is closed with the predictor.

    Raises:
        ModelError: The calibration in the model's folder is damaged.

    Attributes:
        calibration: Calibration in the model's folder, or None.
        image_database: Default database of `search_database`: the last one built, or one that you set.
        caption_database: Default database of `search_captions`.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.config, self.encoder = scorer.config, scorer.encoder
        self._scorer = scorer
        self.calibration = load_calibration(scorer.encoder.info.model)
        self.image_database: ImageDatabase | None = None
        self.caption_database: CaptionDatabase | None = None

    def __repr__(self) -> str:
        return f"Predictor({self._scorer!r}, {self.image_database}, {self.caption_database})"

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the threads and close the connections."""
        self._scorer.close()

    @cached_property
    def identity(self) -> ModelIdentity:
        """The identity of the model; the first use encodes two captions and two images."""
        return ModelIdentity.of(self.encoder)

    def rank_images(self, text_query: str, image_paths: References, top_k: int = 5) -> list[ItemMatch]:
        """Rank a few images by how well they match a text, without a database.

        Args:
            text_query: Text to search for.
            image_paths: Images, as in `build_image_database`. Images that cannot be read are left out, with a warning
                in the log.
            top_k: Maximum number of matches to return, at least 1.

        Returns:
            The best matches, best first; equal ones in the given order.

        Raises:
            UsageError: The query is empty, or `top_k` is less than 1.
            RowError: The model fails on the query.
        """
        _check_top_k(top_k)
        query = self._encode_query(text_query)
        paths, embeddings, failures = self._embedded_images(image_paths)
        for path, error in failures.items():
            logger.warning("left out of the ranking: %s: %s", path[:200], error)
        return self._matches(query, paths, embeddings, top_k)

    def build_image_database(self, paths: References) -> ImageDatabase:
        """Encode images into a database for many searches; images are read and decoded while others are encoded.

        Args:
            paths: A folder, of which all images are used except hidden ones, including those in subfolders, ordered by
                name; a path, or an http(s), `file:` or `data:` URL; or several of these. Duplicates are used once.

        Returns:
            The database, which becomes the predictor's default. It does not contain images that cannot be read; its
            `failures` give the reasons.
        """
        found, embeddings, failures = self._embedded_images(paths)
        self.image_database = ImageDatabase(found, embeddings, self.identity, failures)
        return self.image_database

    def search_database(self, query: str, top_k: int = 10, database: ImageDatabase | None = None) -> list[ItemMatch]:
        """Return the images of a database that match a text best.

        Args:
            query: Text to search for.
            top_k: Maximum number of matches to return, at least 1.
            database: Database to search; None means `image_database`.

        Returns:
            The best matches, best first; equal ones in the order of the database.

        Raises:
            UsageError: The query is empty, `top_k` is less than 1, or there is no database yet.
            DatabaseError: The database was created with another model.
            RowError: The model fails on the query.
        """
        database = _chosen(database, self.image_database, ImageDatabase)
        _check_top_k(top_k)
        self._check_model(database.model)
        return self._matches(self._encode_query(query), database.paths, database.embeddings, top_k)

    def build_caption_database(self, captions: str | Iterable[str]) -> CaptionDatabase:
        """Encode captions into a database for many searches.

        Args:
            captions: Captions. Duplicates are used once.

        Returns:
            The database, which becomes the predictor's default. Captions that are empty or cannot be encoded are not
            part of it, but are listed in its `failures`.
        """
        given = checked([captions] if isinstance(captions, str) else captions, "captions", check_text)
        texts = list(dict.fromkeys(given))
        found, embeddings, failures = self._sorted_out(texts, self._scorer.embed_texts(texts))
        self.caption_database = CaptionDatabase(found, embeddings, self.identity, failures)
        return self.caption_database

    def search_captions(
        self, image: ImageSource, top_k: int = 10, database: CaptionDatabase | None = None
    ) -> list[ItemMatch]:
        """Return the captions of a database that match an image best.

        Args:
            image: A path or URL, a PIL image, an RGB array or tensor, or an encoded file's bytes.
            top_k: Maximum number of matches to return, at least 1.
            database: Database to search; None means `caption_database`.

        Returns:
            The best matches, best first; equal ones in the order of the database.

        Raises:
            UsageError: `top_k` is less than 1, or there is no database yet.
            DatabaseError: The database was created with another model.
            RowError: The image cannot be read or encoded; the error's code is the reason.
        """
        database = _chosen(database, self.caption_database, CaptionDatabase)
        _check_top_k(top_k)
        self._check_model(database.model)
        (query,) = self._scorer.embed_images([as_image(image, "image")])
        return self._matches(_vector(query), database.captions, database.embeddings, top_k)

    def _encode_query(self, query: str) -> Embeddings:
        check_text(query, "the query")
        if not isinstance(query, str) or not query.strip():
            raise UsageError("the query is empty; describe what to search for")
        (outcome,) = self._scorer.embed_texts([query])
        return _vector(outcome)

    def _check_model(self, made_by: ModelIdentity) -> None:
        if made_by is not self.identity and not self.identity.same_as(made_by):
            raise DatabaseError(
                f"the database was created with {made_by}, but this predictor uses {self.identity}: their vectors "
                "cannot be compared; build the database again, or load the model that made it"
            )

    def _embedded_images(self, paths: References) -> tuple[tuple[str, ...], Embeddings, dict[str, str]]:
        given = [paths] if isinstance(paths, (str, os.PathLike)) else paths
        references = list(dict.fromkeys(_references(checked(given, "paths", check_reference), self.config)))
        with closing(self._scorer.embed_images(references)) as outcomes:
            return self._sorted_out(references, outcomes)

    def _sorted_out(
        self, items: Iterable[str], outcomes: Iterable[Outcome]
    ) -> tuple[tuple[str, ...], Embeddings, dict[str, str]]:
        """Separate items with a vector from those with an error."""
        found: list[str] = []
        vectors: list[NDArray[np.float32]] = []
        failures: dict[str, str] = {}
        for item, outcome in zip(items, outcomes, strict=True):
            if isinstance(outcome, RowError):
                failures[item] = str(outcome)
            else:
                found.append(item)
                vectors.append(outcome)
        embeddings = np.stack(vectors) if vectors else np.empty((0, self.identity.embed_dim), np.float32)  # (n, d)
        return tuple(found), embeddings, failures

    def _matches(self, query: Embeddings, items: Sequence[str], embeddings: Embeddings, top_k: int) -> list[ItemMatch]:
        rows, cosines = nearest(query, embeddings, top_k)
        found = [items[int(row)] for row in rows]
        similarities = as_floats(score(cosines, pair_score(self.config, "a predictor")))
        if self.calibration is None:
            return [ItemMatch(*pair) for pair in zip(found, similarities, strict=True)]
        probabilities = self.calibration.probability(cosines).tolist()
        return [ItemMatch(*each) for each in zip(found, similarities, probabilities, strict=True)]


def _references(paths: Iterable[str | PathLike[str]], config: Config) -> Iterator[str]:
    """Yield references, expanding folders to their images."""
    for path in paths:
        reference = "" if isinstance(given := reference_of(path), RowError) else given
        if config.limits.allow_local_files and reference.strip() and _is_folder(base := _located(reference, config)):
            for found in sorted(base.rglob("*")):
                inside = found.relative_to(base)
                hidden = any(part.startswith(".") for part in inside.parts)
                if found.suffix.lower() in _SUFFIXES and not hidden and not found.is_dir():
                    yield str(Path(reference) / inside)
        else:
            yield reference


def _located(reference: str, config: Config) -> Path:
    return Path(config.base_dir or ".") / reference


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a long data: URL is not a file name
        return False


def _chosen(given: Database | None, built: Database | None, kind: type[Database]) -> Database:
    database = built if given is None else given
    if database is None:
        what = "image" if kind is ImageDatabase else "caption"
        raise UsageError(f"there is no database yet: call build_{what}_database, or pass a database")
    if not isinstance(database, kind):
        raise InputTypeError.of("database", f"of type {kind.__name__}", database, f"{kind.__name__}.load reads a file")
    return database


def _check_top_k(top_k: int) -> None:
    if isinstance(top_k, bool) or not isinstance(top_k, (int, np.integer)) or top_k < 1:
        raise UsageError(f"top_k={top_k!r} must be a whole number of at least 1")


def _vector(outcome: Outcome) -> Embeddings:
    if isinstance(outcome, RowError):
        raise outcome
    return outcome
