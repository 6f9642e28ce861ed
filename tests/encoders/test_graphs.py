"""Graphs that are built by hand or changed give the vectors of their towers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch.nn import functional as F

from text_image_similarity.encoders.graphs.recurrent import recurrent_graph
from text_image_similarity.encoders.graphs.write import TEXT
from text_image_similarity.encoders.towers import DualEncoder, DualEncoderConfig

CONTEXT = 12


def recurrent(kind: str, **more: int) -> DualEncoder:
    torch.manual_seed(3)
    shape = DualEncoderConfig(
        vocab_size=60,
        text_tower=kind,
        image_tower="mobilenet_v2",
        text_width=32,
        text_layers=2,
        embed_dim=24,
        context_length=CONTEXT,
        image_size=32,
        **more,
    )
    return DualEncoder(shape).eval().requires_grad_(False)


def session(graph: bytes | Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("head_width", [0, 40])
def test_a_recurrent_graph_equals_its_tower(kind: str, head_width: int) -> None:
    model = recurrent(kind, head_width=head_width)
    opened = session(recurrent_graph(model, TEXT, 20).SerializeToString())
    lengths = np.arange(64) % CONTEXT + 1  # 1 to the whole context
    ids = np.random.default_rng(0).integers(1, 60, (64, CONTEXT))
    ids[np.arange(CONTEXT) >= lengths[:, None]] = 0
    with torch.inference_mode():
        expected = F.normalize(model.text(torch.from_numpy(ids))).numpy()

    def vectors(rows: np.ndarray) -> np.ndarray:
        found: np.ndarray = opened.run(None, {"input_ids": rows})[0]
        return found

    together = vectors(ids)
    np.testing.assert_allclose(together, expected, atol=1e-6)
    assert np.abs(expected[1:] - expected[:-1]).max() > 1e-2  # captions differ
    for count in (2, 7):
        parts = [vectors(ids[start : start + count]) for start in range(0, 64, count)]
        np.testing.assert_array_equal(np.concatenate(parts), together)
    for row, length, vector in zip(ids, lengths, together, strict=True):
        unpadded = row[None, :length].repeat(2, axis=0)  # the backend never runs a caption alone
        np.testing.assert_array_equal(vectors(unpadded)[0], vector)
