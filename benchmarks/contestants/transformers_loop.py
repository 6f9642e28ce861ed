"""A plain loop over `transformers`' CLIPModel, as its documentation shows it, and the fastest one we found.

The documented loop opens the files of a batch, calls the processor and the model on images and captions together, and
takes the cosine. Since transformers 5 the processor resizes with torchvision by default; with the Pillow processor the
same loop follows OpenAI's original preprocessing and is the reference for everyone's scores.

The best on 2 cores: inference mode, captions of like length together, batches of 16. What did not help there: 4, 8 or 32
at once; one or two DataLoader workers (up to 10 % slower, because the model keeps both cores busy); decoding with
torchvision; torch.compile (45 s to compile, the same speed).
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
    """Load the loop; `backend="pil"` gives the Pillow processor."""
    dtype = torch.float16 if half else torch.float32
    model, processor = CLIPModel.from_pretrained(MODEL, dtype=dtype), AutoProcessor.from_pretrained(MODEL, **options)
    model.to(device)  # type: ignore[arg-type]  # its stubs take a model here

    @torch.inference_mode(sort)
    def score(rows: list[Row]) -> list[float]:
        scores: list[float] = []
        for batch in batches(rows, batch_size):
            images, texts = [Image.open(row.path) for row in batch], [row.caption for row in batch]
            inputs = processor(text=texts, images=images, return_tensors="pt", padding=True, truncation=True)
            with torch.no_grad():
                outputs = model(**inputs.to(device, dtype))  # which leaves token ids whole numbers
            # The model divides by the norms itself.
            scores += (outputs.image_embeds * outputs.text_embeds).sum(dim=-1).tolist()
        return scores

    return by_length(score) if sort else score
