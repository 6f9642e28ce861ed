"""Identify a model by a short hash of the files that its embeddings depend on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ModelError
from ..files import CALIBRATION, regular_size

FACTS = "encoder.json"  # describes exported graphs; left out because it contains the fingerprint itself
_SHA256 = re.compile("[0-9a-f]{64}")  # the cache names other files by the SHA-1 that git uses
# The SHA-256 of pinned models' weights, by commit and file name. These hashes do not depend on what the hub reports.
_PINNED = {
    ("3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268", "pytorch_model.bin"): (
        "a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f"
    ),
    ("32bd64288804d66eefd0ccbe215aa642df71cc41", "model.safetensors"): (
        "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb"
    ),
    ("32bd64288804d66eefd0ccbe215aa642df71cc41", "pytorch_model.bin"): (
        "f1a17cdbe0f36fec524f5cafb1c261ea3bbbc13e346e0f74fc9eb0460dedd0d3"
    ),
}
# Files of settings, vocabularies and weights. A model card does not change the hash.
_PATTERNS = ("*.json", "*.txt", "*.model", "*.safetensors", "pytorch_model*.bin")


def fingerprint(folder: Path) -> str:
    """Return a hash, 32 hexadecimal digits, of the names and contents of a model's files.

    All files are read completely, which takes half a second for the 600 MB of CLIP ViT-B/32.

    Raises:
        ModelError: A file cannot be read.
    """
    return fingerprint_of(_files(folder))


def fingerprint_of(files: Iterable[Path], settings: str = "") -> str:
    """Return a hash of the names and contents of files, and of settings that are not stored in a file.

    The hub's cache names large files by the SHA-256 that the hub reported, and their contents must match it. The
    weights of the two pinned models must match the hashes that are recorded in this module.

    Raises:
        ModelError: A file cannot be read, or its contents do not match the expected hash.
    """
    whole = hashlib.sha256(settings.encode())
    for path in files:
        try:
            regular_size(path)
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            blob = path.resolve()
        except OSError as exc:
            raise ModelError(f"the model's file {path} cannot be read: {exc}") from exc
        if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name) and blob.name != found:
            raise ModelError(
                f"the model's file {path} differs from the hub's: its SHA-256 is {found}, not {blob.name}; delete {blob}, "
                "and it will be fetched again"
            )
        known = _PINNED.get((path.parent.name, path.name), found)
        if known != found:
            raise ModelError(
                f"the model's file {path} differs from the one in its commit: its SHA-256 is {found}, not {known}; "
                f"delete {blob}, and do not trust its source"
            )
        whole.update(f"{path.name} {found}\n".encode())
    return whole.hexdigest()[:32]


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Check that a folder's files do not change during a block, for example because a training run writes to it.

    Raises:
        ModelError: The files changed, so the block may have read parts of two models.
    """
    before = _stamps(folder)
    yield
    if _stamps(folder) != before:
        raise ModelError(f"the model in {folder} changed while it was being read; load it again")


def _stamps(folder: Path) -> list[tuple[str, int, int]]:
    return [(path.name, found.st_size, found.st_mtime_ns) for path in _files(folder) for found in (path.stat(),)]


def _files(folder: Path) -> list[Path]:
    found = {path for pattern in _PATTERNS for path in folder.glob(pattern)}
    return sorted(path for path in found if path.name not in (CALIBRATION, FACTS))
