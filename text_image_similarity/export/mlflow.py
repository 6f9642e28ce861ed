"""Save an export as an MLflow model, for the registry, `mlflow models serve` and MLflow's UDFs.

The model contains the export and this package's code, and requires fixed versions of the few libraries that scoring
needs, which do not include torch and transformers. Nothing in the model is pickled.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import path_text
from ..system import require
from .carried import CarriedModel, carried_config, checked_export, open_carried, package_copy, requirements

if TYPE_CHECKING:
    from mlflow.models.model import ModelInfo

_RED_SQUARE = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEUlEQVR42mP8z4AdMDEMKQkAzUEBD7t4NqoAAAAASUVORK5CYII="


def save_model(
    folder: str | PathLike[str],
    path: str | PathLike[str],
    *,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> None:
    """Save an export as an MLflow model with the flavour `python_function`.

    Args:
        folder: The export, for ONNX Runtime.
        path: Folder to write, which must not exist yet.
        settings: Settings of `Config` other than `model`, as JSON values; `limits` is an object. When the model is
            loaded, `model_config` can override those that are given here. By default, rows cannot read local files of
            the server.
        options: Options for `mlflow.pyfunc.save_model`, such as `metadata`.

    Raises:
        ModelError: The export is damaged, or ONNX Runtime cannot run it.
        ConfigError: A setting is wrong.
        MissingExtraError: MLflow is missing.

    Example:
        save_model("exports/mini", "mlflow/mini", settings={"io_workers": 32})
    """
    with _arguments(folder, settings, options) as arguments:
        import mlflow

        mlflow.pyfunc.save_model(path_text(path, "path"), **arguments)


def log_model(
    folder: str | PathLike[str], name: str, *, settings: Mapping[str, Any] | None = None, **options: Any
) -> ModelInfo:
    """Log an export to the current MLflow run, as `save_model` saves it.

    Args:
        folder: The export, for ONNX Runtime.
        name: Name of the model in the run.
        settings: As for `save_model`.
        options: Options for `mlflow.pyfunc.log_model`, such as `registered_model_name`.

    Returns:
        MLflow's description of the model, with the `model_uri` for `mlflow models serve -m`.

    Raises:
        ModelError: The export is damaged, or ONNX Runtime cannot run it.
        ConfigError: A setting is wrong.
        MissingExtraError: MLflow is missing.
    """
    with _arguments(folder, settings, options) as arguments:
        import mlflow

        info: ModelInfo = mlflow.pyfunc.log_model(name=name, **arguments)
        return info


@contextmanager
def _arguments(
    folder: str | PathLike[str], settings: Mapping[str, Any] | None, options: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield the arguments that describe an export to MLflow, with a copy of this package that the block can use."""
    require("an MLflow model", "mlflow", extra="train")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when MLflow is imported
    import pandas as pd
    from mlflow.models.signature import ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, Schema

    place = Path(path_text(folder, "folder"))
    manifest = checked_export(place)
    carried_config(place, settings)
    # Not `binary`: MLflow would refuse a whole request if one of its rows has no image.
    image = ColSpec(AnyType(), "image", required=False)
    signature = ModelSignature(
        Schema([ColSpec("string", "url", required=False), image, ColSpec("string", "caption", required=False)]),
        Schema([ColSpec("double", "similarity", required=False), ColSpec("string", "error", required=False)]),
    )
    with package_copy() as code:
        yield {
            "loader_module": __name__,
            "data_path": str(place),
            "code_paths": [str(code)],
            "signature": signature,
            "input_example": pd.DataFrame({"url": [_RED_SQUARE], "caption": ["a red square"]}),
            "pip_requirements": requirements(),
            "model_config": dict(settings or {}),
            "metadata": {key: manifest[key] for key in ("source", "precision", "licence", "digest")},
            **options,
        }


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> CarriedModel:
    """Load an export; MLflow calls this.

    Args:
        path: The export inside the MLflow model.
        model_config: Settings, as for `save_model`.
    """
    return open_carried(path, model_config)
