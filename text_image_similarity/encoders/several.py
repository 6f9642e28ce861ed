"""Several models as one encoder: an image is fetched and decoded once, and its embedding is that of each model, side by side.

Such an embedding is not of length 1, and its cosine means nothing: `slices` says which part of it is whose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from PIL import Image

from ..errors import UsageError
from ..preprocess import ImageLike
from ..similarity import Embeddings
from .protocols import CutIds, ModelInfo, PreparingEncoder


@dataclass(frozen=True, slots=True)
class SeveralEncoders:
    """A `PreparingEncoder` that asks several others.

    Args:
        members: At least two.
    """

    members: tuple[PreparingEncoder, ...]

    def __post_init__(self) -> None:
        if len(self.members) < 2:
            raise UsageError("several models are two or more")

    @property
    def slices(self) -> tuple[slice, ...]:
        """Which columns of an embedding are each member's."""
        ends = accumulate((member.embed_dim for member in self.members), initial=0)
        return tuple(slice(start, end) for start, end in pairwise(ends))

    @property
    def info(self) -> ModelInfo:
        infos = [member.info for member in self.members]
        prints = [info.fingerprint for info in infos]

        def joined(name: str) -> str | None:
            values = dict.fromkeys(value for info in infos if (value := getattr(info, name)) is not None)
            return ", ".join(values) or None

        return ModelInfo(
            model=", ".join(info.model for info in infos),
            revision=joined("revision"),
            device=joined("device"),
            precision=joined("precision"),
            backend=joined("backend"),
            preprocess=infos[0].preprocess,
            fingerprint=None if None in prints else " + ".join(map(str, prints)),
        )

    @property
    def embed_dim(self) -> int:
        return sum(member.embed_dim for member in self.members)

    @property
    def batch_invariant(self) -> bool:
        return all(member.batch_invariant for member in self.members)

    @property
    def context_length(self) -> int:
        """Longest caption, in tokens, that all of them read whole; 0 where one does not say."""
        return min(getattr(member, "context_length", 0) for member in self.members)

    @property
    def decode_side(self) -> int | None:
        """What is large enough for all of them."""
        sides = [member.decode_side for member in self.members]
        known = [side for side in sides if side is not None]
        return max(known) if len(known) == len(sides) else None

    def prepare(self, image: Image.Image) -> Any:
        return tuple(member.prepare(image) for member in self.members)

    def encode_pixels(self, pixels: Sequence[Any]) -> Embeddings:
        return self._side_by_side(lambda place, member: member.encode_pixels([each[place] for each in pixels]))

    def encode_image(self, images: Sequence[ImageLike]) -> Embeddings:
        return self._side_by_side(lambda _, member: member.encode_image(images))

    def tokenize(self, texts: Sequence[str]) -> list[list[Any]]:
        rows = zip(*(member.tokenize(texts) for member in self.members), strict=True)
        return [CutIds(row) if any(isinstance(ids, CutIds) for ids in row) else list(row) for row in rows]

    def encode_tokens(self, rows: Sequence[Any]) -> Embeddings:
        return self._side_by_side(lambda place, member: member.encode_tokens([each[place] for each in rows]))

    def encode_text(self, texts: Sequence[str]) -> Embeddings:
        return self._side_by_side(lambda _, member: member.encode_text(texts))

    def _side_by_side(self, encode: Callable[[int, PreparingEncoder], Embeddings]) -> Embeddings:
        return np.concatenate([encode(*each) for each in enumerate(self.members)], axis=1)
