"""Check an export on the machine that will run it."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from ..config import Config
from ..encoders import load_encoder
from ..encoders.exported import load_exported, read_manifest
from ..encoders.triton_backend import REFERENCE
from ..errors import ModelError
from ..files import path_text
from .gate import BOUNDS, EncodedPairs, Parity, compare
from .measure import CheckPairs, drawn, encoded, pairs_of


def check_export(
    folder: str | PathLike[str], config: Config | None = None, *, check_data: str | PathLike[str] | None = None
) -> tuple[Parity, ...]:
    """Compare an export, on the generated pairs, with the vectors of its source, which were stored when it was made.

    Args:
        folder: The export.
        config: `backend` is used and, with `check_data`, the settings for fetching. `model` is ignored.
        check_data: A table for a second comparison, for which the source is loaded.

    Returns:
        The comparison on the generated pairs and, with `check_data`, the comparison on the table.

    Raises:
        ModelError: The export is damaged, or the generated images are different on this machine.
        TableError: The table cannot be read.
    """
    place, config = Path(path_text(folder, "folder")), replace(config or Config(), model=str(folder))
    manifest = read_manifest(place)
    export, bounds = load_exported(str(folder), place, config), BOUNDS[manifest["precision"]]
    pairs = drawn(export)
    found = [compare(pairs.name, _reference(place, pairs), encoded(export, pairs), bounds)]
    if check_data is not None:
        settings = {"model": manifest["source"]["model"], "revision": manifest["source"]["revision"]}
        source = load_encoder(replace(config, **settings, device="cpu", precision="fp32", backend="torch"))
        pairs = pairs_of(check_data, config, export)
        found.append(compare(pairs.name, encoded(source, pairs), encoded(export, pairs), bounds))
    return tuple(found)


def _reference(place: Path, pairs: CheckPairs) -> EncodedPairs:
    """Read the source's vectors for the generated pairs."""
    try:
        with safe_open(place / REFERENCE, framework="np") as file:
            made_of, image, text = file.metadata()["pixels"], file.get_tensor("image"), file.get_tensor("text")
    except (OSError, KeyError, SafetensorError) as exc:
        raise ModelError(f"the export in {place} cannot be checked: {REFERENCE}: {exc}") from exc
    if made_of != pairs.digest:
        raise ModelError(
            f"the export in {place} cannot be checked here with the generated images, because this machine's Pillow draws them "
            "differently; check it against its source on your own table: --check-data TABLE (check_data=...)"
        )
    nothing = np.empty((0, image.shape[1]), np.float32)
    return EncodedPairs(image, text, nothing, nothing, 0.0, 0.0)
