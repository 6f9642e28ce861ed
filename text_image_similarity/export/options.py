"""What an export is to be."""

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
    """What an export is to be.

    Args:
        to: What will run it: `onnx`, ONNX Runtime anywhere; `openvino`, for Intel's processors; `tensorrt`, ONNX with a script that
            builds plans on the GPU that serves them; `triton`, a model repository for NVIDIA's inference server; or `web`,
            transformers.js in a browser or under Node.
        precision: `fp32`; `fp16`, half the size, for GPUs; or `int8`, a quarter of the size, for CPUs.
        recipe: How int8 is made: `dynamic` rounds weights and activations, which is faster; `weights` rounds weights alone,
            which keeps scores closer; `auto` takes the first of them that passes.
        opset: Version of ONNX's operators; by default the newest one that all targets read.
        triton_backend: What runs the towers in Triton: its `onnxruntime` backend; `tensorrt`, for plans that are built on the
            GPU that serves them; or `python`, where the server lacks both and its Python environment has onnxruntime.
        max_batch: Most items of a batch, in Triton and TensorRT.
        check_data: Table of images and captions on which the export is compared with its source, up to 1,000 pairs, in addition
            to 128 drawn ones.
        allow_drift: Write the export even if its scores are further from its source's than its precision explains; every
            summary then says so.
        force: Replace an export that is there already.

    Raises:
        ConfigError: A value is outside its choices or range.

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
            raise ConfigError("an export for OpenVINO is in fp32, or in int8 with recipe='weights'")
        if self.opset is not None:
            at_least("opset", self.opset, 18)
        for name in ("allow_drift", "force"):
            true_or_false(name, getattr(self, name))

    @property
    def recipes(self) -> tuple[str | None, ...]:
        """The ways to try, best first."""
        if self.precision != "int8":
            return (None,)
        if self.recipe != "auto":
            return (self.recipe,)
        return ("weights",) if self.to == "openvino" else ("dynamic", "weights")
