"""CLIP ViT-B/32 at its full width, with random weights, equals its reference.

With two layers of each kind here, all of which are alike; `make endurance` takes all twelve.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

from tests.support.images import noise
from tests.support.models import save_clip
from tests.support.paths import ROOT
from tests.support.records import captions
from text_image_similarity import Config, load_encoder
from text_image_similarity.encoders.two_tower import TwoTowerEncoder
from text_image_similarity.similarity import cosine

LAYERS = int(os.environ.get("LAYERS", "2"))


@pytest.mark.extended
def test_clip_equals_transformers_at_full_size(tmp_path: Path) -> None:
    folder = save_clip(tmp_path, full_size=True, layers=LAYERS)
    pictures = sorted((ROOT / "challenge_set").glob("*.jpg"))
    images = [Image.open(p).convert("RGB") for p in pictures if p.name != "not_a_picture.jpg"]
    images = images[:24] + noise(8)
    texts = captions(32)

    model = CLIPModel.from_pretrained(folder).eval()
    tokens = AutoTokenizer.from_pretrained(folder)(texts, padding=True, truncation=True, return_tensors="pt")
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(images, return_tensors="pt")
    with torch.inference_mode():
        expected = torch.nn.functional.cosine_similarity(
            model.get_image_features(**pixels).pooler_output, model.get_text_features(**tokens).pooler_output
        ).numpy()
    del model
    assert expected.std() > 1e-3  # the scores differ from pair to pair, so agreement means something

    encoder = load_encoder(Config(model=folder, device="cpu"))
    assert encoder.embed_dim == 512
    assert isinstance(encoder, TwoTowerEncoder)
    assert encoder.context_length == 77
    assert encoder.logit_scale == pytest.approx(1 / 0.07, rel=1e-3)
    for size in (7, 32):
        ours = [
            cosine(encoder.encode_image(images[i : i + size]), encoder.encode_text(texts[i : i + size]))
            for i in range(0, 32, size)
        ]
        np.testing.assert_allclose(np.concatenate(ours), expected, rtol=0, atol=1e-5, err_msg=f"batch size {size}")
