"""Train `mini`, the dual encoder in the wheel, with ../shared/data, two models from PyPI and scenes drawn here.

    .venv/bin/python -m scripts.train_mini ../shared/data

1. The text tower, four layers of MiniLM with a smaller vocabulary, learns to reproduce the output of all six layers.
2. The projections are trained while both towers are frozen.
3. Everything except the first blocks of the image tower is trained together; those are frozen, so that their output is
    computed once per image and view. The vectors of captions stay close to their teacher's.

The epoch with the best mean recall@10 on the validation photos is kept. The images of challenge_set.csv are not used.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from tqdm import tqdm

from scripts.ingredients import LITE0, MINILM, MINILM_VOCAB, WIDTH, fetch, fold_lite0, minilm, prune, unit
from scripts.scenes import compose, describe, random_scene
from text_image_similarity.config import Config
from text_image_similarity.dataset import load_image, read_dataset
from text_image_similarity.encoders.dual_encoder import set_up, token_ids, write_dual_encoder
from text_image_similarity.encoders.towers import DualEncoder, DualEncoderConfig
from text_image_similarity.encoders.towers.image import pool
from text_image_similarity.encoders.towers.text import TransformerTower
from text_image_similarity.files import whole_file
from text_image_similarity.metrics.retrieval import Retrieval, retrieval
from text_image_similarity.training.augmentation import augment
from text_image_similarity.training.losses import info_nce
from text_image_similarity.training.optimisation import average_into, warmup_cosine

SIDE = 224
FROZEN = 9  # features[:9], down to 14 x 14, keep their ImageNet weights
KEEP = (0, 2, 4, 5)  # MiniLM's layers in the text tower
VOCABULARY = 12_000
BATCH = (168, 24)  # numbers of photos and scenes
RECORDED = 0.7234  # mean recall@10 of both directions on the validation photos, before int8
OUT = Path(__file__).resolve().parent.parent / "text_image_similarity" / "weights" / "mini"


@dataclass(frozen=True, slots=True)
class Split:
    """Images and their captions.

    Args:
        features: Output of the frozen blocks, (n, views, 80, 14, 14) float16; view 0 is the image itself.
        captions: The captions of each image, the same number for all.
        taught: The teacher's unit vector of each caption, (n, captions, 384).
    """

    features: Tensor
    captions: list[tuple[str, ...]]
    taught: Tensor


def read_photos(folder: Path, split: str) -> tuple[list[Image.Image], list[tuple[str, ...]]]:
    """Read a split's photos and the five captions of each."""
    images = read_dataset(folder, split=split)
    return [load_image(image, Config()) for image in images], [image.captions[:5] for image in images]


