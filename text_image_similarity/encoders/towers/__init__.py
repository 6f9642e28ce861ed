"""A small dual encoder: an image tower and a text tower, chosen by name, that meet in one space.

Tensors in, tensors out: no files, no devices. `config.json` holds a `DualEncoderConfig`, and `DualEncoder` builds the
towers it names with random weights.
"""

from __future__ import annotations

from .image import Backbone, build_backbone
from .model import DualEncoder, DualEncoderConfig
from .text import PAD, UNK

__all__ = [
    "PAD",
    "UNK",
    "Backbone",
    "DualEncoder",
    "DualEncoderConfig",
    "build_backbone",
]
