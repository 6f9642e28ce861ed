"""Score and embed records, images and captions: `Scorer`, and functions for single calls.

records -> distinct images -> fetch, decode, resize (threads) -> batches -> encode -> score -> ordered results
"""

from __future__ import annotations

from .classify import CLIP_TEMPLATES, Classification, classify
from .compare import image_similarity, text_similarity
from .embed import embed_images, embed_texts
from .engine import Engine, LocalEngine, ScoredPart, TaggedRows, portable, score_concurrently
from .loaders import Loaders
from .matrix import Tile, similarity_matrix, similarity_tiles
from .rows import LoadedImage, Outcome, Tag
from .score import score, score_images, score_pairs
from .scorer import Scorer
from .session import Sessions
from .sources import ImageSource, PlainColumns
from .stages import Stages, cut_among, open_cache, vectors_of
from .stats import RunStats

__all__ = [
    "CLIP_TEMPLATES",
    "Classification",
    "Engine",
    "ImageSource",
    "LoadedImage",
    "Loaders",
    "LocalEngine",
    "Outcome",
    "PlainColumns",
    "RunStats",
    "ScoredPart",
    "Scorer",
    "Sessions",
    "Stages",
    "Tag",
    "TaggedRows",
    "Tile",
    "classify",
    "cut_among",
    "embed_images",
    "embed_texts",
    "image_similarity",
    "open_cache",
    "portable",
    "score",
    "score_concurrently",
    "score_images",
    "score_pairs",
    "similarity_matrix",
    "similarity_tiles",
    "text_similarity",
    "vectors_of",
]
