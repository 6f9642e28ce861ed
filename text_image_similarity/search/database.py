"""Databases of embeddings with the names of their items, in memory and on disk.

A database on disk is one safetensors file (https://github.com/huggingface/safetensors), which cannot contain code:

    embeddings  float32 (n, embed_dim)   unit vectors
    probes      float32 (4, embed_dim)   embeddings of two fixed captions and two fixed images
    contents    uint8 (bytes,)           JSON: {"items": [n names], "failures": {name: "<code>: <detail>"}}

with the kind, the model's name and revision and a checksum in its metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..encoders import Encoder, on_network_share
from ..errors import DatabaseError, ModelNameError
from ..files import whole_file
from ..similarity import Embeddings, cosine

_FORMAT = "text-image-similarity database 1"
_Kind = Literal["images", "captions"]
# With mini, FP16 compared with FP32 gives 0.99998, and weights changed by 0.3 % give 0.96.
_SAME_MODEL = 0.999


@dataclass(frozen=True, slots=True, eq=False)
class ModelIdentity:
    """The identity of the model that made a database: its name and its behaviour.

    Two models are the same if their embeddings of four probes agree. Names are not compared: a folder may be moved or
    trained again, and `mini` changes between releases.

    Args:
        model: Hub id, folder or alias.
        revision: Commit of a hub model, or None.
        probes: Embeddings of two fixed captions and two fixed images, shape (4, embed_dim), float32.
    """

    model: str
    revision: str | None
    probes: Embeddings

    @classmethod
    def of(cls, encoder: Encoder) -> ModelIdentity:
        """Return the identity of a loaded model; this takes as long as encoding two captions and two images."""
        yellow_to_blue = np.linspace((250, 220, 0), (0, 30, 250), 64).astype(np.uint8)  # (64, 3)
        stripes = np.tile(yellow_to_blue, (64, 1, 1))  # (64, 64, 3)
        squares = np.kron(np.indices((8, 8)).sum(axis=0) % 2, np.ones((8, 8), np.int64)).astype(np.uint8)  # (64, 64)
        checkers = squares[..., None] * np.array([230, 40, 60], np.uint8)  # (64, 64, 3), red on black
        texts = encoder.encode_text(["two dogs run on green grass", "a red car in front of a house"])
        probes = np.concatenate([texts, encoder.encode_image([stripes, checkers])])
        return cls(encoder.info.model, encoder.info.revision, probes.astype(np.float32))

    @property
    def embed_dim(self) -> int:
        """Dimension of the model's embeddings."""
        return int(self.probes.shape[1])

    def check_place(self, named: str | PathLike[str]) -> None:
        """Make sure that loading the model by its name does not log in to a host that only the catalogue names.

        Args:
            named: The model that the user names.

        Raises:
            ModelNameError: The name may be a place on a Windows network share.
        """
        if self.model != str(named) and on_network_share(self.model):
            raise ModelNameError(
                f"the catalogue names a model on a network share, {self.model}, and loading it would log in there: "
                "if you trust that share, also name the model yourself, with serve --model or as Config.model in "
                "Python; otherwise, copy the model to this machine, and run: text-image-similarity catalog set-model "
                "CATALOG FOLDER"
            )

    def same_as(self, other: ModelIdentity) -> bool:
        """Tell whether embeddings of this model and of another one can be compared."""
        if self.probes.shape != other.probes.shape:
            return False
        return bool((cosine(self.probes, other.probes) >= _SAME_MODEL).all())  # false if a value is not finite

    def __str__(self) -> str:
        revision = f" at {self.revision}" if self.revision else ""
        return f"{self.model}{revision} ({self.embed_dim} dimensions)"


@dataclass(frozen=True, slots=True, eq=False)
class ImageDatabase:
    """A database of images that can be searched by text.

    Args:
        paths: References to the images, in the given order, without duplicates.
        embeddings: Unit vectors, shape (n, embed_dim), float32.
        model: Model that made the embeddings.
        failures: References that could not be read, with `"<code>: <detail>"` as in a scored table.
    """

    paths: tuple[str, ...]
    embeddings: Embeddings
    model: ModelIdentity
    failures: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"ImageDatabase({len(self):,} images by {self.model.model}, {len(self.failures):,} failures)"

    def __len__(self) -> int:
        return len(self.paths)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the database to one file, which appears complete or not at all; `.safetensors` is its usual suffix.

        Raises:
            DatabaseError: The file cannot be written.
        """
        _write(Path(path), "images", _Saved(self.paths, self.embeddings, self.model, self.failures))

    @classmethod
    def load(cls, path: str | PathLike[str]) -> ImageDatabase:
        """Read a database written by `save`. The images themselves are not needed.

        Raises:
            DatabaseError: The file is missing, truncated, damaged, or not a database of images.
        """
        saved = _read(Path(path), "images")
        return cls(saved.items, saved.embeddings, saved.model, saved.failures)


@dataclass(frozen=True, slots=True, eq=False)
class CaptionDatabase:
    """A database of captions that can be searched by image.

    Args:
        captions: Captions, in the given order, without duplicates.
        embeddings: Unit vectors, shape (n, embed_dim), float32.
        model: Model that made the embeddings.
        failures: Captions that could not be encoded, with `"<code>: <detail>"`.
    """

    captions: tuple[str, ...]
    embeddings: Embeddings
    model: ModelIdentity
    failures: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"CaptionDatabase({len(self):,} captions by {self.model.model}, {len(self.failures):,} failures)"

    def __len__(self) -> int:
        return len(self.captions)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the database to one file, which appears complete or not at all; `.safetensors` is its usual suffix.

        Raises:
            DatabaseError: The file cannot be written.
        """
        _write(Path(path), "captions", _Saved(self.captions, self.embeddings, self.model, self.failures))

    @classmethod
    def load(cls, path: str | PathLike[str]) -> CaptionDatabase:
        """Read a database written by `save`.

        Raises:
            DatabaseError: The file is missing, truncated, damaged, or not a database of captions.
        """
        saved = _read(Path(path), "captions")
        return cls(saved.items, saved.embeddings, saved.model, saved.failures)


