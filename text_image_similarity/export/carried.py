"""An export in the hands of another system, such as a model registry: tables in, tables out, and what it needs there.

That is the export, a copy of this package without weights, and a few libraries, without torch and transformers.
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
_FORMATS = ("onnx", "web")  # which ONNX Runtime runs
_LIBRARIES = ("httpcore", "httpx", "numpy", "onnxruntime", "pandas", "pillow", "safetensors", "socksio", "tokenizers")


def requirements() -> list[str]:
    """Return the libraries that scoring an export needs, in the versions that are installed here."""
    return [f"{library}=={version(library)}" for library in _LIBRARIES]


def checked_export(folder: Path) -> dict[str, Any]:
    """Return the manifest of an export that another system can carry.

    Raises:
        ModelError: It is damaged, or ONNX Runtime does not run it.
    """
    manifest = read_manifest(folder)
    if manifest["format"] not in _FORMATS:
        source = manifest["source"]["model"]
        raise ModelError(f"{folder} is an export for {manifest['format']}; export {source} for onnx to put it there")
    check_files(folder, manifest)
    return manifest


@contextmanager
def package_copy() -> Iterator[Path]:
    """Give a folder with this package's code, without weights, until the end of the block."""
    with tempfile.TemporaryDirectory() as name:
        code = Path(name) / _PACKAGE.name
        shutil.copytree(_PACKAGE, code, ignore=shutil.ignore_patterns("weights", "__pycache__"))
        yield code


def open_carried(folder: str | PathLike[str], settings: Mapping[str, Any] | None = None) -> CarriedModel:
    """Load an export with settings as JSON holds them.

    Raises:
        ConfigError: A setting is wrong.
        ModelError: The export is damaged.
    """
    config = carried_config(folder, settings)
    return CarriedModel(config, load_encoder(config))


def carried_config(folder: str | PathLike[str], settings: Mapping[str, Any] | None) -> Config:
    """Return the settings of an export that strangers may ask.

    Args:
        folder: The export.
        settings: Settings of `Config` but for `model`, as JSON holds them.

    Raises:
        ConfigError: One is wrong.
    """
    given = dict(settings or {})
    if "model" in given:
        raise ConfigError("the settings of a carried model name no model; it is the export")
    limits = Limits(**{"allow_local_files": False, **given.get("limits", {})})
    try:
        return Config(**{**given, "model": Path(folder), "limits": limits})
    except TypeError as exc:
        raise ConfigError(f"the settings of a carried model: {exc}") from exc


class CarriedModel:
    """What a registry asks for scores.

    Args:
        config: Settings, with the export as the model.
        encoder: The export, loaded.
    """

    def __init__(self, config: Config, encoder: Encoder):
        self.config = config
        self.encoder = encoder

    def predict(self, rows: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Score each row's image, `image` or else `url`, with its `caption`.

        Args:
            rows: The pairs. An image is a file's bytes, or as text, as JSON holds it, its base64. A cell without a value holds
                None or NaN.
            params: Of MLflow; there are none.

        Returns:
            For each row `similarity`, or None, and `error`, or None.
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
    """Return an image's bytes; of a text that is not base64 the text's own, which then are not an image."""
    try:
        return b64decode(image, validate=True) if isinstance(image, str) else image
    except ValueError:
        return str(image).encode()
