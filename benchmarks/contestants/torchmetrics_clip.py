"""torchmetrics' CLIPScore, which takes uint8 tensors and returns 100 times the mean cosine, or 0 if that is negative.

A call with one pair, as in torchmetrics' documentation, returns that pair's score; a call with many pairs returns only
their mean, but is faster (batches of 16). Model folders are passed as a callable. CLIPScore fails with transformers 5,
because `get_image_features` no longer returns a tensor, so the model that is passed here returns one.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torchmetrics.multimodal.clip_score import CLIPScore
from torchvision.io import decode_image
from transformers import CLIPModel, CLIPProcessor

from ..inputs import MODEL, Row
from . import Score, batches


class TensorCLIP(CLIPModel):  # type: ignore[misc]  # its types are not read
    """A CLIPModel with the return types of transformers 4."""

    def get_image_features(self, *args: Any, **options: Any) -> Tensor:
        features: Tensor = super().get_image_features(*args, **options).pooler_output
        return features

    def get_text_features(self, *args: Any, **options: Any) -> Tensor:
        features: Tensor = super().get_text_features(*args, **options).pooler_output
        return features


def load(*, batch_size: int = 1) -> Score:
    """Load the metric; with a batch size above 1, the only score is the mean."""
    metric = CLIPScore(lambda: (TensorCLIP.from_pretrained(MODEL), CLIPProcessor.from_pretrained(MODEL)))

    def each(rows: list[Row]) -> list[float]:
        return [metric(decode_image(row.path), row.caption).item() / 100 for row in rows]

    def mean(rows: list[Row]) -> list[float]:
        metric.reset()
        for batch in batches(rows, batch_size):
            metric.update([decode_image(row.path) for row in batch], [row.caption for row in batch])
        return [metric.compute().item() / 100]

    return each if batch_size == 1 else mean