def draw_scenes(count: int, seed: int) -> tuple[list[Image.Image], list[tuple[str, ...]]]:
    """Draw `count` random scenes at the model's input size, each with four wordings of its caption."""
    rng = random.Random(seed)
    pictures, captions = [], []
    for _ in tqdm(range(count), "scenes"):
        things, background = random_scene(rng)
        size = rng.choice(((480, 400), (400, 400), (400, 480), (512, 384)))
        picture = compose(things, background, rng, size=size)
        left, top = (size[0] - min(size)) // 2, (size[1] - min(size)) // 2
        square = picture.crop((left, top, left + min(size), top + min(size)))
        pictures.append(square.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        captions.append(tuple(describe(things, background, rng) for _ in range(4)))
    return pictures, captions


@torch.inference_mode()
def early_features(model: DualEncoder, pictures: Sequence[Image.Image], views: int, cache: Path) -> Tensor:
    """Run the frozen blocks once per image and view; `cache` keeps the result for the next run."""
    digest = blake2b(repr((FROZEN, SIDE, views)).encode(), digest_size=4)
    for picture in pictures:
        digest.update(picture.tobytes())
    cache = cache.with_suffix(f".{digest.hexdigest()}.safetensors")
    if cache.exists():
        return load_file(cache)["features"]
    rng = random.Random(0)
    early = image_blocks(model)[:FROZEN].to(memory_format=torch.channels_last)
    out = torch.empty(len(pictures), views, 80, SIDE // 16, SIDE // 16, dtype=torch.float16)
    for start in tqdm(range(0, len(pictures), 16), "features"):
        chunk = pictures[start : start + 16]
        for view in range(views):
            seen = [augment(p, SIDE, rng) if view else p.resize((SIDE, SIDE), Image.Resampling.BICUBIC) for p in chunk]
            pixels = torch.from_numpy(np.stack([np.asarray(p) for p in seen])).permute(0, 3, 1, 2)  # (n, 3, s, s)
            pixels = (pixels.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
            out[start : start + 16, view] = early(pixels).half()
    with whole_file(cache) as partial:
        save_file({"features": out}, partial)
    return out


@torch.inference_mode()
def text_features(tower: nn.Module, tokenizer: Tokenizer, captions: Sequence[str]) -> Tensor:
    """Run a text tower over m captions, those of similar length together: (m, width)."""
    tower.eval()
    out = torch.empty(len(captions), WIDTH)
    order = sorted(range(len(captions)), key=lambda i: len(captions[i]))
    for start in tqdm(range(0, len(order), 128), "captions", leave=False):
        chosen = order[start : start + 128]
        out[chosen] = tower(token_ids(tokenizer, [captions[i] for i in chosen]))
    return out


def encode_captions(tower: nn.Module, tokenizer: Tokenizer, captions: Sequence[str]) -> Tensor:
    """Run a text tower over m captions for training: (m, width). Similar lengths are grouped, to pad less."""
    order = sorted(range(len(captions)), key=lambda i: len(captions[i]))
    parts = [order[start : start + 64] for start in range(0, len(order), 64)]
    said = torch.cat([tower(token_ids(tokenizer, [captions[i] for i in part])) for part in parts])
    return said[torch.tensor(order).argsort()]


def image_blocks(model: DualEncoder) -> nn.Sequential:
    """Return the image tower's blocks, which run one after the other."""
    features = model.backbone.features
    assert isinstance(features, nn.Sequential)
    return features


def late(model: DualEncoder, features: Tensor) -> Tensor:
    """Run the trainable blocks over cached features (n, 80, 14, 14), up to the pooled output (n, 1280)."""
    return pool(image_blocks(model)[FROZEN:](features.float().contiguous(memory_format=torch.channels_last)))


def distil(tower: TransformerTower, tokenizer: Tokenizer, splits: Sequence[Split], steps: int) -> None:
    """Train the text tower to reproduce its teacher's vectors, by cosine, without dropout."""
    rows = [row for split in splits for row in zip(split.captions, split.taught, strict=True)]
    taught = [pair for captions, vectors in rows for pair in zip(captions, vectors, strict=True)]
    optimiser = torch.optim.AdamW(tower.parameters(), lr=3e-4, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: warmup_cosine(i, steps, steps // 10))
    tower.eval()
    for chosen in tqdm(torch.randperm(len(taught))[: steps * 192].split(192), "distil"):
        said = unit(encode_captions(tower, tokenizer, [taught[i][0] for i in chosen.tolist()]))
        loss = (1 - (said * torch.stack([taught[i][1] for i in chosen.tolist()])).sum(1)).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    print(json.dumps({"stage": "distil", "loss": round(loss.item(), 4)}), flush=True)


def train_heads(model: DualEncoder, tokenizer: Tokenizer, splits: Sequence[Split], epochs: int) -> None:
    """Train the projections on the outputs of the unchanged towers."""
    with torch.inference_mode():
        model.eval()
        image = torch.cat([late(model, part) for s in splits for part in s.features[:, 0].split(64)]).clone()
    said = [text_features(model.text_tower, tokenizer, [c for row in s.captions for c in row]) for s in splits]
    texts = [part.view(len(s.captions), -1, WIDTH) for part, s in zip(said, splits, strict=True)]
    text = torch.cat([part[:, [0, 1, 2, 3, -1]] for part in texts])  # (n, 5, 384); a scene has four captions
    heads = [*model.image_head.parameters(), *model.text_head.parameters(), model.log_logit_scale]
    model.train()
    optimiser = torch.optim.AdamW(heads, lr=1e-3, weight_decay=0.05)
    steps = epochs * (len(image) // 512)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: warmup_cosine(i, steps, steps // 10))
    for _ in range(epochs):
        for chosen in torch.randperm(len(image)).split(512)[: len(image) // 512]:
            captions = text[chosen, torch.randint(5, (len(chosen),))]
            scale = model.log_logit_scale.exp()
            loss = info_nce(unit(model.image_head(image[chosen])), unit(model.text_head(captions)), scale)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()


@torch.inference_mode()
def validate(model: DualEncoder, tokenizer: Tokenizer, split: Split) -> Retrieval:
    """Measure retrieval among the images of a split."""
    model.eval()
    image = torch.cat([unit(model.image_head(late(model, part))) for part in split.features[:, 0].split(64)])
    captions = [caption for row in split.captions for caption in row]
    text = unit(model.text_head(text_features(model.text_tower, tokenizer, captions)))
    owner = np.repeat(np.arange(len(split.captions)), [len(row) for row in split.captions])
    return retrieval(image.numpy(), text.numpy(), owner)


def batches(splits: Sequence[Split], rng: random.Random) -> Iterator[tuple[Tensor, list[str], Tensor]]:
    """Yield the batches of an epoch: all photos once, and scenes, each with a random view and two of its captions."""
    orders = [rng.sample(range(len(split.captions)), len(split.captions)) for split in splits]
    for step in range(len(splits[0].captions) // BATCH[0]):
        chosen = [
            (split, order[(step * size + i) % len(order)])
            for split, order, size in zip(splits, orders, BATCH, strict=True)
            for i in range(size)
        ]
        features = torch.stack([split.features[i, rng.randrange(split.features.shape[1])] for split, i in chosen])
        picks = [rng.sample(range(len(split.captions[i])), 2) for split, i in chosen]
        captions = [s.captions[i][pick[turn]] for turn in (0, 1) for (s, i), pick in zip(chosen, picks, strict=True)]
        taught = [s.taught[i, pick[turn]] for turn in (0, 1) for (s, i), pick in zip(chosen, picks, strict=True)]
        yield features, captions, torch.stack(taught)


def train_together(
    model: DualEncoder, tokenizer: Tokenizer, splits: Sequence[Split], valid: Split, options: argparse.Namespace
) -> float:
    """Train heads, text tower and late image blocks; write the averaged model of the best epoch; return its recall."""
    rng, epochs = random.Random(options.seed), options.epochs
    tower = list(image_blocks(model)[FROZEN:].parameters())
    heads = [*model.image_head.parameters(), *model.text_head.parameters(), model.log_logit_scale]
    groups: list[dict[str, Any]] = [
        {"params": tower, "lr": 2e-4},
        {"params": list(model.text_tower.parameters()), "lr": 8e-5},
        {"params": heads, "lr": 5e-4},
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.05)
    per_epoch = len(splits[0].captions) // BATCH[0]
    steps = epochs * per_epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: warmup_cosine(i, steps, per_epoch))
    average, best, step = copy.deepcopy(model), -1.0, 0
    for epoch in range(epochs):
        began, total = time.time(), 0.0
        model.train()
        for features, captions, taught in tqdm(batches(splits, rng), f"epoch {epoch}", per_epoch):
            image = unit(model.image_head(late(model, features)))
            said = encode_captions(model.text_tower, tokenizer, captions)  # (2 n, 384)
            text = unit(model.text_head(said))
            scale = model.log_logit_scale.clamp(max=4.6).exp()
            loss = (info_nce(image, text[: len(image)], scale) + info_nce(image, text[len(image) :], scale)) / 2
            loss = loss + (1 - (unit(said) * taught).sum(1)).mean()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], 1.0)
            optimiser.step()
            schedule.step()
            average_into(average.state_dict(), model.state_dict(), decay=0.98, step=step)
            total, step = total + loss.item(), step + 1
        found = validate(average, tokenizer, valid)
        recall = (found.text_to_image.recall[10] + found.image_to_text.recall[10]) / 2
        print(json.dumps({
            "epoch": epoch, "loss": round(total / per_epoch, 4), "seconds": round(time.time() - began),
            "text_to_image": found.text_to_image.recall, "image_to_text": found.image_to_text.recall,
        }), flush=True)  # fmt: skip
        if recall > best:
            best = recall
            write_dual_encoder(options.out, average, tokenizer, int8=True)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with flickr8k/")
    parser.add_argument("--out", type=Path, default=OUT, help="folder to write the model to")
    parser.add_argument("--work", type=Path, default=Path("build/mini"), help="folder for downloads and features")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=16, help="number of epochs of the last stage")
    args = parser.parse_args()
    torch.manual_seed(args.seed)

    weights, vocab, lite0 = (fetch(args.work, one) for one in (MINILM, MINILM_VOCAB, LITE0))
    photos, photo_captions = read_photos(args.data / "flickr8k", "train")
    valid_photos, valid_captions = read_photos(args.data / "flickr8k", "validation")
    scenes, scene_captions = draw_scenes(2000, seed=1)
    tokenizer, rows = prune(vocab, [c for row in photo_captions + scene_captions for c in row], VOCABULARY)
    config = DualEncoderConfig(
        vocab_size=len(rows),
        image_tower="efficientnet_lite0",
        text_tower="transformer",
        head_width=1024,
        text_width=WIDTH,
        text_layers=len(KEEP),
    )
    set_up(tokenizer, config.context_length)
    model = DualEncoder(config)
    fold_lite0(lite0, image_blocks(model))
    image_blocks(model)[:FROZEN].requires_grad_(False)
    teacher = minilm(weights, range(6), rows, config.context_length)
    model.text_tower = tower = minilm(weights, KEEP, rows, config.context_length)

    def split(name: str, pictures: Sequence[Image.Image], captions: list[tuple[str, ...]], views: int) -> Split:
        features = early_features(model, pictures, views, args.work / name)
        said = unit(text_features(teacher, tokenizer, [caption for row in captions for caption in row]))
        return Split(features, captions, said.view(len(captions), -1, WIDTH))

    valid = split("validation", valid_photos, valid_captions, 1)
    train = (split("photos", photos, photo_captions, 4), split("scenes", scenes, scene_captions, 2))
    distil(tower, tokenizer, train, steps=120)
    train_heads(model, tokenizer, train, epochs=30)
    found = validate(model, tokenizer, valid)
    print(json.dumps({"stage": "heads", "text_to_image": found.text_to_image.recall, "image_to_text": found.image_to_text.recall}), flush=True)  # fmt: skip
    best = train_together(model, tokenizer, train, valid, args)
    print(f"{args.out}: mean recall@10 {best:.2%}, recorded {RECORDED:.2%}", flush=True)
    if abs(best - RECORDED) > 0.005:
        raise SystemExit("the recall differs by more than half a point from the recorded one")


if __name__ == "__main__":
    main()
