"""This package with weights in open_clip's format: `open_clip:ViT-B-32-quickgelu//PATH`."""

from __future__ import annotations

from typing import Any

from safetensors.torch import load_file, save_file

from ..inputs import BUILD, MODEL
from . import Score
from .open_clip_loop import NAME, renamed
from .ours import load as load_ours


def load(**options: Any) -> Score:
    weights = BUILD / "open_clip.safetensors"
    if not weights.exists():
        save_file(renamed(load_file(MODEL / "model.safetensors")), weights)
    return load_ours(model=f"open_clip:{NAME}//{weights}", **options)