@dataclass(frozen=True, slots=True)
class _Saved:
    """The part of a file that databases of images and of captions have in common."""

    items: tuple[str, ...]
    embeddings: Embeddings
    model: ModelIdentity
    failures: Mapping[str, str]


def _write(path: Path, kind: _Kind, saved: _Saved) -> None:
    # ASCII, because a file name that is not Unicode cannot be encoded in UTF-8.
    contents = json.dumps({"items": saved.items, "failures": dict(saved.failures)}).encode("ascii")
    tensors: dict[str, NDArray[Any]] = {
        "embeddings": np.ascontiguousarray(saved.embeddings, np.float32),
        "probes": np.ascontiguousarray(saved.model.probes, np.float32),
        "contents": np.frombuffer(contents, np.uint8),
    }
    metadata = {"format": _FORMAT, "kind": kind, "model": saved.model.model, "checksum": _checksum(tensors)}
    if saved.model.revision is not None:
        metadata["revision"] = saved.model.revision
    if path.is_dir():
        raise DatabaseError(f"the database {path} cannot be written: it is a folder; name a file")
    try:
        with whole_file(path) as partial:
            save_file(tensors, partial, metadata)
    except (OSError, SafetensorError) as exc:
        raise DatabaseError(f"the database {path} cannot be written: {exc}") from exc


def _read(path: Path, kind: _Kind) -> _Saved:
    if path.is_dir():
        raise DatabaseError(f"the database {path} cannot be read: it is a folder; name a file")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            _check_kind(path, kind, metadata)
            tensors = {name: file.get_tensor(name) for name in ("embeddings", "probes", "contents")}
    except OSError as exc:
        raise DatabaseError(f"the database {path} cannot be read: {exc}") from exc
    except (SafetensorError, ValueError) as exc:
        raise DatabaseError(f"{path} is damaged or not a database: {exc}; build it again") from exc
    if metadata.get("checksum") != _checksum(tensors):
        raise DatabaseError(f"{path} is damaged: its checksum is wrong; build it again")
    try:
        return _checked(tensors, metadata)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as exc:
        raise DatabaseError(f"{path} is not a usable database: {exc!r}; build it again") from exc


def _check_kind(path: Path, kind: _Kind, metadata: Mapping[str, str]) -> None:
    if metadata.get("format") != _FORMAT:
        raise DatabaseError(
            f"{path} is not a database of this version ({metadata.get('format')!r}, not {_FORMAT!r}); build it again"
        )
    if metadata.get("kind") != kind:
        raise DatabaseError(f"{path} is a database of {metadata.get('kind')}, not of {kind}")


def _checked(tensors: dict[str, NDArray[Any]], metadata: dict[str, str]) -> _Saved:
    """Return the contents of a file, after checking that names and vectors fit together: files are not trusted."""
    contents = json.loads(tensors["contents"].tobytes())
    items, failures = contents["items"], contents["failures"]
    embeddings, probes = tensors["embeddings"], tensors["probes"]
    if not all(isinstance(text, str) for text in (*items, *failures, *failures.values())):
        raise TypeError("some of its names are not text")
    if embeddings.dtype != np.float32 or probes.dtype != np.float32 or embeddings.ndim != 2 or probes.ndim != 2:
        raise ValueError("its vectors are not float32 rows")
    if len(embeddings) != len(items) or embeddings.shape[1] != probes.shape[1]:
        raise ValueError(f"{len(items)} names do not fit vectors {embeddings.shape} and probes {probes.shape}")
    return _Saved(
        tuple(items), embeddings, ModelIdentity(metadata["model"], metadata.get("revision"), probes), failures
    )


def _checksum(tensors: dict[str, NDArray[Any]]) -> str:
    digest = blake2b(digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name]).data)
    return digest.hexdigest()
