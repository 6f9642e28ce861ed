"""Convert the two ONNX graphs of an export to OpenVINO's own files, which open three times as fast.

Weights keep their type: float32, or int8 if the ONNX export has int8 weights that are converted to floats when they are
used. NNCF is not needed for this conversion. The result is not compared with the source here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..encoders.openvino_backend import import_openvino
from ..errors import ConfigError, ModelError
from ..system import require

PRECISIONS = ("fp32", "int8")


def write_openvino(onnx_folder: Path, out: Path, precision: str) -> None:
    """Write `image.xml`, `image.bin`, `text.xml` and `text.bin`.

    Args:
        onnx_folder: Folder with `image.onnx` and `text.onnx`; int8 graphs must be made with the recipe `weights`.
        out: An existing folder.
        precision: Precision of the ONNX export, `fp32` or `int8`.

    Raises:
        ConfigError: OpenVINO does not run exports in this precision.
        MissingExtraError: OpenVINO is missing.
        ModelError: OpenVINO cannot read a graph, or finds it in another precision.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"an export for OpenVINO must be in {' or '.join(PRECISIONS)}, not in {precision}")
    require("an export for OpenVINO", "openvino", extra="openvino")
    openvino = import_openvino()
    core = openvino.Core()
    found: set[str] = set()
    for tower in ("image", "text"):
        graph = onnx_folder / f"{tower}.onnx"
        try:
            model = core.read_model(graph)
            found |= {_type(operation) for operation in model.get_ops() if operation.get_type_name() == "Constant"}
            openvino.save_model(model, out / f"{tower}.xml", compress_to_fp16=False)
        except RuntimeError as exc:  # the only kind that OpenVINO raises
            raise ModelError(f"{graph} cannot be converted to OpenVINO: {exc}") from exc
    held = "fp16" if "f16" in found else "int8" if "i8" in found else "fp32"
    if held != precision:
        raise ModelError(f"{onnx_folder} holds {held} weights, not {precision}")


def _type(operation: Any) -> str:
    return str(operation.get_element_type().get_type_name())
