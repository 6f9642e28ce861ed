"""Write an export for TensorRT: the graphs, and a script that builds plans from them on the GPU that will run them.

A plan works only on one kind of GPU with one version of TensorRT, so none is built here. The script has been run only
with a substitute for `trtexec`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import onnx

from ..checks import at_least
from ..encoders.exported import PLANS_SCRIPT
from ..errors import ConfigError, ModelError
from .typing_lint import lint_typing

_TOWERS = ("image", "text")
_AT_ONCE = 32  # batch size that kernels are optimised for


def write_tensorrt(
    onnx_folder: Path, out: Path, *, text_lengths: Sequence[int] = (16, 32, 77), max_batch: int = 128
) -> None:
    """Check the types of the graphs, and write the graphs and `build_plans.sh`.

    Args:
        onnx_folder: Folder with `image.onnx` and `text.onnx`, in fp16 for half precision.
        out: An existing folder, which may be the same.
        text_lengths: Lengths in tokens to which captions are padded, each with its own kernels. Lengths above the
            model's context length are reduced to it. A model that pads all captions has one length.
        max_batch: Largest number of images or captions per call.

    Raises:
        ConfigError: A length or `max_batch` is not a whole number of at least 1.
        ModelError: A graph would not run in its precision; the message says where.
    """
    at_least("max_batch", max_batch, 1)
    for length in text_lengths:
        at_least("text_lengths", length, 1)
    if not text_lengths:
        raise ConfigError("text_lengths needs at least one length, such as 77")
    for tower in _TOWERS:
        if found := lint_typing(onnx_folder / f"{tower}.onnx"):
            more = f", and {len(found) - 3} more" if len(found) > 3 else ""
            raise ModelError(f"{onnx_folder / tower}.onnx is not typed for TensorRT: {'; '.join(found[:3])}{more}")
    if onnx_folder.resolve() != out.resolve():
        for path in sorted(onnx_folder.glob("*.onnx*")):
            shutil.copyfile(path, out / path.name)
    script = out / PLANS_SCRIPT
    script.write_text(plans_script(onnx_folder, text_lengths=text_lengths, max_batch=max_batch), encoding="utf-8")
    script.chmod(0o755)


def plans_script(onnx_folder: Path, *, text_lengths: Sequence[int], max_batch: int) -> str:
    """Return a script that builds plans from a folder's graphs."""
    image = onnx.load(onnx_folder / "image.onnx", load_external_data=False)
    text = onnx.load(onnx_folder / "text.onnx", load_external_data=False)
    side = [size.dim_value for size in _shape(image)[1:3]]
    length = _shape(text)[1]
    context = json.loads((onnx_folder / "config.json").read_text(encoding="utf-8"))["context_length"]
    lengths = [length.dim_value] if length.dim_value else sorted({min(n, context) for n in text_lengths} | {context})
    pixels, ids = image.graph.input[0].name, text.graph.input[0].name
    image_shape = [*side, 3]
    most = min(_AT_ONCE, max_batch)
    text_options = " \\\n    ".join(
        f"--profile={number} {_options(ids, [n], most, max_batch)}" for number, n in enumerate(lengths)
    )
    values = {
        "OPSET": str(max(opset.version for opset in image.opset_import if not opset.domain)),
        "IMAGE_PROFILES": json.dumps([{"shape": image_shape, "batch": max_batch}]),
        "IMAGE_OPTIONS": _options(pixels, image_shape, most, max_batch),
        "TEXT_PROFILES": json.dumps([{"shape": [n], "batch": max_batch} for n in lengths]),
        "TEXT_OPTIONS": text_options,
    }
    script = files(__package__).joinpath(PLANS_SCRIPT).read_text(encoding="utf-8")
    for name, value in values.items():
        script = script.replace(f"@{name}@", value)
    return script


def _shape(model: onnx.ModelProto) -> Any:
    return model.graph.input[0].type.tensor_type.shape.dim


def _options(name: str, shape: Sequence[int], usual: int, most: int) -> str:
    sizes = "x".join(map(str, shape))
    return f"--minShapes={name}:1x{sizes} --optShapes={name}:{usual}x{sizes} --maxShapes={name}:{most}x{sizes}"
