"""Write the files of an export, which needs torch, onnx and the libraries of the target."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from safetensors.numpy import save

from ..encoders.graphs import OPSET, write_towers
from ..encoders.token_files import write_tokens
from ..encoders.triton_backend import REFERENCE
from ..encoders.two_tower import TwoTowerEncoder
from ..errors import ModelError
from ..files import CALIBRATION
from .folder import describe, facts_of
from .gate import EncodedPairs
from .measure import CheckPairs
from .openvino import write_openvino
from .options import ExportOptions
from .tensorrt import write_tensorrt
from .triton import write_triton
from .typing_lint import lint_typing
from .web import write_web


def write_export(
    source: TwoTowerEncoder,
    home: Path | None,
    made: Path,
    options: ExportOptions,
    recipe: str | None,
    reference: tuple[CheckPairs, EncodedPairs],
) -> dict[str, Any]:
    """Write an export, except for the results of its comparison with the source.

    Args:
        source: The model.
        home: Folder of the model's files, if they have one.
        made: Folder to write to, which is emptied first.
        options: Options of the export.
        recipe: The recipe for int8.
        reference: The generated pairs, and the model's vectors for them.

    Returns:
        The entries of the manifest.

    Raises:
        ModelError: The export cannot be written.
    """
    for left in made.iterdir():  # left by a recipe that did not pass
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    opset = options.opset or OPSET
    try:
        floats = options.to == "web"  # transformers.js normalises images itself
        write_towers(source, made, precision=options.precision, recipe=recipe, opset=opset, multiply_bytes=not floats)
    except (ModelError, OSError):
        raise
    except Exception as exc:  # exporters raise their own exceptions
        raise ModelError(f"{source.model} cannot be written as ONNX: {type(exc).__name__}: {exc}") from exc
    if options.precision == "fp16":
        _check_types(source, made)
    pairs, vectors = reference
    said = {"image": vectors.image, "text": vectors.text}
    (made / REFERENCE).write_bytes(save(said, metadata={"pixels": pairs.digest}))
    if home and (home / CALIBRATION).is_file():
        shutil.copyfile(home / CALIBRATION, made / CALIBRATION)
    facts = {
        **facts_of(source, home),
        "format": "onnx" if options.to == "tensorrt" else options.to,
        "precision": options.precision,
        "recipe": recipe,
        "opset": opset,
        "tokens": write_tokens(source, made, web=options.to == "web"),
    }
    _fit_to_target(made, facts, options)
    describe(made, facts, [], passed=True)
    return facts


def _check_types(source: TwoTowerEncoder, made: Path) -> None:
    """Make sure that a half-precision graph uses half precision throughout, because TensorRT does not change types."""
    for tower in ("image", "text"):
        if found := lint_typing(made / f"{tower}.onnx"):
            raise ModelError(
                f"the {tower} tower of {source.model} is not typed for half precision: {'; '.join(found[:3])}"
            )


def _fit_to_target(made: Path, facts: dict[str, Any], options: ExportOptions) -> None:
    """Convert ONNX graphs to the form that the target needs."""
    if options.to == "triton":
        write_triton(made, facts, options.triton_backend, options.max_batch)
    elif options.to == "tensorrt":
        describe(made, facts, [], passed=True)
        write_tensorrt(made, made, max_batch=options.max_batch)
    elif options.to == "openvino":
        write_openvino(made, made, options.precision)
        for graph in made.glob("*.onnx*"):
            graph.unlink()
    elif options.to == "web":
        with tempfile.TemporaryDirectory(dir=made.parent) as name:
            for graph in made.glob("*.onnx*"):
                graph.rename(Path(name) / graph.name)
            write_web(Path(name), made, facts)
