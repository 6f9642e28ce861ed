"""sentence-transformers with a CLIP folder: `encode` the images, `encode` the captions, compute the cosine.

The library's batches have 32 items by default, and it sorts captions by length itself; the best setting on 2 cores is
batches of 16. The library's ONNX backend needs optimum-onnx, which is incompatible with transformers 5.
"""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from sentence_transformers import SentenceTransformer

from ..inputs import MODEL, Row
from . import Score


def load(*, device: str = "cpu", half: bool = False, **options: Any) -> Score:
    """Load the model; `options` are passed to `encode`."""
    model = SentenceTransformer(str(MODEL), device=device)
    precision = torch.autocast(torch.device(device).type, torch.float16, enabled=half)

    def score(rows: list[Row]) -> list[float]:
        with precision:
            return scored(rows)

    def scored(rows: list[Row]) -> list[float]:
        images = model.encode([Image.open(row.path) for row in rows], normalize_embeddings=True, **options)
        texts = model.encode([row.caption for row in rows], normalize_embeddings=True, **options)
        scores: list[float] = (images * texts).sum(axis=1).tolist()
        return scores

    return score
