"""Run an export inside another system, such as a model registry, which passes tables in and gets tables back.

The system needs the export, a copy of this package without weights, and a few libraries, but no torch or transformers.
"""

from __future__ import annotations

import shutil
import tempfile
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import Config, Limits
from ..encoders import Encoder, load_encoder
from ..encoders.exported import check_files, read_manifest
from ..errors import ConfigError, ModelError
from ..pipeline import score_images

if TYPE_CHECKING:
    import pandas as pd

_PACKAGE = Path(__file__).parents[1]
_FORMATS = ("onnx", "web")  # formats of exports that ONNX Runtime runs
_LIBRARIES = ("httpcore", "httpx", "numpy", "onnxruntime", "pandas", "pillow", "safetensors", "socksio", "tokenizers")


def requirements() -> list[str]:
    """Return the libraries that scoring an export needs, pinned to the installed versions."""
    return [f"{library}=={version(library)}" for library in _LIBRARIES]


def checked_export(folder: Path) -> dict[str, Any]:
    """Check that an export can run inside another system, and return its manifest.

    Raises:
        ModelError: The export is damaged, or ONNX Runtime cannot run it.
    """
    manifest = read_manifest(folder)
    if manifest["format"] not in _FORMATS:
        source = manifest["source"]["model"]
        raise ModelError(f"{folder} is an export for {manifest['format']}; export {source} for onnx instead")
    check_files(folder, manifest)
    return manifest


@contextmanager
def package_copy() -> Iterator[Path]:
    """Yield a copy of this package's code, without weights, which is deleted at the end of the block."""
    with tempfile.TemporaryDirectory() as name:
        code = Path(name) / _PACKAGE.name
        shutil.copytree(_PACKAGE, code, ignore=shutil.ignore_patterns("weights", "__pycache__"))
        yield code


def open_carried(folder: str | PathLike[str], settings: Mapping[str, Any] | None = None) -> CarriedModel:
    """Load an export, with settings given as JSON values.

    Raises:
        ConfigError: A setting is wrong.
        ModelError: The export is damaged.
    """
    config = carried_config(folder, settings)
    return CarriedModel(config, load_encoder(config))


def carried_config(folder: str | PathLike[str], settings: Mapping[str, Any] | None) -> Config:
    """Return the settings for an export that untrusted callers may use; by default, they cannot read local files.

    Args:
        folder: The export.
        settings: Settings of `Config` other than `model`, as JSON values.

    Raises:
        ConfigError: A setting is wrong.
    """
    given = dict(settings or {})
    if "model" in given:
        raise ConfigError("the settings of an exported model cannot name a model, because the export is the model")
    limits = Limits(**{"allow_local_files": False, **given.get("limits", {})})
    try:
        return Config(**{**given, "model": Path(folder), "limits": limits})
    except TypeError as exc:
        raise ConfigError(f"the settings of an exported model are wrong: {exc}") from exc


class CarriedModel:
    """The object through which a registry scores pairs.

    Args:
        config: Settings, with the export as the model.
        encoder: The loaded export.
    """

    def __init__(self, config: Config, encoder: Encoder):
        self.config = config
        self.encoder = encoder

    def predict(self, rows: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Score the image in `image`, or else in `url`, against the caption in `caption`, for each row.

        Args:
            rows: The pairs. `image` holds the bytes of a file, or their base64 as text, as in JSON. Empty cells hold
                None or NaN.
            params: Parameters of MLflow; not used.

        Returns:
            A table with the same index and the columns `similarity` and `error`, one of which is None in each row.
        """
        import pandas as pd

        def cells(name: str) -> list[Any]:
            column = rows[name] if name in rows else [None] * len(rows)
            return [cell if isinstance(cell, str | bytes) else None for cell in column]

        pictures = map(_bytes_of, cells("image"))
        images = [url if picture is None else picture for picture, url in zip(pictures, cells("url"), strict=True)]
        results = score_images(images, cells("caption"), self.config, encoder=self.encoder)
        found = [(None if result.error else result.similarity, result.error) for result in results]
        return pd.DataFrame(found, columns=["similarity", "error"], index=rows.index, dtype=object)


def _bytes_of(image: str | bytes | None) -> bytes | None:
    """Return an image's bytes. Text that is not base64 is returned as bytes, which are then refused as an image."""
    try:
        return b64decode(image, validate=True) if isinstance(image, str) else image
    except ValueError:
        return str(image).encode()
