"""Write both towers of a model as ONNX files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from ...errors import ModelError
from ..token_files import CAPTIONS
from ..torch_backend import TorchBackend, Tower
from ..towers import DualEncoder
from ..towers.text import RecurrentTower
from ..two_tower import TwoTowerEncoder
from .file import write_graph
from .half import to_half
from .int8 import round_graph
from .recurrent import recurrent_graph
from .trace import fold_padding, trace

OPSET = 23  # the first version with attention as one node, which GPUs run as one kernel
IMAGE, TEXT = ("pixels", "image_embeds"), ("input_ids", "text_embeds")  # names of the graphs' inputs and outputs


def write_towers(
    encoder: TwoTowerEncoder,
    folder: Path,
    *,
    precision: str = "fp32",
    recipe: str | None = None,
    opset: int = OPSET,
    multiply_bytes: bool = True,
) -> None:
    """Write `image.onnx` and `text.onnx`; if one exceeds 2 GB, its weights go to a `.onnx.data` file next to it.

    The towers are written one after the other, so that memory holds only one graph.

    Args:
        encoder: The model, which torch must run on the CPU in float32.
        folder: Folder to write to.
        precision: `fp32`; `fp16`, with weights and products in half precision and float32 where that would be
            inaccurate; or `int8`.
        recipe: For int8, `dynamic` (the default) computes products with integers, from weights and from activations
            that are rounded token by token; `weights` rounds only weights, which become floats again when the graph is
            loaded.
        opset: Version of ONNX's operators.
        multiply_bytes: Whether `dynamic` multiplies the bytes of images directly; false for graphs that take normalised
            images.

    Raises:
        ModelError: The model cannot be written in this form.
    """
    backend = encoder.backend
    if not isinstance(backend, TorchBackend) or backend.device != "cpu" or backend.precision != "fp32":
        raise ModelError("only a model that torch runs on the CPU in fp32 can be exported")
    if encoder.preprocess.patches is not None:
        raise ModelError("a model that takes images of any shape, as patches, cannot be exported")
    for tower in ("image", "text"):
        path = folder / f"{tower}.onnx"
        graph = (_image_graph if tower == "image" else _text_graph)(encoder, backend, opset)
        if precision == "fp32":
            _save(graph, path)
            continue
        with tempfile.TemporaryDirectory(dir=folder) as name:
            _save(graph, whole := Path(name) / path.name, apart=True)
            del graph
            if precision == "fp16":
                to_half(whole, path, _tried_pixels(encoder) if tower == "image" else _tried_ids(encoder))
                continue
            round_graph(whole, path, activations=recipe != "weights", multiply_bytes=multiply_bytes)


def drop_weights(encoder: TwoTowerEncoder) -> None:
    """Free the memory of a model's weights after `write_towers`; afterwards, the model cannot encode.

    Deleting the model would not free the weights. The rewrite rules of onnxscript live as long as the process and keep
    the last graph that they were tried on, and that graph keeps the model's weights and views of them.
    """
    backend = encoder.backend
    assert isinstance(backend, TorchBackend)
    for tower in (backend.image_tower, backend.text_tower):
        for weight in (*tower.parameters(), *tower.buffers()):
            weight.data = weight.new_empty(0)


def _image_graph(encoder: TwoTowerEncoder, backend: TorchBackend, opset: int) -> Any:
    pixels = torch.zeros(2, *encoder.preprocess.side, 3, dtype=torch.uint8)
    return trace(fold_padding(backend.image_tower, pixels), pixels, {0: _batch()}, IMAGE, opset)


def _text_graph(encoder: TwoTowerEncoder, backend: TorchBackend, opset: int) -> Any:
    tower = backend.text_tower
    model = tower.model if isinstance(tower, Tower) else None
    if isinstance(model, DualEncoder) and isinstance(model.text_tower, RecurrentTower):
        return recurrent_graph(model, TEXT, opset)
    rows, whole = encoder.tokenize(["a", "photo of two dogs"]), encoder.tokens.whole
    ids = torch.from_numpy(encoder.tokens.padded(rows, encoder.context_length if whole else max(map(len, rows))))
    length = torch.export.Dim("length", min=1, max=encoder.context_length)
    return trace(tower, ids, {0: _batch()} if whole else {0: _batch(), 1: length}, TEXT, opset)


def _tried_pixels(encoder: TwoTowerEncoder) -> list[NDArray[Any]]:
    """Return images for finding large values: black, white, and coarse and fine noise, each as a batch of one."""
    height, width = encoder.preprocess.side
    rng = np.random.default_rng(0)
    found = [np.full((1, height, width, 3), level, np.uint8) for level in (0, 255)]
    for coarse in (1, 16, 16, 64):
        small = rng.integers(0, 256, (1, -(-height // coarse), -(-width // coarse), 3), np.uint8)
        found.append(small.repeat(coarse, 1).repeat(coarse, 2)[:, :height, :width])
    return found


def _tried_ids(encoder: TwoTowerEncoder) -> list[NDArray[Any]]:
    rows = encoder.tokenize([*CAPTIONS, ""])
    return list(encoder.tokens.batches(sorted(rows, key=len), most=1, step=1))


def _batch() -> Any:
    return torch.export.Dim("batch", min=1, max=65_536)


def _save(graph: Any, path: Path, *, apart: bool = False) -> None:
    """Save a graph; `apart` keeps its weights in a separate file however small they are."""
    if isinstance(graph, onnx.ModelProto):
        write_graph(graph, path, path.parent, apart=apart)
        return
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        graph.save(
            whole := Path(name) / path.name, external_data=True
        )  # writing a single file would take five times the memory
        for weight in graph.model.graph.initializers.values():
            weight.const_value = None  # see `drop_weights`
        if apart:
            for file in whole.parent.iterdir():
                file.rename(path.parent / file.name)
        else:
            write_graph(onnx.load(whole, load_external_data=False), path, whole.parent)
