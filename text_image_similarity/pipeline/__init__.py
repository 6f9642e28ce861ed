"""From records, images and captions to scores and embeddings: `Scorer`, and functions for a single call.

records -> distinct images -> fetch, decode, resize (threads) -> batches -> encode -> score -> ordered results
"""

from __future__ import annotations

from .embed import embed_images, embed_texts
from .engine import Engine, LocalEngine, ScoredPart, TaggedRows, portable, score_concurrently
from .loaders import Loaders
from .rows import LoadedImage, Outcome, Tag
from .score import score_images, score_pairs
from .scorer import Scorer
from .sources import ImageSource
from .stages import Stages, cut_among, open_cache, pair_of
from .stats import RunStats

__all__ = [
    "Engine",
    "ImageSource",
    "LoadedImage",
    "Loaders",
    "LocalEngine",
    "Outcome",
    "RunStats",
    "ScoredPart",
    "Scorer",
    "Stages",
    "Tag",
    "TaggedRows",
    "cut_among",
    "embed_images",
    "embed_texts",
    "open_cache",
    "pair_of",
    "portable",
    "score_concurrently",
    "score_images",
    "score_pairs",
]
