"""An encoder whose pictures do what their size says to the process that prepares them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.preprocess import Pixels

CRASHES, HANGS, GROWS = (13, 17), (11, 19), (64, 65)  # widths and heights


@dataclass(frozen=True, slots=True)
class MoodyPreparer:
    """Crashes its process, hangs, or prepares more than a slot holds, for pictures of these sizes.

    Args:
        pid: The process that it must not crash.
    """

    pid: int
    decode_side: int | None = None

    def prepare(self, image: Image.Image) -> Pixels:
        if image.size == CRASHES and os.getpid() != self.pid:
            os.kill(os.getpid(), signal.SIGSEGV)
        if image.size == HANGS and os.getpid() != self.pid:
            threading.Event().wait()
        pixels = ColourEncoder().prepare(image)
        return pixels.repeat(2, axis=0) if image.size == GROWS else pixels


@dataclass(frozen=True)
class MoodyEncoder(ColourEncoder):
    """Keeps the pixels that it has encoded, if it is told to.

    Args:
        keeps: Whether.
        kept: These.
    """

    keeps: bool = False
    kept: list[Pixels] = field(default_factory=list)

    @property
    def preparer(self) -> Any:
        return MoodyPreparer(os.getpid())

    def prepare(self, image: Image.Image) -> Pixels:
        return MoodyPreparer(os.getpid()).prepare(image)

    def encode_pixels(self, pixels: Sequence[Pixels]) -> Any:
        self.kept.extend(pixels if self.keeps else ())
        return super().encode_pixels(pixels)
