"""Train `mini`, the dual encoder that ships in the wheel, from ../shared/data and scenes drawn here.

    .venv/bin/python scripts/train_mini.py ../shared/data

Two stages on two cores. First the text tower and both projections learn against frozen ImageNet features; then the last
blocks of the image tower join in. The early blocks never move, so their output is computed once per picture and view.
The epoch with the best mean of photo recall and scene AUC on the validation sets is kept. The pictures of
challenge_set.csv and any test photos play no part.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageEnhance
from safetensors.torch import load_file, save_file
from scenes import compose, describe, random_scene
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from text_image_similarity.encoders.towers import PAD, DualEncoder, DualEncoderConfig, ImageTower

FROZEN = 14  # features[:14] stay as ImageNet training left them
SIDE = 224
OUT = Path(__file__).resolve().parent.parent / "text_image_similarity" / "weights" / "mini"


@dataclass(frozen=True, slots=True)
class Split:
    """Pictures as cached features (n, views, 96, 14, 14) float16, and the captions of each."""

    features: Tensor
    captions: list[list[str]]


def read_photos(path: Path) -> tuple[list[Image.Image], list[list[str]]]:
    """Read RGB photos and their five captions each from a Parquet file with the columns of jxie/flickr8k."""
    rows = pq.read_table(path).to_pylist()
    photos = [Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB") for row in rows]
    return photos, [[row[f"caption_{i}"] for i in range(5)] for row in rows]


def draw_scenes(count: int, seed: int) -> tuple[list[Image.Image], list[list[str]]]:
    """Draw `count` random scenes at the size the model reads, each with four wordings of its caption."""
    rng = random.Random(seed)
    pictures, captions = [], []
    for _ in tqdm(range(count), "scenes"):
        things, background = random_scene(rng)
        size = rng.choice(((480, 400), (400, 400), (400, 480), (512, 384)))
        picture = compose(things, background, rng, size=size)
        left, top = (size[0] - min(size)) // 2, (size[1] - min(size)) // 2
        square = picture.crop((left, top, left + min(size), top + min(size)))
        pictures.append(square.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        captions.append([describe(things, background, rng) for _ in range(4)])
    return pictures, captions


def augment(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Crop, mirror and tint a picture by chance."""
    side = picture.width * math.sqrt(rng.uniform(0.6, 1.0))
    x, y = rng.uniform(0, picture.width - side), rng.uniform(0, picture.height - side)
    picture = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=(x, y, x + side, y + side))
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = enhance(picture).enhance(rng.uniform(0.75, 1.25))
    return picture


def imagenet_tower(path: Path, config: DualEncoderConfig) -> ImageTower:
    """Build an image tower from ImageNet weights in torchvision's naming, folding batch norm into the convolutions."""
    given = load_file(path)
    tower = ImageTower(config)
    # Both name their layers in order of execution, so the n-th convolution here is the n-th there.
    names = [name.removesuffix(".weight") for name, value in given.items() if value.ndim == 4]
    names.sort(key=lambda name: [int(part) for part in name.split(".") if part.isdigit()])
    ours = [module for module in tower.features.modules() if isinstance(module, torch.nn.Conv2d)]
    for name, conv in zip(names, ours, strict=True):
        parent, _, last = name.rpartition(".")
        norm = f"{parent}.{int(last) + 1}"  # torchvision: a convolution is followed by its batch norm
        scale = given[f"{norm}.weight"] / torch.sqrt(given[f"{norm}.running_var"] + 1e-5)
        conv.weight.data = given[f"{name}.weight"] * scale[:, None, None, None]
        conv.bias.data = given[f"{norm}.bias"] - given[f"{norm}.running_mean"] * scale
    return tower


