"""What a model's embeddings depend on, as one short name: a hash of its files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ModelError
from ..files import CALIBRATION

FACTS = "encoder.json"  # next to exported graphs, which change nothing: it names the model's fingerprint itself
# Settings, vocabularies and weights in the layouts that are read; a model card next to them changes nothing.
_SHA256 = re.compile("[0-9a-f]{64}")  # of other files the cache has the SHA-1 that git has
# The weights of pinned models, by commit and name: the hub is not asked what they should be.
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
_PATTERNS = ("*.json", "*.txt", "*.model", "*.safetensors", "pytorch_model*.bin")


def fingerprint(folder: Path) -> str:
    """Return the hash, 32 hexadecimal digits, of the names and contents of a model's files.

    Reads them whole: half a second for the 600 MB of CLIP ViT-B/32.

    Raises:
        ModelError: A file cannot be read.
    """
    return fingerprint_of(_files(folder))


def fingerprint_of(files: Iterable[Path], settings: str = "") -> str:
    """Return the hash of files' names and contents, and of settings that no file holds.

    Large files in the hub's cache are called by the SHA-256 that the hub gave for them, and are held to it; the weights of the two
    pinned models are held to what is known of them here.

    Raises:
        ModelError: A file cannot be read, or is not what the hub has, or had when the model was pinned.
    """
    whole = hashlib.sha256(settings.encode())
    for path in files:
        try:
            if not path.is_file():  # a pipe or a device, which may have no end
                raise FileNotFoundError("it is not a regular file")
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            blob = path.resolve()
        except OSError as exc:
            raise ModelError(f"the model's file {path} cannot be read: {exc}") from exc
        if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name) and blob.name != found:
            raise ModelError(
                f"the model's file {path} is not what the hub has: its SHA-256 is {found}, not {blob.name}; delete {blob}, "
                "and it will be fetched again"
            )
        known = _PINNED.get((path.parent.name, path.name), found)
        if known != found:
            raise ModelError(
                f"the model's file {path} is not the one of its commit: its SHA-256 is {found}, not {known}; delete {blob}, "
                "and do not trust where it came from"
            )
        whole.update(f"{path.name} {found}\n".encode())
    return whole.hexdigest()[:32]


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Make sure that a folder's files stay as they are for the time of a block: training may be writing there.

    Raises:
        ModelError: They were written meanwhile, so what the block read may be of two models.
    """
    before = _stamps(folder)
    yield
    if _stamps(folder) != before:
        raise ModelError(f"the model in {folder} was written while it was read; load it again")


def _stamps(folder: Path) -> list[tuple[str, int, int]]:
    return [(path.name, found.st_size, found.st_mtime_ns) for path in _files(folder) for found in (path.stat(),)]


def _files(folder: Path) -> list[Path]:
    found = {path for pattern in _PATTERNS for path in folder.glob(pattern)}
    return sorted(path for path in found if path.name not in (CALIBRATION, FACTS))
