"""Compare published models' scores with published figures: `python -m scripts.verify_models [MODEL ...]`.

The comparison needs network access. Every figure names its source, and the images are fetched from where the source
found them. Models without published figures are compared with another implementation of the same weights.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

import numpy as np

from text_image_similarity import Config, load_encoder, score_images
from text_image_similarity.encoders.two_tower import TwoTowerEncoder

CATS = "http://images.cocodataset.org/val2017/000000039769.jpg"
DIAGRAM = "https://raw.githubusercontent.com/openai/CLIP/main/CLIP.png"
POKEMON = "https://clip-cn-beijing.oss-cn-beijing.aliyuncs.com/pokemon.jpeg"
_CAT_OR_DOG = ("a photo of a cat", "a photo of a dog")
_DIAGRAM_OR = ("a diagram", "a dog", "a cat")
_TESTS = "https://github.com/huggingface/transformers/blob/main/tests/models"


@dataclass(frozen=True, slots=True)
class Published:
    """One published result.

    Args:
        model: The model, as in `Config.model`.
        image: The URL of the image.
        captions: The captions that the image was scored with.
        figures: The published figure for each caption.
        kind: The kind of the figures: `logits`, their `softmax`, or their `sigmoid`.
        tolerance: The largest difference that counts as equal: that of the publisher's own check, or of the printed
            digits.
        source: The publication.
    """

    model: str
    image: str
    captions: tuple[str, ...]
    figures: tuple[float, ...]
    kind: str
    tolerance: float
    source: str


PUBLISHED = (
    Published("fast", CATS, _CAT_OR_DOG, (24.5701, 19.3049), "logits", 0.02, f"{_TESTS}/clip/test_modeling_clip.py"),
    Published(
        "fast", DIAGRAM, _DIAGRAM_OR, (0.9927937, 0.00421068, 0.00299572), "softmax", 5e-3, "https://github.com/openai/CLIP#usage"
    ),
    # The same weights with open_clip's code: the wrong activation would give other figures.
    Published(
        "open_clip:ViT-B-32/openai", CATS, _CAT_OR_DOG, (24.5701, 19.3049), "logits", 0.02, f"{_TESTS}/clip/test_modeling_clip.py"
    ),
    Published(
        "open_clip:ViT-B-32/laion2b_s34b_b79k",
        DIAGRAM,
        _DIAGRAM_OR,
        (1.0, 0.0, 0.0),
        "softmax",
        0.01,
        "https://github.com/mlfoundations/open_clip#usage",
    ),
    Published(
        "google/siglip-base-patch16-224",
        CATS,
        ("a photo of 2 cats", "a photo of 2 dogs"),
        (-0.7567, -10.3354),
        "logits",
        0.02,
        f"{_TESTS}/siglip/test_modeling_siglip.py",
    ),
    Published(
        "OFA-Sys/chinese-clip-vit-base-patch16",
        POKEMON,
        ("杰尼龟", "妙蛙种子", "小火龙", "皮卡丘"),
        (1.2686e-03, 5.4499e-02, 6.7968e-04, 9.4355e-01),
        "softmax",
        5e-3,
        "https://huggingface.co/OFA-Sys/chinese-clip-vit-base-patch16",
    ),
    Published(
        "BAAI/AltCLIP", CATS, ("一张猫的照片", "一张狗的照片"), (0.99942, 5.7805e-04), "softmax", 5e-3, f"{_TESTS}/altclip/test_modeling_altclip.py"
    ),
    Published(
        "kakaobrain/align-base", CATS, _CAT_OR_DOG, (9.7093, 3.4679), "logits", 0.02, f"{_TESTS}/align/test_modeling_align.py"
    ),
)  # fmt: skip
SAME_WEIGHTS = (("accurate", "open_clip:ViT-L-14/openai"), ("fast", "open_clip:ViT-B-32-quickgelu/openai"))


def check(published: Published) -> str | None:
    """Score a published example; return what is wrong, or None."""
    encoder, cosines = _cosines(published.model, published.image, published.captions)
    found = encoder.logit_scale * cosines + (encoder.logit_bias or 0)
    if published.kind == "softmax":
        found = np.exp(found - found.max()) / np.exp(found - found.max()).sum()
    elif published.kind == "sigmoid":
        found = 1 / (1 + np.exp(-found))
    off = float(np.abs(found - np.array(published.figures)).max())
    said = f"{published.model}: {np.round(found, 4).tolist()}, published {list(published.figures)} ({published.source})"
    print(f"{said}: {'equal' if off <= published.tolerance else 'NOT EQUAL'}", flush=True)
    return None if off <= published.tolerance else said


def check_same(one: str, other: str) -> str | None:
    """Score the same images with two implementations of the same weights; return what is wrong, or None."""
    pairs = ((CATS, _CAT_OR_DOG), (DIAGRAM, _DIAGRAM_OR))
    off = max(float(np.abs(_cosines(one, *pair)[1] - _cosines(other, *pair)[1]).max()) for pair in pairs)
    said = f"{one} and {other}: cosines differ by {off:.1e}"
    print(said, flush=True)
    return None if off <= 1e-4 else said


def _cosines(model: str, image: str, captions: tuple[str, ...]) -> tuple[TwoTowerEncoder, np.ndarray]:
    config = Config(model=model, device="cpu", backend="torch")
    encoder = load_encoder(config)
    results = score_images([image] * len(captions), list(captions), config, encoder=encoder)
    if failed := [result.error for result in results if result.error]:
        raise SystemExit(f"{image}: {failed[0]}")
    if not isinstance(encoder, TwoTowerEncoder):
        raise SystemExit(f"{model} has no logits")
    return encoder, np.array([result.similarity for result in results])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="models to check; by default all known ones")
    wanted = parser.parse_args().models
    wrong = [check(one) for one in PUBLISHED if not wanted or one.model in wanted]
    wrong += [check_same(*pair) for pair in SAME_WEIGHTS if not wanted or pair[0] in wanted]
    sys.exit("\n".join(filter(None, wrong)) or None)


if __name__ == "__main__":
    main()
