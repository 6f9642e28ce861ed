"""A small dual encoder: an image tower and a text tower, each chosen by name, that map to the same space.

The towers take and return tensors; this package reads no files and chooses no device. `config.json` holds a
`DualEncoderConfig`, from which `DualEncoder` builds the towers with random weights.
"""

from __future__ import annotations

from .image import Backbone, build_backbone
from .model import DualEncoder, DualEncoderConfig
from .text import HEAD, PAD, UNK

__all__ = [
    "HEAD",
    "PAD",
    "UNK",
    "Backbone",
    "DualEncoder",
    "DualEncoderConfig",
    "build_backbone",
]
