"""The options of an export."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import Literal, get_args

from ..checks import at_least, one_of, true_or_false
from ..errors import ConfigError

Target = Literal["onnx", "openvino", "tensorrt", "triton", "web"]
ExportPrecision = Literal["fp32", "fp16", "int8"]
Recipe = Literal["auto", "dynamic", "weights"]
TritonBackend = Literal["onnxruntime", "tensorrt", "python"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """The options of an export.

    Args:
        to: What will run the export: `onnx` (ONNX Runtime on any machine), `openvino` (OpenVINO on Intel's processors),
            `tensorrt` (NVIDIA GPUs, with a script that builds plans on the GPU that will run them), `triton` (NVIDIA's
            inference server, as a model repository) or `web` (transformers.js in a browser or in Node).
        precision: `fp32`; `fp16`, which is half the size, for GPUs; or `int8`, which is a quarter of the size, for
            CPUs.
        recipe: How int8 is computed: `dynamic` rounds weights and activations, which is faster; `weights` rounds only
            weights, which keeps scores closer; `auto` uses the first of them that passes the comparison.
        opset: Version of ONNX's operators; by default the newest one that all targets support.
        triton_backend: What runs the towers in Triton: `onnxruntime` (Triton's own backend), `tensorrt` (plans that are
            built on the GPU that will run them) or `python` (for servers that lack both; their Python environment needs
            onnxruntime).
        max_batch: Maximum number of items in a batch, for Triton and TensorRT.
        check_data: Table of images and captions; up to 1,000 of its pairs are used to compare the export with its
            source, in addition to the 128 generated pairs.
        allow_drift: Write the export even if its scores differ from its source's by more than the bounds for its
            precision; every summary then says so.
        force: Replace an existing export.

    Raises:
        ConfigError: A value is not valid, or values cannot be combined.

    Example:
        >>> ExportOptions(precision="int8").recipe
        'auto'
    """

    to: Target = "onnx"
    precision: ExportPrecision = "fp32"
    recipe: Recipe = "auto"
    opset: int | None = None
    triton_backend: TritonBackend = "onnxruntime"
    max_batch: int = 64
    check_data: str | PathLike[str] | None = None
    allow_drift: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        one_of("to", self.to, get_args(Target))
        one_of("precision", self.precision, get_args(ExportPrecision))
        one_of("recipe", self.recipe, get_args(Recipe))
        one_of("triton_backend", self.triton_backend, get_args(TritonBackend))
        at_least("max_batch", self.max_batch, 1)
        if self.recipe != "auto" and self.precision != "int8":
            raise ConfigError(f"recipe={self.recipe!r} is for precision='int8', not for {self.precision}")
        if self.to == "openvino" and (self.precision == "fp16" or self.recipe == "dynamic"):
            raise ConfigError("an export for OpenVINO must be in fp32, or in int8 with recipe='weights'")
        if self.opset is not None:
            at_least("opset", self.opset, 18)
        for name in ("allow_drift", "force"):
            true_or_false(name, getattr(self, name))

    @property
    def recipes(self) -> tuple[str | None, ...]:
        """The recipes to try, best first."""
        if self.precision != "int8":
            return (None,)
        if self.recipe != "auto":
            return (self.recipe,)
        return ("weights",) if self.to == "openvino" else ("dynamic", "weights")
