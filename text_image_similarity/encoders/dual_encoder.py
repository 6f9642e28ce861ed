"""Run a small dual encoder: `mini`, the model that ships in the wheel, or one trained on its towers.

A model is a folder of three files: `config.json`, `model.safetensors` (float16) and `tokenizer.json`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer

from ..config import Config
from ..decode import to_rgb
from ..errors import ModelError
from ..preprocess import ImageLike, Pixels, Preprocess, as_image
from ..similarity import Embeddings
from .torch_runtime import Runtime, choose_runtime, halve_on_oom, to_unit_rows
from .towers import PAD, DualEncoder, DualEncoderConfig

_UNKNOWN = 1  # token id that stands for an empty caption


@dataclass(frozen=True, slots=True)
class DualEncoderRunner:
    """A `DualEncoder` as an `Encoder`."""

    model: str
    towers: DualEncoder
    tokenizer: Tokenizer
    preprocess: Preprocess
    runtime: Runtime
    revision: str | None = None

    @property
    def device(self) -> str:
        return str(self.runtime.device)

    @property
    def precision(self) -> str:
        return self.runtime.precision

    @property
    def embed_dim(self) -> int:
        return self.towers.config.embed_dim

    @property
    def context_length(self) -> int:
        return self.towers.config.context_length

    @property
    def logit_scale(self) -> float:
        return float(self.towers.log_logit_scale.exp())

    def prepare(self, image: Image.Image) -> Pixels:
        return self.preprocess.pixels(to_rgb(image))

    def encode_image(self, images: Sequence[ImageLike]) -> Embeddings:
        return to_unit_rows(halve_on_oom(self._image_features, [self.prepare(as_image(image)) for image in images]))

    def encode_text(self, texts: Sequence[str]) -> Embeddings:
        return to_unit_rows(halve_on_oom(self._text_features, list(texts)))

    @torch.inference_mode()
    def _image_features(self, pixels: list[Pixels]) -> torch.Tensor:
        batch = torch.from_numpy(self.preprocess.normalise(pixels))  # (n, 3, s, s)
        batch = batch.to(self.runtime.device, self.runtime.dtype, memory_format=torch.channels_last)
        features: torch.Tensor = self.towers.image(batch)  # (n, embed_dim)
        return features

    @torch.inference_mode()
    def _text_features(self, texts: list[str]) -> torch.Tensor:
        rows = [torch.tensor(e.ids[: self.context_length] or [_UNKNOWN]) for e in self.tokenizer.encode_batch(texts)]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)  # (n, t)
        features: torch.Tensor = self.towers.text(ids.to(self.runtime.device))  # (n, embed_dim)
        return features


def load_dual_encoder(folder: Path, config: Config) -> DualEncoderRunner:
    """Load a dual encoder from its folder.

    Raises:
        ModelError: A file is missing, or the weights do not fit `config.json`.
    """
    runtime = choose_runtime(config)
    try:
        given = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        shape = DualEncoderConfig(**{f.name: given[f.name] for f in fields(DualEncoderConfig)})
        towers = DualEncoder(shape)
        towers.load_state_dict({name: value.float() for name, value in load_file(folder / "model.safetensors").items()})
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as exc:
        raise ModelError(f"the dual encoder in {folder} cannot be loaded: {exc}") from exc
    tokenizer.no_padding()
    tokenizer.no_truncation()
    size, half = shape.image_size, (0.5, 0.5, 0.5)
    return DualEncoderRunner(
        model=str(config.model),
        towers=towers.to(runtime.device, runtime.dtype)
        .to(memory_format=torch.channels_last)
        .eval()
        .requires_grad_(False),
        tokenizer=tokenizer,
        preprocess=Preprocess(size=size, crop=(size, size), mean=half, std=half),
        runtime=runtime,
    )
