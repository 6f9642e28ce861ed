"""Measure how much `preprocess="fast"` and `precision="int8"` change scores, on 1,000 photos that are new to mini."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from text_image_similarity import Limits, load_encoder
from text_image_similarity.decode import decode
from text_image_similarity.metrics import agreement, retrieval

from ..job import Job
from ..results import Options, Rounds, Section, markdown
from ..scoring import MINI, VIT, config_of

SIZES = ((512, 512), (672, 672), (1024, 768), (3000, 2000))
_PHOTOS = "flickr8k/validation.parquet"
_CAPTIONS = 5


def fast(data: str, width: int, height: int) -> dict[str, Any]:
    """Compare mini's scores of photos, enlarged to a size, with exact and fast preprocessing."""
    photos, captions = _photos(data)
    encoders = [load_encoder(config_of(MINI, preprocess=mode)) for mode in ("exact", "fast")]

    def prepared(photo: bytes) -> list[Any]:
        file = _enlarged(photo, (width, height))
        return [e.prepare(decode(file, Limits(), shorter_side=e.decode_side)) for e in encoders]

    with ThreadPoolExecutor() as pool:
        both = list(pool.map(prepared, photos))
    texts = encoders[0].encode_text([five[0] for five in captions])
    exact, near = (
        (encoder.encode_pixels([pixels[i] for pixels in both]) * texts).sum(axis=1)
        for i, encoder in enumerate(encoders)
    )
    return {"pairs": len(exact), **_moved(exact, near)}


def int8(data: str, model: str, count: int) -> dict[str, Any]:
    """Compare a model's embeddings, scores and recall in int8 with those in FP32."""
    photos, captions = _photos(data)
    images = [Image.open(io.BytesIO(photo)).convert("RGB") for photo in photos[:count]]
    texts = [text for five in captions[:count] for text in five]
    owner = np.repeat(np.arange(count), _CAPTIONS)
    found: dict[str, Any] = {"pairs": len(texts)}
    vectors = {}
    for precision in ("fp32", "int8"):
        encoder = load_encoder(config_of(model, precision=precision, backend="onnx"))
        vectors[precision] = encoder.encode_image(images), encoder.encode_text(texts)
        report = retrieval(*vectors[precision], owner)
        found[precision] = [report.text_to_image.recall[10], report.image_to_text.recall[10]]
    for tower, one, other in zip(("image", "text"), vectors["fp32"], vectors["int8"], strict=True):
        cosines = (one * other).sum(axis=1)
        found[tower] = {"mean": float(cosines.mean()), "least": float(cosines.min())}
    scores = [(image[owner] * text).sum(axis=1) for image, text in vectors.values()]
    return found | _moved(*scores)


def _moved(exact: Any, near: Any) -> dict[str, float]:
    moved = np.abs(exact - near)
    return {"mean": float(moved.mean()), "max": float(moved.max()), "rank": agreement(near, exact).spearman}


def _enlarged(photo: bytes, size: tuple[int, int]) -> bytes:
    out = io.BytesIO()
    image = Image.open(io.BytesIO(photo)).convert("RGB")
    image.resize(size, Image.Resampling.LANCZOS).save(out, "JPEG", quality=90)
    return out.getvalue()


def _photos(data: str) -> tuple[list[bytes], list[list[str]]]:
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(Path(data) / _PHOTOS).to_pylist()
    photos = [row["image"]["bytes"] for row in rows]
    return photos, [[row[f"caption_{i}"] for i in range(_CAPTIONS)] for row in rows]


def jobs(options: Options) -> list[Job]:
    here, data = __name__, {"data": str(options.data)}
    found = [
        Job(f"fast {width}x{height}", f"{here}:fast", {**data, "width": width, "height": height})
        for width, height in SIZES
    ]
    found.append(Job("int8 mini", f"{here}:int8", {**data, "model": MINI, "count": 1000}))
    found.append(Job("int8 ViT-B/32", f"{here}:int8", {**data, "model": VIT, "count": 200}))
    return found


def table(rounds: Rounds) -> str:
    latest = {name: found[-1] for name, found in rounds.items()}
    parts, changes = [], ["pairs", "mean change", "largest change", "rank correlation"]
    if lines := [[n.removeprefix("fast "), *_cells(found)] for n, found in latest.items() if n.startswith("fast")]:
        parts.append(markdown(["fast preprocessing, JPEG of", *changes], lines))
    if lines := [[n.removeprefix("int8 "), *_cells(found)] for n, found in latest.items() if n.startswith("int8")]:
        parts.append(markdown(["int8", *changes], lines))
        header = ["int8", "cosine to FP32, images: mean, smallest", "cosine to FP32, captions: mean, smallest"]
        lines = [[n.removeprefix("int8 "), *_cosines(found)] for n, found in latest.items() if n.startswith("int8")]
        parts.append(markdown(header, lines))
    if mini := latest.get("int8 mini"):
        names = ("caption to photo", "photo to caption")
        lines = [
            [name, *(f"{100 * mini[precision][i]:.1f} %" for precision in ("fp32", "int8"))]
            for i, name in enumerate(names)
        ]
        parts.append(markdown(["recall@10 of mini", "FP32", "int8"], lines))
    return "\n\n".join(parts)


def _cells(found: dict[str, Any]) -> list[str]:
    return [f"{found['pairs']:,}", f"{found['mean']:.5f}", f"{found['max']:.4f}", f"{found['rank']:.5f}"]


def _cosines(found: dict[str, Any]) -> list[str]:
    return [f"{found[tower]['mean']:.4f}, {found[tower]['least']:.4f}" for tower in ("image", "text")]


SECTION = Section("drift", jobs, table, rounds=1)
