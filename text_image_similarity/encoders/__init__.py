"""Models behind two verbs: `encode_image` and `encode_text`.

`load_encoder` finds the model that a `Config` names and hands it to the file of its family; each family imports its own
heavy libraries, so naming this package costs nothing.
"""

from __future__ import annotations

from .load import Encoder, PreparingEncoder, describe, identify, load_encoder, model_folder

__all__ = [
    "Encoder",
    "PreparingEncoder",
    "describe",
    "identify",
    "load_encoder",
    "model_folder",
]
