"""open_clip's ViT-B-32-quickgelu with the same weights, its own preprocessing and tokenizer.

The documented loop opens, transforms and stacks a batch, encodes both sides and normalises the vectors. The best
settings on 2 cores are inference mode and batches of 16. The tokenizer pads every caption to 77 tokens.
"""

from __future__ import annotations

import open_clip
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from ..inputs import MODEL, Row
from . import BATCH, Score, batches

NAME = "ViT-B-32-quickgelu"
_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_TOWERS = {"vision_model.encoder.layers.": "visual.", "text_model.encoder.layers.": ""}
_REST = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",  # transformers misspells the name
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "logit_scale": "logit_scale",
}


def load(*, batch_size: int = BATCH, inference_mode: bool = False, device: str = "cpu", half: bool = False) -> Score:
    model, preprocess, tokenizer = build()
    dtype = torch.float16 if half else torch.float32
    model = model.to(device, dtype)

    @torch.inference_mode(inference_mode)
    def score(rows: list[Row]) -> list[float]:
        scores: list[float] = []
        for batch in batches(rows, batch_size):
            images = torch.stack([preprocess(Image.open(row.path)) for row in batch])  # (n, 3, 224, 224)
            texts = tokenizer([row.caption for row in batch])  # (n, 77)
            with torch.no_grad():
                scores += cosines(model, images.to(device, dtype), texts.to(device)).tolist()
        return scores

    return score


def build() -> tuple[open_clip.CLIP, open_clip.transform.Compose, open_clip.SimpleTokenizer]:
    """Return the model with the benchmark's weights, its preprocessing and its tokenizer."""
    model, _, preprocess = open_clip.create_model_and_transforms(NAME, load_weights=False)
    model.load_state_dict(renamed(load_file(MODEL / "model.safetensors")))
    return model.eval(), preprocess, open_clip.get_tokenizer(NAME)


def cosines(model: open_clip.CLIP, images: Tensor, texts: Tensor) -> Tensor:
    """Encode images (n, 3, h, w) and tokens (n, 77) and return their cosines (n,)."""
    image, text = model.encode_image(images, normalize=True), model.encode_text(texts, normalize=True)
    products: Tensor = image * text
    return products.sum(dim=-1)


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a CLIPModel's weights under open_clip's names; q, k and v are joined into one matrix."""
    found = {new: state[old] for old, new in _REST.items()}
    found["visual.proj"] = state["visual_projection.weight"].T.contiguous()
    found["text_projection"] = state["text_projection.weight"].T.contiguous()
    for tower, prefix in _TOWERS.items():
        for number in range(12):
            old, new = f"{tower}{number}.", f"{prefix}transformer.resblocks.{number}."
            for kind in ("weight", "bias"):
                found |= {f"{new}{theirs}.{kind}": state[f"{old}{name}.{kind}"] for name, theirs in _BLOCK.items()}
                qkv = [state[f"{old}self_attn.{letter}_proj.{kind}"] for letter in "qkv"]
                found[f"{new}attn.in_proj_{kind}"] = torch.cat(qkv)
    return found