@torch.inference_mode()
def early_features(tower: ImageTower, pictures: Sequence[Image.Image], views: int, seed: int) -> Tensor:
    """Run the frozen blocks once per picture and view; view 0 is the picture itself."""
    rng = random.Random(seed)
    early = tower.features[:FROZEN].to(memory_format=torch.channels_last)
    out = torch.empty(len(pictures), views, 96, SIDE // 16, SIDE // 16, dtype=torch.float16)
    for start in tqdm(range(0, len(pictures), 16), "features"):
        chunk = pictures[start : start + 16]
        for view in range(views):
            seen = [augment(p, rng) if view else p for p in chunk]
            pixels = torch.from_numpy(np.stack([np.asarray(p) for p in seen])).permute(0, 3, 1, 2)  # (n, 3, s, s)
            out[start : start + 16, view] = early(pixels.float() / 127.5 - 1).half()
    return out


def train_tokenizer(captions: Sequence[str], vocab_size: int) -> Tokenizer:
    """Learn a lower-case byte-pair vocabulary from the training captions."""
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.StripAccents(), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation(), pre_tokenizers.Digits(individual_digits=True)]
    )
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, min_frequency=2, special_tokens=["[PAD]", "[UNK]"])
    tokenizer.train_from_iterator(captions, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, captions: Sequence[str], longest: int) -> Tensor:
    """Turn captions into ids (n, t), padded to the longest of them."""
    rows = [torch.tensor(e.ids[:longest] or [1]) for e in tokenizer.encode_batch(list(captions))]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE (Radford et al. 2021, figure 3) over unit vectors (n, d)."""
    logits = scale * image @ text.T
    target = torch.arange(len(logits))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def late(model: DualEncoder, features: Tensor) -> Tensor:
    """Finish the image tower from cached features (n, 96, 14, 14) to unit vectors (n, d)."""
    x = features.float().contiguous(memory_format=torch.channels_last)
    return F.normalize(model.image.head(model.image.features[FROZEN:](x)))


@torch.inference_mode()
def validate(model: DualEncoder, tokenizer: Tokenizer, photos: Split, scenes: Split) -> dict[str, float]:
    """Measure recall@10 both ways on photos and ROC AUC of matching against mismatching pairs on scenes."""
    model.eval()
    result = {}
    for name, split in (("photo", photos), ("scene", scenes)):
        image = torch.cat([late(model, part) for part in split.features[:, 0].split(100)])
        captions = [c for row in split.captions for c in row]
        text = torch.cat(
            [
                F.normalize(model.text(encode(tokenizer, captions[i : i + 500], model.config.context_length)))
                for i in range(0, len(captions), 500)
            ]
        )
        owner = torch.arange(len(image)).repeat_interleave(len(split.captions[0]))  # picture of each caption
        cosine = text @ image.T  # (captions, pictures)
        own = cosine.gather(1, owner[:, None])
        result[f"{name}_t2i_r10"] = ((cosine > own).sum(1) < 10).float().mean().item()
        best_own = cosine.T.masked_fill(owner[None] != torch.arange(len(image))[:, None], -2).amax(1, keepdim=True)
        result[f"{name}_i2t_r10"] = ((best_own < cosine.T).sum(1) < 10).float().mean().item()
        apart = owner[:, None] != torch.arange(len(image))[None]
        others = cosine[apart].sort().values
        result[f"{name}_auc"] = (torch.searchsorted(others, own.flatten()) / len(others)).mean().item()
    model.train()
    return result


def batches(photos: Split, scenes: Split, size: int, rng: random.Random) -> Iterator[tuple[Tensor, list[str]]]:
    """Yield an epoch: every photo once and half as many scenes, mixed, each with a random view and caption."""
    items = [(photos, i) for i in range(len(photos.captions))]
    items += [(scenes, i) for i in rng.sample(range(len(scenes.captions)), min(len(scenes.captions), len(items) // 2))]
    rng.shuffle(items)
    for start in range(0, len(items) - size + 1, size):
        chosen = items[start : start + size]
        features = torch.stack([split.features[i, rng.randrange(split.features.shape[1])] for split, i in chosen])
        yield features, [rng.choice(split.captions[i]) for split, i in chosen]


@dataclass(frozen=True, slots=True)
class Stage:
    """A run of epochs with one peak learning rate for the heads and one for the late image blocks (0: frozen)."""

    epochs: int
    lr: float
    tower_lr: float


def run_stage(
    model: DualEncoder,
    tokenizer: Tokenizer,
    train: tuple[Split, Split],
    valid: tuple[Split, Split],
    stage: Stage,
    rng: random.Random,
) -> tuple[float, dict[str, Tensor]]:
    """Train for a stage and return the best validation figure with the (averaged) weights that gave it."""
    tower = list(model.image.features[FROZEN:].parameters())
    known = {id(p) for p in model.image.features.parameters()}
    heads = [p for p in model.parameters() if id(p) not in known]
    for p in tower:
        p.requires_grad_(stage.tower_lr > 0)
    groups = [{"params": heads, "lr": stage.lr}] + ([{"params": tower, "lr": stage.tower_lr}] if stage.tower_lr else [])
    optimiser = torch.optim.AdamW(groups, weight_decay=0.02)
    size = 256
    steps = stage.epochs * ((len(train[0].captions) + len(train[0].captions) // 2) // size)
    warm = max(1, steps // 12)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda i: min(1, (i + 1) / warm) * 0.5 * (1 + math.cos(math.pi * min(1, i / steps)))
    )
    average = copy.deepcopy(model)
    best, kept = -1.0, {}
    for epoch in range(stage.epochs):
        began, total, n = time.time(), 0.0, 0
        for features, captions in batches(*train, size, rng):
            ids = encode(tokenizer, captions, model.config.context_length)
            ids = torch.where((torch.rand(ids.shape) < 0.1) & (ids != PAD), 1, ids)  # word dropout
            loss = contrastive_loss(
                late(model, features), F.normalize(model.text(ids)), model.log_logit_scale.clamp(max=4.6).exp()
            )
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([*heads, *tower], 1.0)
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                for ours, theirs in zip(average.parameters(), model.parameters(), strict=True):
                    ours.lerp_(theirs, 0.03)
            total, n = total + loss.item(), n + 1
        found = validate(average, tokenizer, *valid)
        score = (found["photo_t2i_r10"] + found["scene_auc"]) / 2
        print(json.dumps({"epoch": epoch, "loss": round(total / n, 4), "s": round(time.time() - began)} | {
            k: round(v, 4) for k, v in found.items()}), flush=True)  # fmt: skip
        if score > best:
            best, kept = score, {k: v.clone() for k, v in average.state_dict().items()}
    return best, kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with flickr8k/ and mobilenet_v2_imagenet.safetensors")
    parser.add_argument("--out", type=Path, default=OUT, help="folder to write the model to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=6000, help="scenes to train on")
    parser.add_argument("--epochs", type=int, nargs=2, default=(12, 15), help="epochs of the two stages")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)

    photos, photo_captions = read_photos(args.data / "flickr8k" / "train.parquet")
    scenes, scene_captions = draw_scenes(args.scenes, seed=args.seed + 1)
    valid_photos, valid_photo_captions = read_photos(args.data / "flickr8k" / "validation.parquet")
    valid_scenes, valid_scene_captions = draw_scenes(300, seed=args.seed + 2)

    tokenizer = train_tokenizer([c for row in photo_captions + scene_captions for c in row], vocab_size=6000)
    model = DualEncoder(DualEncoderConfig(vocab_size=tokenizer.get_vocab_size()))
    model.image.features = imagenet_tower(args.data / "mobilenet_v2_imagenet.safetensors", model.config).features
    model.image.features.requires_grad_(False)
    train = (
        Split(early_features(model.image, photos, 4, args.seed), photo_captions),
        Split(early_features(model.image, scenes, 2, args.seed), scene_captions),
    )
    valid = (
        Split(early_features(model.image, valid_photos, 1, args.seed), valid_photo_captions),
        Split(early_features(model.image, valid_scenes, 1, args.seed), valid_scene_captions),
    )
    for stage in (Stage(args.epochs[0], 2e-3, 0.0), Stage(args.epochs[1], 8e-4, 2e-4)):
        best, weights = run_stage(model, tokenizer, train, valid, stage, rng)
        model.load_state_dict(weights)
        args.out.mkdir(parents=True, exist_ok=True)
        save_file({k: v.half().contiguous() for k, v in weights.items()}, args.out / "model.safetensors")
        tokenizer.save(str(args.out / "tokenizer.json"))
        config = {"model_type": "dual_encoder", **asdict(model.config)}
        (args.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        print(f"kept {best:.4f} in {args.out}", flush=True)


if __name__ == "__main__":
    main()
