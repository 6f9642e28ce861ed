"""Export a model to ONNX, once: two graphs, its tokenizer and its facts in one folder.

`image.onnx` takes bytes (n, h, w, 3), `text.onnx` padded token ids (n, t); both give features (n, embed_dim). The folder
appears only after both were run against the model on the same pictures and captions.
"""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from ..errors import ModelError
from .fingerprint import FACTS
from .onnx_backend import open_backend, open_tokens
from .tokens import Tokens
from .torch_backend import TorchBackend
from .towers.image import SameConv2d
from .two_tower import TwoTowerEncoder, unit_rows

FP32_TOLERANCE = 1e-5  # largest difference of a value of a unit vector
INT8_COSINE = 0.98  # least cosine of an int8 vector with its float32 one
# From a word to more than any context holds.
_CAPTIONS = [
    "a",
    "photo of two dogs",
    "photo of two dogs on green grass in front of an old house",
    "children are playing with a ball " * 100,
]
_one_at_a_time = Lock()


def export(encoder: TwoTowerEncoder, folder: Path, *, int8: bool) -> None:
    """Export a model that torch runs in float32 on the CPU, and check the result against it.

    Args:
        encoder: The model.
        folder: Where to; it appears complete or not at all.
        int8: Round the matrices of both towers to int8, and activations as they come.

    Raises:
        ModelError: The model cannot be exported, or its exported form gives other embeddings.
        Exception: Whatever else torch, ONNX Runtime and the disk come up with.
    """
    prefix = f".exporting-{folder.name}-"
    for left in folder.parent.glob(prefix + "*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=prefix) as name, _quiet():
        made = Path(name) / "model"
        made.mkdir()
        _write_facts(encoder, made)
        for tower, graph in zip(("image", "text"), _graphs(encoder), strict=True):
            _save(graph, made / f"{tower}.onnx", int8=int8)
        _check(encoder, made, int8=int8)
        shutil.move(made, folder)


def _graphs(encoder: TwoTowerEncoder) -> list[Any]:
    """Trace both towers."""
    backend = encoder.backend
    if not isinstance(backend, TorchBackend) or backend.device != "cpu" or backend.precision != "fp32":
        raise ModelError("only a model that torch runs on the CPU in fp32 can be exported")
    height, width = _side(encoder)
    pixels = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    rows = encoder.tokenize(_CAPTIONS[:2])
    whole = encoder.tokens.whole
    ids = torch.from_numpy(encoder.tokens.padded(rows, encoder.context_length if whole else max(map(len, rows))))
    batch = torch.export.Dim("batch", min=1, max=65_536)
    length = torch.export.Dim("length", min=1, max=encoder.context_length)
    image_tower = _folded(backend.image_tower, pixels)
    return [
        _traced(image_tower, pixels, {0: batch}),
        _traced(backend.text_tower, ids, {0: batch} if whole else {0: batch, 1: length}),
    ]


def _traced(tower: nn.Module, example: Tensor, dynamic: dict[int, Any]) -> Any:
    return torch.onnx.export(
        tower.eval(),
        (example,),
        input_names=["input"],
        output_names=["features"],
        dynamic_shapes=(dynamic,),
        dynamo=True,
        verbose=False,
    )


def _folded(tower: nn.Module, example: Tensor) -> nn.Module:
    """Return a tower whose SAME-padded convolutions have their padding in the kernel: ONNX Runtime fuses it wrongly."""
    if not any(isinstance(module, SameConv2d) for module in tower.modules()):
        return tower
    tower = copy.deepcopy(tower)
    seen: dict[nn.Module, Tensor] = {}
    for convolution in (module for module in tower.modules() if isinstance(module, SameConv2d)):
        convolution.register_forward_pre_hook(lambda module, inputs: seen.__setitem__(module, inputs[0]))
    with torch.inference_mode():
        tower(example)
    for parent in list(tower.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, SameConv2d):
                setattr(parent, name, child.folded(seen[child]))
    return tower


def _save(graph: Any, path: Path, *, int8: bool) -> None:
    if not int8:
        graph.save(path)
        return
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = graph.model_proto
    del model.graph.value_info[:]  # shapes that the tool would check with other rules than they were made by
    model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")  # or it warns on the root logger
    quantize_dynamic(
        model,
        path,
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        reduce_range=True,  # seven bits: with eight, processors without VNNI overflow and give other numbers
        weight_type=QuantType.QInt8,
    )


def _write_facts(encoder: TwoTowerEncoder, folder: Path) -> None:
    tokenizer, how = encoder.tokens.tokenizer, encoder.preprocess
    if tokenizer is None:
        raise ModelError("its tokenizer cannot be saved as one file")
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    facts = {
        "weights": encoder.weights,
        "embed_dim": encoder.embed_dim,
        "context_length": encoder.context_length,
        "logit_scale": encoder.logit_scale,
        "logit_bias": encoder.logit_bias,
        "pad": encoder.tokens.pad,
        "if_empty": encoder.tokens.encode([""])[0],
        "clean": encoder.tokens.clean,
        "whole": encoder.tokens.whole,
        "encode_special_tokens": tokenizer.encode_special_tokens,
        "preprocess": {
            "size": how.size,
            "crop": how.crop,
            "mean": how.mean,
            "std": how.std,
            "resample": int(how.resample),
            "fit": how.fit,
            "fill": how.fill,
            "rounded": how.rounded,
        },
    }
    (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    _check_tokens(encoder, open_tokens(folder, facts), tokenizer)


def _check_tokens(encoder: TwoTowerEncoder, tokens: Tokens, tokenizer: Tokenizer) -> None:
    """Read captions with both tokenizers, some made of the first and last words, where special tokens stand.

    Raises:
        ModelError: They read them differently.
    """
    size = tokenizer.get_vocab_size()
    ends = ["".join(tokenizer.id_to_token(i) or "" for i in part) for part in (range(8), range(size - 8, size))]
    captions = [*_CAPTIONS, *ends, ""]
    if tokens.encode(captions) != encoder.tokenize(captions):
        raise ModelError("its tokenizer reads captions differently once it is saved")


def _check(encoder: TwoTowerEncoder, folder: Path, *, int8: bool) -> None:
    """Run both forms of the model on the same pictures and captions.

    Raises:
        ModelError: They differ.
    """
    height, width = _side(encoder)
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (4, -(-height // 16), -(-width // 16), 3), dtype=np.uint8)
    pixels = [np.ascontiguousarray(p.repeat(16, 0).repeat(16, 1)[:height, :width]) for p in coarse]
    rows = encoder.tokenize(_CAPTIONS)
    backend = open_backend(folder, encoder.tokens, precision="int8" if int8 else "fp32")
    pairs = [
        (encoder.encode_pixels(pixels), unit_rows(backend.image(pixels))),
        (encoder.encode_tokens(rows), unit_rows(backend.text(rows))),
    ]
    for tower, (ours, theirs) in zip(("image", "text"), pairs, strict=True):
        cosine, difference = float((ours * theirs).sum(1).min()), float(np.abs(ours - theirs).max())
        if not (cosine >= INT8_COSINE if int8 else difference <= FP32_TOLERANCE):
            raise ModelError(
                f"the exported {tower} tower gives other embeddings: cosine {cosine:.4f}, difference {difference:.1e}"
            )


def _side(encoder: TwoTowerEncoder) -> tuple[int, int]:
    size = encoder.preprocess.crop or encoder.preprocess.size
    return (size, size) if isinstance(size, int) else size


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's warnings about its own workings away from people who cannot act on them.

    Filters of warnings belong to the process, so only one thread may change them at a time.
    """
    with _one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
