"""Records in, scores out: `score_pairs` for references, `score_images` for pictures in memory.

`embed_images` and `embed_texts` stop half-way, at the embeddings, for doors that compare all with all.
"""

from __future__ import annotations

from .rows import Outcome
from .score import ImageSource, embed_images, embed_texts, record, score_images, score_pairs, score_parts
from .stats import RunStats

__all__ = [
    "ImageSource",
    "Outcome",
    "RunStats",
    "embed_images",
    "embed_texts",
    "record",
    "score_images",
    "score_pairs",
    "score_parts",
]
