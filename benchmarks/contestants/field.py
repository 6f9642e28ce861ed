"""The contestants, in the order of the table."""

from __future__ import annotations

from typing import Any

from . import REFERENCE, Contestant

OURS = "ours"  # the contestant that all ratios refer to

_SENTENCE = ("sentence-transformers", "torch", "transformers")
_OPEN_CLIP = ("open_clip_torch", "torch")
_METRICS = ("torchmetrics", "torch", "transformers")
_RAY = ("ray", "torch", "transformers")
_INFINITY = ("infinity-emb", "torch", "transformers")
_RETRIEVAL = ("clip-retrieval", "open_clip_torch", "torch")


def _ours(name: str, setting: str, **options: Any) -> Contestant:
    used = ("torch", "transformers")
    return Contestant(name, "text_image_similarity", setting, "ours", options, used)


def _loop(name: str, setting: str, **options: Any) -> Contestant:
    return Contestant(name, "transformers loop", setting, "transformers_loop", options)


FIELD = (
    _ours(OURS, "default"),
    _ours("ours-torch", "backend=torch", backend="torch"),
    _ours("ours-fast", "preprocess=fast", preprocess="fast"),
    _ours("ours-int8", "precision=int8", precision="int8"),
    _ours("ours-int8-fast", "precision=int8, preprocess=fast", precision="int8", preprocess="fast"),
    _loop("transformers", "documented"),
    _loop(REFERENCE, "documented, Pillow processor", backend="pil"),
    _loop("transformers-best", "best: inference mode, sorted, 16 at once", batch_size=16, sort=True),
    Contestant(
        "sentence-transformers", "sentence-transformers", "default", "sentence_transformers_clip", {}, _SENTENCE
    ),
    Contestant(
        "sentence-transformers-best",
        "sentence-transformers",
        "best: 16 at once",
        "sentence_transformers_clip",
        {"batch_size": 16},
        _SENTENCE,
    ),
    Contestant("ours-open_clip", "text_image_similarity", "a model of open_clip", "ours_open_clip", {}, _OPEN_CLIP),
    Contestant("open_clip", "open_clip", "documented", "open_clip_loop", {}, _OPEN_CLIP),
    Contestant(
        "open_clip-best",
        "open_clip",
        "best: inference mode, 16 at once",
        "open_clip_loop",
        {"batch_size": 16, "inference_mode": True},
        _OPEN_CLIP,
    ),
    Contestant("torchmetrics", "torchmetrics CLIPScore", "a pair a call", "torchmetrics_clip", {}, _METRICS),
    Contestant(
        "torchmetrics-best",
        "torchmetrics CLIPScore",
        "best: 16 a call, mean only",
        "torchmetrics_clip",
        {"batch_size": 16},
        _METRICS,
    ),
    Contestant("ray", "Ray Data", "two actors", "ray_data", {"actors": 2, "cpus": 1}, _RAY),
    Contestant(
        "ray-best",
        "Ray Data",
        "best: one actor with both cores, 16 at once",
        "ray_data",
        {"actors": 1, "cpus": 2, "batch_size": 16},
        _RAY,
    ),
    Contestant("infinity", "infinity-emb", "default", "infinity", {}, _INFINITY, "infinity"),
    Contestant(
        "infinity-best", "infinity-emb", "best: 16 at once", "infinity", {"batch_size": 16}, _INFINITY, "infinity"
    ),
    Contestant(
        "clip-retrieval",
        "clip-retrieval",
        "default: 256 at once, 4 readers",
        "clip_retrieval_inference",
        {"batch_size": 256, "readers": 4},
        _RETRIEVAL,
        "clip-retrieval",
    ),
    Contestant(
        "clip-retrieval-best",
        "clip-retrieval",
        "best: 16 at once, no reader",
        "clip_retrieval_inference",
        {"batch_size": 16, "readers": 0},
        _RETRIEVAL,
        "clip-retrieval",
    ),
)
