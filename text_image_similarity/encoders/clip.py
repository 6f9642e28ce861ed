"""CLIP and SigLIP models as `transformers` loads them, from the hub, its cache or a folder.

Embeddings equal `transformers`' own for the same pixels and captions. Two rules differ between the families: CLIP takes
captions padded to the batch's longest, SigLIP was trained on captions padded to their full length and is given those.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

from ..config import Config
from ..decode import to_rgb
from ..errors import ModelError
from ..preprocess import ImageLike, Pixels, Preprocess, as_image
from ..similarity import Embeddings
from .hub import cached_commit, require_hub
from .torch_runtime import Runtime, choose_runtime, halve_on_oom, to_unit_rows

FAMILIES = ("clip", "siglip")


@dataclass(frozen=True, slots=True)
class ClipRunner:
    """A `transformers` CLIP or SigLIP model as an `Encoder`."""

    model: str
    revision: str | None
    network: Any
    tokenizer: Any
    preprocess: Preprocess
    runtime: Runtime
    # The fast tokenizers keep padding and truncation as state, which two threads must not change at once.
    lock: Lock = field(default_factory=Lock)

    @property
    def device(self) -> str:
        return str(self.runtime.device)

    @property
    def precision(self) -> str:
        return self.runtime.precision

    @property
    def embed_dim(self) -> int:
        config = self.network.config
        return int(getattr(config, "projection_dim", None) or config.vision_config.hidden_size)

    @property
    def context_length(self) -> int:
        return int(self.network.config.text_config.max_position_embeddings)

    @property
    def logit_scale(self) -> float:
        return float(self.network.logit_scale.exp())

    def prepare(self, image: Image.Image) -> Pixels:
        return self.preprocess.pixels(to_rgb(image))

    def encode_image(self, images: Sequence[ImageLike]) -> Embeddings:
        return to_unit_rows(halve_on_oom(self._image_features, [self.prepare(as_image(image)) for image in images]))

    def encode_text(self, texts: Sequence[str]) -> Embeddings:
        return to_unit_rows(halve_on_oom(self._text_features, list(texts)))

    @torch.inference_mode()
    def _image_features(self, pixels: list[Pixels]) -> torch.Tensor:
        batch = torch.from_numpy(self.preprocess.normalise(pixels)).to(self.runtime.device, self.runtime.dtype)
        return _pooled(self.network.get_image_features(pixel_values=batch))  # (n, 3, h, w) -> (n, embed_dim)

    @torch.inference_mode()
    def _text_features(self, texts: list[str]) -> torch.Tensor:
        clip = self.network.config.model_type == "clip"
        with self.lock:
            tokens = self.tokenizer(
                texts,
                padding=True if clip else "max_length",
                truncation=True,  # cuts before the end-of-text token, which stays
                max_length=self.context_length,
                return_tensors="pt",
            )
        # SigLIP's towers saw no mask in training; CLIP's needs one for its padding.
        names = ("input_ids", "attention_mask") if clip else ("input_ids",)
        return _pooled(self.network.get_text_features(**{n: tokens[n].to(self.runtime.device) for n in names}))


def load_clip(name: str, config: Config, *, revision: str | None, trusted: bool) -> ClipRunner:
    """Load a CLIP-family model.

    Args:
        name: Hub id or folder.
        config: `device` and `precision` are used.
        revision: Commit, tag or branch on the hub.
        trusted: Whether weights in PyTorch's own format are accepted where there are no safetensors; they are read
            without unpickling code. Only for pinned commits.

    Raises:
        ModelUnavailableError: The model is not wholly in the cache and the hub does not answer.
        ModelError: The model is of another family, or its weights cannot be used.
    """
    runtime = choose_runtime(config)

    def load(*, local_files_only: bool) -> ClipRunner:
        common = {"revision": revision or "main", "local_files_only": local_files_only}
        shape = AutoConfig.from_pretrained(name, **common)
        if shape.model_type not in FAMILIES:
            raise ModelError(f"{name} is a {shape.model_type} model; this loads {', '.join(FAMILIES)} and mini")
        processor = AutoImageProcessor.from_pretrained(name, backend="pil", **common)  # type: ignore[no-untyped-call]
        tokenizer = AutoTokenizer.from_pretrained(name, **common)
        network = AutoModel.from_pretrained(
            name, dtype=runtime.dtype, use_safetensors=None if trusted else True, **common
        )
        return ClipRunner(
            model=name,
            revision=None if Path(name).is_dir() else cached_commit(name, revision),
            network=network.to(runtime.device).eval().requires_grad_(False),
            tokenizer=tokenizer,
            preprocess=_preprocess(processor),
            runtime=runtime,
        )

    if Path(name).is_dir():
        return _explained(name, lambda: load(local_files_only=True))
    try:
        return load(local_files_only=True)  # from the cache, without asking the hub for news
    except OSError:
        require_hub(name, revision)
    # Without this, weights in PyTorch's format make transformers ask a conversion service in the background.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    return _explained(name, lambda: load(local_files_only=False))


def _explained(name: str, load: Callable[[], ClipRunner]) -> ClipRunner:
    try:
        return load()
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as exc:
        raise ModelError(
            f"model {name} cannot be loaded: {exc}\nA folder needs config.json, preprocessor_config.json, tokenizer "
            "files and model.safetensors, as save_pretrained writes them."
        ) from exc


def _pooled(output: Any) -> torch.Tensor:
    features: torch.Tensor = output if isinstance(output, torch.Tensor) else output.pooler_output
    return features


def _preprocess(processor: Any) -> Preprocess:
    """Read the geometry and colours of an image processor."""
    size = dict(processor.size)
    crop = dict(processor.crop_size) if getattr(processor, "do_center_crop", False) else None
    return Preprocess(
        size=size["shortest_edge"] if size.get("shortest_edge") else (size["height"], size["width"]),
        crop=(crop["height"], crop["width"]) if crop else None,
        mean=tuple(processor.image_mean),
        std=tuple(processor.image_std),
        resample=Image.Resampling(int(processor.resample)),
    )
