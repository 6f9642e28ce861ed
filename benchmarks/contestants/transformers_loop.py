"""A plain loop with `transformers`' CLIPModel, both as documented and in the fastest form that we found.

The documented loop opens the files of a batch, calls the processor and the model on images and captions together, and
computes the cosine. Since transformers 5, the processor resizes with torchvision by default; with the Pillow processor,
the same loop follows OpenAI's original preprocessing, and is the reference for all scores.

The best settings on 2 cores are inference mode, captions of similar length together, and batches of 16. The following
did not help: batches of 4, 8 or 32; one or two DataLoader workers (up to 10 % slower, because the model keeps both
cores busy); decoding with torchvision; torch.compile (45 s to compile, and the same speed).
"""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from transformers import AutoProcessor, CLIPModel

from ..inputs import MODEL, Row
from . import BATCH, Score, batches, by_length


def load(
    *, batch_size: int = BATCH, sort: bool = False, device: str = "cpu", half: bool = False, **options: Any
) -> Score:
    """Load the model for the loop; `backend="pil"` selects the Pillow processor."""
    dtype = torch.float16 if half else torch.float32
    model, processor = CLIPModel.from_pretrained(MODEL, dtype=dtype), AutoProcessor.from_pretrained(MODEL, **options)
    model.to(device)

    @torch.inference_mode(sort)
    def score(rows: list[Row]) -> list[float]:
        scores: list[float] = []
        for batch in batches(rows, batch_size):
            images, texts = [Image.open(row.path) for row in batch], [row.caption for row in batch]
            inputs = processor(text=texts, images=images, return_tensors="pt", padding=True, truncation=True)
            with torch.no_grad():
                outputs = model(**inputs.to(device, dtype))  # token ids stay integers
            # The model normalises its embeddings itself.
            scores += (outputs.image_embeds * outputs.text_embeds).sum(dim=-1).tolist()
        return scores

    return by_length(score) if sort else score
