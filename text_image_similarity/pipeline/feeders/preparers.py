"""Preparers: the part of an encoder that prepares images, which feeders get without the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image

from ...decode import to_rgb
from ...encoders import Encoder, PreparingEncoder, SeveralEncoders
from ...preprocess import Pixels, Preprocess
from ..pixel_loader import Preparer


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Preparer that leaves images unchanged, for an encoder that prepares nothing."""

    decode_side: int | None = None

    def prepare(self, image: Image.Image) -> Image.Image:
        return image


@dataclass(frozen=True, slots=True)
class OwnSize:
    """Preparer that brings images to the size of one model.

    Args:
        preprocess: The model's preprocessing.
    """

    preprocess: Preprocess

    @property
    def decode_side(self) -> int | None:
        return self.preprocess.decode_side

    def prepare(self, image: Image.Image) -> Pixels:
        return self.preprocess.pixels(to_rgb(image))


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Preparer that brings images to the sizes of several models.

    Args:
        members: Preparer of each model.
        decode_side: See `Preparer`.
    """

    members: tuple[Preparer, ...]
    decode_side: int | None

    def prepare(self, image: Image.Image) -> tuple[Any, ...]:
        return tuple(member.prepare(image) for member in self.members)


def preparer_of(encoder: Encoder) -> Preparer | None:
    """Return an encoder's preparer in a form that can be sent to another process; None if there is none.

    A custom encoder provides its preparer in an attribute `preparer`: a small object that can be pickled, with
    `decode_side` and `prepare`.
    """
    from ...encoders.two_tower import TwoTowerEncoder  # imported here, because it loads tokenizers

    if isinstance(encoder, TwoTowerEncoder):
        return OwnSize(encoder.preprocess)
    if isinstance(encoder, SeveralEncoders):
        members = [preparer_of(member) for member in encoder.members]
        known = tuple(member for member in members if member is not None)
        return SideBySide(known, encoder.decode_side) if len(known) == len(members) else None
    if not isinstance(encoder, PreparingEncoder):
        return Unchanged()
    own: Preparer | None = getattr(encoder, "preparer", None)
    return own
