"""infinity-emb's engine in this process: images as bytes and captions go in, and unit vectors come out.

The engine truncates captions to 20 tokens, because it mistakes transformers' default length of generated text for the
model's limit, so the scores of longer captions differ. It needs transformers 4 and NumPy 1, and so a separate
environment (`--infinity-python`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from infinity_emb import EngineArgs, SyncEngineArray

from ..inputs import MODEL, Row
from . import Score


def load(**options: Any) -> Score:
    """Start the engine; `options` are passed to `EngineArgs`."""
    name = str(MODEL)
    engines = SyncEngineArray.from_args([EngineArgs(model_name_or_path=name, device="cpu", **options)])

    def score(rows: list[Row]) -> list[float]:
        images, _ = engines.image_embed(model=name, images=[Path(row.path).read_bytes() for row in rows]).result()
        texts, _ = engines.embed(model=name, sentences=[row.caption for row in rows]).result()
        scores: list[float] = (np.array(images) * np.array(texts)).sum(axis=1).tolist()
        return scores

    return score
