"""Export a model to ONNX once for this machine, to a folder of the user's cache with two graphs and a tokenizer.

The folder appears only after its graphs have been compared with the model on the same images and captions. Folders for
other machines, which record where they came from, are written by the package `export`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ..errors import ModelError
from ..folders import private_folder
from .facts import model_facts
from .fingerprint import FACTS
from .graphs import write_towers
from .onnx_backend import open_backend
from .token_files import CAPTIONS, write_tokens
from .two_tower import TwoTowerEncoder, unit_rows

FP32_TOLERANCE = 1e-5  # largest difference for each value of a unit vector
_OPSET = 20  # long supported by ONNX Runtime; newer ones are not faster on a CPU
INT8_COSINE = 0.98  # lowest cosine between an int8 vector and its float32 vector


def export(encoder: TwoTowerEncoder, folder: Path, *, int8: bool) -> None:
    """Export a model that torch runs in float32 on the CPU, and compare the result with it.

    Args:
        encoder: The model.
        folder: Folder to write, which appears complete or not at all.
        int8: Whether to round the matrices of both towers to int8, and activations at run time.

    Raises:
        ModelError: The model cannot be exported, or its exported form returns different embeddings.
        Exception: Any other error of torch, ONNX Runtime or the file system.
    """
    with private_folder(folder.parent) as staging:
        made = staging / "model"
        made.mkdir()
        _write_facts(encoder, made)
        write_towers(encoder, made, precision="int8" if int8 else "fp32", opset=_OPSET)
        _check(encoder, made, int8=int8)
        made.rename(folder)


def _write_facts(encoder: TwoTowerEncoder, folder: Path) -> None:
    facts = {
        "weights": encoder.weights,
        **model_facts(encoder),
        "tokens": write_tokens(encoder, folder),
    }
    (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _check(encoder: TwoTowerEncoder, folder: Path, *, int8: bool) -> None:
    """Check that both forms of the model compute the same embeddings from the same images and captions.

    Raises:
        ModelError: The results differ.
    """
    height, width = encoder.preprocess.side
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (4, -(-height // 16), -(-width // 16), 3), dtype=np.uint8)
    pixels = [np.ascontiguousarray(p.repeat(16, 0).repeat(16, 1)[:height, :width]) for p in coarse]
    rows = encoder.tokenize(CAPTIONS)
    backend = open_backend(folder, encoder.tokens, precision="int8" if int8 else "fp32")
    pairs = [
        (encoder.encode_pixels(pixels), unit_rows(backend.image(pixels))),
        (encoder.encode_tokens(rows), unit_rows(backend.text(rows))),
    ]
    for tower, (ours, theirs) in zip(("image", "text"), pairs, strict=True):
        cosine, difference = float((ours * theirs).sum(1).min()), float(np.abs(ours - theirs).max())
        if not (cosine >= INT8_COSINE if int8 else difference <= FP32_TOLERANCE):
            raise ModelError(
                f"the exported {tower} tower returns embeddings that differ from the model's: cosine {cosine:.4f}, "
                f"difference {difference:.1e}"
            )
